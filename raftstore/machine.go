package raftstore

import (
	"io"
	"time"
)

// Meta is what an entry carries besides its commands.
type Meta struct {
	// Index is the entry's position in the log; it grows from entry to entry, with gaps.
	Index uint64
	// Term is the election term in which the entry was proposed.
	Term uint64
	// Time is the log time in UTC with millisecond resolution: the later of the proposer's wall clock and the previous
	// entry's time. Invariant: it never goes back along the log. It is as good as the leader's clock, no better.
	Time time.Time
}

// StateMachine is what the store replicates. Its methods are called from one goroutine at a time, never from two at
// once; only Snapshot.Persist and Release run beside them.
type StateMachine interface {
	// Apply applies the commands of one entry in order and returns exactly one result for each. It must be
	// deterministic: same state, same arguments, same new state on every node, so no clock, randomness, map order or
	// floating-point formatting. What a command asks and the state forbids is a result, not an error.
	//
	// An error means that this node cannot go on, because it does not know a command (an older version) or finds its
	// state wrong. The node then stops applying and closes Done; the other nodes go on unless they err too. The commands
	// may be applied in part: that state is never persisted.
	//
	// The commands alias the log: read them, copy what must stay, change nothing.
	Apply(m Meta, commands [][]byte) (results []any, err error)

	// Snapshot captures the state. It holds up Apply, so it should do little more than take a reference.
	Snapshot() (Snapshot, error)

	// Restore replaces the state by what a Persist wrote. r ends with io.EOF only once the whole snapshot was verified;
	// until then it may deliver damaged bytes. So Restore builds the new state aside, reads r up to io.EOF, and swaps
	// only then; after an error of r, which it returns (wrapped with %w), the state must be what it was.
	Restore(r io.Reader) error
}

// Snapshot is a state that stays as it was while the state machine goes on.
type Snapshot interface {
	// Persist writes the state to w. It runs beside later Apply calls. The same state should give the same bytes.
	Persist(w io.Writer) error
	// Release is called once, after Persist or instead of it.
	Release()
}
