package raftstore

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// applier stands between raft and the state machine: it checks and unpacks entries, keeps log time, and stops for good
// at the first thing that is wrong.
type applier struct {
	// Immutable.
	sm      StateMachine
	fail    func(error)                               // records a fatal error; may be called often, the first one counts
	wait    *waiters                                  // whom to tell the results
	members func(index uint64, servers []raft.Server) // takes in a committed configuration; nil: nobody does

	// Owned by raft's state machine goroutine (by Open before that starts).
	pos     position
	stopped bool // Invariant: once set, sm is never called again, so no later entry and no snapshot hides the damage

	// seen is a copy of pos for other goroutines.
	seenMu sync.Mutex
	seen   position // guarded by seenMu
	// applied is the index up to which everything is applied, entries that raft keeps to itself included.
	applied watermark
	// checkpoints lets the nodes compare their states; it stays empty when the state machine is no Hasher.
	checkpoints checkpoints
	// failed is set when the node has stopped for a reason of its own.
	failed atomic.Bool
}

var _ raft.BatchingFSM = (*applier)(nil)

// Apply implements raft.FSM; raft calls ApplyBatch instead.
func (a *applier) Apply(l *raft.Log) any { return a.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch implements raft.BatchingFSM. The batch holds configuration entries too, which count as seen. Raft is handed
// nothing back: the proposers are told through waiters, on whatever node they are.
func (a *applier) ApplyBatch(logs []*raft.Log) []any {
	for _, l := range logs {
		if a.stopped || a.failed.Load() {
			a.stopped = true
			break
		}
		if l.Type == raft.LogCommand {
			a.applyEntry(l)
		} else if a.members != nil {
			a.members(l.Index, raft.DecodeConfiguration(l.Data).Servers)
		}
		if a.stopped {
			break
		}
		crossed := l.Index/checkpointEvery > a.pos.index/checkpointEvery
		a.moveTo(position{index: l.Index, term: l.Term, timeMS: a.pos.timeMS})
		if hasher, ok := a.sm.(Hasher); ok && crossed {
			a.checkpoints.add(Checkpoint{Index: l.Index, Hash: hasher.StateHash()})
		}
	}
	return make([]any, len(logs))
}

// applyEntry applies one entry of commands and answers its proposers, or stops.
func (a *applier) applyEntry(l *raft.Log) {
	e, err := decodeEntry(l.Data)
	if err != nil {
		a.stop(&CorruptError{Index: l.Index, Reason: err})
		return
	}
	a.pos.timeMS = max(a.pos.timeMS, e.timeMS)
	meta := Meta{Index: l.Index, Term: l.Term, Time: time.UnixMilli(a.pos.timeMS).UTC()}
	results, err := a.sm.Apply(meta, e.commands)
	if err == nil && len(results) != len(e.commands) {
		err = fmt.Errorf("%d results for %d commands", len(results), len(e.commands)) //nolint:err113 // wrapped below
	}
	if err != nil {
		err = fmt.Errorf("%w: entry %d: %w", ErrStateMachine, l.Index, err)
		a.stop(err)
		// Committed, but this node stopped while applying it; the others may apply it.
		a.wait.answer(e.run, e.number, l.Index, nil, fmt.Errorf("%w: %w: %w", ErrUnknownOutcome, ErrClosed, err))
		return
	}
	a.wait.answer(e.run, e.number, l.Index, results, nil)
}

// stop ends applying for good.
func (a *applier) stop(err error) {
	a.stopped = true
	a.fail(err)
}

func (a *applier) moveTo(pos position) {
	a.pos = pos
	a.seenMu.Lock()
	a.seen = pos
	a.seenMu.Unlock()
	a.applied.advance(pos.index)
}

// position returns that of the last entry the state machine saw.
func (a *applier) position() position {
	a.seenMu.Lock()
	defer a.seenMu.Unlock()
	return a.seen
}

// Snapshot implements raft.FSM.
func (a *applier) Snapshot() (raft.FSMSnapshot, error) {
	if a.stopped || a.failed.Load() {
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
	if a.stopped || a.failed.Load() {
		return ErrStateMachine
	}
	err := a.restore(src)
	if err != nil {
		a.stop(fmt.Errorf("restore the snapshot that the leader sent: %w", err))
		return err
	}
	// What the snapshot covers was applied elsewhere, and the results were given there.
	a.wait.answerAll(fmt.Errorf("%w: this node fell behind and took a snapshot in", ErrUnknownOutcome))
	return nil
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
	a.checkpoints.clear()
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
