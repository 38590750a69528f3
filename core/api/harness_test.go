package api

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/content"
	"github.com/holdfast-edge/holdfast/core/events"
	"github.com/holdfast-edge/holdfast/core/history"
	"github.com/holdfast-edge/holdfast/core/liveness"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/core/tally"
	"github.com/holdfast-edge/holdfast/internal/disk/simdisk"
	"github.com/holdfast-edge/holdfast/raftstore"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// adminToken is the bearer token of the operator that a test's fleet begins with.
const adminToken = "hfo1_admin"

// byAdmin is that operator as commands carry it.
var byAdmin = command.Actor{Operator: "op-1"}

// wide are limits that no test meets by accident: those of frequency, which a quick machine meets and a slow one does not.
func wide() limits {
	l := defaultLimits
	l.failures, l.failuresBurst, l.requests, l.requestsBurst = 1e9, 1e9, 1e9, 1e9
	return l
}

// start is the log time at which a test's fleet is made.
var start = time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)

// A core is a real registry, history and event hub without consensus: each proposal is one log entry.
type core struct {
	t       testing.TB
	history *history.Store
	hub     *events.Hub
	tracker *liveness.Tracker
	log     *bytes.Buffer // guarded by the slog handler; read it when no request runs
	server  *server
	handler http.Handler

	mu      sync.Mutex
	state   *registry.State
	index   uint64
	now     time.Time                   // log time and wall time
	refuse  func(context.Context) error // set: what Propose and Barrier do instead
	barrier int                         // how often it was asked for
	ready   error
	panics  bool
	lag     *registry.View // set: what View shows until the next Barrier

	book      *tally.Book
	deriveKey []byte
	disk      *simdisk.Disk // of the content
	away      int           // guarded by mu: nodes of the core that are there beside this one, and do not answer
}

// alone is the core as the keeper of its content sees it.
type alone struct{ *core }

// Members implements content.Cluster.
func (a alone) Members() content.Members {
	a.mu.Lock()
	defer a.mu.Unlock()
	return content.Members{Self: "core-1", Voters: []string{"core-1", "core-2", "core-3"}[:1+a.away]}
}

// Call implements content.Cluster.
func (alone) Call(context.Context, string, content.Call, []byte) ([]byte, error) {
	return nil, raftstore.ErrUnreachable
}

func newCore(tb testing.TB) *core {
	tb.Helper()
	return newCoreWith(tb, "admin", wide())
}

// newCoreWith makes a fleet whose first operator has the role.
func newCoreWith(tb testing.TB, role string, most limits) *core {
	tb.Helper()
	h, err := history.Open(tb.TempDir(), history.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := h.Close(); err != nil {
			tb.Error(err)
		}
	})
	c := &core{
		t: tb, history: h, hub: new(events.Hub), tracker: liveness.New(10 * time.Second), log: new(bytes.Buffer),
		state: registry.New(), now: start, deriveKey: []byte("k"), disk: simdisk.New(1),
	}
	log := slog.New(slog.NewJSONHandler(c.log, &slog.HandlerOptions{Level: slog.LevelInfo}))
	c.book = tally.New(c.wall, log)
	cfg := Config{
		Registry: c, History: h, Tracker: c.tracker, Events: c.hub, Node: "core-1", Cluster: &nodes{core: c}, Tally: c.book, Pin: ident.KeyID{7}, Version: "1.2.3",
		Wall: c.wall, Log: log, Derive: c.derive,
		Authority:      []byte("authority"),
		Sign:           func(head *seal.AuditHead) ([]byte, error) { return seal.SealAuditHead(head, authority) },
		SignPublishers: func(p *seal.PublisherSet) ([]byte, error) { return sealSet(p, authority) },
		Ready: func() error {
			if c.panics {
				panic("ready")
			}
			return c.ready
		},
	}
	store, err := content.Open("content", content.Options{FS: c.disk, Quota: 1 << 20})
	if err != nil {
		tb.Fatal(err)
	}
	keeper := content.NewKeeper(store, alone{c}, content.KeeperOptions{})
	tb.Cleanup(func() {
		if err := keeper.Close(); err != nil {
			tb.Error(err)
		}
	})
	cfg.Content = keeper
	c.server, c.handler = build(cfg, most)
	c.commit(&command.Init{
		Fleet: "acme", IntervalMS: 30_000, Node: command.CoreNode{Name: "core-1"}, Authority: command.WrappedCA{Role: ident.RoleAuthority, Cert: authorityCert()},
		Operator: command.Operator{ID: "op-1", Name: "admin", Hash: sha256.Sum256([]byte(adminToken)), Role: role},
	})
	return c
}

// authority signs heads of audit trails, and the first set of publishers.
var authority = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))

var authorityCert = sync.OnceValue(func() []byte {
	key, err := ident.NewKey()
	if err != nil {
		panic(err)
	}
	root, err := ident.NewRoot("acme", key, start)
	if err != nil {
		panic(err)
	}
	cert, err := root.Issue(ident.Leaf{ID: ident.Authority("acme"), Public: authority.Public(), Now: start})
	if err != nil {
		panic(err)
	}
	return cert
})

// derive is a keyed one-way function, as the nodes of a core share one.
func (c *core) derive(label string, data []byte) [32]byte {
	m := hmac.New(sha256.New, c.deriveKey)
	m.Write([]byte(label + "\x00"))
	m.Write(data)
	return [32]byte(m.Sum(nil))
}

// nodes is the core of a test, which is one process: its members are what the registry says.
type nodes struct {
	core *core
	fail error // what Remove, Snapshot and Transfer return
	to   string
}

// Status implements Cluster.
func (n *nodes) Status(context.Context) v1.Cluster {
	out := v1.Cluster{Fleet: "acme", Leader: "core-1", Index: n.core.View().Index(), Version: "1.2.3"}
	for _, m := range n.core.View().Fleet().Nodes {
		out.Nodes = append(out.Nodes, v1.Node{Name: m.Name, Member: true})
	}
	return out
}

// Remove implements Cluster.
func (n *nodes) Remove(ctx context.Context, by command.Actor, name string) error {
	if n.fail != nil {
		return n.fail
	}
	f := n.core.View().Fleet()
	r := command.Rotation{Generation: f.Generation + 1, Root: f.Root, CAs: f.CAs, Authority: f.Authority, Wraps: []command.KeyWrap{{Holder: registry.RecoveryHolder}}}
	for _, m := range f.Nodes {
		if m.Name != name {
			r.Wraps = append(r.Wraps, command.KeyWrap{Holder: m.Name})
		}
	}
	_, err := n.core.Propose(ctx, &command.RemoveNode{By: by, Name: name, Rotation: r})
	return err
}

// Snapshot implements Cluster.
func (n *nodes) Snapshot(context.Context) (v1.Snapshot, error) {
	return v1.Snapshot{Node: "core-1", Index: n.core.View().Index()}, n.fail
}

// Transfer implements Cluster.
func (n *nodes) Transfer(_ context.Context, to string) error {
	if _, ok := n.core.View().Fleet().Node(to); !ok && to != "" {
		return raftstore.ErrNotMember
	}
	n.to = to
	return n.fail
}

// join makes a node a member.
func (c *core) join(name string) {
	c.t.Helper()
	id := seal.NewToken(ident.KeyID{}).ID
	c.commit(&command.CreateToken{By: byAdmin, ID: id, Public: []byte{1}, Kind: seal.KindCore, TTLMS: 60_000, Uses: 1})
	c.commit(&command.Enroll{
		Token: id, Kind: seal.KindCore, SPKI: []byte(name), Cert: []byte{1}, Gen: c.View().Fleet().Generation,
		Node: &command.CoreNode{Name: name}, Wrap: &command.KeyWrap{Holder: name},
	})
}

func hashOf(bearer string) [32]byte { return sha256.Sum256([]byte(bearer)) }

// operator makes an operator and returns its bearer token.
func (c *core) operator(id string, role registry.Role, sites ...string) string {
	c.t.Helper()
	bearer := "hfo1_" + id
	c.commit(&command.CreateOperator{By: byAdmin, Operator: command.Operator{
		ID: id, Name: "name of " + id, Hash: hashOf(bearer), Role: string(role), Sites: sites,
	}})
	return bearer
}

func (c *core) wall() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// pass moves the log's clock.
func (c *core) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// View implements Registry.
func (c *core) View() registry.View {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.panics {
		panic("view")
	}
	if c.lag != nil {
		return *c.lag
	}
	return c.state.View()
}

// Barrier implements Registry.
func (c *core) Barrier(ctx context.Context) error {
	c.mu.Lock()
	c.barrier++
	refuse := c.refuse
	if refuse == nil {
		c.lag = nil
	}
	c.mu.Unlock()
	if refuse != nil {
		return refuse(ctx)
	}
	return nil
}

// Propose implements Registry.
func (c *core) Propose(ctx context.Context, cmd command.Command) (any, error) {
	c.mu.Lock()
	refuse := c.refuse
	c.mu.Unlock()
	if refuse != nil {
		return nil, refuse(ctx)
	}
	res := c.apply(cmd)[0]
	if err, ok := res.(error); ok {
		return nil, err
	}
	return res, nil
}

// apply commits commands in one log entry.
func (c *core) apply(cmds ...command.Command) []any {
	var encoded [][]byte
	for _, cmd := range cmds {
		b, err := command.Encode(cmd)
		if err != nil {
			panic(err)
		}
		encoded = append(encoded, b)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.index++
	eff, err := c.state.Apply(c.index, c.now, encoded)
	if err != nil {
		panic(err)
	}
	recs := make([]history.Record, len(eff.Records))
	for i, r := range eff.Records {
		recs[i] = history.Record{
			Index: c.index, N: uint32(i), Time: c.now, Kind: history.Kind(r.Kind), Stream: history.StreamID(r.Stream), Data: r.Data,
		}
	}
	if err := c.history.Append(recs); err != nil {
		panic(err)
	}
	c.hub.Publish(eff.Events)
	return eff.Results
}

// commit applies a command that must be taken.
func (c *core) commit(cmd command.Command) any {
	c.t.Helper()
	res := c.apply(cmd)[0]
	if err, ok := res.(error); ok {
		c.t.Fatalf("%T: %v", cmd, err)
	}
	return res
}

// token makes an enrollment token for a site.
func (c *core) token(kind seal.Kind, site string) seal.TokenID {
	c.t.Helper()
	id := seal.NewToken(ident.KeyID{}).ID
	c.commit(&command.CreateToken{By: byAdmin, ID: id, Public: []byte{1}, Kind: kind, Site: site, TTLMS: 3_600_000, Uses: 10_000})
	return id
}

// A machine is a device of a test with its key.
type machine struct {
	id    ident.DeviceID
	key   *ecdsa.PrivateKey
	kid   ident.KeyID
	seq   uint64
	chain seal.Chain
}

// enroll makes a device with a random id.
func (c *core) enroll(token seal.TokenID) *machine {
	c.t.Helper()
	return c.enrollAs(token, ident.NewDeviceID())
}

func (c *core) enrollAs(token seal.TokenID, id ident.DeviceID) *machine {
	c.t.Helper()
	key, err := ident.NewKey()
	if err != nil {
		c.t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		c.t.Fatal(err)
	}
	c.commit(&command.Enroll{
		Token: token, Kind: seal.KindDevice, Device: id, SPKI: spki, Cert: []byte{1}, NotAfter: c.wall().Add(90 * 24 * time.Hour).UnixMilli(),
	})
	return &machine{id: id, key: key, kid: ident.KeyIDOfSPKI(spki)}
}

// gateway enrolls a gateway and returns its id.
func (c *core) gateway(site, name string) string {
	c.t.Helper()
	c.commit(&command.Enroll{
		Token: c.token(seal.KindGateway, site), Kind: seal.KindGateway, Name: name, Listen: name + ":7443", SPKI: []byte(site + name),
		Cert: []byte{1}, NotAfter: c.wall().Add(time.Hour).UnixMilli(),
	})
	return site + "/" + name
}

// register commits a registration of the machine, made at the device's time deviceMS.
func (c *core) register(m *machine, gateway string, deviceMS int64, r *seal.Register) {
	c.t.Helper()
	c.states(m, gateway, deviceMS, seal.StatementRegister, r)
}

// states commits the machine's next statement, of any type.
func (c *core) states(m *machine, gateway string, deviceMS int64, kind seal.StatementType, b any) {
	c.t.Helper()
	body, err := wire.Marshal(b)
	if err != nil {
		c.t.Fatal(err)
	}
	m.seq++
	st, err := seal.SealStatement(&seal.Statement{
		Version: seal.StatementVersion, Type: kind, Device: m.id, Epoch: 1, EpochID: [16]byte{1}, Seq: m.seq, Prev: m.chain,
		TimeMS: deviceMS, Clock: seal.ClockSynced, Body: body,
	}, m.kid, m.key)
	if err != nil {
		c.t.Fatal(err)
	}
	m.chain = st.Chain
	res := c.commit(&command.Statements{Items: []command.Statement{{
		Sealed: st.Sealed, Gateway: gateway, GatewayMS: c.wall().UnixMilli(), Device: m.id,
	}}})
	if out, ok := res.([]registry.StatementResult); !ok || out[0].Refuse != nil {
		c.t.Fatalf("statement refused: %+v", res)
	}
}

// online commits that the machine is online at its gateway since a time of the log; session numbers must grow.
func (c *core) online(m *machine, gateway string, since time.Time, session uint64) {
	c.t.Helper()
	c.commit(&command.Presence{Gateway: gateway, Items: []command.PresenceItem{{
		Device: m.id, Online: true, AtMS: since.UnixMilli(), LastMS: since.UnixMilli(), IntervalMS: 30_000,
		Attach: &command.Attach{Start: 1, Run: 1, Session: session},
	}}})
}

// offline commits that the machine is offline since a time of the log, last heard before.
func (c *core) offline(m *machine, gateway string, since, last time.Time, beats, missed uint64) {
	c.t.Helper()
	c.commit(&command.Presence{Gateway: gateway, Items: []command.PresenceItem{{
		Device: m.id, AtMS: since.UnixMilli(), LastMS: last.UnixMilli(), Beats: beats, Missed: missed, Counted: true,
	}}})
}

// vouch lets the gateway tell the tracker that the machine is online now.
func (c *core) vouch(m *machine, gateway string) {
	c.tracker.Opened(gateway, 1, time.Now())
	c.tracker.Online(gateway, 1, &wire.DeviceOnline{Device: m.id, Slot: 1, LastMS: c.wall().UnixMilli(), IntervalMS: 30_000}, time.Now(), time.Time{})
}

// stall makes View show what it shows now until the next Barrier, as on a node that has not heard the newest.
func (c *core) stall() {
	v := c.View()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lag = &v
}

// as sends the request with another bearer token.
func as(bearer string, r *http.Request) *http.Request {
	r.Header.Set("Authorization", "Bearer "+bearer)
	return r
}

func request(method, target, body string) *http.Request {
	var rd io.Reader
	if body != "" {
		rd = strings.NewReader(body)
	}
	r := httptest.NewRequest(method, target, rd)
	r.Header.Set("Authorization", "Bearer "+adminToken)
	if body != "" {
		r.Header.Set("Content-Type", contentType(target))
	}
	return r
}

// contentType is what the bodies of a route are.
func contentType(path string) string {
	if path == "/v1/content" {
		return octets
	}
	return "application/json"
}

// do serves a request in-process.
func (c *core) do(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	c.handler.ServeHTTP(w, r)
	return w
}

// ask serves a request that must be answered with the status, and reads its body, in which every field must be known.
func ask[T any](c *core, method, target, body string, status int) T {
	c.t.Helper()
	return read[T](c.t, c.do(request(method, target, body)), status)
}

func read[T any](tb testing.TB, w *httptest.ResponseRecorder, status int) T {
	tb.Helper()
	var out T
	if w.Code != status {
		tb.Fatalf("status %d, want %d: %s", w.Code, status, w.Body)
	}
	if ct := w.Header().Get("Content-Type"); status < 300 && ct != "application/json" {
		tb.Errorf("content type %q", ct)
	}
	dec := json.NewDecoder(bytes.NewReader(w.Body.Bytes()))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&out); err != nil {
		tb.Fatalf("body %s: %v", w.Body, err)
	}
	return out
}

// problem reads the problem that the answer must be.
func problem(tb testing.TB, w *httptest.ResponseRecorder, status int) v1.Problem {
	tb.Helper()
	p := read[v1.Problem](tb, w, status)
	if ct := w.Header().Get("Content-Type"); ct != "application/problem+json" {
		tb.Errorf("content type %q", ct)
	}
	if p.Status != status || p.Title == "" || p.Detail == "" || !strings.HasPrefix(p.Type, "urn:holdfast:problem:") {
		tb.Errorf("problem is incomplete: %+v", p)
	}
	if len(w.Body.Bytes()) > 8<<10 {
		tb.Errorf("problem of %d bytes", w.Body.Len())
	}
	return p
}

// ids of items.
func ids(devices []v1.Device) (out []string) {
	for i := range devices {
		out = append(out, devices[i].ID)
	}
	return out
}

// setRefuse lets Propose and Barrier fail.
func (c *core) setRefuse(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refuse = func(context.Context) error { return err }
	if err == nil {
		c.refuse = nil
	}
}

func known[T any](v T) wire.Fact[T] { return wire.Known(v) }

// jetson is a registration with every sort of fact.
func jetson(version string) *seal.Register {
	return &seal.Register{
		AgentVersion: version, Tags: map[string]string{"line": "3", "owner": "agent"},
		Profile: wire.Profile{
			Model: known("NVIDIA Jetson"), SoC: wire.Absent[string](), Arch: known("arm64"), RAMBytes: known(uint64(8 << 30)),
			CPUCores: known(uint32(6)), Accelerators: known([]string{"nvidia-gpu"}), OS: wire.Unknown[string]("permission denied"),
			Kernel: known("5.10"), Hints: wire.Hints{Serial: "S1"},
		},
	}
}
