package raftstore

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// maxInFlight bounds Tuning.InFlight, and how many entries raft writes or sends at once.
	maxInFlight = 16

	// leaderWait is how long a command or a reader waits for a leader to be known: some elections, so that a client does
	// not see one.
	leaderWait = 10 * time.Second

	// applyWait is how long an entry that the leader acknowledged keeps its place until it is applied here, which takes a
	// moment; a node that is further behind lets others go first.
	applyWait = time.Second
)

// A proposal's state says who may still decide about it. Only the batcher moves it to handed and back.
const (
	waiting int32 = iota // in no entry that anybody may have: whoever gives up knows that it will never be applied
	handed               // part of an entry that was handed to raft or to the leader
	given                // its proposer does not wait any more
)

// proposal is one command on its way.
type proposal struct {
	command []byte
	state   atomic.Int32
	number  uint64        // of the entry that carries it; written before the state becomes handed
	done    chan struct{} // closed after result, index and err are set

	// Written before done is closed, by the state machine's goroutine or, for what was never handed over, the batcher.
	result any
	index  uint64
	err    error
}

func (p *proposal) settle(result any, index uint64, err error) {
	p.result, p.index, p.err = result, index, err
	close(p.done)
}

// batcher makes entries out of queued proposals. One goroutine gathers; each entry in flight has a goroutine of its own,
// which finds somebody who takes it.
type batcher struct {
	// Immutable.
	wall  func() time.Time
	hand  func(e *entry) outcome // hands an entry to whoever leads
	lost  func() error           // what to tell when nobody was found who leads
	queue chan *proposal         // capacity Tuning.QueueLength; when full, Propose waits
	slots chan struct{}          // capacity Tuning.InFlight; an element is an entry in flight
	stop  <-chan struct{}        // closed when no more is taken
	ended <-chan struct{}        // closed when nobody waits any more
	wait  *waiters

	// carry is a proposal that did not fit the entry before; owned by gather.
	carry *proposal

	entries  atomic.Int64 // entries that were handed over so far
	commands atomic.Int64 // commands in them
}

// outcome is what became of an attempt to hand an entry over.
type outcome int

const (
	refused outcome = iota // it will never be applied
	unclear                // it may be applied
	applied                // the majority has it, and the leader applied it
)

// run gathers entries until stop is closed; then it refuses what is queued and waits for the entries in flight.
func (b *batcher) run() {
	for {
		select {
		case b.slots <- struct{}{}:
		case <-b.stop:
			b.finish()
			return
		}
		proposals := b.gather()
		if len(proposals) == 0 {
			<-b.slots
			b.finish()
			return
		}
		go func() {
			defer func() { <-b.slots }()
			b.dispatch(proposals)
		}()
	}
}

// finish answers what never got into an entry, and waits until every slot is free.
func (b *batcher) finish() {
	for p := b.next(false); p != nil; p = b.next(false) {
		p.refuse(ErrClosed)
	}
	for range cap(b.slots) {
		b.slots <- struct{}{}
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

// next returns a proposal whose proposer waits, or nil when none is queued (wait: when stop is closed).
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
		if p.state.Load() == waiting {
			return p
		}
	}
}

// dispatch hands the proposals over as one entry. A refusal is certain, so it tries again until somebody leads.
func (b *batcher) dispatch(proposals []*proposal) {
	begun := time.Now()
	for {
		number, taken := b.wait.register(proposals)
		if len(taken) == 0 {
			return
		}
		b.count(1, len(taken))
		switch b.hand(b.entry(number, taken)) {
		case applied:
			b.linger(number)
			return
		case unclear:
			return // the waiters go on waiting for the state machine
		case refused:
		}
		b.count(-1, -len(taken))
		b.wait.revoke(number, taken)
		proposals = taken
		if time.Since(begun) >= leaderWait {
			refuseAll(proposals, b.lost())
			return
		}
		retry := time.NewTimer(leaderPoll)
		select {
		case <-retry.C:
		case <-b.stop:
			retry.Stop()
			refuseAll(proposals, ErrClosed)
			return
		}
	}
}

// refuse settles a proposal that no entry carries, unless its proposer has gone.
func (p *proposal) refuse(err error) {
	if p.state.CompareAndSwap(waiting, given) {
		p.settle(nil, 0, err)
	}
}

func refuseAll(proposals []*proposal, err error) {
	for _, p := range proposals {
		p.refuse(err)
	}
}

// entry makes the entry that carries the proposals.
func (b *batcher) entry(number uint64, proposals []*proposal) *entry {
	e := &entry{timeMS: clampTime(b.wall()), run: b.wait.run, number: number, commands: make([][]byte, len(proposals))}
	for i, p := range proposals {
		e.commands[i] = p.command
	}
	return e
}

// count keeps Status.Entries and Status.Commands.
func (b *batcher) count(entries, commands int) {
	b.entries.Add(int64(entries))
	b.commands.Add(int64(commands))
}

// linger keeps an entry's place until this node has applied it too, so that a node cannot run ahead of itself.
func (b *batcher) linger(number uint64) {
	settled := b.wait.settled(number)
	if settled == nil {
		return
	}
	t := time.NewTimer(applyWait)
	defer t.Stop()
	select {
	case <-settled:
	case <-t.C:
	case <-b.ended:
	}
}

// fate waits for what becomes of an entry that raft was handed.
func fate(f raft.ApplyFuture) outcome {
	err := f.Error()
	switch {
	case err == nil:
		return applied
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return refused // before it was written anywhere
	default:
		return unclear
	}
}

// Propose has command committed and applied, and returns what this node's state machine answered and the index of the log
// entry that carries it. Any node proposes: what the leader is asked by others, commands of many callers share. While no
// leader is known it waits for one, up to 10 s. The errors are:
//
//   - ErrTooLarge, ErrNotLeader (no leader was found), ErrClosed, or ctx's own: the command was not and will not be applied;
//   - ErrUnknownOutcome (perhaps with another one beside it): it may be applied, now, later or never.
//
// When the leader is lost with the command in its hands, Propose goes on waiting until the command is applied here or ctx
// ends: give ctx a deadline. command belongs to the store from the call on and must not be changed.
func (s *Store) Propose(ctx context.Context, command []byte) (result any, index uint64, err error) {
	if len(command) > MaxCommand {
		return nil, 0, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrTooLarge, len(command), MaxCommand)
	}
	if err := s.awaitLeader(ctx); err != nil {
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
		return s.batcher.give(p, fmt.Errorf("wait for the commit: %w", context.Cause(ctx)))
	case <-s.done:
		return s.batcher.give(p, s.closedError())
	case <-s.released:
		return s.batcher.give(p, s.closedError())
	}
}

// give ends a proposer's wait for reason.
func (b *batcher) give(p *proposal, reason error) (any, uint64, error) {
	for p.state.Load() != given {
		if p.state.CompareAndSwap(waiting, given) {
			return nil, 0, reason // part of no entry, and never will be
		}
		if p.state.CompareAndSwap(handed, given) {
			b.wait.leave(p.number)
		}
	}
	select {
	case <-p.done:
		return p.result, p.index, p.err
	default:
		return nil, 0, fmt.Errorf("%w: %w", ErrUnknownOutcome, reason)
	}
}
