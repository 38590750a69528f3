package raftstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// hardStop is how long raft may take to end once nothing is waited for; more than that only a hanging disk takes.
const hardStop = 5 * time.Second

var errBusy = errors.New("raft did not end")

// Shutdown ends the node: no new work is taken, and what is in flight is answered; a leader with another voter hands over;
// connections, goroutines and files are closed. It may be called any number of times; the calls wait for the first one and return
// what it returned. When ctx ends first, the rest is done without waiting for answers, and callers of Propose get
// ErrUnknownOutcome. An error means that the directory may still be in use, so the process should end.
func (s *Store) Shutdown(ctx context.Context) error {
	s.shutdownOnce.Do(func() { s.shutdownErr = s.shutdown(ctx) })
	return s.shutdownErr
}

// shutdown goes in this order for a reason: raft never answers some of the questions that it holds when it ends, so it
// ends only after those who ask are through. Readers are among them: a hand-over is what AppendEntries of idTransport
// cannot protect reads from.
func (s *Store) shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	close(s.stop)
	s.cancel()
	select {
	case <-closedAfter(func() { s.loops.Wait(); s.asking.Wait() }):
	case <-s.halted: // some answers will never come
	case <-ctx.Done():
	}
	close(s.released)
	s.release()
	s.handOver(ctx)

	ended := closedAfter(s.endRaft)
	select {
	case <-ended:
	case <-time.After(hardStop):
		return fmt.Errorf("shut down: %w within %v: a write to the disk or the state machine hangs", errBusy, hardStop)
	}
	close(s.pumpStop)
	s.pumping.Wait()
	err := s.log.Close()
	s.finish()
	if err != nil {
		return fmt.Errorf("shut down: close the log: %w", err)
	}
	return nil
}

// closedAfter runs f and closes the channel when it returns. The caller waits for the channel, or says why not.
func closedAfter(f func()) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	return done
}

// endRaft ends raft and its connections.
func (s *Store) endRaft() {
	ended := s.raft.Shutdown()
	s.calls.close()
	// Before waiting: raft's goroutines may sit in calls to peers that only a closed connection ends.
	if err := s.transport.Close(); err != nil {
		s.logger.Warn("close the transport", "error", err)
	}
	if err := ended.Error(); err != nil {
		s.logger.Warn("end raft", "error", err)
	}
	s.transport.CloseStreams()
	s.calls.idling.Wait()
}

// handOver passes leadership on when this node leads and somebody else can take it. That it may not work out is no
// reason to stay: the others elect a leader anyway, only a second later.
func (s *Store) handOver(ctx context.Context) {
	if s.raft.State() != raft.Leader || !s.hasOtherVoter() {
		return
	}
	select {
	case <-s.halted:
		return // nobody would answer
	case <-ctx.Done():
		return // nobody would wait
	default:
	}
	// Raft answers within an ElectionTimeout as long as it runs, and it runs until endRaft.
	transferred := make(chan error, 1)
	go func() { transferred <- s.raft.LeadershipTransfer().Error() }()
	select {
	case err := <-transferred:
		if err != nil {
			s.logger.Warn("leadership was not handed over, the other nodes elect a leader", "error", err)
		}
	case <-s.halted:
	case <-ctx.Done():
	}
}

func (s *Store) hasOtherVoter() bool {
	for _, m := range s.members() {
		if m.Suffrage == raft.Voter && string(m.ID) != s.id {
			return true
		}
	}
	return false
}
