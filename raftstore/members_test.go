package raftstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// awaitVoters waits until the members with a vote are these, as n sees it.
func (w *world) awaitVoters(n *node, want ...string) {
	w.t.Helper()
	slices.Sort(want)
	for range 300 {
		var got []string
		for _, m := range n.Status().Nodes {
			if m.Voter {
				got = append(got, m.ID)
			}
		}
		slices.Sort(got)
		if slices.Equal(got, want) {
			return
		}
		<-time.After(100 * time.Millisecond)
	}
	w.t.Fatalf("after 30 s the members are %+v, want voters %v", n.Status().Nodes, want)
}

// wantEnd waits until the node has ended because of target.
func (w *world) wantEnd(id string, target error) error {
	w.t.Helper()
	select {
	case <-w.nodes[id].Done():
	case <-time.After(20 * time.Second):
		w.t.Fatalf("%s goes on", id)
	}
	wantError(w.t, w.nodes[id].Err(), target)
	return w.nodes[id].Err()
}

// writers proposes from several nodes until stop is called, which returns what was acknowledged.
func (w *world) writers(h *history, nodes ...*node) (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	var wg sync.WaitGroup
	for _, n := range nodes {
		for k := range 4 {
			wg.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					h.propose(withTimeout(w.t.Context(), 20*time.Second), n.Store, //nolint:contextcheck // outlives the writer
						fmt.Sprintf("%s-%d-%d", n.id, k, i))
					pause(ctx, 5*time.Millisecond)
				}
			})
		}
	}
	return func() { cancel(); wg.Wait() }
}

func TestNodesJoinUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.tune = Tuning{SnapshotThreshold: 1 << 40, TrailingLogs: 5}
		w.found(trio[0])
		w.start(trio[0])
		defer w.stopAll()
		first := w.leader(trio[0])
		w.propose(first, numbered("before", 100)...)
		check(t, first.Snapshot())
		h := newHistory()
		stop := w.writers(h, first)
		for _, id := range trio[1:] {
			w.join[id] = true
			w.start(id)
			check(t, first.AddNode(t.Context(), id, id))
			check(t, first.AddNode(t.Context(), id, id))
			wantError(t, first.AddNode(t.Context(), id, "elsewhere"), ErrMemberExists)
			wantError(t, first.AddNode(t.Context(), "core-9", id), ErrMemberExists)
			w.awaitVoters(first, trio[:len(w.nodes)]...)
			check(t, first.Snapshot()) // the next one cannot do without it
		}
		more := w.writers(h, w.nodes[trio[1]], w.nodes[trio[2]])
		<-time.After(2 * time.Second)
		stop()
		more()
		index, err := first.ReadBarrier(t.Context())
		check(t, err)
		w.caughtUp(index, trio...)
		h.check(t, first.sm.commands()[100:])
		if len(h.maybe)+len(h.denied) > 0 {
			t.Error("joining nodes cost commands")
		}
		for _, id := range trio {
			if !slices.Equal(w.nodes[id].sm.all(), first.sm.all()) {
				t.Errorf("%s has another state", id)
			}
		}
		wantError(t, first.AddNode(t.Context(), "", "x"), ErrConfig)
		w.stop(trio[0]) // the new ones carry on
		w.propose(w.leader(trio[1:]...), "on")
	})
}

// A node that does not keep up, or does not answer at all, gets no vote: it would only take the majority away.
func TestOnlyNodesThatKeepUpGetAVote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.found(trio[0])
		w.start(trio[0])
		defer w.stopAll()
		first := w.leader(trio[0])
		check(t, first.AddNode(t.Context(), trio[1], trio[1])) // nobody is there
		w.propose(first, numbered("c", promoteWithin+50)...)
		<-time.After(30 * time.Second)
		w.awaitVoters(first, trio[0])
		w.propose(first, "on")

		w.join[trio[1]] = true
		w.start(trio[1])
		open := gate(w.nodes[trio[1]]) // it stores everything and applies nothing
		<-time.After(10 * time.Second)
		w.awaitVoters(first, trio[0])
		for _, m := range first.Status().Nodes {
			if m.ID == trio[1] && m.LastIndex < promoteWithin {
				t.Errorf("the leader does not know how far the new node is: %+v", m)
			}
		}
		open()
		w.awaitVoters(first, trio[:2]...)
	})
}

func TestAFollowerIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		leader := w.trio()
		defer w.stopAll()
		gone := others(trio, leader.id)[0]
		rest := others(trio, gone)
		wantError(t, w.nodes[gone].RemoveNode(t.Context(), gone), ErrNotLeader)
		check(t, leader.RemoveNode(t.Context(), gone))
		check(t, leader.RemoveNode(t.Context(), gone))
		<-time.After(500 * time.Millisecond) // everybody knows
		for _, id := range rest {
			w.awaitVoters(w.nodes[id], rest...)
			s := w.nodes[id].transport.stream
			s.mu.Lock()
			for c := range s.conns {
				if c.peer == gone {
					t.Errorf("%s still has a connection with the removed node: kind %d, accepted %v", id, c.kind, c.accepted)
				}
			}
			s.mu.Unlock()
		}
		err := w.wantEnd(gone, ErrRemoved)
		if !strings.Contains(err.Error(), "join it again") {
			t.Errorf("%q does not say what to do", err)
		}
		_, _, err = w.nodes[gone].Propose(t.Context(), []byte("x"))
		wantError(t, err, ErrClosed)
		w.propose(leader, "on")
		if now, _ := leader.Leadership(); !now.Leader {
			t.Error("the removal cost the leader its leadership")
		}
	})
}

func TestTheLeaderIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		old := w.trio()
		defer w.stopAll()
		h := newHistory()
		rest := others(trio, old.id)
		stop := w.writers(h, w.nodes[rest[0]], w.nodes[rest[1]])
		wantError(t, old.RemoveNode(t.Context(), old.id), ErrNotLeader)
		next := w.leader(rest...)
		check(t, next.RemoveNode(t.Context(), old.id))
		_ = w.wantEnd(old.id, ErrRemoved)
		stop()
		last := others(rest, next.id)[0]
		check(t, next.RemoveNode(t.Context(), last))
		err := next.RemoveNode(t.Context(), next.id)
		wantError(t, err, ErrLastVoter)
		if strings.Contains(err.Error(), "hand over") {
			t.Errorf("%q speaks of a handover that cannot be", err)
		}
		_, err = next.ReadBarrier(t.Context())
		check(t, err)
		h.check(t, next.sm.commands())
		if len(h.denied) > 0 {
			t.Errorf("%d commands were refused while the leader went", len(h.denied))
		}
	})
}

func TestARemovedNodeThatWasAway(t *testing.T) {
	for name, away := range map[string]func(leader string) string{
		"follower": func(leader string) string { return others(trio, leader)[0] },
		"leader":   func(leader string) string { return leader },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				leader := w.trio()
				defer w.stopAll()
				gone := away(leader.id)
				w.net.isolate(gone, true)
				rest := others(trio, gone)
				<-time.After(3 * time.Second) // an old leader notices
				leader = w.leader(rest...)
				check(t, leader.RemoveNode(t.Context(), gone))
				<-time.After(2 * time.Minute)
				before := leader.Status()
				w.net.isolate(gone, false)
				start := time.Now()
				_ = w.wantEnd(gone, ErrRemoved)
				if took := time.Since(start); took > 15*time.Second {
					t.Errorf("it took %v to find out", took)
				}
				w.stop(gone)

				// It is started again all the same.
				w.start(gone)
				_ = w.wantEnd(gone, ErrRemoved)
				<-time.After(time.Minute)
				if after := leader.Status(); after.Term != before.Term || after.LeaderID != leader.id {
					t.Errorf("it disturbed the others: term %d, leader %s; before %d, %s", after.Term, after.LeaderID, before.Term, before.LeaderID)
				}
			})
		})
	}
}

// A node that lags behind a change is no authority on who is a member.
func TestALaggingMemberDoesNotSendAwayANewOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		leader := w.trio()
		defer w.stopAll()
		lagging := others(trio, leader.id)[0]
		w.net.isolate(lagging, true)
		w.join["core-4"] = true
		w.start("core-4")
		check(t, leader.AddNode(t.Context(), "core-4", "core-4"))
		w.awaitVoters(leader, append(slices.Clone(trio), "core-4")...)
		// The lagging one hears nothing from the leader, but the new one reaches it.
		w.net.mute(leader.id, lagging, true)
		w.net.isolate(lagging, false)
		<-time.After(30 * time.Second)
		select {
		case <-w.nodes["core-4"].Done():
			t.Fatal(w.nodes["core-4"].Err())
		default:
		}
		w.net.mute(leader.id, lagging, false)
		w.caughtUp(w.propose(w.nodes["core-4"], "x"), append(slices.Clone(trio), "core-4")...)
	})
}

// Who is refused is told the leader's word, not that of the member it happens to ask.
func TestStrangersAreToldWhatTheLeaderSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		leader := w.trio()
		defer w.stopAll()
		lagging := w.nodes[others(trio, leader.id)[0]]
		w.net.isolate(lagging.id, true)
		check(t, leader.AddNode(t.Context(), "core-4", "core-4"))
		w.net.isolate(lagging.id, false) // it still knows who leads, and heard nothing yet
		if lagging.admits("core-4") {
			t.Fatal("it knows the new member already, so that this test proves nothing")
		}
		for peer, want := range map[string]byte{"core-4": greetUnknown, "core-66": greetRemoved, leader.id: greetWelcome} {
			if got := lagging.greet(t.Context(), peer); got != want {
				t.Errorf("%s is greeted with %d, want %d", peer, got, want)
			}
		}
		w.net.isolate(leader.id, true)
		<-time.After(time.Second)
		if got := leader.greet(t.Context(), "core-66"); got != greetUnknown {
			t.Errorf("a leader without a majority greets with %d", got)
		}
	})
}

func TestAnEmptiedNodeIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		leader := w.trio()
		defer w.stopAll()
		w.propose(leader, numbered("c", 20)...)
		emptied := others(trio, leader.id)[0]
		w.stop(emptied)
		check(t, os.RemoveAll(w.dir(emptied)))
		_, err := Open(w.config(emptied), &ledger{})
		wantError(t, err, ErrEmpty)
		if !strings.Contains(err.Error(), "remove it from the cluster, then join it again") {
			t.Errorf("%q does not say what to do", err)
		}
		if used, err := HasState(w.dir(emptied)); used || err != nil {
			t.Errorf("a refused start left a state: %v, %v", used, err)
		}
		check(t, leader.RemoveNode(t.Context(), emptied))
		w.join[emptied] = true
		w.start(emptied)
		check(t, leader.AddNode(t.Context(), emptied, emptied))
		w.awaitVoters(leader, trio...)
		w.caughtUp(w.propose(leader, "on"), trio...)
		<-time.After(20 * time.Second)
		for _, id := range trio {
			check(t, w.nodes[id].Err()) // in its log the joined one met its own removal
		}
		w.join[emptied] = false
		w.stop(emptied)
		w.start(emptied)
		w.caughtUp(w.propose(leader, "and on"), trio...)
	})
}

func TestTransferFromAnyNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		leader := w.trio()
		defer w.stopAll()
		check(t, leader.TransferLeadership(t.Context(), leader.id))
		for i, target := range slices.Concat(trio, trio) {
			asked := w.nodes[trio[i%2]]
			check(t, asked.TransferLeadership(t.Context(), target))
			if n := w.leader(target); n.id != target {
				t.Errorf("%s leads", n.id)
			}
			<-time.After(time.Second) // everybody knows
		}
		now, _ := w.nodes[trio[0]].Leader()
		check(t, w.nodes[trio[0]].TransferLeadership(t.Context(), ""))
		if next := w.leader(others(trio, now)...); next.id == now {
			t.Error("leadership stayed")
		}
		<-time.After(time.Second)
		for _, id := range trio {
			err := w.nodes[id].TransferLeadership(t.Context(), "core-9")
			var remote *RemoteError
			if !errors.Is(err, ErrNotMember) && !errors.As(err, &remote) {
				t.Errorf("%s: transfer to a stranger: %v", id, err)
			}
		}
	})
}

// dialAs connects as from to to, and wants kind.
func (w *world) dialAs(from, to string, kind byte) (*peerStream, *peerConn, error) {
	w.t.Helper()
	cfg := w.config(from).withDefaults()
	s := newPeerStream(&cfg)
	c, err := s.connect(w.t.Context(), to, to, kind)
	return s, c, err
}

func TestStrangersAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		leader := w.trio()
		defer w.stopAll()
		for _, to := range trio {
			for _, kind := range []byte{kindRaft, kindCall} {
				s, _, err := w.dialAs("core-66", to, kind) // a good certificate of the same authority
				wantError(t, err, errNotAdmitted)
				check(t, s.Close())
			}
			s, _, err := w.dialAs("core-66", to, 7)
			if err == nil {
				t.Error("an unknown kind of connection was welcome")
			}
			check(t, s.Close())
		}
		w.propose(leader, "on")
	})
}

// A member that speaks in another member's name is not heard.
func TestMembersSpeakForThemselvesOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		leader := w.trio()
		defer w.stopAll()
		rest := others(trio, leader.id)
		liar, victim := rest[0], rest[1]
		w.stop(liar)
		cfg := w.config(liar).withDefaults()
		term := w.nodes[victim].Status().Term
		for _, id := range []string{leader.id, victim, "", "core-66", liar} {
			trans := newIDTransport(&cfg, newPeerStream(&cfg))
			var resp raft.RequestVoteResponse
			err := trans.RequestVote(raft.ServerID(victim), raft.ServerAddress(victim), &raft.RequestVoteRequest{
				RPCHeader: raft.RPCHeader{ProtocolVersion: 3, ID: []byte(id), Addr: []byte(id)}, Term: term + 10, LastLogIndex: 1 << 40, LastLogTerm: 1 << 40,
				LeadershipTransfer: true, // or it would be refused for the sake of the leader
			}, &resp)
			if heard := w.nodes[victim].Status().Term > term; heard != (id == liar) || (err == nil) != heard {
				t.Errorf("%s speaks as %q: heard %v, %v", liar, id, heard, err)
			}
			check(t, trans.Close())
			trans.CloseStreams()
		}
	})
}

// A node that waits to be taken in has no vote to give: it may have been a voter that lost its memory.
func TestAWaitingNodeDoesNotVote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join["core-1"] = true
		w.start("core-1")
		defer w.stopAll()
		cfg := w.config("core-2").withDefaults()
		trans := newIDTransport(&cfg, newPeerStream(&cfg))
		header := raft.RPCHeader{ProtocolVersion: 3, ID: []byte("core-2"), Addr: []byte("core-2")}
		var pre raft.RequestPreVoteResponse
		if err := trans.RequestPreVote("core-1", "core-1", &raft.RequestPreVoteRequest{RPCHeader: header, Term: 9}, &pre); err == nil || pre.Granted {
			t.Errorf("pre-vote: %+v, %v", pre, err)
		}
		var vote raft.RequestVoteResponse
		if err := trans.RequestVote("core-1", "core-1", &raft.RequestVoteRequest{RPCHeader: header, Term: 9}, &vote); err == nil || vote.Granted {
			t.Errorf("vote: %+v, %v", vote, err)
		}
		check(t, trans.Close())
		trans.CloseStreams()
		start := time.Now()
		_, err := w.nodes["core-1"].ReadBarrier(t.Context())
		wantError(t, err, ErrNotLeader)
		if took := time.Since(start); took != leaderWait {
			t.Errorf("gave up after %v", took)
		}
	})
}
