package corelink

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go/testutils/simnet"

	"github.com/holdfast-edge/holdfast/sitegw/mirror"
	"github.com/holdfast-edge/holdfast/sitegw/roster"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/credential"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

func unlinked() *Link {
	return New(Config{
		Cores: []string{"10.0.0.1:4433"}, Roster: roster.New(time.Now), Mirror: new(mirror.Mirror), Wall: time.Now, Log: slog.New(slog.DiscardHandler),
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
	answered := 0
	l.Submit([]byte("s"), func(r wire.SubmitResult) {
		answered++
		if r.Code != wire.CodeUnavailable || !r.Code.Temporary() {
			t.Errorf("result %+v", r)
		}
	})
	if answered != 1 || len(l.queue) != 0 || l.Connected() {
		t.Errorf("answered %d times, %d queued", answered, len(l.queue))
	}
	_, err := l.Enroll(t.Context(), wire.Enroll{})
	wantUnavailable(t, "enroll", err)
	_, err = l.Renew(t.Context(), ident.NewDeviceID(), wire.Renew{})
	wantUnavailable(t, "renew", err)
	l.Ask(ident.NewDeviceID())
}

func TestQueueIsBounded(t *testing.T) {
	l := unlinked()
	l.session = &session{}
	busy := 0
	for range queueLength + 10 {
		l.Submit(nil, func(r wire.SubmitResult) {
			if r.Code == wire.CodeBusy {
				busy++
			}
		})
	}
	if busy != 10 || len(l.queue) != queueLength {
		t.Errorf("%d refused as busy, %d queued", busy, len(l.queue))
	}
}

func TestGather(t *testing.T) {
	l := unlinked()
	fill := func(n, size int) {
		for range n {
			l.queue <- statement{sealed: make([]byte, size)}
		}
	}
	fill(2*wire.MaxBatch, 10)
	if got := len(l.gather(statement{})); got != wire.MaxBatch {
		t.Errorf("a batch of %d", got)
	}
	for len(l.queue) > 0 {
		<-l.queue
	}
	fill(200, wire.MaxStatement)
	batch := l.gather(statement{sealed: make([]byte, wire.MaxStatement)})
	m := wire.Submit{ID: 1 << 60, TimeMS: 1 << 50}
	for _, s := range batch {
		m.Statements = append(m.Statements, s.sealed)
	}
	if _, err := wire.AppendFrame(nil, wire.TypeSubmit, m); err != nil || len(batch) < 32 {
		t.Errorf("%d large statements: %v", len(batch), err)
	}
	for len(l.queue) > 0 {
		<-l.queue
	}
	if got := len(l.gather(statement{})); got != 1 {
		t.Errorf("alone in a batch of %d", got)
	}
}

// A plant is a link that runs, and the core's end of it.
type plant struct {
	t      *testing.T
	link   *Link
	roster *roster.Roster
	mirror *mirror.Mirror
	ln     *link.Listener
	root   ident.CA
	cas    map[ident.Role]ident.CA

	mu      sync.Mutex
	changed []string
}

// world runs f in a bubble with a link that runs. Its credential comes by an enrollment, as outside of tests.
func world(t *testing.T, f func(t *testing.T, p *plant)) {
	synctest.Test(t, func(t *testing.T) {
		p := &plant{t: t, roster: roster.New(time.Now), mirror: new(mirror.Mirror), cas: map[ident.Role]ident.CA{}}
		p.makeFleet()
		router := new(simnet.PerfectRouter)
		addr := &net.UDPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 4433}
		core := link.NewTransport(simnet.NewSimConn(addr, router), nil)
		gw := link.NewTransport(simnet.NewSimConn(&net.UDPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 4433}, router), nil)
		var err error
		p.ln, err = core.Listen(p.coreEndpoint().Server(
			ident.Protocol{ALPN: wire.ALPNUplink, Roles: []ident.Role{ident.RoleGateway}}, ident.Protocol{ALPN: wire.ALPNEnroll},
		), link.Options{Limits: link.UplinkLimits})
		if err != nil {
			t.Fatal(err)
		}
		p.link = New(Config{
			Cores: []string{addr.String()}, Transport: gw, Credential: p.credential(gw, addr), Roster: p.roster, Mirror: p.mirror,
			Listen: "gw-a:4433", Version: "test", Wall: time.Now, Log: slog.New(slog.DiscardHandler), Changed: p.onChanged,
		})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { p.roster.Watch(ctx) })
		wg.Go(func() {
			if err := p.link.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		defer func() {
			cancel()
			wg.Wait()
			if err := errors.Join(gw.Close(), p.ln.Close(), core.Close()); err != nil {
				t.Error(err)
			}
		}()
		f(t, p)
	})
}

func (p *plant) onChanged(devices []ident.DeviceID, site bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changed = append(p.changed, fmt.Sprint(len(devices), " ", site))
}

// A peer is the core's end of one session.
type peer struct {
	*link.Session
	p *plant
}

// accept waits for the link's next session and welcomes it.
func (p *plant) accept() *peer {
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
	c := &peer{s, p}
	hello := recv[wire.UplinkHello](c, wire.TypeUplinkHello)
	if hello.Listen != "gw-a:4433" || hello.Version != "test" || hello.Run == 0 {
		p.t.Errorf("hello %+v", hello)
	}
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

func (p *plant) coreEndpoint() ident.Endpoint {
	p.t.Helper()
	key, err := ident.NewKey()
	if err != nil {
		p.t.Fatal(err)
	}
	chain := p.chain(ident.Core("acme", "core-1"), key.Public())
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
	c, _, err := credential.Enroll(ctx, tr, addr, credential.Enrollment{
		Dir: p.t.TempDir(), Token: seal.NewToken(ident.KeyIDOf(p.root.Cert)), Kind: seal.KindGateway, Server: ident.RoleCore, Name: "gw-a",
		Wall: time.Now, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}
