package raftstore

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Status is one node's view of the cluster.
type Status struct {
	NodeID       string // this node
	LeaderID     string // empty: unknown
	State        string // follower, candidate, leader or shutdown
	Term         uint64
	CommitIndex  uint64 // committed as far as this node knows
	AppliedIndex uint64 // applied here; at most CommitIndex
	LastIndex    uint64 // of this node's log, committed or not
	Nodes        []Node // the members, in the order in which they were added
	// Entries and Commands count what this process proposed since Open; their quotient says how well commands share
	// entries. Forwarded is how many of the entries were sent to another node, each attempt counted.
	Entries, Commands, Forwarded uint64
	// Checkpoint is the newest one of this node.
	Checkpoint Checkpoint
}

// UnknownContact is Node.LastContact when this node cannot know it.
const UnknownContact = time.Duration(-1)

// Node is one member of the cluster.
type Node struct {
	ID      string
	Address string // as it advertises itself
	Voter   bool   // false: it gets the log, and a vote when it has caught up
	Leader  bool
	// LastIndex is the end of this node's log, for other nodes as they said last (they are asked every 5 s); 0: unknown.
	// Compared with Status.LastIndex it says how far a node is behind.
	LastIndex uint64
	// LastContact is how long ago this node heard of that one, at least 0. On the leader, a peer that answers counts as
	// 0; followers know of the leader only. For all others it is UnknownContact.
	LastContact time.Duration
}

// contacts keeps, on the leader, which peers do not answer.
type contacts struct {
	mu    sync.Mutex
	since map[string]time.Time // guarded by mu: by node id, when a peer that does not answer was last heard
}

// note takes in what raft observed about a peer.
func (c *contacts) note(o raft.Observation) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch seen := o.Data.(type) {
	case raft.FailedHeartbeatObservation:
		c.since[string(seen.PeerID)] = seen.LastContact
	case raft.ResumedHeartbeatObservation:
		delete(c.since, string(seen.PeerID))
	case raft.PeerObservation:
		delete(c.since, string(seen.Peer.ID))
	}
}

// reset forgets everything: what an earlier leadership saw says nothing now.
func (c *contacts) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.since)
}

// lost returns when a peer that does not answer was last heard.
func (c *contacts) lost(id string) (since time.Time, isLost bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	since, isLost = c.since[id]
	return since, isLost
}

// wanted tells raft which observations pump understands.
func wanted(o *raft.Observation) bool {
	switch o.Data.(type) {
	case raft.FailedHeartbeatObservation, raft.ResumedHeartbeatObservation, raft.PeerObservation, raft.LeaderObservation:
		return true
	default:
		return false
	}
}

// Status describes the cluster as this node sees it now. It asks nobody.
func (s *Store) Status() Status {
	leader, _ := s.Leader()
	st := Status{
		NodeID:       s.id,
		LeaderID:     leader,
		State:        stateName(s.raft.State()),
		Term:         s.raft.CurrentTerm(),
		AppliedIndex: s.applier.applied.load(),
		CommitIndex:  s.raft.CommitIndex(),
		LastIndex:    s.raft.LastIndex(),
		Entries:      uint64(max(0, s.batcher.entries.Load())),
		Commands:     uint64(max(0, s.batcher.commands.Load())),
		Forwarded:    s.forwarded.Load(),
		Checkpoint:   s.applier.checkpoints.newest(),
	}
	for _, m := range s.members() {
		last := s.heard.lastIndex(string(m.ID))
		if string(m.ID) == s.id {
			last = st.LastIndex
		}
		st.Nodes = append(st.Nodes, Node{
			ID:          string(m.ID),
			Address:     string(m.Address),
			Voter:       m.Suffrage == raft.Voter,
			Leader:      string(m.ID) == leader,
			LastIndex:   last,
			LastContact: s.lastContact(string(m.ID), leader),
		})
	}
	return st
}

// lastContact says how long ago this node heard of the member id. Raft measures with the machine's clock, so this does
// too.
func (s *Store) lastContact(id, leader string) time.Duration {
	switch {
	case id == s.id:
		return 0
	case leader == s.id:
		since, lost := s.contacts.lost(id)
		if !lost {
			return 0
		}
		return max(0, time.Since(since))
	case id == leader:
		return max(0, time.Since(s.raft.LastContact()))
	default:
		return UnknownContact
	}
}

func stateName(state raft.RaftState) string {
	switch state {
	case raft.Leader:
		return "leader"
	case raft.Candidate:
		return "candidate"
	case raft.Follower:
		return "follower"
	case raft.Shutdown:
		return "shutdown"
	default:
		return "unknown"
	}
}
