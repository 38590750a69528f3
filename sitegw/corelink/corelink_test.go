package corelink

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/sitegw/cores"
	"github.com/holdfast-edge/holdfast/sitegw/custody"
	"github.com/holdfast-edge/holdfast/sitegw/custody/custodytest"
	"github.com/holdfast-edge/holdfast/sitegw/mirror"
	"github.com/holdfast-edge/holdfast/sitegw/roster"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/credential"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/link/linktest"
	"github.com/holdfast-edge/holdfast/wire/seal"
	"github.com/holdfast-edge/holdfast/wire/seal/sealtest"
)

func unlinked() *Link {
	return New(Config{
		Roster: roster.New(time.Now), Wall: time.Now, Log: slog.New(slog.DiscardHandler),
	})
}

func wantUnavailable(t *testing.T, what string, err error) {
	t.Helper()
	var e *wire.Error
	if !errors.As(err, &e) || e.Code != wire.CodeUnavailable || e.RetryAfter() == 0 {
		t.Errorf("%s: %v", what, err)
	}
}

// Without a session everybody is answered at once, and keeps what he has.
func TestWithoutSession(t *testing.T) {
	l := unlinked()
	if l.Status().Connected || l.Connected() || l.Period() != usualPeriod {
		t.Error("connected")
	}
	_, err := l.Enroll(t.Context(), wire.Enroll{})
	wantUnavailable(t, "enroll", err)
	_, err = l.Renew(t.Context(), ident.NewDeviceID(), wire.Renew{})
	wantUnavailable(t, "renew", err)
	l.Ask(ident.NewDeviceID())
}

// A plant is a link that runs, and the core's end of it.
type plant struct {
	t       *testing.T
	link    *Link
	roster  *roster.Roster
	custody *custody.Keeper
	mirror  *mirror.Mirror
	facts   *sealtest.Authority // what the mirror believes
	ln      *link.Listener      // of the first core node
	nodes   []*node
	period  time.Duration // that the nodes tell
	net     *linktest.Net
	up      *link.Transport
	stream  link.StreamDial // nil: QUIC alone
	relays  *relays         // nil: no siblings
	cred    *credential.Credential
	file    string // of the list of core nodes
	heads   *heads
	root    ident.CA
	cas     map[ident.Role]ident.CA
	stop    func() // ends the link, before the plant does

	mu       sync.Mutex
	changed  []string
	receipts []wire.DeviceReceipt
	refused  []custody.Refused
}

// heads is a witness that remembers.
type heads struct {
	mu  sync.Mutex
	got []string
}

// Take implements Witness.
func (h *heads) Take(sealed []byte, from string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.got = append(h.got, string(sealed)+" "+from)
}

// world runs f in a bubble with one core node and a link that runs. Its credential comes by an enrollment, as outside of tests.
func world(t *testing.T, f func(t *testing.T, p *plant)) {
	worldOf(t, 1, func(t *testing.T, p *plant) {
		p.start(p.nodes[0].addr)
		f(t, p)
	})
}

// worldOf is world with n core nodes, which nobody serves yet, and a link that is not started.
func worldOf(t *testing.T, n int, f func(t *testing.T, p *plant)) {
	synctest.Test(t, func(t *testing.T) {
		p := &plant{
			t: t, period: 10 * time.Second, roster: roster.New(time.Now), facts: sealtest.New(t, "acme"), cas: map[ident.Role]ident.CA{}, heads: new(heads),
			net: linktest.New(t), file: filepath.Join(t.TempDir(), "cores"), stop: func() {},
		}
		var stopCustody func()
		p.custody, stopCustody = custodytest.Open(t, t.TempDir())
		p.mirror = mirror.Open(mirror.Config{
			Path: filepath.Join(t.TempDir(), "mirror"), Fleet: "acme", Site: "plant-7", Authority: p.facts.Public(), Log: slog.New(slog.DiscardHandler),
		})
		p.makeFleet()
		for range n {
			p.addNode()
		}
		p.ln = p.nodes[0].ln
		p.up = link.NewTransport(p.net.Socket(100), nil)
		p.cred = p.credential(p.up, p.nodes[0].tr.Addr())
		defer func() {
			p.stop()
			for _, n := range p.nodes {
				n.close()
			}
			if err := p.up.Close(); err != nil {
				t.Error(err)
			}
			stopCustody()
		}()
		f(t, p)
	})
}

// start runs a link that was given the addresses by hand, in the place of one that runs.
func (p *plant) start(byHand ...string) {
	p.stop()
	c := Config{
		Cores: cores.Open(p.file, byHand, slog.New(slog.DiscardHandler)), Transport: p.up, Streams: p.stream, Credential: p.cred, Roster: p.roster, Custody: p.custody, Mirror: p.mirror,
		Receipts: p.onReceipts, Refused: p.onRefused,
		Listen: "gw-a:4433", Version: "test", Wall: time.Now, Log: slog.New(slog.DiscardHandler), Changed: p.onChanged, Witness: p.heads,
	}
	if p.relays != nil {
		c.Siblings, c.Relay = p.relays.names, p.relays.dial
	}
	p.link = New(c)
	ctx, cancel := context.WithCancel(p.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { p.roster.Watch(ctx) })
	wg.Go(func() {
		if err := p.link.Run(ctx); err != nil {
			p.t.Error(err)
		}
	})
	p.stop = func() { cancel(); wg.Wait() }
}

func (p *plant) onChanged(devices []ident.DeviceID, site bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changed = append(p.changed, fmt.Sprint(len(devices), " ", site))
}

func (p *plant) onReceipts(all []wire.DeviceReceipt) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.receipts = append(p.receipts, all...)
}

func (p *plant) onRefused(all []custody.Refused) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refused = append(p.refused, all...)
}

// A peer is the core's end of one session.
type peer struct {
	*link.Session
	p     *plant
	hello wire.UplinkHello
}

// accept waits for the link's next session and takes its hello.
func (p *plant) accept() *peer {
	p.t.Helper()
	return p.hello(p.acceptRaw().Session)
}

// acceptRaw waits for the link's next session.
func (p *plant) acceptRaw() *peer {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 2*time.Minute)
	defer cancel()
	pending, err := p.ln.Accept(ctx)
	if err != nil {
		p.t.Fatal(err)
	}
	s, err := pending.Session(ctx, time.Minute)
	if err != nil {
		p.t.Fatal(err)
	}
	return &peer{Session: s, p: p}
}

// hello takes the first message of a session.
func (p *plant) hello(s *link.Session) *peer {
	p.t.Helper()
	t, body, err := s.RecvWithin(20 * time.Second)
	if err != nil {
		p.t.Fatal(err)
	}
	return p.greeted(s, t, body)
}

// greeted takes the first message of a gateway, which must be a hello.
func (p *plant) greeted(s *link.Session, t wire.Type, body []byte) *peer {
	p.t.Helper()
	c, hello := &peer{Session: s, p: p}, new(wire.UplinkHello)
	if err := wire.Unmarshal(body, hello); err != nil || t != wire.TypeUplinkHello {
		p.t.Fatalf("got %v, %v, want a hello", t, err)
	}
	if hello.Listen != "gw-a:4433" || hello.Version != "test" || hello.Run == 0 {
		p.t.Errorf("hello %+v", hello)
	}
	c.hello = *hello
	return c
}

func (p *plant) welcome() *peer {
	p.t.Helper()
	c := p.accept()
	c.send(wire.TypeUplinkWelcome, wire.UplinkWelcome{Capability: 1, ReportPeriodMS: 10_000})
	settle()
	return c
}

func (c *peer) send(t wire.Type, m any) {
	c.p.t.Helper()
	if err := c.Send(t, m); err != nil {
		c.p.t.Fatal(err)
	}
}

func recv[M any](c *peer, want wire.Type) *M {
	c.p.t.Helper()
	t, body, err := c.RecvWithin(time.Minute)
	if err != nil {
		c.p.t.Fatalf("waiting for %v: %v", want, err)
	}
	if t != want {
		c.p.t.Fatalf("got %v, want %v", t, want)
	}
	m := new(M)
	if err := wire.Unmarshal(body, m); err != nil {
		c.p.t.Fatal(err)
	}
	return m
}

func settle() {
	time.Sleep(100 * time.Millisecond)
	synctest.Wait()
}

func (p *plant) makeFleet() {
	p.t.Helper()
	rootKey, err := ident.NewKey()
	if err != nil {
		p.t.Fatal(err)
	}
	if p.root, err = ident.NewRoot("acme", rootKey, time.Now()); err != nil {
		p.t.Fatal(err)
	}
	for _, r := range []ident.Role{ident.RoleCore, ident.RoleGateway} {
		k, err := ident.NewKey()
		if err != nil {
			p.t.Fatal(err)
		}
		if p.cas[r], err = p.root.Issuing("acme", r, k, time.Now()); err != nil {
			p.t.Fatal(err)
		}
	}
}

// chain certifies a public key for an identity.
func (p *plant) chain(id ident.ID, public any) [][]byte {
	ca := p.cas[id.Role]
	leaf, err := ca.Issue(ident.Leaf{ID: id, Public: public, Now: time.Now()})
	if err != nil {
		p.t.Error(err)
	}
	return [][]byte{leaf, ca.Cert.Raw}
}

func (p *plant) coreEndpoint(name string) ident.Endpoint {
	p.t.Helper()
	key, err := ident.NewKey()
	if err != nil {
		p.t.Fatal(err)
	}
	chain := p.chain(ident.Core("acme", name), key.Public())
	cert := &tls.Certificate{Certificate: chain, PrivateKey: key}
	trust := &ident.Trust{Fleet: "acme", Root: p.root.Cert}
	return ident.Endpoint{Trust: func() *ident.Trust { return trust }, Certificate: func() *tls.Certificate { return cert }, Wall: time.Now}
}

var gwA = ident.Gateway("acme", "plant-7", "gw-a")

// credential enrolls the gateway.
func (p *plant) credential(tr *link.Transport, addr net.Addr) *credential.Credential {
	p.t.Helper()
	pub, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		p.t.Fatal(err)
	}
	authority, err := p.root.Issue(ident.Leaf{ID: ident.Authority("acme"), Public: pub, Now: time.Now()})
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		pending, err := p.ln.Accept(ctx)
		if err != nil {
			p.t.Error(err)
			return
		}
		s, err := pending.Session(ctx, time.Minute)
		if err != nil {
			p.t.Error(err)
			return
		}
		defer s.Close()
		_, body, err := s.RecvWithin(time.Minute)
		var e wire.Enroll
		if err = errors.Join(err, wire.Unmarshal(body, &e)); err != nil {
			p.t.Error(err)
			return
		}
		key, err := ident.ParseCSR(e.CSR)
		out := wire.Enrolled{Identity: gwA.String(), Chain: p.chain(gwA, key.Key), Root: p.root.Cert.Raw, Authority: authority}
		if err = errors.Join(err, s.Send(wire.TypeEnrolled, out)); err != nil {
			p.t.Error(err)
		}
		s.Finish(time.Second)
	})
	c, _, err := credential.Enroll(ctx, link.NewDialer(tr, nil), addr.String(), credential.Enrollment{
		Dir: p.t.TempDir(), Token: seal.NewToken(ident.KeyIDOf(p.root.Cert)), Kind: seal.KindGateway, Server: ident.RoleCore, Name: "gw-a",
		Wall: time.Now, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}
