package seal

import (
	"crypto"
	"crypto/ed25519"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

// An OrderKind says what an order is about. Kinds are append-only and never reused.
type OrderKind uint8

// The kinds of orders.
const (
	OrderDesired OrderKind = 1 // the desired state; the body is a Desired
)

// An Order is the authority's word to one device. A device obeys an order only if it names the device and a key that the
// device holds, and is newer than every order that it has obeyed.
type Order struct {
	Version      uint8           `cbor:"1,keyasint"`
	Fleet        string          `cbor:"2,keyasint"`
	Device       ident.DeviceID  `cbor:"3,keyasint"`
	Keys         []ident.KeyID   `cbor:"4,keyasint"` // of the device that are active
	ClusterEpoch uint64          `cbor:"5,keyasint"`
	Number       uint64          `cbor:"6,keyasint"` // counts the orders of the record, from 1
	Kind         OrderKind       `cbor:"7,keyasint"`
	Body         cbor.RawMessage `cbor:"8,keyasint"` // by kind
	LogTimeMS    int64           `cbor:"9,keyasint"` // Unix ms
}

// OrderVersion is the schema version of orders that this build writes.
const OrderVersion = 1

// Stamp is the order's place among those of its device.
func (o *Order) Stamp() Stamp { return Stamp{o.ClusterEpoch, o.Number} }

// LogTime is the core's log time at which the order was given.
func (o *Order) LogTime() time.Time { return time.UnixMilli(o.LogTimeMS).UTC() }

// SealOrder signs o with the authority's key: the same order always has the same bytes.
func SealOrder(o *Order, key crypto.Signer) ([]byte, error) { return sealFact(domainOrder, o, key) }

// OpenOrder verifies an order of a fleet by the authority's key and reads it. Whether it is for this device, and new, its reader
// must see.
func OpenOrder(b []byte, fleet string, pub ed25519.PublicKey) (*Order, error) {
	o := new(Order)
	if err := openFact(domainOrder, b, pub, o); err != nil {
		return nil, err
	}
	if o.Fleet != fleet || o.Device.IsZero() || o.Number == 0 {
		return nil, fmt.Errorf("%s: number %d for device %v of fleet %.80q, want one of %q: %w", domainOrder, o.Number, o.Device, o.Fleet, fleet, ErrSignature)
	}
	return o, nil
}

// Desired is what is to be installed on a device. It is a value, not a queue: the newest is all that counts.
type Desired struct {
	Assignments []Assignment `cbor:"1,keyasint"` // in order of slot, at most MaxSlots; what no slot names is left as it is
}

// An Assignment says what a slot is to run.
type Assignment struct {
	Slot     string      `cbor:"1,keyasint"` // see CheckSlot
	Artifact wire.Digest `cbor:"2,keyasint"` // of the manifest; zero: nothing, what runs is to be removed
	// Attempt grows when an operator wants what failed tried again.
	Attempt uint32 `cbor:"3,keyasint,omitempty"`
	// Downgrade permits a lower release number than the highest that was healthy in the slot.
	Downgrade bool `cbor:"4,keyasint,omitempty"`
}

// MaxSlots bounds the slots of a device.
const MaxSlots = 16

// maxSlot bounds the name of a slot, in bytes.
const maxSlot = 32

// CheckSlot holds the name of a slot against its rules: 1 to 32 lower-case letters, digits and inner hyphens. The error is
// wire.ErrMalformed.
func CheckSlot(name string) error {
	ok := name != "" && len(name) <= maxSlot && name[0] != '-' && name[len(name)-1] != '-' && strings.IndexFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-'
	}) < 0
	if !ok {
		return fmt.Errorf("slot %.80q: want 1 to %d lower-case letters, digits and inner hyphens: %w", name, maxSlot, wire.ErrMalformed)
	}
	return nil
}

// Check holds the desired state against its rules. The error is wire.ErrMalformed.
func (d *Desired) Check() error {
	if len(d.Assignments) > MaxSlots {
		return fmt.Errorf("%d slots, at most %d: %w", len(d.Assignments), MaxSlots, wire.ErrMalformed)
	}
	for i := range d.Assignments {
		if err := CheckSlot(d.Assignments[i].Slot); err != nil {
			return err
		}
	}
	if !slices.IsSortedFunc(d.Assignments, func(a, b Assignment) int {
		if a.Slot == b.Slot {
			return -1 // a slot that is there twice is not in order: it would be two words about one thing
		}
		return strings.Compare(a.Slot, b.Slot)
	}) {
		return fmt.Errorf("slots are not in order, or one is there twice: %w", wire.ErrMalformed)
	}
	return nil
}

// Slot finds the assignment of a slot.
func (d *Desired) Slot(name string) (Assignment, bool) {
	for _, a := range d.Assignments {
		if a.Slot == name {
			return a, true
		}
	}
	return Assignment{}, false
}

// Desired reads the body of an order with the desired state and checks it.
func (o *Order) Desired() (*Desired, error) {
	if o.Kind != OrderDesired {
		return nil, fmt.Errorf("order of kind %d has no desired state: %w", o.Kind, wire.ErrMalformed)
	}
	d := new(Desired)
	if err := wire.Unmarshal(o.Body, d); err != nil {
		return nil, err
	}
	return d, d.Check()
}
