package registry

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

func assign(m *machine, slot string, d wire.Digest) *command.Assign {
	return &command.Assign{Device: m.id, Slot: slot, Verb: command.VerbSet, Artifact: d}
}

func unassign(m *machine, slot string) *command.Assign {
	return &command.Assign{Device: m.id, Slot: slot, Verb: command.VerbUnset}
}

func retry(m *machine, slot string) *command.Assign {
	return &command.Assign{Device: m.id, Slot: slot, Verb: command.VerbRetry}
}

func TestAssign(t *testing.T) {
	l := publishing(t)
	m := l.enrolled(1)
	one, two := l.added("app", 1), l.added("app", 2)
	if d := l.record(m); d.Desired != nil || d.Reported != nil {
		t.Fatal("a device with nothing assigned has a desired state")
	}
	before := l.record(m).Entry.Number
	l.now = start.Add(time.Minute)
	eff := l.apply(assign(m, "app", one))
	d := l.record(m)
	want := Assignment{Slot: "app", Artifact: one, Order: 1, SinceMS: l.now.UnixMilli(), By: "o1"}
	if x, ok := d.Desired.Slot("app"); !ok || *x != want || d.Desired.Number != 1 || d.Desired.LoggedMS != l.now.UnixMilli() {
		t.Errorf("desired %+v", d.Desired)
	}
	if d.Entry.Number <= before {
		t.Error("the gateways are not told")
	}
	if e := eff.Events[0]; e.Type != EventDeviceAssigned || e.Device != m.id.String() || e.Data["slot"] != "app" || e.Data["order"] != "1" || e.Data["version"] != "1.1" {
		t.Errorf("event %+v", e)
	}
	if r := decodeRecord[AuditRecord](t, eff.Records[0]); r.Action != "device.assign" || r.Site != "plant-7" || r.Detail["artifact"] != one.String() || r.Seq != d.Revision {
		t.Errorf("audit %+v, revision %d", r, d.Revision)
	}
	if eff := l.apply(assign(m, "app", one)); len(eff.Events) != 0 || l.record(m) != d {
		t.Error("to say the same again is another order")
	}
	l.ok(assign(m, "a", two))
	l.ok(&command.Assign{Device: m.id, Slot: "app", Verb: command.VerbSet, Artifact: one, Downgrade: true})
	l.ok(retry(m, "app"))
	l.ok(retry(m, "a"))
	l.ok(unassign(m, "a"))
	got := l.record(m).Desired
	sealed := got.Sealed()
	if err := sealed.Check(); err != nil {
		t.Error(err)
	}
	if !slices.Equal(sealed.Assignments, []seal.Assignment{{Slot: "a", Attempt: 2}, {Slot: "app", Artifact: one, Attempt: 1, Downgrade: true}}) || got.Number != 6 {
		t.Errorf("desired %+v", got)
	}
	l.refused(&command.DeleteArtifact{Digest: one}, ErrInUse)
	l.ok(&command.DeleteArtifact{Digest: two})
}

func TestAssignRefuses(t *testing.T) {
	l := publishing(t)
	m, q := l.enrolled(1), l.enrolled(2)
	app := l.added("app", 1)
	l.ok(assign(q, "app", app))
	l.ok(q.online(gwA, start, q.attach(1, 1, 1)))
	l.ok(q.online(gwA, start, q.attach(1, 2, 2))) // its start was made twice
	l.refused(assign(newMachine(t), "app", app), ErrNotFound)
	l.refused(assign(m, "app", wire.Digest{1}), ErrNotFound)
	l.refused(assign(m, "", app), ErrInvalid)
	l.refused(assign(m, "../app", app), ErrInvalid)
	l.refused(assign(q, "b", app), ErrInvalid)
	l.refused(retry(q, "app"), ErrInvalid)
	l.ok(unassign(q, "app")) // to run nothing is for everybody
	l.refused(unassign(m, "app"), ErrNotFound)
	l.refused(retry(m, "app"), ErrNotFound)
	l.refused(&command.Assign{Device: m.id, Slot: "app", Verb: 9, Artifact: app}, ErrInvalid)
	l.refused(&command.Assign{Device: m.id, Slot: "app", Artifact: app}, ErrInvalid)
	l.ok(assign(m, "app", app))
	l.refused(&command.Assign{Device: m.id, Slot: "app", Verb: command.VerbUnset, Artifact: app}, ErrInvalid)
	seen := l.record(m).Revision
	c := retry(m, "app")
	c.By.Revision = seen - 1
	l.refused(c, ErrRevision)
	c.By.Revision = seen
	l.ok(c)
}

// A device has so many slots and no more; one that is empty, as the device says, makes room.
func TestSlotsAreBounded(t *testing.T) {
	l := publishing(t)
	m := l.enrolled(1)
	app := l.added("app", 1)
	for i := range seal.MaxSlots {
		l.ok(assign(m, fmt.Sprintf("s%02d", i), app))
	}
	l.refused(assign(m, "more", app), ErrInvalid)
	l.ok(unassign(m, "s03"))
	l.refused(assign(m, "more", app), ErrInvalid) // what runs there is still to go
	l.ok(m.submit(m.status(seal.Status{Slot: "s03", State: seal.SlotRemoved})))
	l.ok(assign(m, "more", app))
	d := l.record(m).Desired
	if _, ok := d.Slot("s03"); ok || len(d.Assignments) != seal.MaxSlots {
		t.Errorf("desired %+v", d)
	}
	if err := d.Sealed().Check(); err != nil {
		t.Error(err)
	}
}

// An order names the keys of its device: with other keys it is another order, however it came to them.
func TestOrderNumberGoesOnAcrossKeys(t *testing.T) {
	l := publishing(t)
	m := l.enrolled(1)
	l.ok(assign(m, "app", l.added("app", 1)))
	old := l.record(m)
	d := *old
	d.Keys = slices.Clone(old.Keys)
	d.Keys[0].State = KeySuperseded
	d.Keys = append(d.Keys, Key{ID: newMachine(t).kid, State: KeyActive})
	a := &applier{State: l.state, ms: start.UnixMilli() + 5}
	a.storeDevice(old, &d)
	now := l.record(m)
	if now.Desired.Number != 2 || now.Desired.LoggedMS != start.UnixMilli()+5 || old.Desired.Number != 1 || now.Entry.Number <= old.Entry.Number {
		t.Errorf("desired %+v, before %+v", now.Desired, old.Desired)
	}
	l.ok(retry(m, "app"))
	if n := l.record(m).Desired.Number; n != 3 {
		t.Errorf("order %d", n)
	}
}

func TestContentLimitOfSite(t *testing.T) {
	l := newLog(t)
	night := wire.ContentLimit{BytesPerSecond: 2 << 20, Window: "22:00-05:00"}
	l.ok(&command.SetSite{Site: "plant-7", ContentRate: &night.BytesPerSecond})
	l.ok(&command.SetSite{Site: "plant-7", ContentWindow: &night.Window})
	l.ok(&command.SetSite{Site: "plant-7", IntervalMS: 5000})
	l.refused(&command.SetSite{Site: "plant-9", ContentWindow: new("night")}, ErrInvalid)
	s, ok := restore(t, l.snapshot()).View().Site("plant-7")
	if !ok || s.Content == nil || *s.Content != night || s.IntervalMS != 5000 {
		t.Errorf("site %+v", s)
	}
	if s, ok := l.ok(&command.SetSite{Site: "plant-7", ContentRate: new(uint64), ContentWindow: new(string)}).(*Site); !ok || s.Content != nil {
		t.Errorf("without a limit: %+v", s)
	}
}
