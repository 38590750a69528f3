package registry

import (
	"fmt"
	"slices"
	"strings"
	"unique"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A Reported is what a device stated last about each of its slots. Like a record it is never written again.
type Reported struct {
	Slots []SlotReport `cbor:"1,keyasint"` // in order of slot, at most seal.MaxSlots
}

// A SlotReport is the newest status of one slot, in the device's order.
type SlotReport struct {
	Slot     string         `cbor:"1,keyasint"`
	At       Position       `cbor:"2,keyasint"` // of the statement
	State    seal.SlotState `cbor:"3,keyasint"`
	Artifact wire.Digest    `cbor:"4,keyasint"` // that was assigned
	Order    uint64         `cbor:"5,keyasint"` // number of the order that the device was at
	Reason   string         `cbor:"6,keyasint,omitempty"`
	Detail   string         `cbor:"7,keyasint,omitempty"`
	Total    uint64         `cbor:"8,keyasint,omitempty"`  // bytes of the artifact's files
	Fetched  uint64         `cbor:"9,keyasint,omitempty"`  // bytes that came over the link
	Saved    uint64         `cbor:"10,keyasint,omitempty"` // bytes of the files that did not have to come
	Running  wire.Digest    `cbor:"11,keyasint"`           // zero: nothing
	Attempt  uint32         `cbor:"12,keyasint,omitempty"`
	StatedMS int64          `cbor:"13,keyasint"` // by the device's clock, Unix ms
	AtMS     int64          `cbor:"14,keyasint"` // log time of the statement
	SinceMS  int64          `cbor:"15,keyasint"` // log time since when it is in this state with this artifact and attempt
}

// Status is the report as the device stated it.
func (r *SlotReport) Status() *seal.Status {
	return &seal.Status{
		Slot: r.Slot, Artifact: r.Artifact, Order: r.Order, State: r.State, Reason: r.Reason, Detail: r.Detail, Total: r.Total, Fetched: r.Fetched,
		Saved: r.Saved, Running: r.Running, Attempt: r.Attempt,
	}
}

// Slot finds what was reported of a slot. r may be nil.
func (r *Reported) Slot(name string) (*SlotReport, bool) {
	if r == nil {
		return nil, false
	}
	i, ok := r.find(name)
	if !ok {
		return nil, false
	}
	return &r.Slots[i], true
}

func (r *Reported) find(slot string) (int, bool) {
	return slices.BinarySearchFunc(r.Slots, slot, func(a SlotReport, s string) int { return strings.Compare(a.Slot, s) })
}

// status takes over what a status says, unless a later one of its slot has been committed. The error is wire.ErrMalformed.
func (d *Device) status(s *seal.SealedStatement, now int64) (*seal.Status, error) {
	b, err := s.Status()
	if err != nil {
		return nil, err
	}
	if b.State > seal.SlotRemoved {
		return nil, fmt.Errorf("status of slot %s: %v is not known: %w", b.Slot, b.State, wire.ErrMalformed)
	}
	at := Position{s.Epoch, s.Seq}
	old, is := d.Reported.Slot(b.Slot)
	if is && at.Before(old.At) {
		return b, nil
	}
	n := SlotReport{
		Slot: unique.Make(b.Slot).Value(), At: at, State: b.State, Artifact: b.Artifact, Order: b.Order, Reason: unique.Make(b.Reason).Value(), Detail: b.Detail,
		Total: b.Total, Fetched: b.Fetched, Saved: b.Saved, Running: b.Running, Attempt: b.Attempt, StatedMS: s.TimeMS, AtMS: now, SinceMS: now,
	}
	if is && old.State == n.State && old.Artifact == n.Artifact && old.Attempt == n.Attempt {
		n.SinceMS = old.SinceMS
	}
	r := new(Reported)
	if d.Reported != nil {
		r.Slots = slices.Clone(d.Reported.Slots)
	}
	i, _ := r.find(n.Slot)
	switch {
	case is:
		r.Slots[i] = n
	case len(r.Slots) >= seal.MaxSlots && !r.makeRoom(d.Desired):
		return nil, fmt.Errorf("status of slot %s: %d other slots are reported, limit %d: %w", b.Slot, len(r.Slots), seal.MaxSlots, wire.ErrMalformed)
	default:
		i, _ = r.find(n.Slot)
		r.Slots = slices.Insert(r.Slots, i, n)
	}
	d.Reported = r
	return b, nil
}

// makeRoom forgets what was reported of a slot in which nothing runs and to which nothing is assigned.
func (r *Reported) makeRoom(desired *Desired) bool {
	i := slices.IndexFunc(r.Slots, func(x SlotReport) bool {
		_, assigned := desired.Slot(x.Slot)
		return !assigned && x.State == seal.SlotRemoved
	})
	if i < 0 {
		return false
	}
	r.Slots = slices.Delete(r.Slots, i, i+1)
	return true
}

// takeStatus lets a status act on the record. Result: what an event tells of it.
func (a *applier) takeStatus(n *Device, s *seal.SealedStatement) (map[string]string, error) {
	b, err := n.status(s, a.ms)
	if err != nil {
		return nil, err
	}
	data := map[string]string{"slot": b.Slot, "state": b.State.String(), "order": u64(b.Order)}
	of, known := a.view.artifacts.get(b.Artifact)
	if of.named(data); !known && !b.Artifact.IsZero() {
		data["artifact"] = b.Artifact.String()
	}
	if b.Reason != "" {
		data["reason"] = b.Reason
	}
	if b.Detail != "" {
		data["detail"] = b.Detail
	}
	return data, nil
}

// takeAlarm reads an alarm, which changes nothing of the record. Result: what an event tells of it.
func takeAlarm(s *seal.SealedStatement) (map[string]string, error) {
	b, err := s.Alarm()
	if err != nil {
		return nil, err
	}
	data := map[string]string{"reason": b.Reason}
	if b.Detail != "" {
		data["detail"] = b.Detail
	}
	return data, nil
}

// share lets the slots' names and reasons be shared, after a restart as before it. r may be nil.
func (r *Reported) share() {
	if r == nil {
		return
	}
	for i := range r.Slots {
		r.Slots[i].Slot, r.Slots[i].Reason = unique.Make(r.Slots[i].Slot).Value(), unique.Make(r.Slots[i].Reason).Value()
	}
}
