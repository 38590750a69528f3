// Package devstate is what an agent must not forget: its counters, what the core and the gateway told it, and the outbox of
// statements that the core has not yet receipted.
//
//	state.{a,b}        counters, settings told, and the newest order (see durable.Slots), CBOR
//	gateways.{a,b}     the newest signed lists of gateways (likewise)
//	publishers.{a,b}   the set of publishers (likewise)
//	outbox/E-S         one sealed statement: epoch E and seq S as 20 digits each
//
// A statement exists once its file is durable; that is before anybody acts on having made it. It goes when the authority's
// receipt covers it. docs/device-identity.md has the table.
package devstate

import (
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/holdfast-edge/holdfast/internal/durable"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// MaxOutbox bounds the outbox, in bytes. It never drops: when it is full nothing more is stated.
const MaxOutbox = 4 << 20

// ErrFull says that the outbox has no room.
var ErrFull = errors.New("outbox is full")

// ErrReceipt is the sentinel of a receipt that does not fit this device's statements.
var ErrReceipt = errors.New("receipt does not fit")

// saved is what state.{a,b} hold.
type saved struct {
	Start        uint64          `cbor:"1,keyasint"` // how often the agent started
	Epoch        uint64          `cbor:"2,keyasint"`
	EpochID      [16]byte        `cbor:"3,keyasint"`
	Seq          uint64          `cbor:"4,keyasint"` // highest stated that the outbox no longer holds, or of which it may
	Chain        seal.Chain      `cbor:"5,keyasint"` // after Seq
	ClusterEpoch uint64          `cbor:"6,keyasint"`
	Order        uint64          `cbor:"7,keyasint"` // highest number obeyed
	FloorMS      int64           `cbor:"8,keyasint"` // time floor, Unix ms
	IntervalMS   uint32          `cbor:"9,keyasint"` // last told
	KeepAliveMS  uint32          `cbor:"10,keyasint"`
	Before       *seal.EpochLink `cbor:"11,keyasint,omitempty"` // for the first statement of Epoch; 12 was another field
	Home         string          `cbor:"13,keyasint,omitempty"` // site

	OrderEpoch  uint64 `cbor:"14,keyasint,omitempty"` // cluster epoch of Order
	OrderSealed []byte `cbor:"15,keyasint,omitempty"` // the order, as it was signed
	Said        []said `cbor:"16,keyasint,omitempty"` // the newest status of each slot that left the outbox, at most seal.MaxSlots
}

// said is a slot with a place in the sequence.
type said struct {
	Slot  string `cbor:"1,keyasint"`
	Epoch uint64 `cbor:"2,keyasint"`
	Seq   uint64 `cbor:"3,keyasint"`
}

// Signer makes statements: the device's identity.
type Signer struct {
	Device ident.DeviceID
	KeyID  ident.KeyID
	Key    crypto.Signer
}

// State may be used from any goroutine.
type State struct {
	dir    string
	signer Signer
	slots  *durable.Slots

	mu      sync.Mutex
	s       saved
	pending []*seal.SealedStatement // the outbox, in order
	size    int                     // bytes of it
	head    head                    // of the newest statement, in the outbox or before
	order   *seal.Order             // that s.OrderSealed holds; nil: none, or it does not verify
}

// head is the end of the device's sequence.
type head struct {
	seq   uint64
	chain seal.Chain
}

// Open reads the state of a directory, or begins one. A statement that does not read ends its epoch: the next one says so,
// and why, so that the core knows of the loss.
func Open(dir string, signer Signer) (*State, error) {
	st := &State{dir: dir, signer: signer, slots: durable.OpenSlots(filepath.Join(dir, "state"))}
	if err := os.MkdirAll(st.outbox(), 0o700); err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	b, err := st.slots.Load()
	lost := ""
	switch {
	case err == nil:
		if err := wire.Unmarshal(b, &st.s); err != nil {
			return nil, fmt.Errorf("state: %w", err)
		}
		if st.slots.Older() { // it may be that the newest start, receipt or epoch is not in it: none may be made twice
			lost = "a copy of the state damaged"
			st.s.Start++
		}
	case errors.Is(err, os.ErrNotExist):
		st.s.Epoch, st.s.EpochID = 1, newEpochID()
		if err := st.save(); err != nil {
			return nil, err
		}
	case errors.Is(err, durable.ErrDamaged):
		// The counters are gone and the identity is not. Higher ones than any before cannot be known, so the clock helps.
		lost = "state damaged"
		st.s.Epoch, st.s.Start = uint64(time.Now().Unix()), uint64(time.Now().Unix()) //nolint:gosec // G115: Unix time is positive
	default:
		return nil, fmt.Errorf("state: %w", err)
	}
	if err := st.loadOutbox(lost); err != nil {
		return nil, err
	}
	return st, nil
}

func newEpochID() (id [16]byte) {
	rand.Read(id[:])
	return id
}

// save stores the state. The caller holds mu, or is alone.
func (st *State) save() error {
	b, err := wire.Marshal(st.s)
	if err != nil {
		return err
	}
	if err := st.slots.Save(b, 0o600); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	return nil
}

// change stores a changed copy and, only when that is durable, uses it.
func (st *State) change(f func(*saved)) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	old := st.s
	f(&st.s)
	if err := st.save(); err != nil {
		st.s = old
		return err
	}
	return nil
}

// Started counts a start of the agent and returns its number.
func (st *State) Started() (uint64, error) {
	var n uint64
	err := st.change(func(s *saved) { s.Start++; n = s.Start })
	return n, err
}

// Told keeps what a gateway told: the heartbeat interval and the keep-alive for the next session.
func (st *State) Told(interval, keepAlive time.Duration) error {
	i, k := wire.Millis(interval), wire.Millis(keepAlive)
	st.mu.Lock()
	same := st.s.IntervalMS == i && st.s.KeepAliveMS == k
	st.mu.Unlock()
	if same {
		return nil
	}
	return st.change(func(s *saved) { s.IntervalMS, s.KeepAliveMS = i, k })
}

// Interval is the heartbeat interval last told, and the keep-alive; 0 when none was.
func (st *State) Interval() (interval, keepAlive time.Duration) {
	st.mu.Lock()
	defer st.mu.Unlock()
	return time.Duration(st.s.IntervalMS) * time.Millisecond, time.Duration(st.s.KeepAliveMS) * time.Millisecond
}

// Belongs keeps the site that the device was enrolled for.
func (st *State) Belongs(site string) error {
	if st.Home() == site {
		return nil
	}
	return st.change(func(s *saved) { s.Home = site })
}

// Home is the site that the device was enrolled for; "": not known.
func (st *State) Home() string {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.s.Home
}

// Floor is the time before which it certainly is not.
func (st *State) Floor() time.Time {
	st.mu.Lock()
	defer st.mu.Unlock()
	return time.UnixMilli(st.s.FloorMS)
}

// floorStep is how far the floor must rise to be worth a write.
const floorStep = time.Hour

// RaiseFloor raises the time floor to a time that was proved: signed by the authority, or the NotBefore of a certificate that
// verified to the fleet's root.
func (st *State) RaiseFloor(t time.Time) error {
	if t.Sub(st.Floor()) < floorStep {
		return nil
	}
	return st.change(func(s *saved) { s.FloorMS = max(s.FloorMS, t.UnixMilli()) })
}

// Attach fills in what the state knows of an attach.
func (st *State) Attach() seal.Attach {
	st.mu.Lock()
	defer st.mu.Unlock()
	a := seal.Attach{
		Version: seal.AttachVersion, Device: st.signer.Device, Start: st.s.Start, Epoch: st.s.Epoch, Lowest: st.head.seq + 1, Highest: st.head.seq,
		Chain: st.head.chain, ClusterEpoch: st.s.ClusterEpoch, Order: st.s.Order, IntervalMS: st.s.IntervalMS,
	}
	for i, p := range st.pending {
		switch {
		case p.Epoch == st.s.Epoch:
			a.Lowest = p.Seq
			return a
		case i == 0:
			a.OldestEpoch, a.OldestSeq = p.Epoch, p.Seq
		}
	}
	return a
}
