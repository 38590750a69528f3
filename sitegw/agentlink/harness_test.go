package agentlink

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go/testutils/simnet"

	"github.com/holdfast-edge/holdfast/sitegw/custody"
	"github.com/holdfast-edge/holdfast/sitegw/custody/custodytest"
	"github.com/holdfast-edge/holdfast/sitegw/mirror"
	"github.com/holdfast-edge/holdfast/sitegw/roster"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/seal"
	"github.com/holdfast-edge/holdfast/wire/seal/sealtest"
)

// An uplink remembers what it was asked and answers what the test says.
type uplink struct {
	mu       sync.Mutex
	down     bool
	asked    []ident.DeviceID
	enrolled *wire.Enrolled
	err      error // of Enroll and Renew
}

func (u *uplink) Connected() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return !u.down
}

func (u *uplink) Period() time.Duration { return 10 * time.Second }

func (u *uplink) Enroll(context.Context, wire.Enroll) (*wire.Enrolled, error) {
	return u.enrolled, u.err
}

func (u *uplink) Renew(context.Context, ident.DeviceID, wire.Renew) (*wire.Renewed, error) {
	return &wire.Renewed{Chain: [][]byte{{1}, {2}}}, u.err
}

func (u *uplink) Ask(d ident.DeviceID) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.asked = append(u.asked, d)
}

// A plant is a gateway's agents' port on a simulated network.
type plant struct {
	t       *testing.T
	router  *simnet.PerfectRouter
	root    ident.CA
	cas     map[ident.Role]ident.CA
	self    ident.ID
	addr    net.Addr
	up      *uplink
	custody *custody.Keeper
	roster  *roster.Roster
	core    *sealtest.Authority
	mirror  *mirror.Mirror
	srv     *Server
	hosts   int
	stop    func() // ends the server, before the plant does
}

// world runs f in a bubble with a gateway that serves.
func world(t *testing.T, f func(t *testing.T, p *plant)) {
	synctest.Test(t, func(t *testing.T) {
		p := &plant{
			t: t, router: new(simnet.PerfectRouter), cas: map[ident.Role]ident.CA{}, self: ident.Gateway("acme", "plant-7", "gw-a"),
			up: new(uplink), roster: roster.New(time.Now), core: sealtest.New(t, "acme"),
		}
		var stopCustody func()
		p.custody, stopCustody = custodytest.Open(t, t.TempDir())
		p.mirror = mirror.Open(mirror.Config{
			Path: filepath.Join(t.TempDir(), "mirror"), Fleet: "acme", Site: "plant-7", Authority: p.core.Public(), Log: slog.New(slog.DiscardHandler),
		})
		var err error
		if p.root, err = ident.NewRoot("acme", newKey(t), time.Now()); err != nil {
			t.Fatal(err)
		}
		for _, r := range []ident.Role{ident.RoleDevice, ident.RoleGateway} {
			if p.cas[r], err = p.root.Issuing("acme", r, newKey(t), time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		p.srv = New(Config{
			Self: p.self, Authority: p.core.Public(), Uplink: p.up, Custody: p.custody, Roster: p.roster, Mirror: p.mirror, Wall: time.Now, Log: slog.New(slog.DiscardHandler),
		})
		conn, addr := p.socket()
		p.addr = addr
		tr := link.NewTransport(conn, nil)
		ln, err := tr.Listen(p.endpoint(p.self, newKey(t)).Server(Protocols()...), link.Options{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { p.roster.Watch(ctx) })
		wg.Go(func() {
			if err := p.srv.Serve(ctx, ln); err != nil {
				t.Error(err)
			}
		})
		p.stop = func() { cancel(); wg.Wait() }
		defer func() {
			p.stop()
			if err := errors.Join(ln.Close(), tr.Close()); err != nil {
				t.Error(err)
			}
			stopCustody()
		}()
		f(t, p)
	})
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ident.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (p *plant) socket() (*simnet.SimConn, *net.UDPAddr) {
	p.hosts++
	addr := &net.UDPAddr{IP: net.IPv4(10, 0, 0, byte(p.hosts)), Port: 4433}
	return simnet.NewSimConn(addr, p.router), addr
}

func (p *plant) endpoint(id ident.ID, key *ecdsa.PrivateKey) ident.Endpoint {
	p.t.Helper()
	ca := p.cas[id.Role]
	leaf, err := ca.Issue(ident.Leaf{ID: id, Public: key.Public(), Now: time.Now()})
	if err != nil {
		p.t.Fatal(err)
	}
	cert := &tls.Certificate{Certificate: [][]byte{leaf, ca.Cert.Raw}, PrivateKey: key}
	trust := &ident.Trust{Fleet: "acme", Root: p.root.Cert}
	return ident.Endpoint{Trust: func() *ident.Trust { return trust }, Certificate: func() *tls.Certificate { return cert }, Wall: time.Now}
}

// An agent is the device's side of a session.
type agent struct {
	*link.Session
	p     *plant
	id    ident.DeviceID
	key   *ecdsa.PrivateKey
	kid   ident.KeyID
	seq   uint64
	chain seal.Chain
	ep    ident.Endpoint
	tr    *link.Transport
}

func (p *plant) agent() *agent {
	p.t.Helper()
	key, id := newKey(p.t), ident.NewDeviceID()
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		p.t.Fatal(err)
	}
	conn, _ := p.socket()
	return &agent{
		p: p, id: id, key: key, kid: ident.KeyIDOfSPKI(spki), ep: p.endpoint(ident.Device("acme", id), key), tr: link.NewTransport(conn, nil),
	}
}

// tell has the gateway told something, as by the core.
func (p *plant) tell(m *wire.Site) { p.srv.Changed(p.mirror.Apply(m)) }

// known tells the gateway about the agent, as the core would.
func (a *agent) known(state wire.DeviceState, interval time.Duration) *agent {
	a.p.tell(&wire.Site{Entries: [][]byte{a.p.core.Entry(a.id, "plant-7", state, wire.Millis(interval), a.kid)}})
	return a
}

// attach is the agent's attach, with what the test changes.
func (a *agent) attach(session uint64, change func(*seal.Attach)) []byte {
	a.p.t.Helper()
	in := seal.Attach{
		Version: 1, Device: a.id, Gateway: a.p.self.String(), Start: 1, Run: 1, Session: session, Epoch: 1, Lowest: 1, IntervalMS: 30_000,
	}
	if change != nil {
		change(&in)
	}
	b, err := seal.SealAttach(&in, a.kid, a.key)
	if err != nil {
		a.p.t.Fatal(err)
	}
	return b
}

// dial opens a session and sends an attach; nil: an honest one.
func (a *agent) dial(attach []byte) *agent {
	a.p.t.Helper()
	if attach == nil {
		attach = a.attach(1, nil)
	}
	s, err := a.tr.Dial(a.p.t.Context(), a.p.addr, a.ep.Client(wire.ALPNAgent, ident.RoleGateway, nil), link.Options{})
	if err != nil {
		a.p.t.Fatal(err)
	}
	a.Session = s
	a.send(wire.TypeAttach, wire.Attach{Capability: 1, Sealed: attach})
	return a
}

// connect is dial up to the welcome.
func (a *agent) connect() *agent {
	a.p.t.Helper()
	a.dial(nil)
	recv[wire.Welcome](a, wire.TypeWelcome)
	return a
}

func (a *agent) hangUp() {
	if a.Session != nil {
		a.Close()
	}
	if err := a.tr.Close(); err != nil {
		a.p.t.Error(err)
	}
}

func (a *agent) send(t wire.Type, m any) {
	a.p.t.Helper()
	if err := a.Send(t, m); err != nil {
		a.p.t.Fatal(err)
	}
}

func recv[M any](a *agent, want wire.Type) *M {
	a.p.t.Helper()
	t, body, err := a.RecvWithin(20 * time.Second)
	if err != nil {
		a.p.t.Fatalf("waiting for %v: %v", want, err)
	}
	if t != want {
		a.p.t.Fatalf("got %v, want %v", t, want)
	}
	m := new(M)
	if err := wire.Unmarshal(body, m); err != nil {
		a.p.t.Fatal(err)
	}
	return m
}

// refused waits for the refusal of the session.
func (a *agent) refused(want wire.Code) {
	a.p.t.Helper()
	if e := recv[wire.Error](a, wire.TypeError); e.Code != want {
		a.p.t.Errorf("refused with %v, want %v", e.Code, want)
	}
}

// ended waits for the end of the session, passing over what comes before.
func (a *agent) ended(want wire.Code) {
	a.p.t.Helper()
	for {
		_, _, err := a.RecvWithin(20 * time.Second)
		if err == nil {
			continue
		}
		var e *wire.Error
		if !errors.As(err, &e) || e.Code != want {
			a.p.t.Errorf("ended with %v, want %v", err, want)
		}
		return
	}
}

// statement is the agent's next.
func (a *agent) statement() *seal.SealedStatement {
	a.p.t.Helper()
	a.seq++
	st, err := seal.SealStatement(&seal.Statement{
		Version: 1, Type: seal.StatementRegister, Device: a.id, Epoch: 1, EpochID: [16]byte{1}, Seq: a.seq, Prev: a.chain, Body: []byte{0xa0},
	}, a.kid, a.key)
	if err != nil {
		a.p.t.Fatal(err)
	}
	a.chain = st.Chain
	return st
}

// state sends statements.
func (a *agent) state(all ...*seal.SealedStatement) {
	a.p.t.Helper()
	for _, st := range all {
		a.send(wire.TypeStatement, wire.Statement{Sealed: st.Sealed})
	}
}

// inCustody waits until the gateway says that it has a statement.
func (a *agent) inCustody(st *seal.SealedStatement) {
	a.p.t.Helper()
	for {
		if c := recv[wire.Custody](a, wire.TypeCustody); c.Seq >= st.Seq {
			if c.Seq > st.Seq {
				a.p.t.Errorf("custody of seq %d, want %d", c.Seq, st.Seq)
			}
			return
		}
	}
}

func (a *agent) beat(n uint64) {
	a.p.t.Helper()
	a.send(wire.TypeHeartbeat, wire.Heartbeat{Run: 1, Number: n, Answered: n - 1, IntervalMS: 30_000})
}

func settle() {
	time.Sleep(time.Second)
	synctest.Wait()
}
