package registry

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

const (
	gwA = "plant-7/gw-a"
	gwB = "plant-7/gw-b"
)

// ignored applies a report that is no news: nothing may change but the entry's index.
func (l *log) ignored(c *command.Presence) {
	l.t.Helper()
	l.apply()
	before := l.snapshot()
	l.index--
	eff := l.apply(c)
	if got := eff.Results[0].([]Transition)[0]; got.Taken {
		l.t.Errorf("result %+v", got)
	}
	if !bytes.Equal(before, l.snapshot()) || len(eff.Records)+len(eff.Events) != 0 {
		l.t.Errorf("the report changed something: %v", eventTypes(eff))
	}
}

func TestPresenceSpans(t *testing.T) {
	l := newLog(t)
	m := l.enrolled(1)
	at := func(minutes int) time.Time { return start.Add(time.Duration(minutes) * time.Minute) }
	a := m.attach(1, 1, 1)

	eff := l.apply(m.online(gwA, at(0), a))
	if got := eventTypes(eff); !slices.Equal(got, []string{EventDeviceOnline}) || len(eff.Records) != 0 {
		t.Errorf("first online: events %v, %d records", got, len(eff.Records))
	}
	if p := l.record(m).Presence; !p.Online || p.Gateway != gwA || p.SinceMS != at(0).UnixMilli() || p.IntervalMS != 30_000 {
		t.Errorf("presence %+v", p)
	}
	l.now = at(10)
	eff = l.apply(m.offline(gwA, at(10), at(9)))
	if got := eventTypes(eff); !slices.Equal(got, []string{EventDeviceOffline}) || len(eff.Records) != 1 {
		t.Fatalf("offline: events %v, %d records", got, len(eff.Records))
	}
	want := Span{Online: true, FromMS: at(0).UnixMilli(), ToMS: at(10).UnixMilli(), Gateway: gwA, LastMS: at(9).UnixMilli(), Beats: 5, Missed: 1, Counted: true}
	if got := decodeRecord[Span](t, eff.Records[0]); got != want || eff.Records[0].Stream != DeviceStream(m.id) || eff.Records[0].Kind != KindSpan {
		t.Errorf("span %+v, want %+v", got, want)
	}
	if p := l.record(m).Presence; p.Online || p.LastMS != at(9).UnixMilli() || p.IntervalMS != 30_000 {
		t.Errorf("presence %+v", p)
	}
	l.ignored(m.offline(gwA, at(11), at(9)))
	l.now = at(20)
	eff = l.apply(m.online(gwA, at(20), m.attach(1, 1, 2)))
	if got := decodeRecord[Span](t, eff.Records[0]); got.Online || got.FromMS != at(10).UnixMilli() || got.ToMS != at(20).UnixMilli() {
		t.Errorf("the span offline: %+v", got)
	}
}

// A gateway tells everything again after its uplink broke; the span it speaks of goes on.
func TestOnlineToldAgain(t *testing.T) {
	l := newLog(t)
	m := l.enrolled(1)
	a := m.attach(1, 1, 1)
	l.ok(m.online(gwA, start, a))
	before := l.snapshot()
	l.index--
	if eff := l.apply(m.online(gwA, start, a)); !bytes.Equal(before, l.snapshot()) || !eff.Results[0].([]Transition)[0].Taken {
		t.Errorf("told again: %+v", eff)
	}
	eff := l.apply(m.online(gwA, start, m.attach(1, 1, 2))) // a newer attach within the span
	if len(eff.Records)+len(eff.Events) != 0 || l.record(m).Attach.Session != 2 || l.record(m).Presence.SinceMS != start.UnixMilli() {
		t.Errorf("effects %+v, record %+v", eff, l.record(m))
	}
}

func TestMoveToAnotherGateway(t *testing.T) {
	l := newLog(t)
	m := l.enrolled(1)
	l.ok(m.online(gwA, start, m.attach(1, 1, 1)))
	eff := l.apply(m.online(gwB, start.Add(time.Minute), m.attach(1, 1, 2)))
	if len(eff.Events) != 0 || len(eff.Records) != 1 {
		t.Errorf("events %v, %d records: it was never offline", eventTypes(eff), len(eff.Records))
	}
	l.ignored(m.offline(gwA, start.Add(2*time.Minute), start)) // only the gateway of the newest attach may say so
	l.ignored(m.online(gwA, start, m.attach(1, 1, 1)))         // news of a session that a later one has replaced
	if p := l.record(m).Presence; !p.Online || p.Gateway != gwB {
		t.Errorf("presence %+v", p)
	}
}

func TestReportsThatProveNothing(t *testing.T) {
	l := newLog(t)
	m := l.enrolled(1)
	l.ignored(m.online(gwA, start, nil))
	l.ignored(m.offline(gwA, start, start))
	ghost := newMachine(t)
	l.ignored(ghost.online(gwA, start, ghost.attach(1, 1, 1)))
	c := m.online(gwA, start, m.attach(1, 1, 1))
	c.Items = append(c.Items, ghost.online(gwA, start, ghost.attach(1, 1, 1)).Items...)
	if got := l.ok(c).([]Transition); !slices.Equal(got, []Transition{{wire.DeviceActive, true}, {}}) {
		t.Errorf("results %+v", got)
	}
}

func TestSpanNeverEndsBeforeItBegan(t *testing.T) {
	l := newLog(t)
	m := l.enrolled(1)
	l.ok(m.online(gwA, start, m.attach(1, 1, 1)))
	eff := l.apply(m.offline(gwA, start.Add(-time.Hour), start)) // a gateway whose clock was set back
	if got := decodeRecord[Span](t, eff.Records[0]); got.ToMS != got.FromMS {
		t.Errorf("span %+v", got)
	}
}

func TestAttachRules(t *testing.T) {
	const (
		fine  = "fine"
		old   = stale
		clone = "clone"
	)
	held := command.Attach{Start: 3, Run: 33, Session: 5, Epoch: 2, Highest: 7, Chain: seal.Chain{7}}
	tests := map[string]struct {
		change func(*command.Attach)
		want   string
	}{
		"the same again":              {func(*command.Attach) {}, fine},
		"next session":                {func(a *command.Attach) { a.Session++ }, fine},
		"more stated":                 {func(a *command.Attach) { a.Session++; a.Highest, a.Chain = 8, seal.Chain{8} }, fine},
		"next start":                  {func(a *command.Attach) { a.Start++; a.Run, a.Session = 44, 1 }, fine},
		"next epoch":                  {func(a *command.Attach) { a.Session++; a.Epoch++; a.Highest, a.Chain = 0, seal.Chain{} }, fine},
		"earlier session":             {func(a *command.Attach) { a.Session-- }, old},
		"earlier start":               {func(a *command.Attach) { a.Start, a.Run, a.Session = 1, 11, 9 }, old},
		"one start, two runs":         {func(a *command.Attach) { a.Run++; a.Session++ }, clone},
		"an earlier start, other run": {func(a *command.Attach) { a.Start, a.Run = 2, 99 }, clone},
		"one seq, two chains":         {func(a *command.Attach) { a.Session++; a.Chain = seal.Chain{9} }, clone},
		"statements gone":             {func(a *command.Attach) { a.Session++; a.Highest = 6 }, clone},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			l := newLog(t)
			m := l.enrolled(1)
			earlier := command.Attach{Start: 2, Run: 22, Session: 1, Epoch: 2, Highest: 7, Chain: seal.Chain{7}}
			l.ok(m.online(gwA, start, &earlier))
			l.ok(m.online(gwA, start.Add(time.Second), &held))
			in := held
			tt.change(&in)
			eff := l.apply(m.online(gwA, start.Add(time.Minute), &in))
			d := l.record(m)
			switch got := *d.Attach; {
			case tt.want == clone:
				if d.State != wire.DeviceQuarantined || !strings.HasPrefix(d.Reason, clone) || got.Attach != held {
					t.Errorf("state %v, reason %q, attach %+v", d.State, d.Reason, got)
				}
				if types := eventTypes(eff); !slices.Contains(types, EventDeviceQuarantined) {
					t.Errorf("events %v", types)
				}
			case d.State != wire.DeviceActive:
				t.Errorf("quarantined: %q", d.Reason)
			case tt.want == old && got.Attach != held, tt.want == fine && got.Attach != in:
				t.Errorf("attach %+v", got)
			}
		})
	}
}

// Quarantine is told once, and it does not end presence.
func TestQuarantineOnce(t *testing.T) {
	l := newLog(t)
	m := l.enrolled(1)
	l.ok(m.online(gwA, start, m.attach(1, 1, 1)))
	l.ok(m.online(gwA, start, m.attach(1, 2, 2)))
	reason := l.record(m).Reason
	eff := l.apply(m.online(gwA, start, m.attach(1, 3, 3)))
	if types := eventTypes(eff); slices.Contains(types, EventDeviceQuarantined) || l.record(m).Reason != reason {
		t.Errorf("events %v, reason %q", types, l.record(m).Reason)
	}
	if !l.record(m).Presence.Online {
		t.Error("a quarantined device is still there")
	}
}

func TestKeptRunsAreBounded(t *testing.T) {
	l := newLog(t)
	m := l.enrolled(1)
	for n := range uint64(3 * keptRuns) {
		l.ok(m.online(gwA, start, m.attach(n+1, 100+n, 1)))
		l.ok(m.online(gwA, start, m.attach(n+1, 100+n, 2)))
	}
	runs := l.record(m).Attach.Runs
	if len(runs) != keptRuns || runs[0] != (Run{3 * keptRuns, 99 + 3*keptRuns}) || runs[keptRuns-1].Start != 2*keptRuns+1 {
		t.Errorf("runs %+v", runs)
	}
	l.ok(m.online(gwA, start, m.attach(2*keptRuns+1, 1, 1))) // the oldest that is kept, by another machine
	if l.record(m).State != wire.DeviceQuarantined {
		t.Error("a clone of an earlier start was not seen")
	}
}

func TestStreamsDiffer(t *testing.T) {
	id := ident.DeviceID{1, 2}
	if DeviceStream(id) == SiteStream(string(id[:])) || SiteStream("a") == SiteStream("b") || DeviceStream(id) == DeviceStream(ident.DeviceID{1}) {
		t.Error("two subjects share a stream")
	}
}

// A gateway's times are kept within what the log knows: its clock may be wrong, or its owner somebody else.
func TestPresenceTimesAreClamped(t *testing.T) {
	l := newLog(t)
	m := l.enrolled(1)
	l.now = start.Add(time.Hour)
	l.ok(m.online(gwA, start.Add(1000*time.Hour), m.attach(1, 1, 1)))
	if p := l.record(m).Presence; p.SinceMS != l.now.UnixMilli() || p.LastMS > l.now.UnixMilli() {
		t.Errorf("presence from the future: %+v", p)
	}
	since := l.now
	l.now = l.now.Add(time.Minute)
	eff := l.apply(m.offline(gwA, time.Unix(0, 0), time.Unix(0, 0)))
	if got := decodeRecord[Span](t, eff.Records[0]); got.FromMS != since.UnixMilli() || got.ToMS != since.UnixMilli() {
		t.Errorf("a span that ends before it began: %+v", got)
	}
}

// An attach that is told again is as old as it was.
func TestWhenAnAttachCame(t *testing.T) {
	l := newLog(t)
	m := l.enrolled(1)
	a := m.attach(1, 1, 1)
	l.ok(m.online(gwA, start, a))
	first := l.record(m).Attach.AtMS
	l.now = start.Add(time.Hour)
	l.ok(m.online(gwA, start, a))
	if got := l.record(m).Attach.AtMS; got != first || first == 0 {
		t.Errorf("told again it came at %d, not at %d", got, first)
	}
	l.ok(m.online(gwA, start, m.attach(1, 1, 2)))
	if got := l.record(m).Attach.AtMS; got != l.now.UnixMilli() {
		t.Errorf("the next came at %d", got)
	}
}

func TestDoubt(t *testing.T) {
	l := newLog(t)
	m := l.enrolled(1)
	l.ok(gatewayToken(2, "plant-7"))
	l.ok(newMachine(t).enrollGateway(2, "gw-a"))
	before := l.record(m)
	eff := l.apply(&command.Doubt{Gateway: gwA, Reason: "it lies", Detail: "much", Device: m.id, Count: 3})
	if len(eff.Events) != 1 || len(eff.Records) != 1 || eff.Records[0].Stream != AuditStream {
		t.Fatalf("effects %+v", eff)
	}
	e := eff.Events[0]
	if e.Type != EventGatewayDoubted || e.Gateway != gwA || e.Device != m.id.String() || e.Data["reason"] != "it lies" || e.Data["detail"] != "much" || e.Data["count"] != "3" {
		t.Errorf("event %+v", e)
	}
	if l.record(m) != before {
		t.Error("the record changed")
	}
	l.refused(&command.Doubt{Gateway: "plant-7/none", Reason: "it lies"}, ErrNotFound)
}
