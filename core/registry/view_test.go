package registry

import (
	"bytes"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

func TestViewNeverChanges(t *testing.T) {
	l, m := busy(t)
	v := l.state.View()
	before := persist(t, v)
	old := l.record(m)
	tags := old.Tags()
	l.ok(&command.SetTags{Device: m.id, Set: map[string]string{"new": "tag"}})
	l.ok(m.submit(m.register(version("99"))))
	l.ok(m.offline(gwA, start.Add(time.Hour), start))
	l.enrolled(77)
	l.ok(&command.SetSite{Site: "plant-7", IntervalMS: 77})
	l.ok(&command.SiteReach{Site: "plant-7", Reachable: true, AtMS: 1})
	l.ok(gatewayToken(78, "plant-9"))
	l.ok(newMachine(t).enrollGateway(78, "gw-z"))
	l.ok(&command.Renewed{Device: m.id, Key: m.kid, NotAfter: 1 << 50})
	if !bytes.Equal(before, persist(t, v)) {
		t.Error("a view changed")
	}
	if d, _ := v.Device(m.id); d != old || len(d.Tags()) != len(tags) || d.Keys[0].NotAfterMS == 1<<50 {
		t.Errorf("a record changed: %+v", d)
	}
	if d := l.record(m); d == old || d.Registered().AgentVersion != "99" {
		t.Errorf("the state did not change: %+v", d)
	}
}

func TestVisiting(t *testing.T) {
	l := newLog(t)
	var ids []ident.DeviceID
	for i := range byte(5) {
		m := newMachine(t)
		m.id = ident.DeviceID{i + 1}
		ids = append(ids, m.id)
		l.ok(token(i, 1))
		l.ok(m.enroll(i))
	}
	visit := func(after ident.DeviceID, limit int) (out []ident.DeviceID) {
		l.state.View().Devices(after, func(d *Device) bool {
			out = append(out, d.ID)
			return len(out) < limit
		})
		return out
	}
	if got := visit(ident.DeviceID{}, 9); !slices.Equal(got, ids) {
		t.Errorf("all: %v", got)
	}
	if got := visit(ids[1], 2); !slices.Equal(got, ids[2:4]) {
		t.Errorf("two behind the second: %v", got)
	}
	if got := visit(ident.DeviceID{2, 1}, 1); !slices.Equal(got, ids[2:3]) { // the cursor's device need not exist
		t.Errorf("behind a device that is not there: %v", got)
	}
	if got := visit(ids[4], 9); len(got) != 0 {
		t.Errorf("behind the last: %v", got)
	}
	sites, gateways, tokens := 0, 0, 0
	v := l.state.View()
	v.Sites(func(*Site) bool { sites++; return true })
	v.Gateways(func(*Gateway) bool { gateways++; return true })
	v.Tokens(func(*Token) bool { tokens++; return tokens < 3 })
	if sites != 1 || gateways != 0 || tokens != 3 {
		t.Errorf("%d sites, %d gateways, %d tokens", sites, gateways, tokens)
	}
}

// Readers never see a half-applied entry, and the race detector sees no shared write.
func TestReadersBesideApply(t *testing.T) {
	l, m := busy(t)
	views := make(chan View, 1)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for v := range views {
				d, ok := v.Device(m.id)
				if !ok || d.Tags()["a"] != d.Tags()["b"] {
					t.Errorf("index %d: tags %v", v.Index(), d.Tags())
				}
				var b bytes.Buffer
				if err := v.Persist(&b); err != nil {
					t.Error(err)
				}
				v.Devices(ident.DeviceID{}, func(d *Device) bool { return v.Interval(d) > 0 })
			}
		})
	}
	for i := range 200 {
		x := string(rune('a' + i%26))
		l.apply(&command.SetTags{Device: m.id, Set: map[string]string{"a": x}}, &command.SetTags{Device: m.id, Set: map[string]string{"b": x}})
		l.ok(m.submit(m.register(version(x))))
		views <- l.state.View()
	}
	close(views)
	wg.Wait()
}

// The same log gives the same state, history and hash, whoever applies it and from whichever snapshot.
func TestDeterminism(t *testing.T) {
	l, m := busy(t)
	for i := range byte(40) { // maps and tables large enough to be visited in another order
		l.enrolled(100 + i)
		l.ok(&command.SetTags{Device: m.id, Set: map[string]string{"k" + string(rune('a'+i%26)): "v"}, Remove: []string{"r" + string(rune('a'+i%26))}})
	}
	want, wantHash := l.snapshot(), l.state.View().Hash()
	for _, cut := range []int{0, 1, len(l.entries) / 2, len(l.entries) - 1} {
		s := New()
		for i, e := range l.entries {
			if i == cut {
				s = restore(t, persist(t, s.View()))
			}
			if _, err := s.Apply(e.index, e.now, e.cmds); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(persist(t, s.View()), want) {
			t.Errorf("restored at entry %d, it ends in another state", cut)
		}
		if s.View().Hash() != wantHash {
			t.Errorf("restored at entry %d, it ends in another hash", cut)
		}
	}
}

// The hash shows each difference between two states, in whichever table.
func TestHashShowsDifferences(t *testing.T) {
	l, m := busy(t)
	base := l.snapshot()
	seen := map[[32]byte]string{l.state.View().Hash(): "nothing"}
	for name, change := range map[string]func(*State){
		"device":   func(s *State) { d := *mustDevice(t, s, m.id); d.Duplicates++; s.putDevice(&d) },
		"gone":     func(s *State) { s.view.devices.delete(m.id) },
		"site":     func(s *State) { s.view.sites.put(&Site{Name: "plant-7", IntervalMS: 1}) },
		"site key": func(s *State) { s.view.sites.put(&Site{Name: "plant-7", IntervalMS: 1, KeyGeneration: 1}) },
		"token":    func(s *State) { s.view.tokens.put(&Token{ID: seal.TokenID{99}}) },
		"operator": func(s *State) { s.view.operators.put(&Operator{ID: "o9"}) },
		"gateway":  func(s *State) { s.view.gateways.put(&Gateway{Site: "p", Name: "g"}) },
		"use":      func(s *State) { s.view.uses.put(&Use{NotAfterMS: 1}) },
		"repeat":   func(s *State) { s.putRepeat(&Repeat{Operator: "o1"}) },
		"fleet":    func(s *State) { f := *s.view.fleet; f.ClusterEpoch++; s.view.fleet = &f },
		"audit":    func(s *State) { s.view.audit.Head[0] ^= 1 },
		"history":  func(s *State) { s.view.history.Count++ },
		"facts":    func(s *State) { s.view.facts++ },
		"time":     func(s *State) { s.view.time = s.view.time.Add(time.Millisecond) },
	} {
		s := restore(t, base)
		change(s)
		h := s.View().Hash()
		if other, ok := seen[h]; ok {
			t.Errorf("a change of %s hashes like a change of %s", name, other)
		}
		seen[h] = name
	}
}

func mustDevice(t *testing.T, s *State, id ident.DeviceID) *Device {
	t.Helper()
	d, ok := s.View().Device(id)
	if !ok {
		t.Fatal("no such device")
	}
	return d
}
