package raftstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// changeTime bounds how long a change of the members waits for raft to take it in, which it does once the change
	// before is committed.
	changeTime = 5 * time.Second

	// promoteEvery is how often the leader looks whether a node without a vote has caught up, and promoteWithin how many
	// entries it may be behind: what a busy cluster writes within some milliseconds.
	promoteEvery  = time.Second
	promoteWithin = 256

	// maxDoubts is about how many strangers the leader is asked at a time.
	maxDoubts = 2
)

// members returns the newest configuration that this node knows, committed or not.
func (s *Store) members() []raft.Server {
	return s.raft.GetConfiguration().Configuration().Servers
}

func (s *Store) member(id string) (raft.Server, bool) {
	for _, m := range s.members() {
		if string(m.ID) == id {
			return m, true
		}
	}
	return raft.Server{}, false
}

// admits says whether a peer may speak to this node: a member may, and everybody while the node has no configuration.
func (s *Store) admits(peer string) bool {
	all := s.members()
	for _, m := range all {
		if string(m.ID) == peer {
			return true
		}
	}
	return len(all) == 0
}

// mayDial is admits for the dialling side, and before everything is set up.
func (s *Store) mayDial(peer string) bool {
	select {
	case <-s.up:
		return s.admits(peer)
	default:
		return true
	}
}

// greet judges a peer that connected. A node that was removed while it was away must learn of it, so a stranger is told what
// the leader says, if it can be asked.
func (s *Store) greet(ctx context.Context, peer string) byte {
	if s.admits(peer) {
		return greetWelcome
	}
	select {
	case s.doubts <- struct{}{}:
		defer func() { <-s.doubts }()
	default:
		return greetUnknown // strangers do not keep this node busy; this one may come again
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	member, err := s.askMember(ctx, peer)
	if err != nil || member {
		return greetUnknown // this node lags behind, or nobody knows
	}
	return greetRemoved
}

// askMember asks the leader, which may be this node, whether id is a member.
func (s *Store) askMember(ctx context.Context, id string) (bool, error) {
	leader, self := s.leadership()
	if self {
		return s.memberForSure(ctx, id)
	}
	if leader == "" || leader == s.id {
		return false, s.notLeader()
	}
	b, err := s.ask(ctx, leader, methodMember, []byte(id))
	if err != nil {
		return false, err
	}
	if len(b) != 1 {
		return false, fmt.Errorf("%w: %d bytes from %s", errAnswer, len(b), leader)
	}
	return b[0] == 1, nil
}

// memberForSure says whether id is a member; leadership is confirmed first, so that an old leader does not speak of old
// times. A change that is not committed yet counts for the node in question: it is told nothing that may prove wrong.
func (s *Store) memberForSure(ctx context.Context, id string) (bool, error) {
	if s.raft.State() != raft.Leader {
		return false, s.notLeader()
	}
	before := s.hasMember(id)
	if _, err := s.confirmed(ctx, s.lead.reads); err != nil {
		return false, err
	}
	return before || s.committed.has(id) || s.hasMember(id), nil
}

func (s *Store) hasMember(id string) bool {
	_, ok := s.member(id)
	return ok
}

// voters returns how many voters there are.
func (s *Store) voters() int {
	count := 0
	for _, m := range s.members() {
		if m.Suffrage == raft.Voter {
			count++
		}
	}
	return count
}

// AddNode takes the node id, which its peers reach at addr, into the cluster. It gets the log at once, and a vote as soon as it
// has caught up, for which the leader sees without being asked again. Only the leader does it; elsewhere the error is a
// *NotLeaderError. Adding a member again under the same address changes nothing. The errors are:
//
//   - ErrConfig, ErrNotLeader, ErrMemberExists (another address under this id, or another id at this address), ErrClosed,
//     or ctx's own: nothing was changed;
//   - ErrUnknownOutcome: the node may become a member; repeat the call to find out.
func (s *Store) AddNode(ctx context.Context, id, addr string) error {
	if id == "" || addr == "" {
		return fmt.Errorf("%w: a node needs an id and an address", ErrConfig)
	}
	return s.changeMembers(ctx, "add "+id, func() (raft.IndexFuture, error) {
		for _, m := range s.members() {
			sameID, sameAddr := string(m.ID) == id, string(m.Address) == addr
			if sameID && sameAddr {
				return nil, nil //nolint:nilnil // nothing is to be done
			}
			if sameID || sameAddr {
				return nil, fmt.Errorf("%w: %s at %s; remove it first, or choose another name and address", ErrMemberExists, m.ID, m.Address)
			}
		}
		return s.raft.AddNonvoter(raft.ServerID(id), raft.ServerAddress(addr), 0, changeTime), nil
	})
}

// RemoveNode takes the node id out of the cluster; it ends with ErrRemoved as soon as it learns of it, and its members refuse
// to speak to it at once. Only the leader does it, and it does not remove itself: it hands over first, and the error is then
// a *NotLeaderError as on any other node, so that the caller goes on at the new leader. Removing a node that is no member
// changes nothing. The errors are those of AddNode without ErrMemberExists, and ErrLastVoter.
func (s *Store) RemoveNode(ctx context.Context, id string) error {
	err := s.changeMembers(ctx, "remove "+id, func() (raft.IndexFuture, error) {
		m, ok := s.member(id)
		switch {
		case !ok:
			return nil, nil //nolint:nilnil // nothing is to be done
		case m.Suffrage == raft.Voter && s.voters() == 1:
			return nil, fmt.Errorf("%w: %s", ErrLastVoter, id)
		case id == s.id:
			return nil, errHandOver
		}
		return s.raft.RemoveServer(m.ID, 0, changeTime), nil
	})
	if !errors.Is(err, errHandOver) {
		return err
	}
	if err := s.transferAsLeader(ctx, ""); err != nil {
		return fmt.Errorf("hand over before this node is removed: %w", err)
	}
	return s.notLeader()
}

// errHandOver says that the leader was asked to remove itself.
var errHandOver = errors.New("the leader hands over first")

// changeMembers makes one change of the configuration at a time, on the leader. begin looks at the present members and starts
// the change; it returns nil when there is nothing to be done.
func (s *Store) changeMembers(ctx context.Context, what string, begin func() (raft.IndexFuture, error)) error {
	if err := s.running(); err != nil {
		return err
	}
	if s.raft.State() != raft.Leader {
		return s.notLeader()
	}
	select {
	case s.changing <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("%s: wait for another change: %w", what, context.Cause(ctx))
	case <-s.stop:
		return s.closedError()
	}
	// The change goes on when the caller leaves, so that one is through before the next begins.
	done := make(chan error, 1)
	if !s.enter() {
		<-s.changing
		return s.closedError()
	}
	go func() {
		defer s.asking.Done()
		defer func() { <-s.changing }()
		done <- s.change(ctx, begin)
	}()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		err = fmt.Errorf("%w: %w", ErrUnknownOutcome, context.Cause(ctx))
	case <-s.done:
		err = fmt.Errorf("%w: %w", ErrUnknownOutcome, s.closedError())
	case <-s.released:
		err = fmt.Errorf("%w: %w", ErrUnknownOutcome, s.closedError())
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// change makes a change and waits for its commit. The leader's word is confirmed first: what a deposed leader thinks of the
// members may be out of date, and "nothing to be done" must be true.
func (s *Store) change(ctx context.Context, begin func() (raft.IndexFuture, error)) error {
	if _, err := s.confirmed(ctx, s.lead.reads); err != nil {
		return err
	}
	f, err := begin()
	if err != nil || f == nil {
		return err
	}
	err = f.Error()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, raft.ErrEnqueueTimeout):
		return s.notLeader()
	default:
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	}
}

// TransferLeadership makes the voter id the leader; "" lets the leader choose. Any node may be asked. It returns nil when id
// leads already. An error that wraps ErrNotMember says that id is no voter, ErrLastVoter that there is no other one; with any
// other error leadership has stayed where it was, or has moved without this node knowing.
func (s *Store) TransferLeadership(ctx context.Context, id string) error {
	if err := s.awaitLeader(ctx); err != nil {
		return err
	}
	leader, self := s.leadership()
	if self {
		return s.transferAsLeader(ctx, id)
	}
	if leader == id && id != "" {
		return nil
	}
	if _, err := s.ask(ctx, leader, methodTransfer, []byte(id)); err != nil {
		return fmt.Errorf("transfer leadership: %w", err)
	}
	return nil
}

// transferAsLeader hands this node's leadership over.
func (s *Store) transferAsLeader(ctx context.Context, id string) error {
	if s.raft.State() != raft.Leader {
		return s.notLeader()
	}
	if id == s.id {
		return nil
	}
	m, ok := s.member(id)
	switch {
	case id != "" && (!ok || m.Suffrage != raft.Voter):
		return fmt.Errorf("transfer leadership: %w: %s is no voter", ErrNotMember, id)
	case s.voters() < 2:
		return fmt.Errorf("transfer leadership: %w: there is no other one", ErrLastVoter)
	}
	if !s.enter() {
		return s.closedError()
	}
	done := make(chan error, 1)
	go func() { // raft answers within some ElectionTimeouts as long as it runs
		defer s.asking.Done()
		if id == "" {
			done <- s.raft.LeadershipTransfer().Error()
			return
		}
		done <- s.raft.LeadershipTransferToServer(m.ID, m.Address).Error()
	}()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("transfer leadership: %w", err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("transfer leadership: %w", context.Cause(ctx))
	case <-s.done:
		return s.closedError()
	case <-s.released:
		return s.closedError()
	}
}

// promoteLoop gives, while this node leads, a vote to the nodes that have caught up.
func (s *Store) promoteLoop() {
	for pause(s.ctx, promoteEvery) {
		if s.raft.State() != raft.Leader {
			continue
		}
		for _, m := range s.members() {
			if m.Suffrage != raft.Voter && s.isCaughtUp(m) {
				s.promote(m)
			}
		}
	}
}

// isCaughtUp asks a node without a vote how far it is.
func (s *Store) isCaughtUp(m raft.Server) bool {
	ctx, cancel := context.WithTimeout(s.ctx, askTime)
	defer cancel()
	v, err := s.askVitals(ctx, string(m.ID))
	if err != nil {
		s.logger.Debug("a node that is to get a vote does not answer", "peer", m.ID, "error", err)
		return false
	}
	return v.applied+promoteWithin >= s.raft.CommitIndex()
}

func (s *Store) promote(m raft.Server) {
	ctx, cancel := context.WithTimeout(s.ctx, changeTime)
	defer cancel()
	err := s.changeMembers(ctx, "give a vote to "+string(m.ID), func() (raft.IndexFuture, error) {
		now, ok := s.member(string(m.ID))
		if !ok || now.Suffrage == raft.Voter || now.Address != m.Address {
			return nil, nil //nolint:nilnil // removed meanwhile, or done
		}
		return s.raft.AddVoter(m.ID, m.Address, 0, changeTime), nil
	})
	if err != nil {
		s.logger.Warn("a node that has caught up gets no vote yet", "peer", m.ID, "error", err)
		return
	}
	s.logger.Info("node has caught up and votes from now on", "peer", m.ID)
}

// membersChanged follows a configuration that was committed or came with a snapshot. It does not block, because the state
// machine's goroutine calls it.
func (s *Store) membersChanged() {
	s.transport.stream.prune(s.admits)
	s.calls.forget(s.admits)
}

// removed ends the node: the leader confirmed that it is no member.
func (s *Store) removed() {
	select {
	case <-s.up:
	default:
		return // too early to tell; it dials again
	}
	if len(s.members()) == 0 {
		return // it waits to be taken in
	}
	s.fail(fmt.Errorf("%w: its data is of no more use to the cluster; stop it for good, or empty its data directory and join it again",
		ErrRemoved))
}
