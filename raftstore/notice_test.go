package raftstore

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// On a network without delay nobody waits for the leader's next message: not who proposes through a follower, and not who
// reads there what was just written elsewhere.
func TestNoticesSpareTheWaitForTheNextMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		leader := w.trio()
		defer w.stopAll()
		rest := others(trio, leader.id)
		<-time.After(time.Second)
		w.propose(w.nodes[rest[0]], "the connections are there")
		w.propose(w.nodes[rest[1]], "here as well")
		<-time.After(time.Second)
		for i, c := range numbered("c", 20) {
			proposer, reader := w.nodes[rest[i%2]], w.nodes[rest[(i+1)%2]]
			start := time.Now()
			w.propose(proposer, c)
			if took := time.Since(start); took > 0 {
				t.Errorf("%s took %v at a follower", c, took)
			}
			_, err := reader.ReadBarrier(t.Context())
			check(t, err)
			if !slices.Contains(reader.sm.commands(), c) {
				t.Fatalf("%s was acknowledged, and a read point misses it", c)
			}
			if took := time.Since(start); took > 0 {
				t.Errorf("the other follower read %s after %v", c, took)
			}
		}
	})
}

// What a follower is told about a commit moves nothing when it does not fit its log, its term or its leader.
func TestNoticesThatDoNotFit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		leader := w.trio()
		defer w.stopAll()
		last := w.propose(leader, "a", "b")
		follower := w.nodes[others(trio, leader.id)[0]]
		w.caughtUp(last, follower.id)
		w.net.isolate(follower.id, true) // from here on it hears what this test says, and no time passes
		term := follower.raft.CurrentTerm()
		logged := last + 1
		unheard := &entry{run: 1, number: 1, commands: [][]byte{[]byte("c")}}
		follower.transport.deliver(raft.RPC{
			Command: &raft.AppendEntriesRequest{
				RPCHeader: raft.RPCHeader{ProtocolVersion: 3, ID: []byte(leader.id), Addr: []byte(leader.id)},
				Term:      term, PrevLogEntry: last, PrevLogTerm: term, LeaderCommitIndex: last,
				Entries: []*raft.Log{{Index: logged, Term: term, Type: raft.LogCommand, Data: appendEntry(nil, unheard)}},
			},
			RespChan: make(chan raft.RPCResponse, 1),
		}, nil)
		synctest.Wait()
		sound := notice{leader: leader.id, term: term, index: logged, entryTerm: term}
		for _, c := range []struct {
			name   string
			change func(n *notice)
		}{
			{"an older term", func(n *notice) { n.term-- }},
			{"another entry at that place", func(n *notice) { n.entryTerm-- }},
			{"an entry that is not there", func(n *notice) { n.index++ }},
			{"another leader", func(n *notice) { n.leader = follower.id }},
		} {
			n := sound
			c.change(&n)
			follower.told.Store(nil)
			follower.noticed(n, nil)
			synctest.Wait()
			if got := follower.raft.CommitIndex(); got != last || follower.raft.CurrentTerm() != term {
				t.Errorf("%s: commit index %d, want %d; term %d, want %d", c.name, got, last, follower.raft.CurrentTerm(), term)
			}
		}
		follower.told.Store(nil)
		follower.noticed(sound, nil)
		follower.noticed(notice{leader: leader.id, term: term, index: last, entryTerm: term}, nil) // comes late
		synctest.Wait()
		if got := follower.raft.CommitIndex(); got != logged {
			t.Errorf("commit index %d, want %d", got, logged)
		}
		if got := follower.told.Load().index; got != logged {
			t.Errorf("a late notice took the place of a newer one: %d", got)
		}
	})
}

func TestNoticeEncoding(t *testing.T) {
	n := notice{leader: "core-2", index: 1 << 40, entryTerm: 7, term: 9}
	b := n.encode()
	got, err := decodeNotice("core-2", b)
	check(t, err)
	if got != n {
		t.Errorf("%+v, want %+v", got, n)
	}
	for i := range b {
		_, err := decodeNotice("core-2", b[:i])
		wantError(t, err, errAnswer)
	}
	_, err = decodeNotice("core-2", append(b, 0))
	wantError(t, err, errAnswer)
}
