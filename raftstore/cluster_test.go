package raftstore

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var trio = []string{"core-1", "core-2", "core-3"}

func others(all []string, id string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return s == id })
}

func TestOneNodeProposesAndReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		check(t, Bootstrap(Config{Dir: w.dir("core-1"), NodeID: "core-1", Advertise: "core-1"}))
		w.start("core-1")
		defer w.stopAll()
		n := w.leader("core-1")

		for i, c := range numbered("c", 10) {
			result, index, err := n.Propose(t.Context(), []byte(c))
			check(t, err)
			if result != i+1 {
				t.Fatalf("command %d: result %v", i, result)
			}
			at, err := n.ReadBarrier(t.Context())
			check(t, err)
			if at != index {
				t.Fatalf("read barrier at %d after a command at %d", at, index)
			}
		}
		if got := n.sm.commands(); !slices.Equal(got, numbered("c", 10)) {
			t.Fatalf("state %v", got)
		}
		st := n.Status()
		if len(st.Nodes) != 1 || !st.Nodes[0].Leader || !st.Nodes[0].Voter || st.State != "leader" || st.LeaderID != "core-1" ||
			st.AppliedIndex != st.CommitIndex || st.Commands != 10 {
			t.Fatalf("status %+v", st)
		}
	})
}

func TestThreeNodesApplyTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.found(trio...)
		w.start(trio...)
		defer w.stopAll()
		leader := w.leader(trio...)

		var wg sync.WaitGroup
		for _, c := range numbered("c", 200) {
			wg.Go(func() { w.propose(leader, c) })
		}
		wg.Wait()
		index, err := leader.ReadBarrier(t.Context())
		check(t, err)
		w.caughtUp(index, trio...)
		want := leader.sm.all()
		if len(want) != 200 {
			t.Fatalf("%d commands applied", len(want))
		}
		for _, id := range trio {
			if !slices.Equal(w.nodes[id].sm.all(), want) {
				t.Fatalf("%s has another state than %s", id, leader.id)
			}
		}
		follower := w.nodes[others(trio, leader.id)[0]]
		if c := follower.Status(); c.LeaderID != leader.id || len(c.Nodes) != 3 {
			t.Fatalf("follower's status %+v", c)
		}
	})
}

// A follower's state machine never sees raft's own entries, so an index that a follower waits for must not be one.
func TestReadIndexIsReachedByIdleFollowers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.found(trio...)
		w.start(trio...)
		defer w.stopAll()
		leader := w.leader(trio...)
		for _, id := range trio {
			_, err := w.nodes[id].ReadBarrier(withTimeout(t.Context(), 5*time.Second))
			check(t, err)
		}
		index, err := leader.ReadBarrier(t.Context())
		check(t, err)
		w.caughtUp(index, trio...)
	})
}

func TestLeaderIsKilledAndComesBackBehindASnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.tune = Tuning{SnapshotThreshold: 1 << 20, TrailingLogs: 5}
		w.found(trio...)
		w.start(trio...)
		defer w.stopAll()
		old := w.leader(trio...)
		w.propose(old, numbered("before", 20)...)

		w.net.isolate(old.id, true) // to the others a cut-off node is a dead one
		start := time.Now()
		rest := others(trio, old.id)
		next := w.leader(rest...)
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("failover took %v", took)
		}
		_, _, err := old.Propose(t.Context(), []byte("from the past"))
		if !errors.Is(err, ErrNotLeader) && !errors.Is(err, ErrUnknownOutcome) {
			t.Fatalf("propose on the node that was cut off: %v", err)
		}
		w.stop(old.id)
		w.net.isolate(old.id, false)

		w.propose(next, numbered("between", 50)...)
		check(t, next.Snapshot())
		last := w.propose(next, numbered("after", 3)...)
		if first, err := next.log.FirstIndex(); err != nil || first < 50 {
			t.Fatalf("the log starts at %d, so that the restarted node would not need the snapshot (%v)", first, err)
		}

		w.start(old.id)
		w.caughtUp(last, trio...)
		want := slices.Concat(numbered("before", 20), numbered("between", 50), numbered("after", 3))
		for _, id := range trio {
			if got := w.nodes[id].sm.commands(); !slices.Equal(got, want) {
				t.Fatalf("%s: state %v", id, got)
			}
		}
	})
}

func TestProposalsDuringFailoverAreNeverLostOrWronglyRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.found(trio...)
		w.start(trio...)
		defer w.stopAll()
		old := w.leader(trio...)

		var (
			mu            sync.Mutex
			acked, maybe  = map[string]bool{}, map[string]bool{}
			never         = map[string]bool{}
			wg            sync.WaitGroup
			cut           = make(chan struct{})
			ctx, cancel   = context.WithTimeout(t.Context(), 10*time.Second)
			record        = func(m map[string]bool, c string) { mu.Lock(); defer mu.Unlock(); m[c] = true }
			proposeAndLog = func(c string) {
				_, _, err := old.Propose(ctx, []byte(c))
				switch {
				case err == nil:
					record(acked, c)
				case errors.Is(err, ErrUnknownOutcome):
					record(maybe, c)
				default:
					record(never, c)
				}
			}
		)
		defer cancel()
		for i, c := range numbered("c", 300) {
			wg.Go(func() {
				if i >= 100 {
					<-cut
				}
				proposeAndLog(c)
			})
		}
		synctest.Wait()
		w.net.isolate(old.id, true)
		close(cut)
		wg.Wait()
		w.net.isolate(old.id, false)

		next, index := w.readAnywhere(trio...)
		w.caughtUp(index, trio...)
		applied := map[string]bool{}
		for _, c := range next.sm.commands() {
			if applied[c] {
				t.Errorf("%s was applied twice", c)
			}
			applied[c] = true
		}
		for c := range acked {
			if !applied[c] {
				t.Errorf("%s was acknowledged and is lost", c)
			}
		}
		for c := range never {
			if applied[c] {
				t.Errorf("%s was refused and is applied", c)
			}
		}
		if len(acked) == 0 || len(maybe)+len(never) == 0 {
			t.Errorf("the cut came too early or too late: %d acknowledged, %d unknown, %d refused", len(acked), len(maybe), len(never))
		}
	})
}

func TestShutdownHandsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.found(trio...)
		w.start(trio...)
		defer w.stopAll()
		old := w.leader(trio...)
		w.propose(old, "a")
		term := old.Status().Term
		start := time.Now()
		w.stop(old.id)
		next := w.leader(others(trio, old.id)...)
		if took := time.Since(start); took > 900*time.Millisecond {
			t.Errorf("handing over took %v, as long as an election after a crash", took)
		}
		now, _ := next.Leadership()
		if now.Term != term+1 {
			t.Errorf("term %d after term %d", now.Term, term)
		}
		w.propose(next, "b")
	})
}

func TestLeadershipEndsAtTheLeaderThatIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.found(trio...)
		w.start(trio...)
		defer w.stopAll()
		old := w.leader(trio...)
		was, changed := old.Leadership()
		w.net.isolate(old.id, true)
		select {
		case <-changed:
		case <-time.After(2 * time.Second):
			t.Fatal("still the leader after 2 s without a majority")
		}
		if now, _ := old.Leadership(); now.Leader {
			t.Fatalf("leadership %+v", now)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := old.ReadBarrier(ctx); err == nil {
			t.Fatal("a node without a majority confirmed a read")
		}
		next := w.leader(others(trio, old.id)...)
		if now, _ := next.Leadership(); now.Term <= was.Term {
			t.Fatalf("term %d after %d", now.Term, was.Term)
		}
		<-time.After(300 * time.Millisecond) // a few heartbeats, to find out who answers
		for _, n := range next.Status().Nodes {
			if lost := n.LastContact > 0; lost != (n.ID == old.id) {
				t.Errorf("%s: last contact %v ago", n.ID, n.LastContact)
			}
		}
	})
}

// Between losing the majority and noticing it, a leader must not confirm reads from what it knows.
func TestReadsAskTheMajority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.found(trio...)
		w.start(trio...)
		defer w.stopAll()
		old := w.leader(trio...)
		w.propose(old, "a")
		w.net.isolate(old.id, true)
		synctest.Wait() // heartbeats that are under way have failed
		if _, isLeader := old.Leader(); !isLeader {
			t.Fatal("the node noticed at once, so that this test proves nothing")
		}
		if _, err := old.ReadBarrier(t.Context()); !errors.Is(err, ErrNotLeader) {
			t.Fatalf("a read without a majority: %v", err)
		}
	})
}

func TestLeaderThatRefusesDoesNotNameItself(t *testing.T) {
	oneNode(t, Tuning{}, func(w *world, n *node) {
		if hint := n.notLeader(); *hint != (NotLeaderError{}) {
			w.t.Errorf("whoever asks is sent in a circle: %+v", hint)
		}
	})
}

func TestLogTimeNeverGoesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		// Each node's clock is an hour behind that of the node before.
		for i, id := range trio {
			w.wall[id] = func() time.Time { return time.Now().Add(-time.Duration(i) * time.Hour) }
		}
		w.found(trio...)
		w.start(trio...)
		defer w.stopAll()
		var last uint64
		for range 6 {
			n := w.leader(trio...)
			w.propose(n, "x")
			check(t, n.Snapshot())
			last = w.propose(n, "y")
			if err := n.raft.LeadershipTransfer().Error(); err != nil {
				t.Log(err) // a transfer that does not come off takes nothing away from the test
			}
			<-time.After(time.Second) // the old leader notices
		}
		w.caughtUp(last, trio...)
		rows := w.nodes[trio[0]].sm.all()
		if len(rows) != 12 {
			t.Fatalf("%d rows", len(rows))
		}
		for i := 1; i < len(rows); i++ {
			if rows[i].Time.Before(rows[i-1].Time) {
				t.Errorf("row %d: %v after %v", i, rows[i].Time, rows[i-1].Time)
			}
		}
		w.stop(trio[2])
		w.start(trio[2])
		w.caughtUp(last, trio[2])
		if !slices.Equal(w.nodes[trio[2]].sm.all(), rows) {
			t.Error("times differ after a restart")
		}
	})
}
