package devstate

import (
	"crypto/ecdsa"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/holdfast-edge/holdfast/internal/durable"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

func (st *State) outbox() string { return filepath.Join(st.dir, "outbox") }

func (st *State) file(epoch, seq uint64) string {
	return filepath.Join(st.outbox(), fmt.Sprintf("%020d-%020d", epoch, seq))
}

// epochPrefix starts the names of the present epoch's statements.
func (st *State) epochPrefix() string { return fmt.Sprintf("%020d-", st.s.Epoch) }

// damagedSuffix marks a statement that does not read. It is kept for whoever wants to look.
const damagedSuffix = ".damaged"

// loadOutbox reads the outbox. lost, when not empty, says that the state may be older than the outbox, and why: then the epoch ends
// even if every statement reads, and the number of the next one is higher than any that the lost state may have begun.
func (st *State) loadOutbox(lost string) error {
	next := uint64(1)
	if lost != "" {
		next = 2
	}
	entries, err := os.ReadDir(st.outbox())
	if err != nil {
		return fmt.Errorf("outbox: %w", err)
	}
	st.head = head{st.s.Seq, st.s.Chain}
	for _, e := range entries { // in order of name, which is the order of epoch and seq
		path := filepath.Join(st.outbox(), e.Name())
		switch {
		case strings.HasPrefix(e.Name(), "."):
			if err := os.Remove(path); err != nil { // a write that a power cut ended before it counted
				return fmt.Errorf("outbox: %w", err)
			}
			continue
		case strings.HasSuffix(e.Name(), damagedSuffix):
			if lost == "" && strings.HasPrefix(e.Name(), st.epochPrefix()) { // a power cut came before the new epoch was saved
				lost = "statement " + e.Name()
			}
			continue
		}
		b, err := durable.ReadFile(path, wire.MaxStatement)
		if err != nil && !errors.Is(err, durable.ErrTooLarge) {
			return fmt.Errorf("outbox: %w", err) // it may be whole: nothing is decided by a read that failed
		}
		if why := st.load(b, e.Name(), next > 1); why != nil {
			if lost == "" { // those behind the first do not continue what is left, and say less
				lost = fmt.Sprintf("statement %s: %v", e.Name(), why)
			}
			if err := os.Rename(path, path+damagedSuffix); err != nil {
				return fmt.Errorf("outbox: %w", err)
			}
		}
	}
	if lost == "" {
		return nil
	}
	return st.newEpoch(lost, st.s.Epoch+next)
}

var errNotNext = errors.New("does not continue the one before")

// load takes one statement of the outbox, if it is what its name says and continues what was there. When the state may be older than
// the outbox, its first statement may continue what a receipt has taken since.
func (st *State) load(b []byte, name string, older bool) error {
	s, err := seal.ParseStatement(b)
	if err != nil {
		return err
	}
	if filepath.Base(st.file(s.Epoch, s.Seq)) != name || s.Device != st.signer.Device {
		return errNotNext
	}
	if s.Epoch == st.s.Epoch && s.Seq <= st.s.Seq {
		return os.Remove(st.file(s.Epoch, s.Seq)) // receipted; a power cut came before it was removed
	}
	if err := st.verify(s); err != nil {
		return err
	}
	if older && s.Epoch > st.s.Epoch { // the newest epoch is not in it
		st.s.Epoch, st.s.Seq, st.s.Chain = s.Epoch, s.Seq-1, s.Prev
		st.head = head{st.s.Seq, st.s.Chain}
	}
	first := older && st.head.seq == st.s.Seq && s.Seq > st.s.Seq
	if s.Epoch == st.s.Epoch && !first && (s.Seq != st.head.seq+1 || s.Prev != st.head.chain) {
		return errNotNext
	}
	if s.Epoch == st.s.Epoch {
		st.head = head{s.Seq, s.Chain}
	}
	st.pending = append(st.pending, s)
	st.size += len(b)
	return nil
}

// verify finds the bits that flipped in a file: the core would refuse such a statement for ever.
func (st *State) verify(s *seal.SealedStatement) error {
	pub, ok := st.signer.Key.Public().(*ecdsa.PublicKey)
	if !ok || s.Key != st.signer.KeyID {
		return fmt.Errorf("key %v: %w", s.Key, seal.ErrSignature)
	}
	return s.Verify(pub)
}

// newEpoch begins another sequence because statements of this one are lost, or may be. number is higher than the one before.
func (st *State) newEpoch(why string, number uint64) error {
	link := &seal.EpochLink{Epoch: st.s.Epoch, Seq: st.head.seq, Chain: st.head.chain, Lost: why[:min(len(why), maxLost)]}
	st.s.Epoch = number
	st.s.EpochID, st.s.Seq, st.s.Chain, st.s.Before = newEpochID(), 0, seal.Chain{}, link
	st.head = head{}
	return st.save()
}

const maxLost = 200

// State makes a statement: it fills in device, epoch, seq and chain, signs it, and makes it durable before it returns.
func (st *State) State(s seal.Statement) (*seal.SealedStatement, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	s.Version, s.Device = seal.StatementVersion, st.signer.Device
	s.Epoch, s.EpochID, s.Seq, s.Prev = st.s.Epoch, st.s.EpochID, st.head.seq+1, st.head.chain
	if s.Seq == 1 {
		s.Before = st.s.Before
	}
	sealed, err := seal.SealStatement(&s, st.signer.KeyID, st.signer.Key)
	if err != nil {
		return nil, err
	}
	if st.size+len(sealed.Sealed) > MaxOutbox {
		return nil, fmt.Errorf("%d statements without a receipt: %w", len(st.pending), ErrFull)
	}
	if err := durable.WriteFile(st.file(s.Epoch, s.Seq), sealed.Sealed, 0o600); err != nil {
		return nil, err
	}
	st.head = head{s.Seq, sealed.Chain}
	st.pending = append(st.pending, sealed)
	st.size += len(sealed.Sealed)
	return sealed, nil
}

// Oldest is the oldest statement without a receipt; nil: there is none.
func (st *State) Oldest() *seal.SealedStatement {
	st.mu.Lock()
	defer st.mu.Unlock()
	if len(st.pending) == 0 {
		return nil
	}
	return st.pending[0]
}

// After is the oldest statement without a receipt that comes after a place in the sequence; nil: there is none.
func (st *State) After(epoch, seq uint64) *seal.SealedStatement {
	st.mu.Lock()
	defer st.mu.Unlock()
	i := sort.Search(len(st.pending), func(i int) bool {
		p := st.pending[i]
		return p.Epoch > epoch || p.Epoch == epoch && p.Seq > seq
	})
	if i == len(st.pending) {
		return nil
	}
	return st.pending[i]
}

// Holds tells whether the outbox holds the statement at a place, with the given chain after it.
func (st *State) Holds(epoch, seq uint64, chain []byte) bool {
	if seq == 0 {
		return false
	}
	s := st.After(epoch, seq-1)
	return s != nil && s.Epoch == epoch && s.Seq == seq && string(s.Chain[:]) == string(chain)
}

// Receipted lets go of the statements that a verified receipt covers. A receipt for an older epoch or seq is no news; one that
// does not match this device's own chain changes nothing and is an error.
func (st *State) Receipted(r *seal.Receipt) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if r.Device != st.signer.Device {
		return fmt.Errorf("it is for device %v: %w", r.Device, ErrReceipt)
	}
	i := slices.IndexFunc(st.pending, func(p *seal.SealedStatement) bool { return p.Epoch == r.Epoch && p.Seq == r.Seq })
	if i < 0 {
		return st.oldReceipt(r)
	}
	if st.pending[i].Chain != r.Chain {
		return fmt.Errorf("epoch %d, seq %d has another chain here: %w", r.Epoch, r.Seq, ErrReceipt)
	}
	old := st.s
	if r.Epoch == st.s.Epoch {
		st.s.Seq, st.s.Chain = r.Seq, r.Chain
	}
	st.s.ClusterEpoch = max(st.s.ClusterEpoch, r.ClusterEpoch)
	st.s.FloorMS = max(st.s.FloorMS, r.LogTimeMS)
	st.s.Said = st.saidBy(i + 1)
	if err := st.save(); err != nil {
		st.s = old
		return err
	}
	return st.drop(i + 1)
}

// Room tells whether the outbox has room for more than what must be said: when it is nearly full no progress is stated and nothing new is
// begun, so that what was begun can be stated to its end.
func (st *State) Room() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.size <= MaxOutbox-reserved
}

// reserved is what is kept free in the outbox for ends, in bytes: for each slot one, and a registration.
const reserved = (seal.MaxSlots + 1) * wire.MaxStatement

// Said is where in the sequence the newest status of a slot is, in the outbox or before it; zero: none was stated.
func (st *State) Said(slot string) (epoch, seq uint64) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, p := range slices.Backward(st.pending) {
		if slotOf(p) == slot {
			return p.Epoch, p.Seq
		}
	}
	if i := slices.IndexFunc(st.s.Said, func(s said) bool { return s.Slot == slot }); i >= 0 {
		return st.s.Said[i].Epoch, st.s.Said[i].Seq
	}
	return 0, 0
}

// slotOf is the slot that a statement is a status of; "": it is none.
func slotOf(p *seal.SealedStatement) string {
	if p.Type != seal.StatementStatus {
		return ""
	}
	b, err := p.Status()
	if err != nil {
		return ""
	}
	return b.Slot
}

// saidBy is what Said is to hold when the oldest n statements have left the outbox.
func (st *State) saidBy(n int) []said {
	all := st.s.Said
	for _, p := range st.pending[:n] {
		slot := slotOf(p)
		if slot == "" {
			continue
		}
		all = slices.DeleteFunc(slices.Clone(all), func(s said) bool { return s.Slot == slot })
		all = append(all, said{slot, p.Epoch, p.Seq})
	}
	return all[max(0, len(all)-seal.MaxSlots):]
}

// oldReceipt judges a receipt that names nothing in the outbox.
func (st *State) oldReceipt(r *seal.Receipt) error {
	if r.Epoch < st.s.Epoch || r.Epoch == st.s.Epoch && r.Seq <= st.s.Seq {
		return nil
	}
	return fmt.Errorf("epoch %d, seq %d was never stated: %w", r.Epoch, r.Seq, ErrReceipt)
}

// drop removes the oldest n statements. The state that lets go of them is durable already.
func (st *State) drop(n int) error {
	var errs []error
	for _, p := range st.pending[:n] {
		st.size -= len(p.Sealed)
		if err := os.Remove(st.file(p.Epoch, p.Seq)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	st.pending = slices.Delete(st.pending, 0, n)
	return errors.Join(errs...)
}
