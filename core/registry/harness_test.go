package registry

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

var start = time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)

// A tester is what the harness needs of *testing.T and *rapid.T.
type tester interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// A log applies commands to a state, each in an entry of its own, and keeps them.
type log struct {
	t       tester
	state   *State
	index   uint64
	now     time.Time
	entries []entry
}

type entry struct {
	index uint64
	now   time.Time
	cmds  [][]byte
}

// emptyLog is a log whose fleet has not been made.
func emptyLog(t tester) *log { return &log{t: t, state: New(), now: start} }

// newLog is a log of a fleet that has been made.
func newLog(t tester) *log {
	t.Helper()
	l := emptyLog(t)
	l.ok(fleet())
	return l
}

func fleet() *command.Init {
	ca := func(r ident.Role) command.WrappedCA {
		return command.WrappedCA{Role: r, Cert: []byte("cert of " + r), Key: []byte("key of " + r)}
	}
	return &command.Init{
		Fleet: "acme", Root: ca("root"), CAs: []command.WrappedCA{ca(ident.RoleDevice), ca(ident.RoleGateway)},
		Authority:  command.WrappedCA{Role: ident.RoleAuthority, Cert: authority().cert, Key: []byte("key of authority")},
		Wraps:      []command.KeyWrap{{Holder: "core-1", Wrap: []byte("wrap")}},
		Operator:   command.Operator{ID: "o1", Name: "admin", Hash: [32]byte{7}, Role: "admin"},
		Node:       command.CoreNode{Name: "core-1", API: "a:1", Uplink: "u:1", Cluster: "c:1"},
		IntervalMS: 30_000,
	}
}

func encode(t tester, c command.Command) []byte {
	t.Helper()
	b, err := command.Encode(c)
	if err != nil {
		t.Fatalf("encode %T: %v", c, err)
	}
	return b
}

// apply applies commands in one entry.
func (l *log) apply(cmds ...command.Command) Effects {
	l.t.Helper()
	l.index++
	e := entry{index: l.index, now: l.now}
	for _, c := range cmds {
		if o, ok := c.(command.Operated); ok && o.Actor().Operator == "" {
			o.Actor().Operator = "o1"
		}
		e.cmds = append(e.cmds, encode(l.t, c))
	}
	l.entries = append(l.entries, e)
	eff, err := l.state.Apply(e.index, e.now, e.cmds)
	if err != nil {
		l.t.Fatalf("entry %d: %v", e.index, err)
	}
	if len(eff.Results) != len(cmds) {
		l.t.Fatalf("%d results for %d commands", len(eff.Results), len(cmds))
	}
	return eff
}

// ok applies a command that must not be refused and returns its result.
func (l *log) ok(c command.Command) any {
	l.t.Helper()
	res := l.apply(c).Results[0]
	if err, refused := res.(error); refused {
		l.t.Fatalf("%T refused: %v", c, err)
	}
	return res
}

// refused applies a command that must be refused with want, and must leave no trace but the entry's index.
func (l *log) refused(c command.Command, want error) {
	l.t.Helper()
	l.apply() // so that the time is this entry's already
	before := l.snapshot()
	l.index--
	eff := l.apply(c)
	err, ok := eff.Results[0].(error)
	if !ok || !errors.Is(err, want) {
		l.t.Errorf("%T: result %v, want %v", c, eff.Results[0], want)
	}
	if !bytes.Equal(before, l.snapshot()) {
		l.t.Errorf("%T was refused and changed the state", c)
	}
	if len(eff.Records) != 0 || len(eff.Events) != 0 {
		l.t.Errorf("%T was refused and had effects: %+v", c, eff)
	}
}

func (l *log) snapshot() []byte { return persist(l.t, l.state.View()) }

func persist(t tester, v View) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := v.Persist(&b); err != nil {
		t.Fatalf("persist: %v", err)
	}
	return b.Bytes()
}

func restore(t tester, b []byte) *State {
	t.Helper()
	s, err := Restore(bytes.NewReader(b))
	if err != nil {
		t.Fatalf("restore: %v", err)
	}
	return s
}

// token makes a token for a day with id n.
func token(n byte, uses uint32) *command.CreateToken {
	return &command.CreateToken{
		ID: seal.TokenID{n}, Public: []byte{n}, Kind: seal.KindDevice, Site: "plant-7",
		TTLMS: (24 * time.Hour).Milliseconds(), Uses: uses,
	}
}

// A machine is a device that states what it has to, in order.
type machine struct {
	t       tester
	key     *ecdsa.PrivateKey
	spki    []byte
	kid     ident.KeyID
	id      ident.DeviceID
	epoch   uint64
	epochID [16]byte
	seq     uint64
	chain   seal.Chain
}

func newMachine(t tester) *machine {
	t.Helper()
	key, err := ident.NewKey()
	if err != nil {
		t.Fatalf("key: %v", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatalf("public key: %v", err)
	}
	return &machine{t: t, key: key, spki: spki, kid: ident.KeyIDOfSPKI(spki), id: ident.NewDeviceID(), epoch: 1, epochID: [16]byte{1}}
}

// enroll is the machine's enrollment with token n.
func (m *machine) enroll(n byte) *command.Enroll {
	return &command.Enroll{
		Token: seal.TokenID{n}, Kind: seal.KindDevice, Device: m.id, SPKI: m.spki, Cert: []byte("leaf of " + m.id.String()),
		NotAfter: start.Add(ident.LeafLifetime).UnixMilli(), Via: "spiffe://acme/gateway/plant-7/gw-a",
	}
}

// sign makes the statement s of the machine as it is, without moving on.
func (m *machine) sign(s seal.Statement, body any) *seal.SealedStatement {
	m.t.Helper()
	b, err := wire.Marshal(body)
	if err != nil {
		m.t.Fatalf("body: %v", err)
	}
	s.Body = b
	sealed, err := seal.SealStatement(&s, m.kid, m.key)
	if err != nil {
		m.t.Fatalf("seal: %v", err)
	}
	return sealed
}

// statement is the head of the machine's next statement.
func (m *machine) statement() seal.Statement {
	return seal.Statement{
		Version: seal.StatementVersion, Type: seal.StatementRegister, Device: m.id, Epoch: m.epoch, EpochID: m.epochID, Seq: m.seq + 1, Prev: m.chain,
		TimeMS: start.UnixMilli(),
	}
}

// register makes the machine's next statement.
func (m *machine) register(r seal.Register) []byte {
	m.t.Helper()
	s := m.sign(m.statement(), r)
	m.seq, m.chain = s.Seq, s.Chain
	return s.Sealed
}

// renew begins another epoch.
func (m *machine) renew() {
	m.epoch, m.epochID, m.seq, m.chain = m.epoch+1, [16]byte{byte(m.epoch + 1)}, 0, seal.Chain{}
}

func (m *machine) submit(sealed ...[]byte) *command.Statements {
	c := new(command.Statements)
	for _, b := range sealed {
		c.Items = append(c.Items, command.Statement{Sealed: b, Gateway: "plant-7/gw-a", GatewayMS: start.UnixMilli(), Device: m.id})
	}
	return c
}

// attach is the machine's attach in a session of a run of a start.
func (m *machine) attach(start, run, session uint64) *command.Attach {
	return &command.Attach{Start: start, Run: run, Session: session, Epoch: m.epoch, Lowest: m.seq + 1, Highest: m.seq, Chain: m.chain}
}

// online is a gateway's report of the machine.
func (m *machine) online(gw string, at time.Time, a *command.Attach) *command.Presence {
	return &command.Presence{Gateway: gw, Items: []command.PresenceItem{{
		Device: m.id, Online: true, AtMS: at.UnixMilli(), LastMS: at.UnixMilli(), IntervalMS: 30_000, Attach: a,
	}}}
}

func (m *machine) offline(gw string, at, last time.Time) *command.Presence {
	return &command.Presence{Gateway: gw, Items: []command.PresenceItem{{
		Device: m.id, AtMS: at.UnixMilli(), LastMS: last.UnixMilli(), Beats: 5, Missed: 1, Counted: true,
	}}}
}

// enrolled makes a machine that is enrolled with a token of its own.
func (l *log) enrolled(n byte) *machine {
	l.t.Helper()
	m := newMachine(l.t)
	l.ok(token(n, 1))
	l.ok(m.enroll(n))
	return m
}

// record is the machine's record now.
func (l *log) record(m *machine) *Device {
	l.t.Helper()
	d, ok := l.state.View().Device(m.id)
	if !ok {
		l.t.Fatalf("no record of %v", m.id)
	}
	return d
}

func eventTypes(e Effects) []string {
	var out []string
	for _, x := range e.Events {
		out = append(out, x.Type)
	}
	return out
}

func decodeRecord[V any](t *testing.T, r Record) V {
	t.Helper()
	var v V
	if err := wire.Unmarshal(r.Data, &v); err != nil {
		t.Fatalf("record of kind %d: %v", r.Kind, err)
	}
	return v
}
