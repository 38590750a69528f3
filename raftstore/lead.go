package raftstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// maxReadWaiters is how many readers may wait for the next confirmation; ReadBarrier waits beyond it.
	maxReadWaiters = 1024
	// confirmAttempts is how often a read survives a change of term before it is sent away.
	confirmAttempts = 3
	// announceRetry is the pause before leadership is confirmed again after a confirmation did not succeed, which
	// happens when a leadership transfer was begun and did not come off.
	announceRetry = 100 * time.Millisecond
)

// Leadership is what leader-only duties are started and stopped by.
type Leadership struct {
	// Leader is true from the moment at which this node leads and has applied everything that was committed before its
	// term, until it knows that it leads no longer. It may stay true for up to half a HeartbeatTimeout after the
	// majority was lost; proposals do not commit then.
	Leader bool
	// Term is the election term that Leader refers to; it never decreases. Two observations with different terms mean that
	// leadership was lost in between, even if both say Leader.
	Term uint64
}

// lead is this node's view of its own leadership. One goroutine (run) asks raft the questions that block: it confirms
// leadership for readers, many at once, and for the announcement after an election.
type lead struct {
	// Immutable.
	raft    *raft.Raft
	applied *watermark
	refuse  func() *NotLeaderError
	reads   chan *readRequest
	elected chan struct{} // capacity 1: there is an election to announce
	stop    <-chan struct{}

	// barrierTerm is the term for which a barrier has passed; owned by run.
	barrierTerm uint64

	mu      sync.Mutex
	now     Leadership    // guarded by mu
	changed chan struct{} // guarded by mu; closed and replaced whenever now changes
	leading bool          // guarded by mu: what raft said last
	wins    uint64        // guarded by mu: how often raft said that this node leads
}

// readRequest is one reader waiting for a confirmation.
type readRequest struct {
	done   chan struct{} // closed after commit and err are set
	commit uint64
	err    error
}

func newLead(r *raft.Raft, applied *watermark, refuse func() *NotLeaderError, stop <-chan struct{}) *lead {
	return &lead{
		raft:    r,
		applied: applied,
		refuse:  refuse,
		reads:   make(chan *readRequest, maxReadWaiters),
		elected: make(chan struct{}, 1),
		stop:    stop,
		changed: make(chan struct{}),
	}
}

// Leadership returns the present state and a channel that is closed when it changes. Intermediate states may be missed,
// a changed Term never.
func (s *Store) Leadership() (Leadership, <-chan struct{}) {
	s.lead.mu.Lock()
	defer s.lead.mu.Unlock()
	return s.lead.now, s.lead.changed
}

// Leader returns the leader's node id, empty when none is known, and whether that is this node. It asks nobody: the answer
// may be outdated by the time it is read.
func (s *Store) Leader() (id string, isLeader bool) {
	_, leader := s.raft.LeaderWithID()
	return string(leader), s.raft.State() == raft.Leader
}

// observe notes what raft says about leadership. It never blocks, because raft waits for it.
func (l *lead) observe(leading bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leading = leading
	if !leading {
		l.publish(Leadership{Leader: false, Term: l.now.Term})
		return
	}
	l.wins++
	select {
	case l.elected <- struct{}{}:
	default: // already on the list
	}
}

// publish sets now; the caller holds mu.
func (l *lead) publish(next Leadership) {
	if l.now == next {
		return
	}
	l.now = next
	close(l.changed)
	l.changed = make(chan struct{})
}

// run serves readers and announcements until stop is closed.
func (l *lead) run() {
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		announced := true
		select {
		case <-l.stop:
			return // queued readers see Store.released
		case first := <-l.reads:
			l.answer(withQueued(first, l.reads))
		case <-l.elected:
			announced = l.announce()
		case <-retry.C:
			announced = l.announce()
		}
		if !announced {
			retry.Reset(announceRetry)
		}
	}
}

// announce confirms and publishes that this node leads. It returns false when it should be called again later.
func (l *lead) announce() bool {
	l.mu.Lock()
	wins, due := l.wins, l.leading && !l.now.Leader
	l.mu.Unlock()
	if !due {
		return true
	}
	_, term, err := l.confirm()
	if err != nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	// Leadership that was lost and won again meanwhile has an announcement of its own on the list.
	if l.leading && l.wins == wins {
		l.publish(Leadership{Leader: true, Term: term})
	}
	return true
}

// withQueued gathers the readers that came before the confirmation starts; the same one serves them all.
func withQueued(first *readRequest, queue <-chan *readRequest) []*readRequest {
	all := []*readRequest{first}
	for {
		select {
		case r := <-queue:
			all = append(all, r)
		default:
			return all
		}
	}
}

func (l *lead) answer(readers []*readRequest) {
	commit, _, err := l.confirm()
	for _, r := range readers {
		r.commit, r.err = commit, err
		close(r.done)
	}
}

// confirm returns a commit index that covers everything that any leader had committed when confirm was called, and the
// term in which this node then led. The term is compared before and after, because of this:
//
//  1. this node leads term 5, is cut off and does not know it; it notes its commit index, 100;
//  2. another node leads term 6 and commits 101 .. 110; clients see them acknowledged;
//  3. this node is elected for term 7, and VerifyLeader, which only asks whether it leads now, agrees;
//  4. a read at 100 would miss what was acknowledged before the read began.
//
// The barrier, once a term, makes the commit index of earlier terms known (Raft, section 8).
func (l *lead) confirm() (commit, term uint64, err error) {
	for range confirmAttempts {
		term = l.raft.CurrentTerm()
		if l.barrierTerm != term {
			if err := l.barrier(); err != nil {
				return 0, 0, err
			}
			if l.raft.CurrentTerm() != term {
				continue
			}
			l.barrierTerm = term
		}
		commit = l.raft.CommitIndex()
		if err := l.raft.VerifyLeader().Error(); err != nil {
			return 0, 0, l.refusal(err)
		}
		if l.raft.CurrentTerm() == term {
			return commit, term, nil
		}
	}
	return 0, 0, l.refuse()
}

// barrier waits until everything in the log so far is committed and applied here.
func (l *lead) barrier() error {
	if l.raft.State() != raft.Leader {
		return l.refuse()
	}
	f := l.raft.Barrier(0)
	if err := f.Error(); err != nil {
		return l.refusal(err)
	}
	if indexed, ok := f.(raft.IndexFuture); ok {
		// The state machine does not see barriers, so that its own progress does not cover this index.
		l.applied.advance(indexed.Index())
	}
	return nil
}

// refusal turns raft's answer to a question into ours. A question has no effect, so its outcome is never unknown.
func (l *lead) refusal(err error) error {
	if errors.Is(err, raft.ErrRaftShutdown) {
		return ErrClosed
	}
	return l.refuse()
}

// WaitApplied returns once this node has applied the log up to index, which came from Propose or ReadBarrier on any node.
func (s *Store) WaitApplied(ctx context.Context, index uint64) error {
	err := s.applier.applied.wait(ctx, index, s.done)
	if errors.Is(err, ErrClosed) {
		return s.closedError()
	}
	if err != nil {
		return fmt.Errorf("wait until entry %d is applied: %w", index, err)
	}
	return nil
}
