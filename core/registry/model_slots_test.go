package registry

import (
	"slices"

	"pgregory.net/rapid"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A heldStatus is a status that its device has stated and no gateway has brought.
type heldStatus struct {
	sealed []byte
	slot   string
	modelStatus
}

func drawArtifact(t *rapid.T) uint64 { return rapid.Uint64Range(1, 3).Draw(t, "artifact") }

func drawSlot(t *rapid.T) string { return rapid.SampledFrom([]string{"a", "app", "z"}).Draw(t, "slot") }

func digestOfNumber(n uint64) wire.Digest {
	if n == 0 {
		return wire.Digest{}
	}
	return release("app", n).Manifest
}

func (s *session) addArtifact(t *rapid.T) {
	n := drawArtifact(t)
	s.do(t, addArtifact(t, release("app", n), ada), false) // once more changes nothing
	s.w.have[n] = true
}

func (s *session) deleteArtifact(t *rapid.T) {
	n := drawArtifact(t)
	used := false
	for _, d := range s.w.devices {
		for _, x := range d.slots {
			used = used || x.artifact == n
		}
	}
	s.do(t, &command.DeleteArtifact{Digest: digestOfNumber(n)}, used || !s.w.have[n])
	if !used {
		delete(s.w.have, n)
	}
}

func (s *session) assign(t *rapid.T) {
	m, n, slot := s.drawMachine(t), drawArtifact(t), drawSlot(t)
	d := s.w.devices[m]
	refused := d == nil || !s.w.have[n]
	s.do(t, assign(s.machines[m], slot, digestOfNumber(n)), refused)
	if refused {
		return
	}
	if x := d.slots[slot]; x.artifact != n {
		d.slots[slot] = modelSlot{artifact: n, attempt: x.attempt}
		d.order++
	}
}

func (s *session) unassign(t *rapid.T) {
	m, slot := s.drawMachine(t), drawSlot(t)
	d := s.w.devices[m]
	var x modelSlot
	is := false
	if d != nil {
		x, is = d.slots[slot]
	}
	s.do(t, unassign(s.machines[m], slot), !is)
	if is && x.artifact != 0 {
		d.slots[slot] = modelSlot{attempt: x.attempt}
		d.order++
	}
}

func (s *session) retry(t *rapid.T) {
	m, slot := s.drawMachine(t), drawSlot(t)
	d := s.w.devices[m]
	var x modelSlot
	is := false
	if d != nil {
		x, is = d.slots[slot]
	}
	s.do(t, retry(s.machines[m], slot), !is)
	if is {
		d.attempt++
		x.attempt = d.attempt
		d.slots[slot] = x
		d.order++
	}
}

// stateStatus lets a machine state something, which is brought later, in any order.
func (s *session) stateStatus(t *rapid.T) {
	m, slot := s.drawMachine(t), drawSlot(t)
	if s.w.devices[m] == nil || len(s.held[m]) > 8 {
		t.Skip("nobody is there to state it, or too much is held")
	}
	state := seal.SlotState(rapid.Uint8Range(1, 8).Draw(t, "state"))
	x := s.machines[m]
	sealed := x.status(seal.Status{Slot: slot, State: state})
	s.held[m] = append(s.held[m], heldStatus{sealed, slot, modelStatus{x.seq, state}})
}

// deliver brings one of the statements that a machine holds.
func (s *session) deliver(t *rapid.T) {
	m := s.drawMachine(t)
	if len(s.held[m]) == 0 {
		t.Skip("nothing is held")
	}
	i := rapid.IntRange(0, len(s.held[m])-1).Draw(t, "which")
	h := s.held[m][i]
	s.held[m] = slices.Delete(s.held[m], i, i+1)
	res, ok := s.l.ok(s.machines[m].submit(h.sealed)).([]StatementResult)
	if !ok || res[0].Refuse != nil {
		t.Fatalf("refused: %+v", res)
	}
	if d := s.w.devices[m]; d.stated[h.slot].seq < h.seq {
		d.stated[h.slot] = h.modelStatus
	}
}

// checkSlots holds what a device is to run, and what it stated, against the model.
func (s *session) checkSlots(t *rapid.T, m int, w *modelDevice, d *Device) {
	if orderOf(d) != w.order || (d.Desired == nil) != (len(w.slots) == 0) {
		t.Fatalf("machine %d: desired %+v, the model has order %d and %v", m, d.Desired, w.order, w.slots)
	}
	for slot, want := range w.slots {
		if x, ok := d.Desired.Slot(slot); !ok || x.Artifact != digestOfNumber(want.artifact) || uint64(x.Attempt) != want.attempt {
			t.Fatalf("machine %d: slot %s is %+v, the model has %+v", m, slot, x, want)
		}
	}
	if d.Desired != nil {
		if err := d.Desired.Sealed().Check(); err != nil || len(d.Desired.Assignments) != len(w.slots) {
			t.Fatalf("machine %d: desired %+v, the model has %v: %v", m, d.Desired, w.slots, err)
		}
	}
	for slot, want := range w.stated {
		if r, ok := d.Reported.Slot(slot); !ok || r.State != want.state || r.At.Seq != want.seq {
			t.Fatalf("machine %d: slot %s is reported %+v, the model has %+v", m, slot, r, want)
		}
	}
	if d.Reported != nil && len(d.Reported.Slots) != len(w.stated) {
		t.Fatalf("machine %d: reported %+v, the model has %v", m, d.Reported, w.stated)
	}
}
