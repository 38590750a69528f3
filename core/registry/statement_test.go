package registry

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// state submits sealed statements in one command and returns their codes; CodeNone is committed, now or before.
func (l *log) submit(m *machine, sealed ...[]byte) []wire.Code {
	l.t.Helper()
	var out []wire.Code
	for _, r := range l.ok(m.submit(sealed...)).([]StatementResult) {
		code := wire.CodeNone
		if r.Refuse != nil {
			code = r.Refuse.Code
		}
		out = append(out, code)
	}
	return out
}

func (l *log) wantCodes(m *machine, sealed [][]byte, want ...wire.Code) {
	l.t.Helper()
	if got := l.submit(m, sealed...); !slices.Equal(got, want) {
		l.t.Errorf("codes %v, want %v", got, want)
	}
}

// refusedStatement submits a statement that must be refused with code, and must leave no trace.
func (l *log) refusedStatement(m *machine, code wire.Code, sealed []byte) {
	l.t.Helper()
	l.apply()
	before := l.snapshot()
	l.index--
	eff := l.apply(m.submit(sealed))
	if r := eff.Results[0].([]StatementResult)[0]; r.Refuse == nil || r.Refuse.Code != code {
		l.t.Errorf("result %+v, want code %v", r.Refuse, code)
	}
	if !bytes.Equal(before, l.snapshot()) || len(eff.Records) != 0 {
		l.t.Errorf("refused as %v, and something changed", code)
	}
}

func version(v string) seal.Register { return seal.Register{AgentVersion: v} }

func TestStatementsInOrder(t *testing.T) {
	l := newLog(t)
	m := l.enrolled(1)
	s1, s2, s3 := m.register(version("1")), m.register(version("2")), m.register(version("3"))
	l.now = start.Add(time.Minute)
	eff := l.apply(m.submit(s1, s2, s3))
	for i, r := range eff.Results[0].([]StatementResult) {
		if r.Refuse != nil || r.Device != m.id || r.Covered.Seq != uint64(i+1) || r.LogMS != l.now.UnixMilli() {
			t.Errorf("statement %d: %+v", i+1, r)
		}
	}
	d := l.record(m)
	if d.Epoch != (Epoch{N: 1, ID: m.epochID, Seq: 3, Chain: m.chain}) || d.Registered().AgentVersion != "3" || d.RegisteredMS != l.now.UnixMilli() {
		t.Errorf("record %+v", d)
	}
	if len(eff.Records) != 3 {
		t.Fatalf("%d history records", len(eff.Records))
	}
	for i, want := range [][]byte{s1, s2, s3} {
		r := eff.Records[i]
		rec := decodeRecord[StatementRecord](t, r)
		if r.Stream != DeviceStream(m.id) || r.Kind != KindStatement || !bytes.Equal(rec.Sealed, want) || rec.Gateway != "plant-7/gw-a" {
			t.Errorf("history record %d: %+v", i, rec)
		}
	}
}

func TestStatementAgain(t *testing.T) {
	l := newLog(t)
	m := l.enrolled(1)
	s1, s2 := m.register(version("1")), m.register(version("2"))
	l.submit(m, s1, s2)
	before := *l.record(m)
	eff := l.apply(m.submit(s1, s2, s1))
	for _, r := range eff.Results[0].([]StatementResult) {
		if r.Refuse != nil || r.Covered.Seq != 2 { // what its receipt covers is everything that is committed
			t.Errorf("a repetition got %+v", r)
		}
	}
	if len(eff.Records)+len(eff.Events) != 0 {
		t.Errorf("a repetition had effects: %+v", eff)
	}
	after := *l.record(m)
	if after.Duplicates != before.Duplicates+3 || after.Registered().AgentVersion != "2" || after.Epoch != before.Epoch {
		t.Errorf("record %+v", after)
	}
}

func TestStatementConflicts(t *testing.T) {
	l := newLog(t)
	m := l.enrolled(1)
	s1, _, s3 := m.register(version("1")), m.register(version("2")), m.register(version("3"))
	l.wantCodes(m, [][]byte{s1, s3}, wire.CodeNone, wire.CodeNone)

	other := m.statement()
	other.Seq = 3 // the same number, other content
	other.Prev = seal.Chain{1}
	l.refusedStatement(m, wire.CodeConflict, m.sign(other, version("3")).Sealed)
	fork := m.statement()
	fork.Prev = seal.Chain{1} // the next number on another chain
	l.refusedStatement(m, wire.CodeConflict, m.sign(fork, version("4")).Sealed)
	filler := m.statement()
	filler.Seq, filler.Prev = 2, seal.Chain{1} // what is missing, on another chain
	l.refusedStatement(m, wire.CodeConflict, m.sign(filler, version("2")).Sealed)
	sameEpoch := m.statement()
	sameEpoch.EpochID = [16]byte{99} // the same epoch number, begun twice
	l.refusedStatement(m, wire.CodeConflict, m.sign(sameEpoch, version("4")).Sealed)
}

func TestConflictAlarms(t *testing.T) {
	l := newLog(t)
	m := l.enrolled(1)
	l.submit(m, m.register(version("1")))
	fork := m.statement()
	fork.Prev = seal.Chain{1}
	eff := l.apply(m.submit(m.sign(fork, version("2")).Sealed))
	if got := eventTypes(eff); !slices.Equal(got, []string{EventStatementConflict}) || eff.Events[0].Device != m.id.String() {
		t.Errorf("events %+v", eff.Events)
	}
}

func TestNewEpoch(t *testing.T) {
	l := newLog(t)
	m := l.enrolled(1)
	old := m.register(version("1"))
	l.submit(m, old)
	m.renew()
	first := m.statement()
	first.Before = &seal.EpochLink{Epoch: 1, Seq: 1, Lost: "disk"}
	s1 := m.sign(first, version("2"))
	m.seq, m.chain = 1, s1.Chain
	s2 := m.register(version("3"))
	l.wantCodes(m, [][]byte{s1.Sealed, s2}, wire.CodeNone, wire.CodeNone)
	if d := l.record(m); d.Epoch.N != 2 || d.Epoch.Seq != 2 || d.Registered().AgentVersion != "3" {
		t.Errorf("record %+v", d)
	}
	l.wantCodes(m, [][]byte{old}, wire.CodeNone) // it was committed before
}

func TestStatementRefused(t *testing.T) {
	l := newLog(t)
	m := l.enrolled(1)
	stranger := newMachine(t)
	l.refusedStatement(stranger, wire.CodeUnknownKey, stranger.register(version("1")))

	l.refusedStatement(m, wire.CodeMalformed, []byte("no statement"))
	l.refusedStatement(m, wire.CodeMalformed, stranger.sign(stranger.statement(), version("1")).Sealed) // its own device, under another's name

	foreign := newMachine(t)
	foreign.id = m.id
	l.refusedStatement(m, wire.CodeRetired, foreign.register(version("1")))

	unknown := m.statement()
	unknown.Type = 200
	l.refusedStatement(m, wire.CodeUnsupported, m.sign(unknown, version("1")).Sealed)

	l.refusedStatement(m, wire.CodeMalformed, m.sign(m.statement(), "no registration").Sealed)
	l.refusedStatement(m, wire.CodeMalformed, m.sign(m.statement(), seal.Register{Tags: map[string]string{"site": "mine"}}).Sealed)

	l.wantCodes(m, [][]byte{m.register(version("1"))}, wire.CodeNone) // and the number is still free
}

func TestChangedFacts(t *testing.T) {
	l := newLog(t)
	m := l.enrolled(1)
	r := seal.Register{AgentVersion: "1", Tags: map[string]string{"line": "3", "old": "x"}}
	r.Profile.Arch, r.Profile.RAMBytes = wire.Known("arm64"), wire.Known(uint64(8<<30))
	r.Profile.Accelerators = wire.Known([]string{"nvidia-gpu"})
	r.Slots = []seal.Installed{{Slot: "app", Artifact: wire.Digest{1}, Name: "app", Version: "1"}, {Slot: "old", Artifact: wire.Digest{2}}}
	eff := l.apply(m.submit(m.register(r)))
	if rec := decodeRecord[StatementRecord](t, eff.Records[0]); len(rec.Changed) != 0 {
		t.Errorf("the first registration changed %+v", rec.Changed)
	}
	if eff = l.apply(m.submit(m.register(r))); len(decodeRecord[StatementRecord](t, eff.Records[0]).Changed) != 0 {
		t.Errorf("the same facts changed something: %+v", eff.Events)
	}
	r.AgentVersion, r.Tags = "2", map[string]string{"line": "4"}
	r.Profile.RAMBytes = wire.Unknown[uint64]("no /proc")
	r.Profile.CPUCores = wire.Known(uint32(6))
	r.Profile.Accelerators = wire.Known([]string{"google-edgetpu", "nvidia-gpu"})
	r.Slots = []seal.Installed{{Slot: "app", Artifact: wire.Digest{3}, Name: "app", Version: "2"}}
	eff = l.apply(m.submit(m.register(r)))
	one, two, three := wire.Digest{1}.String(), wire.Digest{2}.String(), wire.Digest{3}.String()
	want := []Change{
		{"agent_version", "1", "2"},
		{"profile.accelerators", "nvidia-gpu", "google-edgetpu,nvidia-gpu"},
		{"profile.cpu_cores", "", "6"},
		{"profile.ram_bytes", "8589934592", ""},
		{"slots.app", "app@1 " + one, "app@2 " + three},
		{"slots.old", two, ""},
		{"tags.line", "3", "4"},
		{"tags.old", "x", ""},
	}
	if rec := decodeRecord[StatementRecord](t, eff.Records[0]); !slices.Equal(rec.Changed, want) {
		t.Errorf("changed %+v, want %+v", rec.Changed, want)
	}
	if e := eff.Events[0]; e.Type != EventDeviceRegistered || e.Data["changed.tags.line"] != "4" || e.Data["seq"] != "3" {
		t.Errorf("event %+v", e)
	}
}

// A quarantined device goes on stating; a key that is no longer active does not.
func TestStatementsOfQuarantined(t *testing.T) {
	l := newLog(t)
	m := l.enrolled(1)
	l.ok(m.online("plant-7/gw-a", start, m.attach(1, 1, 1)))
	l.ok(m.online("plant-7/gw-a", start, m.attach(1, 2, 1)))
	if d := l.record(m); d.State != wire.DeviceQuarantined {
		t.Fatalf("state %v", d.State)
	}
	l.wantCodes(m, [][]byte{m.register(version("1"))}, wire.CodeNone)
}

func TestBatchOfManyDevices(t *testing.T) {
	l := newLog(t)
	a, b := l.enrolled(1), l.enrolled(2)
	sa, sb := a.register(version("1")), b.register(version("1"))
	c := &command.Statements{Items: []command.Statement{
		{Sealed: sa, Device: a.id, Gateway: "g"}, {Sealed: []byte{1}, Device: ident.DeviceID{5}}, {Sealed: sb, Device: b.id, Gateway: "g"},
	}}
	res := l.ok(c).([]StatementResult)
	if res[0].Refuse != nil || res[1].Refuse == nil || res[2].Refuse != nil || res[2].Device != b.id {
		t.Errorf("results %+v", res)
	}
}
