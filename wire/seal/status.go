package seal

import (
	"fmt"

	"github.com/holdfast-edge/holdfast/wire"
)

// A SlotState is how far a slot is with what was assigned to it. States are append-only.
type SlotState uint8

// The states. Of each attempt, Healthy, RolledBack, Failed and Removed are the end.
const (
	SlotDownloading SlotState = 1
	SlotVerifying   SlotState = 2
	SlotApplying    SlotState = 3
	SlotHealthy     SlotState = 4 // the new version runs, and was healthy for its soak
	SlotRolledBack  SlotState = 5 // the new version was not healthy; the one before runs again, and is
	SlotFailed      SlotState = 6 // the new version does not run; Running says what does
	SlotDrifted     SlotState = 7 // what was healthy has been changed on the disk
	SlotRemoved     SlotState = 8 // nothing is assigned any more, and nothing runs
)

var slotStates = [...]string{"", "downloading", "verifying", "applying", "healthy", "rolled_back", "failed", "drifted", "removed"}

// String is the state as the API writes it.
func (s SlotState) String() string {
	if s != 0 && int(s) < len(slotStates) {
		return slotStates[s]
	}
	return fmt.Sprintf("state_%d", uint8(s))
}

// Final tells whether the device does nothing more by itself for the attempt.
func (s SlotState) Final() bool {
	return s == SlotHealthy || s == SlotRolledBack || s == SlotFailed || s == SlotRemoved
}

// Status is the body of a StatementStatus: what became of an assignment.
type Status struct {
	Slot     string      `cbor:"1,keyasint"`
	Artifact wire.Digest `cbor:"2,keyasint"` // that was assigned
	Order    uint64      `cbor:"3,keyasint"` // number of the order
	State    SlotState   `cbor:"4,keyasint"`
	Reason   string      `cbor:"5,keyasint,omitempty"` // a word that programs know, such as "signature"; at most 64 bytes
	Detail   string      `cbor:"6,keyasint,omitempty"` // for people, at most 512 bytes
	Total    uint64      `cbor:"7,keyasint,omitempty"` // bytes of the artifact's files
	Fetched  uint64      `cbor:"8,keyasint,omitempty"` // bytes that came over the link so far, as they came
	Saved    uint64      `cbor:"9,keyasint,omitempty"` // bytes of the files that did not have to come
	Running  wire.Digest `cbor:"10,keyasint"`          // artifact that current points to; zero: none
	Attempt  uint32      `cbor:"11,keyasint,omitempty"`
}

// Alarm is the body of a StatementAlarm: the device refused something that an honest peer would not bring.
type Alarm struct {
	Reason string `cbor:"1,keyasint"`           // a word that programs know, such as "publishers"; at most 64 bytes
	Detail string `cbor:"2,keyasint,omitempty"` // for people, at most 512 bytes
}

// Installed is what a slot runs, as a registration tells it.
type Installed struct {
	Slot     string      `cbor:"1,keyasint"`
	Artifact wire.Digest `cbor:"2,keyasint"`
	Name     string      `cbor:"3,keyasint,omitempty"`
	Version  string      `cbor:"4,keyasint,omitempty"`
}

const (
	maxReason = 64
	maxDetail = 512
)

// Status reads the body of a status and holds it against its limits.
func (s *Statement) Status() (*Status, error) {
	if s.Type != StatementStatus {
		return nil, fmt.Errorf("statement of type %v is no status: %w", s.Type, wire.ErrMalformed)
	}
	b := new(Status)
	if err := wire.Unmarshal(s.Body, b); err != nil {
		return nil, err
	}
	if err := CheckSlot(b.Slot); err != nil {
		return nil, err
	}
	switch {
	case b.State == 0:
		return nil, fmt.Errorf("status of slot %s without a state: %w", b.Slot, wire.ErrMalformed)
	case len(b.Reason) > maxReason || len(b.Detail) > maxDetail:
		return nil, fmt.Errorf("status of slot %s: reason of %d bytes, limit %d, and detail of %d, limit %d: %w", b.Slot, len(b.Reason), maxReason, len(b.Detail), maxDetail, wire.ErrMalformed)
	}
	return b, nil
}

// Alarm reads the body of an alarm and holds it against its limits.
func (s *Statement) Alarm() (*Alarm, error) {
	if s.Type != StatementAlarm {
		return nil, fmt.Errorf("statement of type %v is no alarm: %w", s.Type, wire.ErrMalformed)
	}
	b := new(Alarm)
	if err := wire.Unmarshal(s.Body, b); err != nil {
		return nil, err
	}
	if b.Reason == "" || len(b.Reason) > maxReason || len(b.Detail) > maxDetail {
		return nil, fmt.Errorf("alarm: reason of %d bytes, 1 to %d, and detail of %d, limit %d: %w", len(b.Reason), maxReason, len(b.Detail), maxDetail, wire.ErrMalformed)
	}
	return b, nil
}
