package registry

import (
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A revoked gateway has no key that counts, is not in its site's list, and is on the trail once; its name is free for another key.
func TestRevokeGateway(t *testing.T) {
	l := newLog(t)
	a, b, m := newMachine(t), newMachine(t), l.enrolled(1)
	l.ok(gatewayToken(2, "plant-7"))
	l.ok(gatewayToken(3, "plant-7"))
	l.ok(a.enrollGateway(2, "gw-a"))
	l.ok(b.enrollGateway(3, "gw-b"))
	l.ok(m.online(gwA, start, m.attach(1, 1, 1)))
	check := newFactCheck()
	check.all(t, l.state.View())

	l.now = start.Add(time.Hour)
	seen, _ := l.state.View().Gateway(gwA)
	l.refused(&command.RevokeGateway{Gateway: "plant-7/gw-z"}, ErrNotFound)
	l.refused(&command.RevokeGateway{By: command.Actor{Operator: "o1", Revision: seen.Revision + 1}, Gateway: gwA}, ErrRevision)
	revoke := &command.RevokeGateway{By: command.Actor{Operator: "o1", Revision: seen.Revision, Once: &command.Once{Key: [32]byte{1}}}, Gateway: gwA, Reason: "stolen"}
	eff := l.apply(revoke)
	g, ok := eff.Results[0].(*Gateway)
	if !ok || g.RevokedMS != l.now.UnixMilli() || g.RevokedBy != "o1" || g.Reason != "stolen" || g.Keys[0].State != KeyRetired || g.Keys[0].SinceMS != g.RevokedMS {
		t.Fatalf("revoked: %+v", eff.Results[0])
	}
	if got := audited(t, eff); len(got) != 1 || got[0].Action != "gateway.revoke" || got[0].Target != gwA || got[0].Site != "plant-7" || got[0].Detail["reason"] != "stolen" ||
		got[0].Detail["tokens"] != (seal.TokenID{2}).String() {
		t.Errorf("on the trail: %+v", got)
	}
	kinds := map[string]int{}
	for _, e := range eff.Events {
		kinds[e.Type]++
	}
	if len(kinds) != 2 || kinds[EventGatewayRevoked] != 1 || kinds[EventTokenRevoked] != 1 {
		t.Errorf("events %v", kinds)
	}
	check.all(t, l.state.View())
	if s, _ := l.state.View().Site("plant-7"); s.List.LoggedMS != l.now.UnixMilli() || s.KeyGeneration != 1 {
		t.Errorf("site %+v", s)
	}
	if again := l.apply(revoke); again.Results[0].(*Gateway).Revision != g.Revision || len(again.Records) != 0 {
		t.Errorf("repeated: %+v", again)
	}

	// The token that enrolled it ended with it, another one lets a new key in, and the old key is never let in again.
	l.refused(newMachine(t).enrollGateway(2, "gw-c"), ErrRefused)
	l.refused(a.enrollGateway(2, "gw-a"), ErrRefused)
	l.refused(a.enrollGateway(3, "gw-a"), ErrRefused)
	l.state = restore(t, l.snapshot())
	l.refused(a.enrollGateway(3, "gw-a"), ErrRefused)
	fresh := newMachine(t)
	l.ok(fresh.enrollGateway(3, "gw-a"))
	check.all(t, l.state.View())
	g, _ = l.state.View().Gateway(gwA)
	if _, active := g.ActiveKey(fresh.kid); !active || g.RevokedMS != 0 || g.RevokedBy != "" || g.Reason != "" || g.Keys[0].State != KeyRetired {
		t.Errorf("enrolled again: %+v", g)
	}
}

// Nothing that a revoked gateway says is believed, and what the core knows of its devices by itself is.
func TestRevokedGatewayIsNotBelieved(t *testing.T) {
	l := newLog(t)
	gw, m := newMachine(t), l.enrolled(1)
	l.ok(gatewayToken(2, "plant-7"))
	l.ok(gw.enrollGateway(2, "gw-a"))
	l.ok(m.online(gwA, start, m.attach(1, 1, 1)))
	l.ok(&command.RevokeGateway{Gateway: gwA})
	before := l.record(m)

	s := m.register(seal.Register{AgentVersion: "1"})
	l.refused(m.submit(s), ErrRevoked)
	l.refused(&command.Spans{Gateway: gwA, Items: []command.Span{{Device: m.id}}}, ErrRevoked)
	l.ignored(m.online(gwA, start, m.attach(1, 1, 2)))
	l.ignored(m.offline(gwA, start.Add(time.Minute), start))
	if l.record(m) != before {
		t.Errorf("record %+v", l.record(m))
	}
	leader := m.offline(gwA, start.Add(time.Minute), start)
	leader.Items[0].Beats, leader.Items[0].Missed, leader.Items[0].Counted = 0, 0, false
	l.ok(leader)
	if l.record(m).Presence.Online {
		t.Error("online behind a gateway that is gone")
	}
	elsewhere := m.submit(s)
	elsewhere.Items[0].Gateway = gwB
	if res := l.ok(elsewhere).([]StatementResult); res[0].Refuse != nil {
		t.Errorf("through the other gateway: %v", res[0].Refuse)
	}
}

// A list is not older than a certificate of a key that it ends, also when the issuing node's clock was ahead, but within reason.
func TestListIsNewerThanWhatItEnds(t *testing.T) {
	for ahead, want := range map[time.Duration]time.Duration{-time.Hour: 0, 5 * time.Minute: 5 * time.Minute, 24 * time.Hour: 0} {
		l := newLog(t)
		gw := newMachine(t)
		l.ok(gatewayToken(2, "plant-7"))
		l.ok(gw.enrollGateway(2, "gw-a"))
		l.now = start.Add(48 * time.Hour)
		l.ok(&command.Renewed{Gateway: gwA, Key: gw.kid, NotAfter: l.now.Add(ahead + ident.LeafLifetime).UnixMilli()})
		l.ok(&command.RevokeGateway{Gateway: gwA})
		if s, _ := l.state.View().Site("plant-7"); s.List.LoggedMS != l.now.Add(want).UnixMilli() {
			t.Errorf("%v ahead: list of %v, want %v", ahead, time.UnixMilli(s.List.LoggedMS).UTC(), l.now.Add(want))
		}
	}
}
