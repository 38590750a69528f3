package registry

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

func operator(id string, role Role, sites ...string) *command.CreateOperator {
	return &command.CreateOperator{Operator: command.Operator{ID: id, Name: id, Hash: [32]byte{0xaa, id[len(id)-1]}, Role: string(role), Sites: sites}}
}

// audited are the records that an entry put on the trail.
func audited(t *testing.T, e Effects) []AuditRecord {
	t.Helper()
	var out []AuditRecord
	for _, r := range e.Records {
		if r.Kind == KindAudit {
			out = append(out, decodeRecord[AuditRecord](t, r))
		}
	}
	return out
}

// Every role, on every kind of scope, against the rule as a person would write it.
func TestPermit(t *testing.T) {
	now := start
	may := map[Role]map[Action]bool{
		RoleViewer:   {ActSee: true},
		RoleOperator: {ActSee: true, ActOperate: true},
		RoleAdmin:    {ActSee: true, ActOperate: true, ActAdminister: true},
		"":           {},
		"root":       {},
	}
	scopes := map[string]Scope{"fleet": ScopeFleet(), "own": ScopeOwn(), "plant-7": ScopeSite("plant-7"), "plant-8": ScopeSite("plant-8"), "unknown": {kind: 9}}
	for role, acts := range may {
		for _, limited := range []bool{false, true} {
			o := &Operator{ID: "o", Name: "o", Role: role}
			if limited {
				o.Sites = []string{"plant-7"}
			}
			for act := range ActAdminister + 2 {
				for name, on := range scopes {
					want := acts[act] && name != "unknown" && (!limited || name == "own" || name == "plant-7")
					if err := Permit(o, act, on, now); (err == nil) != want || err != nil && !errors.Is(err, ErrForbidden) {
						t.Errorf("role %q, limited %v, action %d on %s: %v, want permitted: %v", role, limited, act, name, err, want)
					}
				}
			}
		}
	}
	for name, o := range map[string]*Operator{
		"nobody": nil, "revoked": {Role: RoleAdmin, RevokedMS: 1}, "expired": {Role: RoleAdmin, ExpiresMS: now.UnixMilli()},
	} {
		if err := Permit(o, ActSee, ScopeOwn(), now); !errors.Is(err, ErrUnauthenticated) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := Permit(&Operator{Role: RoleAdmin, ExpiresMS: now.UnixMilli() + 1}, ActSee, ScopeOwn(), now); err != nil {
		t.Errorf("a millisecond before the end: %v", err)
	}
}

// A command is held against the permission that its operator has in the entry that applies it.
func TestOperatorsAreHeldToTheirRole(t *testing.T) {
	l := newLog(t)
	m := l.enrolled(1) // in plant-7
	l.ok(operator("o2", RoleViewer))
	l.ok(operator("o3", RoleOperator, "plant-8"))
	l.ok(operator("o4", RoleOperator))
	by := func(id string) command.Actor { return command.Actor{Operator: id} }
	gw, core := token(7, 1), token(8, 1)
	gw.Kind, core.Kind = seal.KindGateway, seal.KindCore
	as := func(c command.Operated, id string) command.Command { *c.Actor() = by(id); return c }

	l.refused(as(&command.SetTags{Device: m.id, Set: map[string]string{"a": "b"}}, "o2"), ErrForbidden)
	l.refused(as(&command.SetTags{Device: m.id, Set: map[string]string{"a": "b"}}, "o3"), ErrForbidden)
	l.refused(as(&command.SetTags{Device: m.id, Set: map[string]string{"a": "b"}}, "nobody"), ErrUnauthenticated)
	l.refused(as(token(9, 1), "o3"), ErrForbidden) // for plant-7
	l.refused(as(gw, "o3"), ErrForbidden)
	l.refused(as(core, "o4"), ErrForbidden)
	l.refused(as(operator("o5", RoleAdmin), "o4"), ErrForbidden)
	l.refused(as(&command.RevokeOperator{ID: "o2"}, "o4"), ErrForbidden)
	l.ok(as(&command.SetTags{Device: m.id, Set: map[string]string{"a": "b"}}, "o4"))
	l.ok(as(gw, "o4"))
	l.ok(as(core, "o1"))

	l.ok(&command.RevokeOperator{ID: "o4"})
	l.refused(as(&command.SetTags{Device: m.id, Set: map[string]string{"a": "c"}}, "o4"), ErrUnauthenticated)
}

func TestOperatorsLifecycle(t *testing.T) {
	l := newLog(t)
	in := operator("o2", RoleOperator, "plant-8", "plant-7", "plant-8")
	in.Operator.ExpiresMS = l.now.Add(time.Hour).UnixMilli()
	o := l.ok(in).(*Operator)
	if !slices.Equal(o.Sites, []string{"plant-7", "plant-8"}) || o.By != "o1" || o.CreatedMS != l.now.UnixMilli() {
		t.Errorf("made %+v", o)
	}
	if got, ok := l.state.View().Operator(o.Hash); !ok || got != o {
		t.Error("not found by its token")
	}
	l.refused(operator("o2", RoleViewer), ErrExists)
	again := operator("o3", RoleViewer)
	again.Operator.Hash = o.Hash
	l.refused(again, ErrExists)
	l.refused(operator("o4", "root"), ErrInvalid)
	l.refused(&command.RevokeOperator{ID: "o9"}, ErrNotFound)
	l.refused(&command.RevokeOperator{ID: "o1"}, ErrInvalid) // the last administrator

	at := l.now.Add(time.Second).UnixMilli()
	l.now = l.now.Add(time.Minute)
	l.ok(&command.OperatorsUsed{Items: []command.OperatorUse{
		{ID: "o2", AtMS: at, Source: "10.0.0.9"},
		{ID: "o2", AtMS: at - 1, Source: "10.0.0.1"},
		{ID: "nobody", AtMS: at},
		{ID: "o1", AtMS: l.now.UnixMilli() + 1e6},
	}})
	v := l.state.View()
	if o, _ := v.OperatorByID("o2"); o.UsedMS != at || o.UsedFrom != "10.0.0.9" {
		t.Errorf("last use %+v", o)
	}
	if o, _ := v.OperatorByID("o1"); o.UsedMS != l.now.UnixMilli() {
		t.Errorf("a use of the future was taken: %d", o.UsedMS)
	}
	l.ok(operator("o5", RoleAdmin))
	l.ok(&command.RevokeOperator{ID: "o1"})
	l.refused(&command.RevokeOperator{By: command.Actor{Operator: "o5"}, ID: "o5"}, ErrInvalid)
}

// Each change is on the trail exactly once, in the entry of its effect, and each record carries the hash of the one before.
func TestAuditTrail(t *testing.T) {
	l := emptyLog(t)
	var trail []Record
	var recs []AuditRecord
	do := func(want string, c command.Command) {
		t.Helper()
		eff := l.apply(c)
		if err, refused := eff.Results[0].(error); refused {
			t.Fatalf("%T: %v", c, err)
		}
		got := audited(t, eff)
		if len(got) != 1 || got[0].Action != want || got[0].Index != l.index {
			t.Fatalf("%T put on the trail: %+v, want one %s", c, got, want)
		}
		recs = append(recs, got[0])
		for _, r := range eff.Records {
			if r.Kind == KindAudit {
				trail = append(trail, r)
			}
		}
	}
	do("fleet.init", fleet())
	do("token.create", token(1, 5))
	m := newMachine(t)
	do("device.enroll", m.enroll(1))
	m2 := m.id
	do("device.tag", &command.SetTags{By: command.Actor{Operator: "o1", Request: "r-7", Source: "10.0.0.9"}, Device: m2, Set: map[string]string{"a": "b"}, Remove: []string{"z", "c"}})
	if r := recs[3]; r.Actor != "operator:o1" || r.Request != "r-7" || r.Source != "10.0.0.9" || r.Site != "plant-7" || r.Target != m2.String() ||
		r.Detail["set.a"] != "b" || r.Detail["removed"] != "c,z" || r.Outcome != OutcomeDone {
		t.Errorf("record %+v", r)
	}
	do("device.set", &command.SetInterval{Device: m2, IntervalMS: 1000})
	do("site.set", &command.SetSite{Site: "plant-7", IntervalMS: 2000})
	do("operator.create", operator("o2", RoleViewer))
	do("operator.revoke", &command.RevokeOperator{ID: "o2"})
	do("token.revoke", &command.RevokeToken{ID: seal.TokenID{1}})
	gw := gatewayToken(3, "plant-7")
	do("token.create", gw)
	do("gateway.enroll", newMachine(t).enrollGateway(3, "gw-a"))
	l.ok(m.online(gwA, l.now, m.attach(1, 1, 1)))
	do("device.quarantine", m.online(gwA, l.now, m.attach(1, 2, 2)))
	do("device.release", &command.Release{Device: m2})
	do("enroll", &command.Refusals{Node: "core-1", Items: []command.Refusal{{Action: "enroll", Reason: "expired", Count: 4}}})
	if r := recs[len(recs)-1]; r.Outcome != OutcomeRefused || r.Detail["count"] != "4" || r.Detail["node"] != "core-1" {
		t.Errorf("refusal %+v", r)
	}
	do("node.set", &command.SetNode{Name: "core-1", API: "a:9", Uplink: "u:9"})

	var prev [32]byte
	for i, r := range recs {
		if r.Seq != uint64(i)+1 || r.Prev != prev {
			t.Errorf("record %d has seq %d and the wrong hash before it", i, r.Seq)
		}
		prev = AuditHash(trail[i].Data)
	}
	if a := l.state.View().Audit(); a.Count != uint64(len(recs)) || a.Head != prev {
		t.Errorf("the state says %d records, hash %x", a.Count, a.Head)
	}
	l.ok(&command.SetNode{Name: "core-1", API: "a:9", Uplink: "u:9"}) // nothing changed
	if a := l.state.View().Audit(); a.Count != uint64(len(recs)) {
		t.Error("a change of nothing is on the trail")
	}
}

// A repeated request has the result of the first time, and no effect.
func TestRepeatedRequests(t *testing.T) {
	l := newLog(t)
	m := l.enrolled(1)
	once := func(key, body byte) command.Actor {
		return command.Actor{Operator: "o1", Once: &command.Once{Key: [32]byte{key}, Body: [32]byte{body}}}
	}
	tag := func(by command.Actor, v string) *command.SetTags {
		return &command.SetTags{By: by, Device: m.id, Set: map[string]string{"line": v}}
	}
	first := l.ok(tag(once(1, 1), "3")).(*Device)
	l.ok(tag(once(2, 2), "4"))
	if again := l.apply(tag(once(1, 1), "3")); again.Results[0].(*Device).Revision != first.Revision || len(again.Records) != 0 || len(again.Events) != 0 {
		t.Errorf("repeated: %+v", again)
	}
	if got := l.record(m).Tags()["line"]; got != "4" {
		t.Errorf("the repeated request took effect: line=%s", got)
	}
	l.refused(tag(once(1, 9), "5"), ErrReused)
	tok := token(7, 1)
	tok.By = once(3, 3)
	made := l.ok(tok).(*Token)
	if again := l.ok(tok).(*Token); again.ID != made.ID || again.CreatedMS != made.CreatedMS {
		t.Errorf("token again: %+v", again)
	}
	// Another operator's key is another key.
	l.ok(operator("o2", RoleAdmin))
	other := once(1, 9)
	other.Operator = "o2"
	l.ok(tag(other, "6"))
	// A refused request is not remembered: what it lacked may be there next time.
	late := &command.RevokeOperator{By: once(5, 5), ID: "o3"}
	l.refused(late, ErrNotFound)
	l.ok(operator("o3", RoleViewer))
	l.ok(late)

	l.state = restore(t, l.snapshot())
	if again := l.ok(tag(once(1, 1), "3")).(*Device); again.Revision != first.Revision {
		t.Error("the restored state forgot a request")
	}
	l.now = l.now.Add(24*time.Hour - time.Millisecond)
	l.refused(tag(once(1, 9), "5"), ErrReused)
	l.now = l.now.Add(time.Millisecond)
	l.ok(tag(once(9, 9), "7")) // forgets what is too old
	l.ok(tag(once(1, 9), "8"))
	if n := l.state.view.repeats.len(); n != 2 || l.state.view.repeated.len() != n {
		t.Errorf("%d requests are remembered", n)
	}
}

func TestRepeatsAreBounded(t *testing.T) {
	l := newLog(t)
	a := &applier{State: l.state, ms: start.UnixMilli()}
	for i := range maxRepeats + 10 {
		a.remember(&command.Actor{Operator: "o1", Once: &command.Once{Key: [32]byte{byte(i), byte(i >> 8), byte(i >> 16)}}}, nil)
	}
	if n := l.state.view.repeats.len(); n != maxRepeats || l.state.view.repeated.len() != n {
		t.Errorf("%d repeats are kept", n)
	}
}

func TestRevisions(t *testing.T) {
	l := newLog(t)
	m := l.enrolled(1)
	d := l.record(m)
	if d.Revision == 0 {
		t.Fatal("a new record has no revision")
	}
	l.ok(m.online(gwA, l.now, m.attach(1, 1, 1)))
	if l.record(m).Revision != d.Revision {
		t.Error("a device that came online changed its revision")
	}
	set := func(rev uint64) *command.SetInterval {
		return &command.SetInterval{By: command.Actor{Revision: rev}, Device: m.id, IntervalMS: 1000}
	}
	l.refused(set(d.Revision+1), ErrRevision)
	now := l.ok(set(d.Revision)).(*Device)
	l.refused(set(d.Revision), ErrRevision)
	l.ok(set(now.Revision))
	// Two changes that share a log entry are two revisions.
	eff := l.apply(set(0), &command.SetTags{Device: m.id, Set: map[string]string{"a": "b"}})
	if a, b := eff.Results[0].(*Device).Revision, eff.Results[1].(*Device).Revision; a == b {
		t.Errorf("two changes in one entry have the revision %d", a)
	}
	s := l.ok(&command.SetSite{Site: "plant-7", IntervalMS: 1000}).(*Site)
	l.refused(&command.SetSite{By: command.Actor{Revision: s.Revision + 1}, Site: "plant-7", IntervalMS: 2000}, ErrRevision)
	l.ok(&command.SetSite{By: command.Actor{Revision: s.Revision}, Site: "plant-7", IntervalMS: 2000})
}

func rotation(gen uint64, holders ...string) command.Rotation {
	f := fleet()
	r := command.Rotation{Generation: gen, Root: f.Root, CAs: f.CAs, Authority: f.Authority}
	for _, h := range holders {
		r.Wraps = append(r.Wraps, command.KeyWrap{Holder: h, Wrap: []byte{byte(gen)}})
	}
	return r
}

func nodeToken(n byte) *command.CreateToken {
	c := token(n, 1)
	c.Kind, c.Site = seal.KindCore, ""
	return c
}

func (m *machine) join(n byte, name string, gen uint64) *command.Enroll {
	c := m.enroll(n)
	c.Kind, c.Gen = seal.KindCore, gen
	c.Node = &command.CoreNode{Name: name, API: name + ":1", Uplink: name + ":2", Cluster: name + ":3"}
	c.Wrap = &command.KeyWrap{Holder: name, Wrap: []byte{1}, Public: []byte{2}}
	return c
}

func TestNodesJoinAndLeave(t *testing.T) {
	l := newLog(t)
	for n := range byte(5) {
		l.ok(nodeToken(10 + n))
	}
	second := newMachine(t)
	join := second.join(10, "core-2", 1)
	e := l.ok(join).(*Enrolled)
	if e.Node == nil || e.Node.Name != "core-2" || e.Again {
		t.Errorf("joined %+v", e)
	}
	if e := l.ok(join).(*Enrolled); !e.Again || e.Node.Name != "core-2" {
		t.Errorf("joined again %+v", e)
	}
	f := l.state.View().Fleet()
	if _, ok := f.Wrap("core-2"); !ok || len(f.Nodes) != 2 {
		t.Errorf("fleet has nodes %+v", f.Nodes)
	}
	l.refused(newMachine(t).join(11, "core-2", 1), ErrExists)
	l.refused(newMachine(t).join(11, RecoveryHolder, 1), ErrInvalid)
	l.refused(newMachine(t).join(11, "core-3", 2), ErrRetry)
	l.refused(second.join(11, "core-3", 1), ErrRefused) // a key that is taken, through a token of its own
	l.refused(newMachine(t).join(10, "core-3", 1), ErrRefused)
	third := newMachine(t)
	l.ok(third.join(12, "core-3", 1))

	l.refused(&command.RemoveNode{Name: "core-9", Rotation: rotation(2, "core-1", "core-3", "recovery")}, ErrNotFound)
	l.refused(&command.RemoveNode{Name: "core-2", Rotation: rotation(3, "core-1", "core-3", "recovery")}, ErrRetry)
	l.refused(&command.RemoveNode{Name: "core-2", Rotation: rotation(2, "core-1", "core-2", "recovery")}, ErrRetry)
	l.refused(&command.RemoveNode{Name: "core-2", Rotation: rotation(2, "core-1", "core-3")}, ErrRetry)
	l.ok(&command.RemoveNode{Name: "core-2", Rotation: rotation(2, "core-1", "core-3", "recovery")})
	f = l.state.View().Fleet()
	if _, ok := f.Node("core-2"); ok || f.Generation != 2 || len(f.Wraps) != 3 {
		t.Errorf("after the removal: %+v", f.Nodes)
	}
	if res := l.apply(join).Results[0]; !errors.Is(res.(error), ErrRefused) {
		t.Errorf("the removed node's retry: %v", res)
	}
	l.ok(newMachine(t).join(13, "core-2", 2)) // emptied, and with a new key

	l.ok(&command.Recover{Node: command.CoreNode{Name: "core-3", API: "a"}, Rotation: rotation(3, "core-3", "recovery"), Lost: []string{"core-1", "core-2"}})
	f = l.state.View().Fleet()
	if len(f.Nodes) != 1 || f.ClusterEpoch != 2 || f.Generation != 3 {
		t.Errorf("after the recovery: %+v", f)
	}
	l.refused(&command.RemoveNode{Name: "core-3", Rotation: rotation(4, "recovery")}, ErrInvalid)
}

// What the registry keeps of a registration reads as it was stated.
func TestFactsAreKept(t *testing.T) {
	l := newLog(t)
	m := l.enrolled(1)
	r := seal.Register{AgentVersion: "2", Tags: map[string]string{"line": "3"}}
	r.Profile.Arch, r.Profile.OS = wire.Known("arm64"), wire.Unknown[string]("EACCES")
	l.ok(m.submit(m.register(r)))
	l.state = restore(t, l.snapshot())
	got := l.record(m).Registered()
	if got.AgentVersion != "2" || got.Tags["line"] != "3" || got.Profile.Arch.Value != "arm64" {
		t.Errorf("kept %+v", got)
	}
	if got := (&Device{}).Registered(); got.AgentVersion != "" || len(got.Tags) != 0 {
		t.Errorf("nothing registered reads as %+v", got)
	}
	if got := (&Device{Facts: []byte{0xff}}).Registered(); got.AgentVersion != "" {
		t.Errorf("junk reads as %+v", got)
	}
}
