package reconcile

import (
	"slices"
	"strings"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A Phase is where a slot is. Phases are stored: they are append-only.
type Phase uint8

// The phases.
const (
	Rest       Phase = 0 // nothing was ever assigned
	Fetching   Phase = 1 // the release of the task is staged: what is missing is fetched
	Verifying  Phase = 2 // it lies on the disk and is read once more
	Applying   Phase = 3 // it is switched to, activated, and has to prove itself
	Reverting  Phase = 4 // it did not: the release before is switched to, and has to prove itself
	Removing   Phase = 5 // nothing is to run
	Healthy    Phase = 6 // the end of a task: see seal.SlotState
	RolledBack Phase = 7
	Failed     Phase = 8
	Removed    Phase = 9
	Repairing  Phase = 10 // what was healthy is not on the disk as it was: it is staged anew
)

// state is how a phase is stated; 0: it is not.
func (p Phase) state() seal.SlotState {
	switch p {
	case Fetching:
		return seal.SlotDownloading
	case Verifying:
		return seal.SlotVerifying
	case Applying:
		return seal.SlotApplying
	case Healthy:
		return seal.SlotHealthy
	case RolledBack:
		return seal.SlotRolledBack
	case Failed:
		return seal.SlotFailed
	case Removed:
		return seal.SlotRemoved
	case Repairing:
		return seal.SlotDrifted
	case Rest, Reverting, Removing:
	}
	return 0
}

// String is the phase as logs have it: as it is stated, if it is.
func (p Phase) String() string {
	if s := p.state(); s != 0 {
		return s.String()
	}
	if p == Reverting {
		return "reverting"
	}
	if p == Removing {
		return "removing"
	}
	return "rest"
}

// atRest tells whether the device does nothing more by itself for the task.
func (p Phase) atRest() bool {
	switch p {
	case Rest, Healthy, RolledBack, Failed, Removed:
		return true
	case Fetching, Verifying, Applying, Reverting, Removing, Repairing:
	}
	return false
}

// progress tells whether a phase is stated only for those who watch: when there is no room for it, it is not stated.
func (p Phase) progress() bool { return p == Fetching || p == Verifying || p == Applying }

// A Task is an assignment to a slot.
type Task struct {
	Order     uint64      `cbor:"1,keyasint"` // number of the order that brought it
	Artifact  wire.Digest `cbor:"2,keyasint"` // zero: nothing is to run
	Attempt   uint32      `cbor:"3,keyasint,omitempty"`
	Downgrade bool        `cbor:"4,keyasint,omitempty"`
}

// same tells whether two orders want the same done.
func (t Task) same(o Task) bool {
	return t.Artifact == o.Artifact && (t.Artifact.IsZero() || t.Attempt == o.Attempt && t.Downgrade == o.Downgrade)
}

// Named says what a digest is.
type Named struct {
	Artifact wire.Digest `cbor:"1,keyasint"`
	Name     string      `cbor:"2,keyasint,omitempty"` // "": not known yet
	Version  string      `cbor:"3,keyasint,omitempty"`
	Number   uint64      `cbor:"4,keyasint,omitempty"` // of the release
}

// A Fault is an artifact that failed in the slot, up to an attempt.
type Fault struct {
	Artifact wire.Digest `cbor:"1,keyasint"`
	Attempt  uint32      `cbor:"2,keyasint,omitempty"`
	Reason   string      `cbor:"3,keyasint"`
}

// A Place is a statement's in the device's sequence.
type Place struct {
	Epoch uint64 `cbor:"1,keyasint"`
	Seq   uint64 `cbor:"2,keyasint"`
}

func (p Place) before(o Place) bool { return p.Epoch < o.Epoch || p.Epoch == o.Epoch && p.Seq < o.Seq }

// A Word is a status that is decided: it is stored in one write with the phase that it states, and only then stated. After is where the newest
// status of the slot was before. When the agent has died in between, a newer one in the device's sequence is this one, and it is not stated
// again; otherwise it is stated now. A word is taken back by the next one only if it is about progress.
type Word struct {
	Body  []byte `cbor:"1,keyasint"` // of the statement, a seal.Status
	After Place  `cbor:"2,keyasint"`
}

// Memory is what a slot remembers: what lies in its state.{a,b}.
type Memory struct {
	Task   Task   `cbor:"1,keyasint"` // that is worked on, or was worked on last
	Phase  Phase  `cbor:"2,keyasint"`
	Reason string `cbor:"3,keyasint,omitempty"` // why it is there; see Error
	Detail string `cbor:"4,keyasint,omitempty"` // for people

	Good   Named `cbor:"5,keyasint"` // what was healthy last, and is gone back to; zero: nothing
	Target Named `cbor:"6,keyasint"` // the task's artifact
	// Quiet says that the task's artifact runs already and was healthy: it is looked at, and not restarted.
	Quiet bool `cbor:"7,keyasint,omitempty"`
	// Redone counts how often what was staged for the task did not verify.
	Redone uint8 `cbor:"8,keyasint,omitempty"`

	Highest []Named `cbor:"9,keyasint,omitempty"`  // of each name the highest release that was healthy; at most maxNames, the newest last
	Faults  []Fault `cbor:"10,keyasint,omitempty"` // at most maxFaults, the newest last

	Total   uint64 `cbor:"11,keyasint,omitempty"` // bytes; see seal.Status
	Fetched uint64 `cbor:"12,keyasint,omitempty"`
	Saved   uint64 `cbor:"13,keyasint,omitempty"`

	Word *Word `cbor:"14,keyasint,omitempty"` // the newest; nil: there is none, or it was for progress and there was no room
}

const (
	maxNames  = 16
	maxFaults = 32
	maxRedone = 3
	maxDetail = 512 // bytes; see seal.Status
)

// fault is what is remembered against an artifact.
func (m *Memory) fault(d wire.Digest) (Fault, bool) {
	i := slices.IndexFunc(m.Faults, func(f Fault) bool { return f.Artifact == d })
	if i < 0 {
		return Fault{}, false
	}
	return m.Faults[i], true
}

// floor is the lowest number that a release of a name may have.
func (m *Memory) floor(name string) uint64 {
	for _, n := range m.Highest {
		if n.Name == name {
			return n.Number
		}
	}
	return 0
}

// enter is the memory of a slot that takes a step: everything that the step changes, and the word for it. It is pure; what it shares with m it does
// not change.
func (m Memory) enter(slot string, s Step, v *View) (Memory, error) {
	if s.Task != m.Task { // another one begins
		m.Target = Named{Artifact: s.Task.Artifact}
		if s.Task.Artifact == m.Good.Artifact {
			m.Target = m.Good
		}
		m.Redone, m.Total, m.Fetched, m.Saved = 0, 0, 0, 0
	}
	switch s.Phase {
	case Healthy:
		m.Good = m.Target
		m.Highest = raise(m.Highest, m.Good)
	case Reverting:
		if s.Reason != ReasonSuperseded {
			m.Faults = note(m.Faults, Fault{s.Task.Artifact, s.Task.Attempt, s.Reason})
		}
	case Failed:
		if m.Phase != Reverting && s.Reason != ReasonRemembered && s.Reason != ReasonDowngrade { // a downgrade may be permitted later
			m.Faults = note(m.Faults, Fault{s.Task.Artifact, s.Task.Attempt, s.Reason})
		}
	case Removed:
		m.Good, m.Target = Named{}, Named{}
	case Fetching:
		if m.Phase == Verifying && s.Task == m.Task {
			m.Redone++
		}
	case Repairing:
		m.Fetched, m.Saved = 0, 0
	case Rest, Verifying, Applying, Removing, RolledBack:
	}
	m.Task, m.Phase, m.Quiet, m.Reason, m.Detail = s.Task, s.Phase, s.Quiet, s.Reason, clip(s.Detail)
	return m.spoken(slot, v)
}

// spoken puts the word for m's phase into it, if the phase is stated.
func (m Memory) spoken(slot string, v *View) (Memory, error) {
	state := m.Phase.state()
	if state == 0 || m.Phase.progress() && !v.Room {
		m.Word = nil
		return m, nil
	}
	body, err := wire.Marshal(seal.Status{
		Slot: slot, Artifact: m.Task.Artifact, Order: m.Task.Order, State: state, Reason: m.Reason, Detail: m.Detail,
		Total: m.Total, Fetched: m.Fetched, Saved: m.Saved, Running: v.Running, Attempt: m.Task.Attempt,
	})
	m.Word = &Word{body, v.Said}
	return m, err
}

// note remembers a fault, the newest of its artifact.
func note(all []Fault, f Fault) []Fault {
	all = slices.DeleteFunc(slices.Clone(all), func(o Fault) bool { return o.Artifact == f.Artifact })
	all = append(all, f)
	return all[max(0, len(all)-maxFaults):]
}

// raise remembers a release that was healthy.
func raise(all []Named, n Named) []Named {
	if i := slices.IndexFunc(all, func(o Named) bool { return o.Name == n.Name }); i >= 0 {
		n.Number = max(n.Number, all[i].Number)
		all = slices.Delete(slices.Clone(all), i, i+1)
	}
	all = append(slices.Clone(all), n)
	return all[max(0, len(all)-maxNames):]
}

// clip makes s a detail: valid UTF-8 without line breaks, of at most maxDetail bytes.
func clip(s string) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "?"), "\n", "; ")
	if len(s) <= maxDetail {
		return s
	}
	return strings.ToValidUTF8(s[:maxDetail], "")
}
