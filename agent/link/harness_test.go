package link

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go/testutils/simnet"

	"github.com/holdfast-edge/holdfast/agent/devstate"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/credential"
	"github.com/holdfast-edge/holdfast/wire/ident"
	wirelink "github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/seal"
	"github.com/holdfast-edge/holdfast/wire/seal/sealtest"
)

// A world is an agent's link that runs, and two gateways whose part the test plays.
type world struct {
	t         *testing.T
	router    *simnet.PerfectRouter
	root      ident.CA
	cas       map[ident.Role]ident.CA
	authority ed25519.PrivateKey
	facts     *sealtest.Authority
	lists     *devstate.Lists
	device    ident.ID
	state     *devstate.State
	link      *Link
	gateways  [2]*wirelink.Listener
	keys      []ident.KeyID // of the gateways
	ahead     atomic.Int64  // of the device's clock, ns
	desired   desired
}

// within runs f in a bubble with a world.
func within(t *testing.T, f func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, router: new(simnet.PerfectRouter), cas: map[ident.Role]ident.CA{}, device: ident.Device("acme", ident.NewDeviceID())}
		w.makeFleet()
		var closers []func() error
		var addrs []string
		for i := range w.gateways {
			addr := &net.UDPAddr{IP: net.IPv4(10, 0, 0, byte(i+1)), Port: 4433}
			tr := wirelink.NewTransport(simnet.NewSimConn(addr, w.router), nil)
			ln, err := tr.Listen(w.gatewayEndpoint("gw-"+string(rune('a'+i))).Server(
				ident.Protocol{ALPN: wire.ALPNAgent, Roles: []ident.Role{ident.RoleDevice}}, ident.Protocol{ALPN: wire.ALPNEnroll},
			), wirelink.Options{})
			if err != nil {
				t.Fatal(err)
			}
			w.gateways[i], addrs, closers = ln, append(addrs, addr.String()), append(closers, ln.Close, tr.Close)
		}
		tr := wirelink.NewTransport(simnet.NewSimConn(&net.UDPAddr{IP: net.IPv4(10, 0, 0, 9), Port: 4433}, w.router), nil)
		closers = append(closers, tr.Close)
		cred := w.credential(tr, addrs[0])
		var err error
		w.state, err = devstate.Open(t.TempDir(), devstate.Signer{Device: w.device.Device, KeyID: cred.KeyID, Key: cred.Key})
		if err != nil {
			t.Fatal(err)
		}
		if w.lists, err = devstate.OpenLists(t.TempDir(), "acme", cred.Authority, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
		w.facts = sealtest.New(t, "acme")
		w.facts.Key = w.authority
		w.link = New(Config{
			Transport: tr, Credential: cred, State: w.state, Lists: w.lists, Gateways: addrs, Start: 3, Wall: func() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) },
			Uptime: func() time.Duration { return time.Hour }, Log: slog.New(slog.DiscardHandler),
			Desired: &w.desired,
		})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := w.link.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		defer func() {
			cancel()
			wg.Wait()
			for _, c := range closers {
				if err := c(); err != nil {
					t.Error(err)
				}
			}
		}()
		f(t, w)
	})
}

func (w *world) makeFleet() {
	w.t.Helper()
	rootKey, err := ident.NewKey()
	if err != nil {
		w.t.Fatal(err)
	}
	if w.root, err = ident.NewRoot("acme", rootKey, time.Now()); err != nil {
		w.t.Fatal(err)
	}
	for _, r := range []ident.Role{ident.RoleGateway, ident.RoleDevice} {
		k, err := ident.NewKey()
		if err != nil {
			w.t.Fatal(err)
		}
		if w.cas[r], err = w.root.Issuing("acme", r, k, time.Now()); err != nil {
			w.t.Fatal(err)
		}
	}
}

// chain certifies a public key for an identity.
func (w *world) chain(id ident.ID, public any) [][]byte {
	ca := w.cas[id.Role]
	leaf, err := ca.Issue(ident.Leaf{ID: id, Public: public, Now: time.Now()})
	if err != nil {
		w.t.Error(err)
	}
	return [][]byte{leaf, ca.Cert.Raw}
}

func (w *world) gatewayEndpoint(name string) ident.Endpoint {
	w.t.Helper()
	key, err := ident.NewKey()
	if err != nil {
		w.t.Fatal(err)
	}
	chain := w.chain(ident.Gateway("acme", "plant-7", name), key.Public())
	cert := &tls.Certificate{Certificate: chain, PrivateKey: key}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		w.t.Fatal(err)
	}
	w.keys = append(w.keys, ident.KeyIDOfSPKI(spki))
	trust := &ident.Trust{Fleet: "acme", Root: w.root.Cert}
	return ident.Endpoint{Trust: func() *ident.Trust { return trust }, Certificate: func() *tls.Certificate { return cert }, Wall: time.Now}
}

// credential enrolls the device at the first gateway.
func (w *world) credential(tr *wirelink.Transport, gateway string) *credential.Credential {
	w.t.Helper()
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	w.authority = priv
	authority, err := w.root.Issue(ident.Leaf{ID: ident.Authority("acme"), Public: pub, Now: time.Now()})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		pending, err := w.gateways[0].Accept(ctx)
		if err != nil {
			w.t.Error(err)
			return
		}
		s, err := pending.Session(ctx, time.Minute)
		if err != nil {
			w.t.Error(err)
			return
		}
		defer s.Close()
		_, body, err := s.RecvWithin(time.Minute)
		var e wire.Enroll
		if err = errors.Join(err, wire.Unmarshal(body, &e)); err != nil {
			w.t.Error(err)
			return
		}
		key, err := ident.ParseCSR(e.CSR)
		out := wire.Enrolled{Identity: w.device.String(), Chain: w.chain(w.device, key.Key), Root: w.root.Cert.Raw, Authority: authority}
		if err = errors.Join(err, s.Send(wire.TypeEnrolled, out)); err != nil {
			w.t.Error(err)
		}
		s.Finish(time.Second)
	})
	c, _, err := credential.EnrollAny(ctx, wirelink.NewDialer(tr, nil), []string{gateway}, credential.Enrollment{
		Dir: w.t.TempDir(), Token: seal.NewToken(ident.KeyIDOf(w.root.Cert)), Kind: seal.KindDevice, Server: ident.RoleGateway,
		Wall: time.Now, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// A gateway is the other end of one session of the agent.
type gateway struct {
	*wirelink.Session
	w             *world
	attachMessage *wire.Attach
	attach        *seal.SealedAttach
}

// opened waits for the first message of the agent's next session at gateway i.
func (w *world) opened(i int) (*wirelink.Session, wire.Type, []byte) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*time.Hour)
	defer cancel()
	for {
		pending, err := w.gateways[i].Accept(ctx)
		if err != nil {
			w.t.Fatal(err)
		}
		s, err := pending.Session(ctx, time.Minute)
		if err != nil {
			continue // nobody waited for it then, and the agent has given up
		}
		if t, body, err := s.RecvWithin(time.Minute); err == nil {
			return s, t, body
		}
	}
}

// probe waits for a probe at gateway i and answers it.
func (w *world) probe(i int, out wire.Probed) *wire.Probe {
	w.t.Helper()
	s, t, body := w.opened(i)
	defer s.Close()
	m := new(wire.Probe)
	if err := wire.Unmarshal(body, m); t != wire.TypeProbe || err != nil {
		w.t.Fatalf("got %v, %v, want a probe", t, err)
	}
	out.Capability = 1
	if err := s.Send(wire.TypeProbed, out); err != nil {
		w.t.Fatal(err)
	}
	s.Finish(time.Second)
	return m
}

// accept waits for the agent's attach at gateway i. Probes that come before it are not answered.
func (w *world) accept(i int) *gateway {
	w.t.Helper()
	for {
		s, t, body := w.opened(i)
		if t == wire.TypeProbe {
			s.Close()
			continue
		}
		g := &gateway{Session: s, w: w, attachMessage: new(wire.Attach)}
		err := wire.Unmarshal(body, g.attachMessage)
		if err == nil {
			g.attach, err = seal.ParseAttach(g.attachMessage.Sealed)
		}
		if err != nil {
			w.t.Fatal(err)
		}
		return g
	}
}

// admit welcomes the agent at gateway i with an interval.
func (w *world) admit(i int, interval time.Duration) *gateway {
	w.t.Helper()
	g := w.accept(i)
	g.send(wire.TypeWelcome, wire.Welcome{Capability: 1, Identity: w.device.String(), IntervalMS: uint32(interval.Milliseconds()), KeepAliveMS: 5000})
	return g
}

// period is the report period that gateways tell.
const period = 10 * time.Second

// welcome admits the agent with what is in custody from before.
func (g *gateway) welcome(kept *wire.Kept) {
	g.w.t.Helper()
	g.send(wire.TypeWelcome, wire.Welcome{
		Capability: 1, Identity: g.w.device.String(), IntervalMS: wire.Millis(time.Minute), KeepAliveMS: 5000, Kept: kept, PeriodMS: wire.Millis(period),
	})
}

func (g *gateway) send(t wire.Type, m any) {
	g.w.t.Helper()
	if err := g.Send(t, m); err != nil {
		g.w.t.Fatal(err)
	}
}

// recv waits for a message of type want. Heartbeats that come in between are answered.
func recv[M any](g *gateway, want wire.Type) *M {
	g.w.t.Helper()
	for {
		t, body, err := g.RecvWithin(2 * time.Hour)
		if err != nil {
			g.w.t.Fatalf("waiting for %v: %v", want, err)
		}
		if t == wire.TypeHeartbeat && want != wire.TypeHeartbeat {
			var h wire.Heartbeat
			if err := wire.Unmarshal(body, &h); err != nil {
				g.w.t.Fatal(err)
			}
			g.send(wire.TypeHeartbeatAck, wire.HeartbeatAck{Number: h.Number})
			continue
		}
		if t != want {
			g.w.t.Fatalf("got %v, want %v", t, want)
		}
		m := new(M)
		if err := wire.Unmarshal(body, m); err != nil {
			g.w.t.Fatal(err)
		}
		return m
	}
}

// beat waits for a heartbeat and answers it.
func (g *gateway) beat() *wire.Heartbeat {
	g.w.t.Helper()
	h := recv[wire.Heartbeat](g, wire.TypeHeartbeat)
	g.send(wire.TypeHeartbeatAck, wire.HeartbeatAck{Number: h.Number})
	return h
}

// say makes a statement.
func (w *world) say() *seal.SealedStatement {
	w.t.Helper()
	s, err := w.state.State(seal.Statement{Type: seal.StatementRegister, Body: []byte{0xf6}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.link.Wake()
	return s
}

// receipt is the authority's word about a statement.
func (w *world) receipt(s *seal.SealedStatement) []byte {
	w.t.Helper()
	b, err := seal.SealReceipt(&seal.Receipt{
		Version: 1, Device: w.device.Device, ClusterEpoch: 1, Epoch: s.Epoch, Seq: s.Seq, Chain: s.Chain, LogTimeMS: time.Now().UnixMilli(),
	}, w.authority)
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

func settle() {
	time.Sleep(100 * time.Millisecond)
	synctest.Wait()
}
