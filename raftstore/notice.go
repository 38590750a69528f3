package raftstore

import (
	"encoding/binary"
	"fmt"

	"github.com/hashicorp/raft"
)

// A notice says that an entry is committed. A leader adds one to its answers to followers; otherwise they would hear of the
// commit with raft's next message, which an idle leader sends after CommitTimeout, and whoever proposed or reads through a
// follower would wait for that long.
//
// The follower puts it to its own raft as an AppendEntries without entries, with the very content that raft's next message
// could have: the leader's term, the committed entry as the one before, and its index as the commit index. So it is as safe
// as any message of Raft's that comes late, twice or out of order: a stale term is refused; a log with another entry at that
// place is refused, and one with this entry is, by log matching, the leader's up to there; and the commit index, which
// never goes back, is raised no further than the entry compared.
type notice struct {
	leader    string // the id of the node that says so
	term      uint64 // in which it leads. Invariant: its log of that term has the entry, committed
	index     uint64 // of the entry
	entryTerm uint64 // of the entry
}

// noticeLen is the length of an encoded notice, which leaves out the leader: it is whoever answered.
const noticeLen = 24

// encode returns index(8) entryTerm(8) term(8).
func (n *notice) encode() []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, noticeLen), n.index)
	b = binary.BigEndian.AppendUint64(b, n.entryTerm)
	return binary.BigEndian.AppendUint64(b, n.term)
}

// decodeNotice reads what leader answered with.
func decodeNotice(leader string, b []byte) (notice, error) {
	if len(b) != noticeLen {
		return notice{}, fmt.Errorf("%w: a notice of %d bytes from %s", errAnswer, len(b), leader)
	}
	return notice{
		leader: leader,
		index:  binary.BigEndian.Uint64(b), entryTerm: binary.BigEndian.Uint64(b[8:]), term: binary.BigEndian.Uint64(b[16:]),
	}, nil
}

// notice tells what this node, as the leader, has committed and applied; ok is false when it does not lead. The position is
// taken first, and the term does not change around the look at the state: so the entry was committed in the term or before
// it, and a leader's log has all such entries.
func (s *Store) notice() (n notice, ok bool) {
	pos := s.applier.position()
	term := s.raft.CurrentTerm()
	leads := s.raft.State() == raft.Leader
	if !leads || pos.index == 0 || s.raft.CurrentTerm() != term {
		return notice{}, false
	}
	return notice{leader: s.id, term: term, index: pos.index, entryTerm: pos.term}, true
}

// noticed takes in a notice from the leader. It returns when raft has it, or has to get the entry first, or over is closed.
func (s *Store) noticed(n notice, over <-chan struct{}) {
	for {
		before := s.told.Load()
		if before != nil && (before.term > n.term || before.term == n.term && before.index >= n.index) {
			break // it says as much
		}
		if s.told.CompareAndSwap(before, &n) {
			break
		}
	}
	s.putNotice(over)
}

// putNotice puts the newest notice to raft, once raft's log reaches to its entry: it is called when a notice comes, and
// whenever raft has taken entries in. Whichever comes last finds both.
func (s *Store) putNotice(over <-chan struct{}) {
	n := s.told.Load()
	if n == nil || s.raft.CommitIndex() >= n.index || s.raft.LastIndex() < n.index {
		return
	}
	addr, id := s.raft.LeaderWithID()
	if string(id) != n.leader {
		return // raft's own messages will tell who leads
	}
	s.transport.deliver(raft.RPC{
		Command: &raft.AppendEntriesRequest{
			RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(id), Addr: []byte(addr)},
			Term:      n.term, PrevLogEntry: n.index, PrevLogTerm: n.entryTerm, LeaderCommitIndex: n.index,
		},
		RespChan: make(chan raft.RPCResponse, 1), // nobody reads the answer
	}, over)
}
