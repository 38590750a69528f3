package raftstore

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// applier stands between raft and the state machine: it checks and unpacks entries, keeps log time, and stops for good
// at the first thing that is wrong.
type applier struct {
	// Immutable.
	sm   StateMachine
	fail func(error) // records a fatal error; may be called often, the first one counts

	// Owned by raft's state machine goroutine (by Open before that starts).
	pos     position
	stopped bool // Invariant: once set, sm is never called again, so no later entry and no snapshot hides the damage

	// seen is the index of the last entry the state machine saw; it lets other goroutines read pos.index.
	seen atomic.Uint64
	// applied is the index up to which everything is applied, entries that raft keeps to itself included.
	applied watermark
}

var _ raft.BatchingFSM = (*applier)(nil)

// applied is what raft hands back to the proposer of an entry: either results or an error.
type appliedEntry struct {
	results []any
	err     error
}

// Apply implements raft.FSM; raft calls ApplyBatch instead.
func (a *applier) Apply(l *raft.Log) any { return a.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch implements raft.BatchingFSM. The batch holds configuration entries too, which count as seen.
func (a *applier) ApplyBatch(logs []*raft.Log) []any {
	out := make([]any, len(logs))
	for i, l := range logs {
		if a.stopped {
			out[i] = appliedEntry{err: ErrStateMachine}
			continue
		}
		if l.Type == raft.LogCommand {
			out[i] = a.applyEntry(l)
		}
		if !a.stopped {
			a.moveTo(position{index: l.Index, term: l.Term, timeMS: a.pos.timeMS})
		}
	}
	return out
}

// applyEntry applies one entry of commands, or stops.
func (a *applier) applyEntry(l *raft.Log) appliedEntry {
	e, err := decodeEntry(l.Data)
	if err != nil {
		return a.stop(&CorruptError{Index: l.Index, Reason: err})
	}
	a.pos.timeMS = max(a.pos.timeMS, e.timeMS)
	meta := Meta{Index: l.Index, Term: l.Term, Time: time.UnixMilli(a.pos.timeMS).UTC()}
	results, err := a.sm.Apply(meta, e.commands)
	if err != nil {
		return a.stop(fmt.Errorf("%w: entry %d: %w", ErrStateMachine, l.Index, err))
	}
	if len(results) != len(e.commands) {
		return a.stop(fmt.Errorf("%w: entry %d: %d results for %d commands", ErrStateMachine, l.Index, len(results), len(e.commands)))
	}
	return appliedEntry{results: results}
}

// stop ends applying for good.
func (a *applier) stop(err error) appliedEntry {
	a.stopped = true
	a.fail(err)
	return appliedEntry{err: err}
}

func (a *applier) moveTo(pos position) {
	a.pos = pos
	a.seen.Store(pos.index)
	a.applied.advance(pos.index)
}

// Snapshot implements raft.FSM.
func (a *applier) Snapshot() (raft.FSMSnapshot, error) {
	if a.stopped {
		return nil, fmt.Errorf("no snapshot of a stopped node: %w", ErrStateMachine)
	}
	inner, err := a.sm.Snapshot()
	if err != nil {
		return nil, fmt.Errorf("capture state at entry %d: %w", a.pos.index, err)
	}
	return &sealedSnapshot{inner: inner, pos: a.pos}, nil
}

// Restore implements raft.FSM: a leader sent a snapshot because this node is too far behind. Raft cannot go on without
// it, so an error is fatal.
func (a *applier) Restore(src io.ReadCloser) error {
	if a.stopped {
		return ErrStateMachine
	}
	err := a.restore(src)
	if err != nil {
		a.stop(fmt.Errorf("restore the snapshot that the leader sent: %w", err))
	}
	return err
}

// restore replaces the state by the snapshot in src. The error wraps ErrCorrupt when src is at fault.
func (a *applier) restore(src io.Reader) error {
	r, err := newEnvelopeReader(src)
	if err != nil {
		return err
	}
	if err := a.sm.Restore(r); err != nil {
		if r.err != nil && !errors.Is(r.err, io.EOF) {
			return r.err
		}
		return fmt.Errorf("%w: snapshot at entry %d: %w", ErrStateMachine, r.pos.index, err)
	}
	if !errors.Is(r.err, io.EOF) {
		return fmt.Errorf("%w: it did not read the snapshot at entry %d to its end", ErrStateMachine, r.pos.index)
	}
	a.moveTo(r.pos)
	return nil
}

// sealedSnapshot wraps a state machine's snapshot in its envelope.
type sealedSnapshot struct {
	inner Snapshot
	pos   position
}

// Persist implements raft.FSMSnapshot.
func (s *sealedSnapshot) Persist(sink raft.SnapshotSink) error {
	if err := writeEnvelope(sink, s.pos, s.inner.Persist); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	if err := sink.Close(); err != nil {
		return fmt.Errorf("finish snapshot %s: %w", sink.ID(), err)
	}
	return nil
}

// Release implements raft.FSMSnapshot.
func (s *sealedSnapshot) Release() { s.inner.Release() }
