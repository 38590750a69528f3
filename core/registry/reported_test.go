package registry

import (
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// status makes the machine's next statement, a status.
func (m *machine) status(b seal.Status) []byte {
	m.t.Helper()
	return m.next(seal.StatementStatus, b)
}

// next makes the machine's next statement.
func (m *machine) next(kind seal.StatementType, body any) []byte {
	m.t.Helper()
	h := m.statement()
	h.Type = kind
	s := m.sign(h, body)
	m.seq, m.chain = s.Seq, s.Chain
	return s.Sealed
}

func TestStatus(t *testing.T) {
	l := publishing(t)
	m := l.enrolled(1)
	app := l.added("app", 1)
	l.ok(assign(m, "app", app))
	l.now = start.Add(time.Minute)
	eff := l.apply(m.submit(m.status(seal.Status{Slot: "app", Artifact: app, Order: 1, State: seal.SlotDownloading, Total: 100, Fetched: 10})))
	if e := eff.Events[0]; e.Type != EventDeviceStatus || e.Data["state"] != "downloading" || e.Data["version"] != "1.1" || e.Data["seq"] != "1" || e.Data["gateway"] != gwA {
		t.Errorf("event %+v", e)
	}
	if len(eff.Records) != 1 || eff.Records[0].Kind != KindStatement || eff.Records[0].Stream != DeviceStream(m.id) {
		t.Errorf("history %+v", eff.Records)
	}
	first := l.now
	l.now = start.Add(2 * time.Minute)
	l.ok(m.submit(m.status(seal.Status{Slot: "app", Artifact: app, Order: 1, State: seal.SlotDownloading, Total: 100, Fetched: 60})))
	r, ok := l.record(m).Reported.Slot("app")
	if !ok || r.Fetched != 60 || r.SinceMS != first.UnixMilli() || r.AtMS != l.now.UnixMilli() || r.At != (Position{1, 2}) || r.StatedMS != start.UnixMilli() {
		t.Errorf("reported %+v", r)
	}
	l.ok(m.submit(m.status(seal.Status{Slot: "app", Artifact: app, Order: 1, State: seal.SlotFailed, Reason: "signature", Detail: "x", Running: app})))
	r, _ = l.record(m).Reported.Slot("app")
	if r.State != seal.SlotFailed || r.Reason != "signature" || r.SinceMS != l.now.UnixMilli() || r.Running != app || r.Total != 0 {
		t.Errorf("reported %+v", r)
	}
	d := l.record(m)
	if d.Entry.Number != l.state.View().Facts() || d.Desired.Number != 1 {
		t.Error("a status is news to the gateways")
	}
}

// What comes late does not undo what is newer, and is in the history all the same.
func TestOldStatus(t *testing.T) {
	l := newLog(t)
	m := l.enrolled(1)
	old := m.status(seal.Status{Slot: "app", Artifact: wire.Digest{1}, State: seal.SlotDownloading})
	other := m.status(seal.Status{Slot: "b", Artifact: wire.Digest{1}, State: seal.SlotHealthy})
	healthy := m.status(seal.Status{Slot: "app", Artifact: wire.Digest{1}, State: seal.SlotHealthy})
	l.ok(m.submit(healthy))
	eff := l.apply(m.submit(old, other))
	if len(eff.Records) != 2 || len(eff.Events) != 2 {
		t.Errorf("%d records, %d events", len(eff.Records), len(eff.Events))
	}
	r, _ := l.record(m).Reported.Slot("app")
	if r.State != seal.SlotHealthy || r.At.Seq != 3 {
		t.Errorf("reported %+v", r)
	}
	if r, ok := l.record(m).Reported.Slot("b"); !ok || r.State != seal.SlotHealthy {
		t.Errorf("the other slot: %+v", r)
	}
	if eff := l.apply(m.submit(old, healthy)); len(eff.Records) != 0 {
		t.Error("what was seen is in the history again")
	}
}

func TestAlarm(t *testing.T) {
	l := newLog(t)
	m := l.enrolled(1)
	eff := l.apply(m.submit(m.next(seal.StatementAlarm, seal.Alarm{Reason: "publishers", Detail: "set 2 does not verify"})))
	if e := eff.Events[0]; e.Type != EventDeviceAlarm || e.Data["reason"] != "publishers" || e.Data["detail"] == "" || e.Site != "plant-7" {
		t.Errorf("event %+v", e)
	}
	if len(eff.Records) != 1 || l.record(m).Reported != nil {
		t.Errorf("records %+v, reported %+v", eff.Records, l.record(m).Reported)
	}
}

func TestBadStatus(t *testing.T) {
	l := newLog(t)
	refuse := func(name string, m *machine, sealed []byte, want wire.Code) {
		t.Helper()
		before := l.record(m)
		eff := l.apply(m.submit(sealed))
		res, ok := eff.Results[0].([]StatementResult)
		if !ok || res[0].Refuse == nil || res[0].Refuse.Code != want || len(eff.Records) != 0 || l.record(m) != before {
			t.Errorf("%s: %+v", name, eff)
		}
	}
	for name, body := range map[string]any{
		"unknown state": seal.Status{Slot: "app", State: seal.SlotRemoved + 1},
		"no state":      seal.Status{Slot: "app"},
		"slot":          seal.Status{Slot: "../app", State: seal.SlotHealthy},
		"no map":        7,
	} {
		m := l.enrolled(1 + byte(len(l.entries)))
		refuse(name, m, m.status0(seal.StatementStatus, body), wire.CodeMalformed)
	}
	m := l.enrolled(200)
	refuse("alarm without a reason", m, m.status0(seal.StatementAlarm, seal.Alarm{}), wire.CodeMalformed)
	refuse("type", m, m.status0(99, seal.Alarm{}), wire.CodeUnsupported)
	for i := range seal.MaxSlots {
		l.ok(m.submit(m.status(seal.Status{Slot: fmt.Sprintf("s%d", i), State: seal.SlotHealthy})))
	}
	more := seal.Status{Slot: "more", State: seal.SlotHealthy}
	refuse("too many slots", m, m.status0(seal.StatementStatus, more), wire.CodeMalformed)
	l.ok(m.submit(m.status(seal.Status{Slot: "s4", State: seal.SlotRemoved})))
	l.ok(m.submit(m.status(more)))
	r := l.record(m).Reported
	if _, ok := r.Slot("s4"); ok || len(r.Slots) != seal.MaxSlots {
		t.Errorf("reported %+v", r)
	}
}

// status0 is the machine's next statement, of any type, without moving on.
func (m *machine) status0(kind seal.StatementType, body any) []byte {
	m.t.Helper()
	h := m.statement()
	h.Type = kind
	return m.sign(h, body).Sealed
}
