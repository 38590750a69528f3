package raftstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Leadership is passed on by the one message of the protocol that is for it, TimeoutNow, and not by raft's LeadershipTransfer. That
// one refuses all entries until it is over, and it is never over when this node stops leading while it waits for a follower that
// is not replicated to any more (raft v1.8.0, leadershipTransfer: nobody takes what it sends to triggerDeferErrorCh). A node that then
// leads again refuses everything for ever. TestLinearizable found it. A voter that lacks entries cannot win, whoever asks it to.

// passEvery is how often it is looked whether this node still leads.
const passEvery = 10 * time.Millisecond

var errStillLeads = errors.New("it did not win an election in time")

// passLeadership has one voter after the other begin an election at once, until this node leads no more. The calls end at the latest with the
// transport.
func (s *Store) passLeadership(ctx context.Context, to []raft.Server) error {
	limit := s.raft.ReloadableConfig().ElectionTimeout
	var failed []error
	for _, m := range to {
		if ctx.Err() != nil || s.raft.State() != raft.Leader {
			break
		}
		in := &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{
			ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(s.id), Addr: s.transport.EncodePeer(raft.ServerID(s.id), s.transport.LocalAddr()),
		}}
		err := s.transport.TimeoutNow(m.ID, m.Address, in, &raft.TimeoutNowResponse{})
		if err == nil {
			err = s.awaitAnother(ctx, limit)
		}
		if err == nil {
			return nil
		}
		failed = append(failed, fmt.Errorf("%s: %w", m.ID, err))
	}
	if s.raft.State() != raft.Leader {
		return nil
	}
	return errors.Join(append(failed, ctx.Err())...)
}

// awaitAnother waits until this node leads no more, for limit at the most.
func (s *Store) awaitAnother(ctx context.Context, limit time.Duration) error {
	for end := time.Now().Add(limit); s.raft.State() == raft.Leader; {
		if time.Now().After(end) {
			return errStillLeads
		}
		if !pause(ctx, passEvery) {
			return ctx.Err()
		}
	}
	return nil
}

// successors are the other voters.
func (s *Store) successors() []raft.Server {
	return s.byLog(slices.DeleteFunc(slices.Clone(s.members()), func(m raft.Server) bool { return m.Suffrage != raft.Voter || string(m.ID) == s.id }))
}

// byLog orders members by how long their logs were when they were heard last, the longest first.
func (s *Store) byLog(members []raft.Server) []raft.Server {
	slices.SortStableFunc(members, func(a, b raft.Server) int {
		return cmp.Compare(s.heard.lastIndex(string(b.ID)), s.heard.lastIndex(string(a.ID)))
	})
	return members
}

// able asks voters how long their logs are, and leaves out those that do not answer in time, unless none does.
func (s *Store) able(ctx context.Context, voters []raft.Server) []raft.Server {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	answered := make([]bool, len(voters))
	var wg sync.WaitGroup
	for i, m := range voters {
		wg.Go(func() {
			_, err := s.askVitals(ctx, string(m.ID))
			answered[i] = err == nil
		})
	}
	wg.Wait()
	var there []raft.Server
	for i, m := range voters {
		if answered[i] {
			there = append(there, m)
		}
	}
	if len(there) == 0 {
		return voters
	}
	return s.byLog(there)
}
