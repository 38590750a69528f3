package raftstore

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// maxInFlight bounds Tuning.InFlight, and how many entries raft writes or sends at once.
const maxInFlight = 16

// proposal is one command on its way.
type proposal struct {
	command []byte
	// claimed decides once who settles the proposal: the batcher, which then answers through done, or the proposer,
	// who stopped waiting while the command was still queued and so knows that it will never be applied.
	claimed atomic.Bool
	done    chan struct{} // closed after result, index and err are set

	// Written by the batcher before done is closed.
	result any
	index  uint64
	err    error
}

func (p *proposal) claim() bool { return p.claimed.CompareAndSwap(false, true) }

func (p *proposal) settle(result any, index uint64, err error) {
	p.result, p.index, p.err = result, index, err
	close(p.done)
}

// batch is an entry in flight.
type batch struct {
	proposals []*proposal
	future    raft.ApplyFuture
}

// batcher makes entries out of queued proposals. Two goroutines: one gathers and submits, the other one waits for the
// outcomes, which come in log order.
type batcher struct {
	// Immutable.
	raft  *raft.Raft
	wall  func() time.Time
	lead  func() *NotLeaderError // for a proposal that raft refused
	queue chan *proposal         // capacity Tuning.QueueLength; when full, Propose waits
	slots chan struct{}          // capacity Tuning.InFlight; an element is an entry in flight
	sent  chan batch             // capacity Tuning.InFlight, so that sending never blocks
	stop  <-chan struct{}

	// carry is a claimed proposal that did not fit the entry before; owned by gather.
	carry *proposal

	entries  atomic.Uint64 // entries submitted so far
	commands atomic.Uint64 // commands in them
}

func newBatcher(r *raft.Raft, cfg *Config, lead func() *NotLeaderError, stop <-chan struct{}) *batcher {
	return &batcher{
		raft:  r,
		wall:  cfg.Wall,
		lead:  lead,
		queue: make(chan *proposal, cfg.QueueLength),
		slots: make(chan struct{}, cfg.InFlight),
		sent:  make(chan batch, cfg.InFlight),
		stop:  stop,
	}
}

// submitLoop runs until stop is closed; then it refuses what is queued and lets outcomeLoop finish.
func (b *batcher) submitLoop() {
	defer close(b.sent)
	defer b.refuseQueued()
	for {
		select {
		case b.slots <- struct{}{}:
		case <-b.stop:
			return
		}
		proposals := b.gather()
		if len(proposals) == 0 {
			return
		}
		b.sent <- batch{proposals: proposals, future: b.raft.Apply(b.encode(proposals), 0)}
		b.entries.Add(1)
		b.commands.Add(uint64(len(proposals)))
	}
}

// gather waits for a proposal and adds those that are queued behind it, as far as one entry holds them. It returns none
// when stop is closed.
func (b *batcher) gather() []*proposal {
	var (
		proposals []*proposal
		size      int
	)
	for p := b.next(true); p != nil; p = b.next(false) {
		if len(proposals) > 0 && size+len(p.command) > maxEntryPayload {
			b.carry = p
			break
		}
		proposals = append(proposals, p)
		size += len(p.command)
		if len(proposals) == maxEntryCommands {
			break
		}
	}
	return proposals
}

// next returns a claimed proposal, or nil when none is queued (wait: when stop is closed).
func (b *batcher) next(wait bool) *proposal {
	if p := b.carry; p != nil {
		b.carry = nil
		return p
	}
	for {
		var p *proposal
		if wait {
			select {
			case p = <-b.queue:
			case <-b.stop:
				return nil
			}
		} else {
			select {
			case p = <-b.queue:
			default:
				return nil
			}
		}
		if p.claim() {
			return p
		}
	}
}

func (b *batcher) encode(proposals []*proposal) []byte {
	e := entry{timeMS: clampTime(b.wall()), commands: make([][]byte, len(proposals))}
	for i, p := range proposals {
		e.commands[i] = p.command
	}
	return appendEntry(make([]byte, 0, e.encodedLen()), &e)
}

// refuseQueued answers what never got into an entry.
func (b *batcher) refuseQueued() {
	for p := b.next(false); p != nil; p = b.next(false) {
		p.settle(nil, 0, ErrClosed)
	}
}

// outcomeLoop answers the proposals of each entry; it ends after submitLoop's last one.
func (b *batcher) outcomeLoop() {
	for sent := range b.sent {
		b.settle(sent)
		<-b.slots
	}
}

func (b *batcher) settle(sent batch) {
	applied, index, err := b.outcome(sent.future)
	for i, p := range sent.proposals {
		if err != nil {
			p.settle(nil, 0, err)
			continue
		}
		p.settle(applied.results[i], index, nil)
	}
}

// outcome waits for an entry's fate.
func (b *batcher) outcome(f raft.ApplyFuture) (appliedEntry, uint64, error) {
	err := f.Error()
	switch {
	case err == nil:
		// The state machine's goroutine answered.
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return appliedEntry{}, 0, b.lead() // refused before it was written anywhere
	default:
		return appliedEntry{}, 0, fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	}
	applied, ok := f.Response().(appliedEntry)
	if !ok {
		return appliedEntry{}, 0, fmt.Errorf("%w: entry %d was answered with a %T", ErrUnknownOutcome, f.Index(), f.Response())
	}
	if applied.err != nil {
		// Committed, but this node stopped before or while applying it; the others may apply it.
		return appliedEntry{}, 0, fmt.Errorf("%w: %w: %w", ErrUnknownOutcome, ErrClosed, applied.err)
	}
	return applied, f.Index(), nil
}

// Propose has command committed and applied, and returns what the state machine answered and the index of the log entry
// that carries it. Only the leader proposes; elsewhere the error is a *NotLeaderError. The errors are:
//
//   - ErrTooLarge, ErrNotLeader, ErrClosed, or ctx's own: the command was not and will not be applied;
//   - ErrUnknownOutcome (perhaps with another one beside it): it may be applied, now, later or never.
//
// command belongs to the store from the call on and must not be changed.
func (s *Store) Propose(ctx context.Context, command []byte) (result any, index uint64, err error) {
	if len(command) > MaxCommand {
		return nil, 0, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrTooLarge, len(command), MaxCommand)
	}
	if err := s.usable(); err != nil {
		return nil, 0, err
	}
	p := &proposal{command: command, done: make(chan struct{})}
	select {
	case s.batcher.queue <- p:
	case <-ctx.Done():
		return nil, 0, fmt.Errorf("wait to propose: %w", context.Cause(ctx))
	case <-s.stop:
		return nil, 0, s.closedError()
	}
	select {
	case <-p.done:
		return p.result, p.index, p.err
	case <-ctx.Done():
		return p.give(fmt.Errorf("wait for the commit: %w", context.Cause(ctx)))
	case <-s.released:
		return p.give(s.closedError())
	}
}

// give ends a proposer's wait for reason.
func (p *proposal) give(reason error) (any, uint64, error) {
	if p.claim() {
		return nil, 0, reason // still queued, so it never becomes part of an entry
	}
	select {
	case <-p.done:
		return p.result, p.index, p.err
	default:
		return nil, 0, fmt.Errorf("%w: %w", ErrUnknownOutcome, reason)
	}
}
