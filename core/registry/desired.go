package registry

import (
	"fmt"
	"slices"
	"strings"
	"unique"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A Desired is what a device is to run, and the number of the order that says so. Like a record it is never written again.
type Desired struct {
	Assignments []Assignment `cbor:"1,keyasint"` // in order of slot, at most seal.MaxSlots
	// Number counts the orders of the record, from 1. Invariant: it grows with whatever changes the order's bytes.
	Number   uint64 `cbor:"2,keyasint"`
	LoggedMS int64  `cbor:"3,keyasint"`           // log time of the order
	Attempt  uint32 `cbor:"4,keyasint,omitempty"` // the highest that was ever given to a slot
}

// An Assignment is what one slot is to run.
type Assignment struct {
	Slot      string      `cbor:"1,keyasint"`
	Artifact  wire.Digest `cbor:"2,keyasint"` // zero: nothing, and what runs is to be removed
	Attempt   uint32      `cbor:"3,keyasint,omitempty"`
	Downgrade bool        `cbor:"4,keyasint,omitempty"` // a lower release number than before is wanted
	Order     uint64      `cbor:"5,keyasint"`           // with which it came
	SinceMS   int64       `cbor:"6,keyasint"`           // log time
	By        string      `cbor:"7,keyasint"`           // id of an operator
}

// Slot finds the assignment of a slot. d may be nil.
func (d *Desired) Slot(name string) (*Assignment, bool) {
	if d == nil {
		return nil, false
	}
	i, ok := d.find(name)
	if !ok {
		return nil, false
	}
	return &d.Assignments[i], true
}

func (d *Desired) find(slot string) (int, bool) {
	return slices.BinarySearchFunc(d.Assignments, slot, func(a Assignment, s string) int { return strings.Compare(a.Slot, s) })
}

// Sealed is the desired state as an order carries it.
func (d *Desired) Sealed() *seal.Desired {
	out := &seal.Desired{Assignments: make([]seal.Assignment, len(d.Assignments))}
	for i := range d.Assignments {
		x := &d.Assignments[i]
		out.Assignments[i] = seal.Assignment{Slot: x.Slot, Artifact: x.Artifact, Attempt: x.Attempt, Downgrade: x.Downgrade}
	}
	return out
}

// next is a copy that comes with the next order. d may be nil.
func (d *Desired) next(ms int64) *Desired {
	if d == nil {
		return &Desired{Number: 1, LoggedMS: ms}
	}
	n := *d
	n.Assignments = slices.Clone(d.Assignments)
	n.Number, n.LoggedMS = d.Number+1, ms
	return &n
}

// orderOf is the number of the order of a record; 0: it has none.
func orderOf(d *Device) uint64 {
	if d == nil || d.Desired == nil {
		return 0
	}
	return d.Desired.Number
}

// Assigned visits, in order of id, the devices that something was ever assigned to and that were not decommissioned.
func (v View) Assigned(f func(*Device) bool) {
	v.devices.all(func(d *Device) bool { return d.Desired == nil || d.State == wire.DeviceDecommissioned || f(d) })
}

// AssignedTo counts the devices that an artifact is assigned to, and finds the first. See Assigned.
func (v View) AssignedTo(artifact wire.Digest) (n int, first *Device) {
	v.Assigned(func(d *Device) bool {
		if slices.ContainsFunc(d.Desired.Assignments, func(x Assignment) bool { return x.Artifact == artifact }) {
			if n++; first == nil {
				first = d
			}
		}
		return true
	})
	return n, first
}

// assign changes what a slot is to run. Result: *Device.
func (a *applier) assign(c *command.Assign) any {
	old, ok := a.view.devices.get(c.Device)
	if !ok {
		return fmt.Errorf("device %v: %w", c.Device, ErrNotFound)
	}
	if err := seal.CheckSlot(c.Slot); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if err := a.assignable(old, c); err != nil {
		return err
	}
	if x, is := old.Desired.Slot(c.Slot); is && c.Verb != command.VerbRetry && x.Artifact == c.Artifact && x.Downgrade == c.Downgrade {
		return old // to say the same again changes nothing
	}
	d := *old
	d.Desired, d.Revision = old.Desired.next(a.ms), a.revision()
	if err := d.Desired.put(c, d.Reported); err != nil {
		return fmt.Errorf("device %v: %w", d.ID, err)
	}
	a.storeDevice(old, &d)
	x, _ := d.Desired.Slot(c.Slot)
	of, _ := a.view.artifacts.get(x.Artifact)
	a.event(EventDeviceAssigned, a.subject(&d), of.named(map[string]string{
		"slot": c.Slot, "what": c.Verb.String(), "order": u64(d.Desired.Number), "by": c.By.Operator,
	}))
	return &d
}

// assignable tells why a device cannot have an assignment; nil: it can.
func (a *applier) assignable(d *Device, c *command.Assign) error {
	_, is := d.Desired.Slot(c.Slot)
	switch c.Verb {
	case command.VerbSet:
		if d.State != wire.DeviceActive {
			return fmt.Errorf("device %v is %v: only an active one is assigned anything: %w", d.ID, d.State, ErrInvalid)
		}
		of, ok := a.view.artifacts.get(c.Artifact)
		if !ok {
			return fmt.Errorf("artifact %v: %w", c.Artifact, ErrNotFound)
		}
		if _, _, err := a.view.OpenRelease(of.Release); err != nil { // each device would refuse it
			return fmt.Errorf("%s: %w", of.Title(), err)
		}
		return nil
	case command.VerbUnset, command.VerbRetry:
		if !c.Artifact.IsZero() || c.Downgrade {
			return fmt.Errorf("%v takes no artifact: %w", c.Verb, ErrInvalid)
		}
		if !is {
			return fmt.Errorf("slot %s of device %v: nothing is assigned: %w", c.Slot, d.ID, ErrNotFound)
		}
		if c.Verb == command.VerbRetry && d.State != wire.DeviceActive {
			return fmt.Errorf("device %v is %v: only an active one tries anything: %w", d.ID, d.State, ErrInvalid)
		}
		return nil
	}
	return fmt.Errorf("%v: %w", c.Verb, ErrInvalid)
}

// put takes a change over into d, which is a copy of its own.
func (d *Desired) put(c *command.Assign, reported *Reported) error {
	i, is := d.find(c.Slot)
	if !is {
		if len(d.Assignments) >= seal.MaxSlots && !d.makeRoom(reported) {
			return fmt.Errorf("%d slots are assigned, and it has no more: unassign one: %w", len(d.Assignments), ErrInvalid)
		}
		i, _ = d.find(c.Slot)
		d.Assignments = slices.Insert(d.Assignments, i, Assignment{Slot: unique.Make(c.Slot).Value()})
	}
	x := &d.Assignments[i]
	x.Order, x.SinceMS, x.By = d.Number, d.LoggedMS, c.By.Operator
	if c.Verb == command.VerbRetry {
		d.Attempt++
		x.Attempt = d.Attempt
		return nil
	}
	x.Artifact, x.Downgrade = c.Artifact, c.Downgrade
	return nil
}

// makeRoom forgets a slot that is to run nothing, and of which the device stated that nothing runs there.
func (d *Desired) makeRoom(reported *Reported) bool {
	i := slices.IndexFunc(d.Assignments, func(x Assignment) bool {
		r, ok := reported.Slot(x.Slot)
		return x.Artifact.IsZero() && ok && r.State == seal.SlotRemoved
	})
	if i < 0 {
		return false
	}
	d.Assignments = slices.Delete(d.Assignments, i, i+1)
	return true
}

// assignName is the deed of an Assign as the audit trail names it.
func assignName(v command.Verb) string {
	switch v {
	case command.VerbSet:
		return "device.assign"
	case command.VerbUnset:
		return "device.unassign"
	case command.VerbRetry:
		return "device.retry"
	}
	return "device.assign"
}

func (a *applier) assignDetail(c *command.Assign) map[string]string {
	out := map[string]string{"slot": c.Slot}
	if c.Verb == command.VerbSet {
		of, _ := a.view.artifacts.get(c.Artifact)
		of.named(out)
	}
	if c.Downgrade {
		out["downgrade"] = "true"
	}
	return out
}

// share lets the slots' names be shared, after a restart as before it. d may be nil.
func (d *Desired) share() {
	if d == nil {
		return
	}
	for i := range d.Assignments {
		d.Assignments[i].Slot = unique.Make(d.Assignments[i].Slot).Value()
	}
}
