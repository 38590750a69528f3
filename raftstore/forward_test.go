package raftstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestEveryNodeProposes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		leader := w.trio()
		defer w.stopAll()
		var (
			mu      sync.Mutex
			results = map[string]any{}
			indexes = map[string]uint64{}
			wg      sync.WaitGroup
		)
		for _, id := range trio {
			for _, c := range numbered(id, 300) {
				wg.Go(func() {
					result, index, err := w.nodes[id].Propose(t.Context(), []byte(c))
					check(t, err)
					mu.Lock()
					defer mu.Unlock()
					results[c], indexes[c] = result, index
				})
			}
		}
		wg.Wait()
		rows := leader.sm.all()
		if len(rows) != 900 {
			t.Fatalf("%d commands applied", len(rows))
		}
		for i, r := range rows {
			if results[r.Command] != i+1 || indexes[r.Command] != r.Index {
				t.Fatalf("%s is row %d of entry %d, and its proposer was told %v of entry %d",
					r.Command, i+1, r.Index, results[r.Command], indexes[r.Command])
			}
		}
		for _, id := range trio {
			st := w.nodes[id].Status()
			if forwards := st.Forwarded > 0; forwards == (id == leader.id) {
				t.Errorf("%s forwarded %d entries, the leader is %s", id, st.Forwarded, leader.id)
			}
			if st.Commands != 300 || st.Entries > 100 {
				t.Errorf("%s: %d commands in %d entries", id, st.Commands, st.Entries)
			}
			if n := len(w.nodes[id].batcher.wait.entries); n != 0 {
				t.Errorf("%s: %d entries are still waited for", id, n)
			}
		}
	})
}

// A proposer is told what its own node's state machine answered, so its own node has applied the command.
func TestFollowersKnowWhatTheyProposed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		leader := w.trio()
		defer w.stopAll()
		follower := w.nodes[others(trio, leader.id)[0]]
		for _, c := range numbered("c", 20) {
			start := time.Now()
			w.propose(follower, c)
			if took := time.Since(start); took > 50*time.Millisecond {
				t.Errorf("an idle cluster took %v", took)
			}
			if got := follower.sm.commands(); !slices.Contains(got, c) {
				t.Fatalf("%s was acknowledged and is not applied here", c)
			}
		}
	})
}

// history counts what became of commands, by what their proposers were told.
type history struct {
	mu                   sync.Mutex
	acked, maybe, denied map[string]bool
}

func newHistory() *history {
	return &history{acked: map[string]bool{}, maybe: map[string]bool{}, denied: map[string]bool{}}
}

func (h *history) propose(ctx context.Context, s *Store, command string) {
	_, _, err := s.Propose(ctx, []byte(command))
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case err == nil:
		h.acked[command] = true
	case errors.Is(err, ErrUnknownOutcome):
		h.maybe[command] = true
	default:
		h.denied[command] = true
	}
}

// check compares what the proposers were told with what was applied.
func (h *history) check(t *testing.T, applied []string) {
	t.Helper()
	count := map[string]int{}
	for _, c := range applied {
		count[c]++
	}
	for c, n := range count {
		if n > 1 {
			t.Errorf("%s was applied %d times", c, n)
		}
		if h.denied[c] {
			t.Errorf("%s was refused and is applied", c)
		}
	}
	for c := range h.acked {
		if count[c] == 0 {
			t.Errorf("%s was acknowledged and is lost", c)
		}
	}
	t.Logf("%d acknowledged, %d unknown, %d refused, %d applied", len(h.acked), len(h.maybe), len(h.denied), len(applied))
}

func TestForwardingThroughFaults(t *testing.T) {
	for name, fault := range map[string]func(w *world, leader string){
		"crash":     func(w *world, leader string) { w.crash(leader) },
		"shutdown":  func(w *world, leader string) { w.stop(leader) },
		"partition": func(w *world, leader string) { w.net.isolate(leader, true) },
		"transfer": func(w *world, leader string) {
			check(w.t, w.nodes[others(trio, leader)[0]].TransferLeadership(w.t.Context(), ""))
		},
		"leader sends, and does not hear": func(w *world, leader string) { w.oneWay(leader, true, false) },
		"leader hears, and does not send": func(w *world, leader string) { w.oneWay(leader, false, true) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { forwardThrough(t, fault) })
		})
	}
}

// oneWay lets a host only send, or only hear.
func (w *world) oneWay(host string, sends, hears bool) {
	for _, other := range others(trio, host) {
		w.net.mute(host, other, !sends)
		w.net.mute(other, host, !hears)
	}
}

func forwardThrough(t *testing.T, fault func(w *world, leader string)) {
	w := newWorld(t)
	leader := w.trio().id
	defer w.stopAll()
	h := newHistory()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for _, id := range trio {
		node := w.nodes[id].Store
		for i, c := range numbered(id, 200) {
			wg.Go(func() {
				// A command every few milliseconds from each node, for four seconds: before, during and after the fault.
				if pause(ctx, time.Duration(i)*20*time.Millisecond) {
					h.propose(ctx, node, c)
				}
			})
		}
	}
	<-time.After(time.Second)
	fault(w, leader)
	// A command of the others goes through while the fault lasts, unless it was in the old leader's hands already.
	rest := others(trio, leader)
	during, stop := context.WithTimeout(ctx, 6*time.Second)
	for _, id := range rest {
		for i := 0; ; i++ {
			_, _, err := w.nodes[id].Propose(withTimeout(during, time.Second), fmt.Appendf(nil, "during-%s-%d", id, i))
			if err == nil {
				break
			}
			if during.Err() != nil {
				t.Errorf("%s: a client sees the fault: %v", id, err)
				break
			}
		}
		if _, err := w.nodes[id].ReadBarrier(during); err != nil {
			t.Errorf("%s: a reader sees the fault: %v", id, err)
		}
	}
	stop()
	wg.Wait()
	w.net.isolate(leader, false)
	w.oneWay(leader, true, true)
	if w.nodes[leader] == nil {
		w.start(leader)
	}
	next, index := w.readAnywhere(trio...)
	w.caughtUp(index, trio...)
	h.check(t, next.sm.commands())
	for _, id := range rest {
		for _, c := range numbered(id, 200) {
			if h.denied[c] {
				t.Errorf("%s was refused, although a majority was there all the time", c)
			}
		}
	}
	if len(h.acked) < 400 {
		t.Errorf("only %d commands were acknowledged", len(h.acked))
	}
	for _, id := range trio {
		if !slices.Equal(w.nodes[id].sm.commands(), next.sm.commands()) {
			t.Errorf("%s has another state", id)
		}
	}
}

// withTimeout is for contexts that may live as long as their parent.
func withTimeout(parent context.Context, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(parent, d)
	context.AfterFunc(parent, cancel)
	return ctx
}

func TestReadsOnFollowersSeeWhatWasAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.trio()
		defer w.stopAll()
		for i := range 60 {
			c := fmt.Sprint("c-", i)
			w.propose(w.nodes[trio[i%3]], c)
			for _, id := range trio {
				_, err := w.nodes[id].ReadBarrier(t.Context())
				check(t, err)
				if got := w.nodes[id].sm.commands(); !slices.Contains(got, c) {
					t.Fatalf("%s does not have %s", id, c)
				}
			}
		}
	})
}

// A follower that is cut off must not give a read point from what it knows.
func TestReadsOnAFollowerThatIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		leader := w.trio()
		defer w.stopAll()
		follower := w.nodes[others(trio, leader.id)[0]]
		w.net.isolate(follower.id, true)
		w.propose(leader, "behind its back")
		start := time.Now()
		_, err := follower.ReadBarrier(t.Context())
		wantError(t, err, ErrNotLeader)
		if took := time.Since(start); took != leaderWait {
			t.Errorf("gave up after %v", took)
		}
		_, _, err = follower.Propose(t.Context(), []byte("never"))
		wantError(t, err, ErrNotLeader)
		if errors.Is(err, ErrUnknownOutcome) {
			t.Error("a command that never left is said to be unknown")
		}
		w.net.isolate(follower.id, false)
		_, err = follower.ReadBarrier(t.Context())
		check(t, err)
		if got := follower.sm.commands(); !slices.Equal(got, []string{"behind its back"}) {
			t.Errorf("state %v", got)
		}
	})
}

// A command whose answer is lost is not proposed a second time; the proposer learns from its own log that it is applied.
func TestAnAnswerThatIsLostIsNoRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		leader := w.trio()
		defer w.stopAll()
		follower := w.nodes[others(trio, leader.id)[0]]
		w.propose(follower, "first") // a connection is there
		w.net.mute(leader.id, follower.id, true)
		time.AfterFunc(5*time.Second, func() { w.net.mute(leader.id, follower.id, false) })
		_, index, err := follower.Propose(withTimeout(t.Context(), 30*time.Second), []byte("once"))
		check(t, err)
		w.caughtUp(index, trio...)
		<-time.After(10 * time.Second)
		for _, id := range trio {
			if got := w.nodes[id].sm.commands(); !slices.Equal(got, []string{"first", "once"}) {
				t.Errorf("%s: state %v", id, got)
			}
		}
	})
}

// What was handed to a leader that is lost stays open until the caller's patience ends.
func TestUnknownOutcomesWaitForTheCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		leader := w.trio()
		defer w.stopAll()
		follower := w.nodes[others(trio, leader.id)[0]]
		w.propose(follower, "first") // a connection is there
		rest := others(trio, leader.id)
		// The leader hears the follower and nobody hears the leader, so the command is lost with it.
		w.net.mute(leader.id, rest[0], true)
		w.net.mute(leader.id, rest[1], true)
		ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
		defer cancel()
		start := time.Now()
		_, _, err := follower.Propose(ctx, []byte("lost"))
		wantError(t, err, ErrUnknownOutcome)
		wantError(t, err, context.DeadlineExceeded)
		if took := time.Since(start); took != 8*time.Second {
			t.Errorf("gave up after %v", took)
		}
		if n := len(follower.batcher.wait.entries); n != 0 {
			t.Errorf("%d entries are waited for by nobody", n)
		}
	})
}

// Log time is the leader's clock, whoever proposed.
func TestTheLeaderStampsWhatIsForwarded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for _, id := range trio[1:] {
			w.wall[id] = func() time.Time { return time.Now().Add(time.Hour) }
		}
		w.trio()
		defer w.stopAll()
		for range 5 { // an ahead leader pins log time, so the one with the right clock must lead first
			if id, _ := w.nodes[trio[0]].Leader(); id == trio[0] {
				break
			}
			_ = w.nodes[trio[0]].TransferLeadership(t.Context(), trio[0])
			<-time.After(time.Second)
		}
		w.propose(w.nodes[trio[1]], "x")
		if row := w.nodes[trio[1]].sm.all()[0]; row.Time.After(time.Now()) {
			t.Errorf("log time %v, the leader's clock shows %v", row.Time, time.Now())
		}
	})
}

// What a snapshot from the leader covers was applied elsewhere; whoever waits for its result here is told so at once.
func TestASnapshotAnswersWhoWaitsForWhatItCovers(t *testing.T) {
	a, _, fatal := machine()
	p := &proposal{command: []byte("x"), done: make(chan struct{})}
	if _, taken := a.wait.register([]*proposal{p}); len(taken) != 1 {
		t.Fatal("not registered")
	}
	sealed := seal(t, []byte(`[{"Index":9,"Command":"x"}]`))
	check(t, a.Restore(io.NopCloser(bytes.NewReader(sealed))))
	<-p.done
	wantError(t, p.err, ErrUnknownOutcome)
	check(t, fatal())
}

func TestShutdownAnswersWhatIsForwarded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		leader := w.trio()
		defer w.stopAll()
		follower := w.nodes[others(trio, leader.id)[0]]
		h := newHistory()
		var wg sync.WaitGroup
		for i, c := range numbered("c", 500) {
			wg.Go(func() {
				<-time.After(time.Duration(i) * time.Millisecond)
				h.propose(context.Background(), follower.Store, c)
			})
		}
		<-time.After(250 * time.Millisecond)
		w.stop(follower.id)
		wg.Wait()
		_, err := leader.ReadBarrier(t.Context())
		check(t, err)
		h.check(t, leader.sm.commands())
		if len(h.maybe) > 0 {
			t.Errorf("%d outcomes are unknown after an orderly stop", len(h.maybe))
		}
		if len(h.acked) == 0 || len(h.denied) == 0 {
			t.Error("the stop came too early or too late")
		}
	})
}

func TestNoLeaderMeansNotLeaderInTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.found(trio...)
		w.start(trio[0])
		defer w.stopAll()
		n := w.nodes[trio[0]]
		start := time.Now()
		_, _, err := n.Propose(t.Context(), []byte("x"))
		var hint *NotLeaderError
		if !errors.As(err, &hint) || hint.LeaderID != "" || !strings.Contains(err.Error(), "try again") {
			t.Errorf("propose without a leader: %v", err)
		}
		if took := time.Since(start); took != leaderWait {
			t.Errorf("gave up after %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, _, err = n.Propose(ctx, []byte("x"))
		wantError(t, err, context.DeadlineExceeded)
		wantError(t, n.AddNode(t.Context(), "core-4", "core-4"), ErrNotLeader)
		wantError(t, n.RemoveNode(t.Context(), trio[1]), ErrNotLeader)
		wantError(t, n.TransferLeadership(t.Context(), ""), ErrNotLeader)
	})
}
