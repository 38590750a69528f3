package registry

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

func TestInitOnce(t *testing.T) {
	l := emptyLog(t)
	l.refused(token(1, 1), ErrNoFleet)
	l.ok(fleet())
	f := l.state.View().Fleet()
	if f.Name != "acme" || f.ClusterEpoch != 1 || f.CreatedMS != start.UnixMilli() || len(f.Nodes) != 1 {
		t.Errorf("fleet %+v", f)
	}
	if ca, ok := f.CA(ident.RoleGateway); !ok || ca.Role != ident.RoleGateway {
		t.Errorf("gateway CA %+v, %v", ca, ok)
	}
	if _, ok := f.CA(ident.RoleCore); ok {
		t.Error("a CA that was not made was found")
	}
	if op, ok := l.state.View().Operator([32]byte{7}); !ok || op.Name != "admin" {
		t.Errorf("operator %+v, %v", op, ok)
	}
	second := fleet()
	second.Fleet = "other"
	l.refused(second, ErrInitialised)
}

func TestCommandsAboutNothing(t *testing.T) {
	l := newLog(t)
	nobody := ident.DeviceID{9}
	for _, c := range []command.Command{
		&command.RevokeToken{ID: seal.TokenID{9}},
		&command.SetTags{Device: nobody, Set: map[string]string{"a": "b"}},
		&command.SetInterval{Device: nobody, IntervalMS: 1000},
		&command.SiteReach{Site: "nowhere", AtMS: 1},
		&command.Renewed{Device: nobody, NotAfter: 1},
		&command.Renewed{Gateway: "nowhere/gw", NotAfter: 1},
	} {
		l.refused(c, ErrNotFound)
	}
}

func TestTokens(t *testing.T) {
	l := newLog(t)
	c := token(1, 3)
	c.Tags = map[string]string{"line": "3"}
	made := l.ok(c).(*Token)
	if made.CreatedMS != start.UnixMilli() || made.ExpiresMS != start.Add(24*time.Hour).UnixMilli() || made.Uses != 3 || made.Tags["line"] != "3" {
		t.Errorf("token %+v", made)
	}
	if _, ok := l.state.View().Site("plant-7"); !ok {
		t.Error("the token's site was not made")
	}
	l.refused(token(1, 3), ErrExists)

	l.now = start.Add(time.Hour)
	revoked := l.ok(&command.RevokeToken{ID: seal.TokenID{1}}).(*Token)
	l.now = start.Add(2 * time.Hour)
	again := l.apply(&command.RevokeToken{ID: seal.TokenID{1}})
	if got := again.Results[0].(*Token); got.RevokedMS != revoked.RevokedMS || revoked.RevokedMS != start.Add(time.Hour).UnixMilli() {
		t.Errorf("revoked at %d, then at %d", revoked.RevokedMS, got.RevokedMS)
	}
	if len(again.Events) != 0 {
		t.Errorf("revoking twice told %v", eventTypes(again))
	}
}

func TestIntervalPrecedence(t *testing.T) {
	l := newLog(t)
	m := l.enrolled(1)
	want := func(d time.Duration) {
		t.Helper()
		if got := l.state.View().Interval(l.record(m)); got != d {
			t.Errorf("interval %v, want %v", got, d)
		}
	}
	want(30 * time.Second)
	l.ok(&command.SetSite{Site: "plant-7", IntervalMS: 2000})
	want(2 * time.Second)
	l.ok(&command.SetInterval{Device: m.id, IntervalMS: 5000})
	want(5 * time.Second)
	l.ok(&command.SetSite{Site: "plant-7"}) // zero leaves what is
	l.ok(&command.SetInterval{Device: m.id})
	want(2 * time.Second)
	if got := New().View().SiteInterval("anywhere"); got != DefaultInterval {
		t.Errorf("interval without a fleet %v", got)
	}
}

func TestTagPrecedence(t *testing.T) {
	l := newLog(t)
	m := newMachine(t)
	c := token(1, 1)
	c.Tags = map[string]string{"line": "token", "zone": "token", "site": "elsewhere"}
	l.ok(c)
	l.ok(m.enroll(1))
	l.ok(m.submit(m.register(seal.Register{AgentVersion: "1", Tags: map[string]string{"line": "own", "zone": "own", "rack": "own", "slot": "own"}})))
	want := map[string]string{"line": "token", "zone": "token", "rack": "own", "slot": "own", "site": "plant-7"}
	check := func() {
		t.Helper()
		if got := l.record(m).Tags(); !maps.Equal(got, want) {
			t.Errorf("tags %v, want %v", got, want)
		}
	}
	check()
	l.ok(&command.SetTags{Device: m.id, Set: map[string]string{"line": "op", "site": "op"}, Remove: []string{"rack", "site"}})
	want["line"] = "op"
	delete(want, "rack")
	check()
	l.ok(m.submit(m.register(seal.Register{AgentVersion: "2", Tags: map[string]string{"line": "own", "rack": "own again"}})))
	delete(want, "slot")
	check() // neither the operator's value nor the removal gives way to the device
	l.ok(&command.SetTags{Device: m.id, Set: map[string]string{"rack": "op"}, Remove: []string{"rack", "zone"}})
	want["rack"] = "op" // set wins over remove
	delete(want, "zone")
	check()
}

// A record must stay readable: what an operator sets and removes is bounded together.
func TestTagsAreBounded(t *testing.T) {
	l := newLog(t)
	m := l.enrolled(1)
	names := func(prefix string, n int) (out []string) {
		for i := range n {
			out = append(out, fmt.Sprintf("%s-%d", prefix, i))
		}
		return out
	}
	set := map[string]string{}
	for _, k := range names("k", maxAllTags-1) { // and site
		set[k] = "v"
	}
	l.ok(&command.SetTags{Device: m.id, Set: set})
	l.refused(&command.SetTags{Device: m.id, Set: map[string]string{"more": "v"}}, ErrInvalid)
	l.refused(&command.SetTags{Device: m.id, Remove: names("r", 2)}, ErrInvalid)
	l.ok(&command.SetTags{Device: m.id, Remove: []string{"r"}})
	l.ok(&command.SetTags{Device: m.id, Remove: names("k", 10)})
	if got := restore(t, l.snapshot()).View(); got.DeviceCount() != 1 {
		t.Errorf("%d devices after restore", got.DeviceCount())
	}
}

func TestSiteReach(t *testing.T) {
	l := newLog(t)
	l.ok(&command.SetSite{Site: "plant-7"})
	down, up := start.Add(time.Minute), start.Add(time.Hour)
	eff := l.apply(&command.SiteReach{Site: "plant-7", AtMS: down.UnixMilli()})
	if got := eventTypes(eff); !slices.Equal(got, []string{EventSiteUnreachable}) {
		t.Errorf("events %v", got)
	}
	eff = l.apply(&command.SiteReach{Site: "plant-7", AtMS: up.UnixMilli()})
	if s, _ := l.state.View().Site("plant-7"); s.UnreachableMS != down.UnixMilli() || len(eff.Events) != 0 {
		t.Errorf("told twice: %+v, events %v", s, eventTypes(eff))
	}
	eff = l.apply(&command.SiteReach{Site: "plant-7", Reachable: true, AtMS: up.UnixMilli()})
	if got := eventTypes(eff); !slices.Equal(got, []string{EventSiteReachable}) || len(eff.Records) != 1 {
		t.Fatalf("events %v, %d records", got, len(eff.Records))
	}
	r := eff.Records[0]
	if r.Stream != SiteStream("plant-7") || r.Kind != KindOutage || decodeRecord[Outage](t, r) != (Outage{down.UnixMilli(), up.UnixMilli()}) {
		t.Errorf("record %+v", r)
	}
	if eff = l.apply(&command.SiteReach{Site: "plant-7", Reachable: true, AtMS: up.UnixMilli()}); len(eff.Events)+len(eff.Records) != 0 {
		t.Errorf("reachable twice: %+v", eff)
	}
}

func TestRenewedNeverShortens(t *testing.T) {
	l := newLog(t)
	m := l.enrolled(1)
	first := l.record(m).Keys[0].NotAfterMS
	l.ok(&command.Renewed{Device: m.id, Key: m.kid, NotAfter: first + 10})
	l.ok(&command.Renewed{Device: m.id, Key: m.kid, NotAfter: first + 5})
	l.ok(&command.Renewed{Device: m.id, Key: ident.KeyID{1}, NotAfter: first + 99})
	if got := l.record(m).Keys[0].NotAfterMS; got != first+10 {
		t.Errorf("not after %d, want %d", got, first+10)
	}
}

// An entry that this build cannot apply changes nothing, not even by the commands before the one that is not known.
func TestUnknownCommandStops(t *testing.T) {
	l := newLog(t)
	good := encode(t, token(1, 1))
	before := l.snapshot()
	for name, bad := range map[string][]byte{"kind": {200, 1, 0xf6}, "version": {2, 9, 0xf6}} {
		if _, err := l.state.Apply(9, start.Add(time.Hour), [][]byte{good, bad}); !errors.Is(err, command.ErrUnknown) {
			t.Errorf("unknown %s: %v", name, err)
		}
	}
	if _, err := l.state.Apply(9, start, [][]byte{good, {1}}); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("cut command: %v", err)
	}
	if !bytes.Equal(before, l.snapshot()) {
		t.Error("the state changed")
	}
}

func TestLogTimeNeverGoesBack(t *testing.T) {
	l := newLog(t)
	l.now = start.Add(time.Hour)
	l.ok(token(1, 1))
	l.now = start
	if got := l.ok(token(2, 1)).(*Token); got.CreatedMS != start.Add(time.Hour).UnixMilli() {
		t.Errorf("made at %v", time.UnixMilli(got.CreatedMS).UTC())
	}
	if got := l.state.View().Time(); !got.Equal(start.Add(time.Hour)) {
		t.Errorf("log time %v", got)
	}
	if got := l.state.View().Index(); got != l.index {
		t.Errorf("index %d, want %d", got, l.index)
	}
}

func FuzzApply(f *testing.F) {
	m := newMachine(f)
	for _, c := range []command.Command{
		fleet(), token(1, 1), m.enroll(1), m.submit(m.register(seal.Register{})), m.online("plant-7/gw-a", start, m.attach(1, 1, 1)),
		&command.SetTags{Device: m.id, Set: map[string]string{"a": "b"}}, &command.SiteReach{Site: "plant-7"},
	} {
		f.Add(encode(f, c))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		l := newLog(t)
		if c, err := command.Decode(b); err == nil {
			l.apply(c, c)
		} else if _, err := l.state.Apply(9, start, [][]byte{b}); err == nil {
			t.Error("a command that does not decode was applied")
		}
		restore(t, l.snapshot())
	})
}
