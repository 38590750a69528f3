package raftstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// The store's own methods.
const (
	methodPropose  uint8 = 1 // to the leader: an entry; answered, when it is committed and applied there, with a notice or nothing
	methodRead     uint8 = 2 // to the leader: wantNotice or nothing; answered with a read point: a notice or an index(8)
	methodTransfer uint8 = 3 // to the leader: the id that shall lead, or nothing
	methodMember   uint8 = 4 // to the leader: an id; answered with 1 when it is a member, 0 when it is not
	methodVitals   uint8 = 5 // to any member: nothing; answered with its vitals
)

const (
	// leaderPoll is how often a waiter looks whether a leader is known.
	leaderPoll = 20 * time.Millisecond
	// forwardTime bounds a call that carries an entry to the leader; the answer comes with its commit.
	forwardTime = 15 * time.Second
	// askTime bounds a short question to a peer.
	askTime = 2 * time.Second
)

// wantNotice asks for a notice in place of the bare index. A leader that knows no notices answers with the index.
var wantNotice = []byte{1}

var (
	errMethod = errors.New("unknown method")
	errAnswer = errors.New("answer is not what was asked for")
	errUnsure = errors.New("the entry's outcome is unknown here")
)

// leadership returns the leader as far as it is known and may be asked: with self true it is this node.
func (s *Store) leadership() (id string, self bool) {
	if s.raft.State() == raft.Leader {
		return s.id, true
	}
	_, leader := s.raft.LeaderWithID()
	return string(leader), false
}

// knowsLeader says whether there is somebody to turn to.
func (s *Store) knowsLeader() bool {
	id, self := s.leadership()
	return self || (id != "" && id != s.id)
}

// awaitLeader returns once a leader is known. The error is a *NotLeaderError after leaderWait.
func (s *Store) awaitLeader(ctx context.Context) error {
	if err := s.running(); err != nil || s.knowsLeader() {
		return err
	}
	patience, cancel := context.WithTimeoutCause(ctx, leaderWait, ErrNotLeader)
	defer cancel()
	for {
		if err := s.leaderPause(patience); err != nil {
			return err
		}
		if s.knowsLeader() {
			return nil
		}
	}
}

// leaderPause waits a little for a leader. The error is ctx's, a *NotLeaderError when ctx ended with ErrNotLeader, or says
// that the node stops.
func (s *Store) leaderPause(ctx context.Context) error {
	t := time.NewTimer(leaderPoll)
	defer t.Stop()
	select {
	case <-t.C:
		return s.running()
	case <-s.stop:
		return s.closedError()
	case <-ctx.Done():
		if errors.Is(context.Cause(ctx), ErrNotLeader) {
			return s.notLeader()
		}
		return fmt.Errorf("wait for a leader: %w", context.Cause(ctx))
	}
}

// handGrace is how long a leader that was lost may still answer: one that steps down or hands over does so at once.
const handGrace = 500 * time.Millisecond

// ledBy gives out contexts that end soon after a leader is lost, so that nothing waits for its answer any longer.
type ledBy struct {
	parent context.Context //nolint:containedctx // ends with Store.answers

	mu     sync.Mutex
	id     string             // guarded by mu: the leader that raft told of last
	ctx    context.Context    //nolint:containedctx // guarded by mu: lasts as long as id leads
	cancel context.CancelFunc // guarded by mu
}

// changed notes a new leader, or that there is none. It does not block, because raft waits for it.
func (l *ledBy) changed(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if id == l.id {
		return
	}
	if l.cancel != nil {
		time.AfterFunc(handGrace, l.cancel)
	}
	l.id = id
	l.ctx, l.cancel = context.WithCancel(l.parent) //nolint:gosec // the next change calls it, or the parent ends
}

// under returns a context that ends soon after id is known to lead no longer.
func (l *ledBy) under(id string) context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx != nil && id == l.id {
		return l.ctx
	}
	return l.parent
}

// hand hands an entry to whoever leads, and waits for its fate.
func (s *Store) hand(e *entry) outcome {
	encoded := appendEntry(make([]byte, 0, e.encodedLen()), e)
	leader, self := s.leadership()
	if self {
		return fate(s.raft.Apply(encoded, 0))
	}
	if leader == "" || leader == s.id {
		return refused
	}
	ctx, cancel := context.WithTimeout(s.leader.under(leader), forwardTime)
	defer cancel()
	s.forwarded.Add(1)
	a, sent, err := s.callMember(ctx, leader, methodPropose, encoded)
	switch {
	case err != nil && !sent:
		return refused
	case err != nil:
		s.logger.Warn("the leader did not answer, the outcome of an entry is open", "leader", leader, "error", err)
		return unclear
	case a.status == statusOK:
		if n, err := decodeNotice(leader, a.body); err == nil { // none comes from one who leads no longer, or knows none
			s.noticed(n, ctx.Done())
		}
		return applied
	case a.status == statusNotLeader:
		return refused
	default:
		_, err := a.result(leader, methodPropose)
		s.logger.Warn("the leader lost an entry", "leader", leader, "error", err)
		return unclear
	}
}

// propose takes an entry of another node in, as its leader, and returns an encoded notice that covers it, if it can.
func (s *Store) propose(from string, body []byte) ([]byte, error) {
	e, err := decodeEntry(body)
	if err != nil {
		return nil, fmt.Errorf("entry from %s: %w", from, err)
	}
	if !s.enter() {
		return nil, &NotLeaderError{}
	}
	defer s.asking.Done()
	if s.raft.State() != raft.Leader {
		return nil, s.notLeader()
	}
	e.timeMS = clampTime(s.batcher.wall())
	f := s.raft.Apply(appendEntry(make([]byte, 0, len(body)), &e), 0)
	known := make(chan outcome, 1)
	go func() { known <- fate(f) }() // raft may never answer when it is ended by force, and a connection waits for this call
	got := unclear
	select {
	case got = <-known:
	case <-s.released:
	}
	switch got {
	case applied:
		if n, ok := s.notice(); ok {
			return n.encode(), nil
		}
		return nil, nil
	case refused:
		return nil, s.notLeader()
	case unclear:
	}
	return nil, errUnsure
}

// handleOwn answers a call under one of the store's own methods.
func (s *Store) handleOwn(ctx context.Context, from string, req *request) ([]byte, error) {
	switch req.method {
	case methodPropose:
		return s.propose(from, req.body)
	case methodRead:
		return s.readAsLeader(ctx, bytes.Equal(req.body, wantNotice))
	case methodTransfer:
		return nil, s.transferAsLeader(ctx, string(req.body))
	case methodMember:
		member, err := s.memberForSure(ctx, string(req.body))
		if member {
			return []byte{1}, err
		}
		return []byte{0}, err
	case methodVitals:
		v := s.vitals()
		return v.encode(), nil
	default:
		return nil, fmt.Errorf("%d: %w", req.method, errMethod)
	}
}

// readLoop gets read points from the leader for the readers of this node, many at once.
func (s *Store) readLoop() {
	for {
		select {
		case first := <-s.reads:
			all := withQueued(first, s.reads)
			index, err := s.readFromLeader()
			for _, r := range all {
				r.commit, r.err = index, err
				close(r.done)
			}
		case <-s.stop:
			return // queued readers see Store.released
		}
	}
}

// readFromLeader asks the leader for a read point.
func (s *Store) readFromLeader() (uint64, error) {
	leader, _ := s.leadership()
	if leader == "" || leader == s.id {
		return 0, s.notLeader()
	}
	ctx, cancel := context.WithTimeout(s.leader.under(leader), askTime)
	defer cancel()
	b, err := s.ask(ctx, leader, methodRead, wantNotice)
	if err != nil {
		return 0, err
	}
	if len(b) == 8 {
		return binary.BigEndian.Uint64(b), nil
	}
	n, err := decodeNotice(leader, b)
	if err != nil {
		return 0, fmt.Errorf("read point: %w", err)
	}
	s.noticed(n, ctx.Done())
	return n.index, nil
}

// ReadBarrier returns once everything that was acknowledged anywhere in the cluster before the call is applied to this
// node's state machine, so that a read of the state after it is linearizable. Any node gives it, with the leader's word.
// While no leader is known, or the leader does not answer, it tries again for up to 10 s; then the error is a
// *NotLeaderError. index is a log index that covers all of it: another node whose WaitApplied(index) returns is as fresh.
func (s *Store) ReadBarrier(ctx context.Context) (index uint64, err error) {
	if err := s.running(); err != nil {
		return 0, err
	}
	if index, err := s.readOnce(ctx); err == nil {
		return s.caughtUp(ctx, index)
	}
	patience, cancel := context.WithTimeoutCause(ctx, leaderWait, ErrNotLeader)
	defer cancel()
	for {
		if err := s.leaderPause(patience); err != nil {
			return 0, err
		}
		if index, err := s.readOnce(patience); err == nil {
			return s.caughtUp(ctx, index)
		}
	}
}

// readOnce gets a read point: from this node when it leads, otherwise from the leader if one is known.
func (s *Store) readOnce(ctx context.Context) (uint64, error) {
	leader, self := s.leadership()
	if self {
		return s.confirmed(ctx, s.lead.reads)
	}
	if leader == "" || leader == s.id {
		return 0, s.notLeader()
	}
	return s.confirmed(ctx, s.reads)
}

// caughtUp waits until this node has applied a read point.
func (s *Store) caughtUp(ctx context.Context, index uint64) (uint64, error) {
	if err := s.WaitApplied(ctx, index); err != nil {
		return 0, err
	}
	// Not index: that may be an entry that raft keeps to itself, for which another node's state machine would wait until
	// the next command. This position belongs to an entry that every state machine sees, and covers all before it.
	return s.applier.position().index, nil
}

// confirmed puts a reader on queue and returns the read point that it is given.
func (s *Store) confirmed(ctx context.Context, queue chan<- *readRequest) (uint64, error) {
	r := &readRequest{done: make(chan struct{})}
	select {
	case queue <- r:
	case <-ctx.Done():
		return 0, fmt.Errorf("wait to read: %w", context.Cause(ctx))
	case <-s.stop:
		return 0, s.closedError()
	}
	select {
	case <-r.done:
		return r.commit, r.err
	case <-ctx.Done():
		return 0, fmt.Errorf("wait for a read point: %w", context.Cause(ctx))
	case <-s.done:
		return 0, s.closedError()
	case <-s.stop:
		return 0, s.closedError()
	}
}

// readAsLeader gives a follower, encoded, a read point that it reaches: as a notice if it wants one and this node still leads.
func (s *Store) readAsLeader(ctx context.Context, wantsNotice bool) ([]byte, error) {
	if s.raft.State() != raft.Leader {
		return nil, s.notLeader()
	}
	index, err := s.confirmed(ctx, s.lead.reads)
	if err != nil {
		return nil, err
	}
	if index, err = s.caughtUp(ctx, index); err != nil {
		return nil, err
	}
	if n, ok := s.notice(); ok && wantsNotice {
		return n.encode(), nil // of what is applied by now, which covers index
	}
	return binary.BigEndian.AppendUint64(nil, index), nil
}
