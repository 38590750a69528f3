package witness

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/holdfast-edge/holdfast/internal/durable"
)

// A Reason says why a head is an alarm.
type Reason string

// The reasons.
const (
	ReasonInvalid Reason = "invalid" // it is not signed by the authority, or is of another fleet
	ReasonFork    Reason = "fork"    // it is signed, and so is another hash for the same record
)

// An Alarm is one line of witness.alarm: evidence against the core.
type Alarm struct {
	At      time.Time `json:"at"` // of the gateway's clock
	Reason  Reason    `json:"reason"`
	From    string    `json:"from"` // address of the core node that showed it
	Detail  string    `json:"detail"`
	Sealed  []byte    `json:"sealed"`            // the head as it came, base64; cut if it was too large
	Against []byte    `json:"against,omitempty"` // fork: the sealed head that it contradicts, base64
}

// maxAlarms bounds the alarms kept for each reason: a flood of one does not push out the other. The first ones stay, for they
// are the evidence, and the log and the metrics tell of the rest.
const maxAlarms = 32

// alarms is the file of alarms.
type alarms struct {
	path string
	kept []Alarm
	read bool // kept is what the file has
}

// add keeps an alarm unless it is kept already or there are enough of its kind.
func (f *alarms) add(a *Alarm) error {
	if err := f.load(); err != nil {
		return err
	}
	same := 0
	for i := range f.kept {
		k := &f.kept[i]
		if k.Reason == a.Reason {
			same++
		}
		if bytes.Equal(k.Sealed, a.Sealed) && k.Reason == a.Reason {
			return nil
		}
	}
	if same >= maxAlarms {
		return nil
	}
	kept := append(slices.Clip(f.kept), *a)
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	for i := range kept {
		if err := e.Encode(&kept[i]); err != nil {
			return fmt.Errorf("encode an alarm: %w", err)
		}
	}
	if err := durable.WriteFile(f.path, out.Bytes(), 0o600); err != nil {
		return err
	}
	f.kept = kept
	return nil
}

// load reads the file once. Lines that do not read are left out; an error means that nothing is known and nothing may be
// written over.
func (f *alarms) load() error {
	if f.read {
		return nil
	}
	var kept []Alarm
	err := eachLine(f.path, func(raw []byte) error {
		var a Alarm
		if json.Unmarshal(raw, &a) == nil && len(kept) < 2*maxAlarms {
			kept = append(kept, a)
		}
		return nil
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read %s: %w", f.path, err)
	}
	f.kept, f.read = kept, true
	return nil
}
