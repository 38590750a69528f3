package sitelink

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go/testutils/simnet"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/enroll"
	"github.com/holdfast-edge/holdfast/core/events"
	"github.com/holdfast-edge/holdfast/core/liveness"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

const period = 10 * time.Second

// A core is the server under test over a registry that commits at once, on a simulated network.
type core struct {
	t       *testing.T
	router  *simnet.PerfectRouter
	addr    net.Addr
	keys    *enroll.Keyring
	hub     events.Hub
	tracker *liveness.Tracker
	content shelf

	mu       sync.Mutex
	state    *registry.State
	index    uint64
	proposed int
	hosts    int
	stale    *registry.View // what View shows until the next Barrier
	err      error          // what Propose fails with
	known    seal.Stamp     // what gateways say that they hold
	via      string         // the sibling that relays them, as they say
}

// View implements Registry.
func (c *core) View() registry.View {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stale != nil {
		return *c.stale
	}
	return c.state.View()
}

// fallBehind makes this node one that has not applied what is committed from now on, until somebody asks for it.
func (c *core) fallBehind() {
	v := c.View()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stale = &v
}

// Barrier implements Registry.
func (c *core) Barrier(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stale = nil
	return nil
}

// Propose implements Registry.
func (c *core) Propose(_ context.Context, cmd command.Command) (any, error) {
	b, err := command.Encode(cmd)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, c.err
	}
	c.index++
	c.proposed++
	eff, err := c.state.Apply(c.index, time.Now(), [][]byte{b})
	if err != nil {
		return nil, err
	}
	c.hub.Publish(eff.Events)
	if err, refused := eff.Results[0].(error); refused {
		return nil, err
	}
	return eff.Results[0], nil
}

func (c *core) do(cmd command.Command) any {
	c.t.Helper()
	if o, ok := cmd.(command.Operated); ok {
		o.Actor().Operator = "o1"
	}
	res, err := c.Propose(c.t.Context(), cmd)
	if err != nil {
		c.t.Fatalf("%T: %v", cmd, err)
	}
	return res
}

// socket is a new host on the network.
func (c *core) socket() (*simnet.SimConn, *net.UDPAddr) {
	c.hosts++
	addr := &net.UDPAddr{IP: net.IPv4(10, 0, 0, byte(c.hosts)), Port: 4433}
	return simnet.NewSimConn(addr, c.router), addr
}

// world runs f in a bubble with a core that serves.
func world(t *testing.T, f func(t *testing.T, c *core)) {
	synctest.Test(t, func(t *testing.T) {
		c := &core{t: t, router: new(simnet.PerfectRouter), state: registry.New(), tracker: liveness.New(period)}
		node, err := enroll.NewHolderKey()
		if err != nil {
			t.Fatal(err)
		}
		made, err := enroll.NewFleet("acme", map[string]*enroll.HolderKey{"core-1": node}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		made.IntervalMS, made.Operator = 30_000, command.Operator{ID: "o1", Role: "admin"}
		c.do(made)
		if c.keys, err = enroll.OpenKeyring(c.View().Fleet(), "core-1", node); err != nil {
			t.Fatal(err)
		}
		log := slog.New(slog.DiscardHandler)
		s := New(Config{
			Registry: c, Enroll: enroll.NewService(c, c.keys, time.Now, log), Authority: c.keys.Authority(), Tracker: c.tracker,
			Events: &c.hub, Content: &c.content, Wall: time.Now, Log: log, SiteKey: c.keys.SiteKey,
		})
		conn, addr := c.socket()
		c.addr = addr
		tr := link.NewTransport(conn, nil)
		_, ep := c.endpoint(ident.Core("acme", "core-1"))
		ln, err := tr.Listen(ep.Server(Protocols()...), link.Options{Limits: link.UplinkLimits})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := s.Serve(ctx, ln); err != nil {
				t.Error(err)
			}
		})
		defer func() {
			cancel()
			wg.Wait()
			if err := errors.Join(ln.Close(), tr.Close()); err != nil {
				t.Error(err)
			}
		}()
		f(t, c)
	})
}

// endpoint makes a key and a certificate for an identity.
func (c *core) endpoint(id ident.ID) (*ecdsa.PrivateKey, ident.Endpoint) {
	c.t.Helper()
	key, chain, err := c.keys.NewLeafKey(id, time.Now())
	if err != nil {
		c.t.Fatal(err)
	}
	cert := &tls.Certificate{Certificate: chain, PrivateKey: key}
	return key, ident.Endpoint{Trust: c.keys.Trust, Certificate: func() *tls.Certificate { return cert }, Wall: time.Now}
}

func spkiOf(t *testing.T, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	b, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (c *core) token(kind seal.Kind, site string) *seal.Token {
	tok := seal.NewToken(c.keys.Trust().Pin())
	c.do(&command.CreateToken{ID: tok.ID, Public: tok.Public(), Kind: kind, Site: site, TTLMS: time.Hour.Milliseconds(), Uses: 100})
	return tok
}

// A gateway is the peer's side of an uplink.
type gateway struct {
	*link.Session
	c   *core
	id  ident.ID
	key *ecdsa.PrivateKey
	tr  *link.Transport
}

// dial opens a session as a gateway, with a record if enrolled, and says hello.
func (c *core) dial(site, name string, enrolled bool) *gateway {
	c.t.Helper()
	id := ident.Gateway("acme", site, name)
	key, ep := c.endpoint(id)
	if enrolled {
		tok := c.token(seal.KindGateway, site)
		c.do(&command.Enroll{Token: tok.ID, Kind: seal.KindGateway, Name: name, Listen: name + ":4433", SPKI: spkiOf(c.t, key)})
	}
	return c.dialAs(id, key, ep)
}

func (c *core) dialAs(id ident.ID, key *ecdsa.PrivateKey, ep ident.Endpoint) *gateway {
	c.t.Helper()
	conn, _ := c.socket()
	tr := link.NewTransport(conn, nil)
	s, err := tr.Dial(c.t.Context(), c.addr, ep.Client(wire.ALPNUplink, ident.RoleCore, nil), link.Options{Limits: link.UplinkLimits})
	if err != nil {
		c.t.Fatal(err)
	}
	g := &gateway{Session: s, c: c, id: id, key: key, tr: tr}
	g.send(wire.TypeUplinkHello, wire.UplinkHello{Capability: 1, Version: "test", Listen: name(id), Run: 1, KnownEpoch: c.known.ClusterEpoch, Known: c.known.Number, Via: c.via})
	return g
}

func name(id ident.ID) string { return id.Name + ":4433" }

func (g *gateway) hangUp() {
	g.Close()
	if err := g.tr.Close(); err != nil {
		g.c.t.Error(err)
	}
}

func (g *gateway) send(t wire.Type, m any) {
	g.c.t.Helper()
	if err := g.Send(t, m); err != nil {
		g.c.t.Fatal(err)
	}
}

// recv waits for a message of type want and decodes it. Messages about the site, receipts, and answers when a receipt is wanted,
// that come in between are passed over.
func recv[M any](g *gateway, want wire.Type) *M {
	g.c.t.Helper()
	for {
		t, body, err := g.RecvWithin(20 * time.Second)
		if err != nil {
			g.c.t.Fatalf("waiting for %v: %v", want, err)
		}
		if t != want && (t == wire.TypeSite || t == wire.TypeReceipts || want == wire.TypeReceipts && t == wire.TypeSubmitted) {
			continue
		}
		if t != want {
			g.c.t.Fatalf("got %v, want %v", t, want)
		}
		m := new(M)
		if err := wire.Unmarshal(body, m); err != nil {
			g.c.t.Fatal(err)
		}
		return m
	}
}

// receipts waits for receipts and verifies them.
func (g *gateway) receipts() map[ident.DeviceID]*seal.Receipt {
	g.c.t.Helper()
	out := make(map[ident.DeviceID]*seal.Receipt)
	for _, it := range recv[wire.Receipts](g, wire.TypeReceipts).Items {
		r, err := seal.OpenReceipt(it.Receipt, g.c.keys.Authority().Public().(ed25519.PublicKey))
		if err != nil || r.Device != it.Device || out[r.Device] != nil || len(it.Receipt) > wire.MaxReceipt {
			g.c.t.Errorf("receipt for %v: %+v, %v", it.Device, r, err)
			continue
		}
		out[r.Device] = r
	}
	return out
}

// submit is a message with statements that the gateway received at one moment.
func submit(id uint64, statements ...[]byte) wire.Submit {
	return wire.Submit{ID: id, TimeMS: time.Now().UnixMilli(), Statements: statements, AfterMS: make([]int64, len(statements))}
}

// connect is dial up to the welcome and the site's list.
func (c *core) connect(site, gw string) *gateway {
	c.t.Helper()
	g := c.dial(site, gw, true)
	recv[wire.UplinkWelcome](g, wire.TypeUplinkWelcome)
	recv[wire.Site](g, wire.TypeSite)
	return g
}

func (c *core) authority() ed25519.PublicKey {
	pub, ok := c.keys.Authority().Public().(ed25519.PublicKey)
	if !ok {
		c.t.Fatalf("the authority's key is %T", c.keys.Authority().Public())
	}
	return pub
}

// entries are the device entries of a message, verified.
func (c *core) entries(m *wire.Site) (out []*seal.DeviceEntry) {
	c.t.Helper()
	for _, b := range m.Entries {
		e, err := seal.OpenDeviceEntry(b, "acme", c.authority())
		if err != nil {
			c.t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

// list is the list of gateways of a message, verified.
func (c *core) list(m *wire.Site) *seal.GatewayList {
	c.t.Helper()
	l, err := seal.OpenGatewayList(m.List, "acme", c.authority())
	if err != nil {
		c.t.Fatal(err)
	}
	return l
}

// A device is enrolled and signs.
type device struct {
	c     *core
	id    ident.DeviceID
	key   *ecdsa.PrivateKey
	kid   ident.KeyID
	seq   uint64
	chain seal.Chain
}

func (c *core) device(site string) *device {
	c.t.Helper()
	key, err := ident.NewKey()
	if err != nil {
		c.t.Fatal(err)
	}
	spki := spkiOf(c.t, key)
	d := &device{c: c, id: ident.NewDeviceID(), key: key, kid: ident.KeyIDOfSPKI(spki)}
	c.do(&command.Enroll{Token: c.token(seal.KindDevice, site).ID, Kind: seal.KindDevice, Device: d.id, SPKI: spki})
	return d
}

// register is the device's next statement.
func (d *device) register(version string) []byte {
	d.c.t.Helper()
	body, err := wire.Marshal(seal.Register{AgentVersion: version})
	if err != nil {
		d.c.t.Fatal(err)
	}
	s, err := seal.SealStatement(&seal.Statement{
		Version: 1, Type: seal.StatementRegister, Device: d.id, Epoch: 1, Seq: d.seq + 1, Prev: d.chain, Body: body,
	}, d.kid, d.key)
	if err != nil {
		d.c.t.Fatal(err)
	}
	d.seq, d.chain = s.Seq, s.Chain
	return s.Sealed
}

// attach is the device's attach to a gateway in a session of its first run.
func (d *device) attach(gw ident.ID, session uint64) []byte {
	d.c.t.Helper()
	b, err := seal.SealAttach(&seal.Attach{
		Version: 1, Device: d.id, Gateway: gw.String(), Start: 1, Run: 1, Session: session, Epoch: 1, Lowest: 1,
	}, d.kid, d.key)
	if err != nil {
		d.c.t.Fatal(err)
	}
	return b
}

func (d *device) record() *registry.Device {
	d.c.t.Helper()
	r, ok := d.c.View().Device(d.id)
	if !ok {
		d.c.t.Fatal("no record")
	}
	return r
}

// settle lets everything that is on its way arrive.
func settle() {
	time.Sleep(time.Second)
	synctest.Wait()
}
