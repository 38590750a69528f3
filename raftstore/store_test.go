package raftstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

func TestProposeLimitsAndErrors(t *testing.T) {
	oneNode(t, Tuning{}, func(w *world, n *node) {
		t := w.t
		_, _, err := n.Propose(t.Context(), make([]byte, MaxCommand+1))
		wantError(t, err, ErrTooLarge)
		_, _, err = n.Propose(t.Context(), make([]byte, MaxCommand))
		check(t, err)
		_, _, err = n.Propose(t.Context(), nil)
		check(t, err)

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, _, err = n.Propose(ctx, []byte("x"))
		if err != nil {
			wantError(t, err, context.Canceled)
		}
		check(t, n.Snapshot())
		check(t, n.Snapshot()) // nothing new is no error

		check(t, n.Shutdown(t.Context()))
		check(t, n.Shutdown(t.Context()))
		_, _, err = n.Propose(t.Context(), []byte("x"))
		wantError(t, err, ErrClosed)
		if errors.Is(err, ErrUnknownOutcome) {
			t.Error("a refused command counts as unknown")
		}
		_, err = n.ReadBarrier(t.Context())
		wantError(t, err, ErrClosed)
		wantError(t, n.WaitApplied(t.Context(), 1<<40), ErrClosed)
		wantError(t, n.Snapshot(), ErrClosed)
		<-n.Done()
		check(t, n.Err())
		if now, _ := n.Leadership(); now.Leader {
			t.Error("a node that was shut down announces itself as the leader")
		}
	})
}

// gate holds the state machine back until it is opened.
func gate(n *node) (open func()) {
	hold := make(chan struct{})
	n.sm.mu.Lock()
	n.sm.fault = func(Meta, []byte) error { <-hold; return nil }
	n.sm.mu.Unlock()
	return sync.OnceFunc(func() { close(hold) })
}

func TestCommandsShareEntries(t *testing.T) {
	oneNode(t, Tuning{InFlight: 1}, func(w *world, n *node) {
		t := w.t
		open := gate(n)
		var wg sync.WaitGroup
		indexes, results := make([]uint64, 700), make([]any, 700)
		for i := range indexes {
			wg.Go(func() {
				var err error
				results[i], indexes[i], err = n.Propose(t.Context(), fmt.Appendf(nil, "c-%d", i))
				check(t, err)
			})
			if i == 0 {
				synctest.Wait() // the first one is in flight, the others queue up behind it
			}
		}
		synctest.Wait()
		open()
		wg.Wait()
		// 1 + 256 + 256 + 187
		if st := n.Status(); st.Entries != 4 || st.Commands != 700 {
			t.Errorf("%d commands in %d entries", st.Commands, st.Entries)
		}
		perIndex := map[uint64]int{}
		for _, index := range indexes {
			perIndex[index]++
		}
		rows := n.sm.all()
		for _, r := range rows {
			perIndex[r.Index]--
		}
		for i, result := range results {
			if row := rows[result.(int)-1]; row.Command != fmt.Sprintf("c-%d", i) || row.Index != indexes[i] {
				t.Errorf("command %d was told the result and index of %+v", i, row)
			}
		}
		for index, left := range perIndex {
			if left != 0 {
				t.Errorf("entry %d: %d commands were told this index and are not in it", index, left)
			}
		}
	})
}

func TestEntriesAreBoundedInBytes(t *testing.T) {
	oneNode(t, Tuning{InFlight: 1}, func(w *world, n *node) {
		t := w.t
		open := gate(n)
		var wg sync.WaitGroup
		propose := func(size int) {
			wg.Go(func() {
				_, _, err := n.Propose(t.Context(), make([]byte, size))
				check(t, err)
			})
			synctest.Wait()
		}
		// The first one is in flight alone; then 512 KiB fill an entry, one byte more does not fit, and what is larger than an
		// entry goes alone.
		for _, size := range []int{1, 256 << 10, 256 << 10, 1, MaxCommand, 2} {
			propose(size)
		}
		open()
		wg.Wait()
		perIndex := map[uint64][]int{}
		var order []uint64
		for _, r := range n.sm.all() {
			if perIndex[r.Index] == nil {
				order = append(order, r.Index)
			}
			perIndex[r.Index] = append(perIndex[r.Index], len(r.Command))
		}
		var got []string
		for _, index := range order {
			got = append(got, fmt.Sprint(perIndex[index]))
		}
		if want := "[1] [262144 262144] [1] [1048576] [2]"; strings.Join(got, " ") != want {
			t.Errorf("entries %v, want %s", got, want)
		}
	})
}

func TestProposersMayStopWaiting(t *testing.T) {
	oneNode(t, Tuning{InFlight: 1, QueueLength: 1}, func(w *world, n *node) {
		t := w.t
		open := gate(n)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		errs := make([]error, 3)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { _, _, errs[i] = n.Propose(ctx, fmt.Appendf(nil, "c-%d", i)) })
			synctest.Wait() // 0 is in flight, 1 fills the queue, 2 waits for the queue
		}
		wg.Wait()
		wantError(t, errs[0], ErrUnknownOutcome)
		for i, err := range errs {
			wantError(t, err, context.DeadlineExceeded)
			if i > 0 && errors.Is(err, ErrUnknownOutcome) {
				t.Errorf("proposal %d never left the queue, and its outcome is said to be unknown", i)
			}
		}
		open()
		w.propose(n, "last")
		if got := n.sm.commands(); len(got) != 2 || got[0] != "c-0" || got[1] != "last" {
			t.Errorf("state %v", got)
		}
	})
}

func TestReadersShareConfirmations(t *testing.T) {
	oneNode(t, Tuning{}, func(w *world, n *node) {
		t := w.t
		index := w.propose(n, "a")
		var wg sync.WaitGroup
		for range 2 * maxReadWaiters {
			wg.Go(func() {
				at, err := n.ReadBarrier(t.Context())
				check(t, err)
				if at < index {
					t.Errorf("read at %d after a command at %d", at, index)
				}
			})
		}
		wg.Wait()
		last := n.raft.LastIndex()
		if last > index+1 {
			t.Errorf("reads wrote %d entries", last-index)
		}
	})
}

func TestReadBarrierWaitsForTheStateMachine(t *testing.T) {
	oneNode(t, Tuning{}, func(w *world, n *node) {
		t := w.t
		open := gate(n)
		var wg sync.WaitGroup
		wg.Go(func() { w.propose(n, "slow") })
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := n.ReadBarrier(ctx)
		wantError(t, err, context.DeadlineExceeded)
		open()
		wg.Wait()
		_, err = n.ReadBarrier(t.Context())
		check(t, err)
	})
}

func TestStateMachineThatRefusesStopsTheNode(t *testing.T) {
	oneNode(t, Tuning{}, func(w *world, n *node) {
		t := w.t
		unknown := errors.New("unknown command 77")
		n.sm.mu.Lock()
		n.sm.fault = func(_ Meta, c []byte) error {
			if bytes.Equal(c, []byte("77")) {
				return unknown
			}
			return nil
		}
		n.sm.mu.Unlock()
		w.propose(n, "1")
		_, _, err := n.Propose(t.Context(), []byte("77"))
		wantError(t, err, ErrUnknownOutcome)
		wantError(t, err, unknown)
		<-n.Done()
		wantError(t, n.Err(), unknown)
		wantError(t, n.Err(), ErrStateMachine)
		_, _, err = n.Propose(t.Context(), []byte("2"))
		wantError(t, err, ErrClosed)
		if err := n.Snapshot(); err == nil {
			t.Error("a stopped node took a snapshot")
		}
	})
}

// A damaged entry that gets past the seal, say in memory on the leader, is found by the entry's own checksum.
func TestDamagedEntryStopsTheNode(t *testing.T) {
	oneNode(t, Tuning{}, func(w *world, n *node) {
		t := w.t
		b := appendEntry(nil, &entry{commands: [][]byte{[]byte("a")}})
		b[len(b)-1] ^= 1
		f := n.raft.Apply(b, 0)
		check(t, f.Error())
		<-n.Done()
		var corrupt *CorruptError
		if !errors.As(n.Err(), &corrupt) || corrupt.Index != f.Index() {
			t.Fatalf("error %v, want one about entry %d", n.Err(), f.Index())
		}
		if !strings.Contains(n.Err().Error(), "join it again") {
			t.Errorf("%q does not say what to do", n.Err())
		}
	})
}

func TestFailedWriteStopsTheNode(t *testing.T) {
	oneNode(t, Tuning{}, func(w *world, n *node) {
		t := w.t
		w.propose(n, "a")
		check(t, n.log.bolt.Close()) // every write fails from here on
		_, _, err := n.Propose(t.Context(), []byte("b"))
		wantError(t, err, ErrUnknownOutcome)
		<-n.Done()
		wantError(t, n.Err(), ErrStorage)
		if !strings.Contains(n.Err().Error(), "append to the log") {
			t.Errorf("the first error is another one: %v", n.Err())
		}
		wantError(t, n.Shutdown(t.Context()), n.shutdownErr)
		delete(w.nodes, "core-1")
	})
}

// Raft would panic when it cannot store its term; see sealedLog.
func TestFailedTermWriteEndsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.found(trio...)
		w.start(trio[0], trio[1])
		defer w.stopAll()
		leader := w.leader(trio[0], trio[1])
		follower := w.nodes[others(trio[:2], leader.id)[0]]
		check(t, follower.log.bolt.Close())
		w.net.isolate(leader.id, true) // the follower will stand for election
		w.start(trio[2])
		select {
		case <-follower.Done():
		case <-time.After(20 * time.Second):
			t.Fatal("the node goes on without a disk")
		}
		wantError(t, follower.Err(), ErrStorage)
		if err := follower.Shutdown(t.Context()); err != nil && !strings.Contains(err.Error(), "close the log") {
			t.Error(err)
		}
		delete(w.nodes, follower.id)
	})
}

// A committed entry that cannot be read back makes raft panic as well.
func TestUnreadableCommittedEntryEndsInOrder(t *testing.T) {
	w := newWorld(t)
	w.found("core-1")
	w.start("core-1")
	w.propose(w.leader("core-1"), "a", "b")
	w.stop("core-1")

	// Damage that comes after the check at start: the row of "b" loses its seal while raft waits for its election.
	w.start("core-1")
	n := w.nodes["core-1"]
	var row raft.Log
	for index := n.raft.LastIndex(); ; index-- {
		check(t, n.log.bolt.GetLog(index, &row))
		if row.Type == raft.LogCommand {
			break
		}
	}
	row.Extensions = nil
	check(t, n.log.bolt.StoreLog(&row))
	select {
	case <-n.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("the node goes on")
	}
	var corrupt *CorruptError
	if !errors.As(n.Err(), &corrupt) || corrupt.Index != row.Index {
		t.Errorf("error %v, want one about entry %d", n.Err(), row.Index)
	}
	check(t, n.Shutdown(t.Context()))
	if got := n.sm.commands(); len(got) > 1 {
		t.Errorf("applied %v", got)
	}
}

func TestShutdownDoesNotWaitForEver(t *testing.T) {
	oneNode(t, Tuning{}, func(w *world, n *node) {
		t := w.t
		open := gate(n)
		outcome := make(chan error, 1)
		go func() { _, _, err := n.Propose(context.Background(), []byte("slow")); outcome <- err }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		start := time.Now()
		wantError(t, n.Shutdown(ctx), errBusy)
		if took := time.Since(start); took != 2*time.Second+hardStop {
			t.Errorf("took %v", took)
		}
		wantError(t, <-outcome, ErrUnknownOutcome)
		open()
		delete(w.nodes, "core-1")
		synctest.Wait()
		close(n.pumpStop)
		check(t, n.log.Close())
	})
}

func TestOpenRefusesBadConfigurations(t *testing.T) {
	w := newWorld(t)
	good := w.config("core-1")
	for name, spoil := range map[string]func(*Config){
		"no directory":    func(c *Config) { c.Dir = "" },
		"no id":           func(c *Config) { c.NodeID = "" },
		"no address":      func(c *Config) { c.Advertise = "" },
		"no listener":     func(c *Config) { c.Listener = nil },
		"no dialler":      func(c *Config) { c.Dial = nil },
		"no server TLS":   func(c *Config) { c.ServerTLS = nil },
		"no client certs": func(c *Config) { c.ServerTLS = c.ServerTLS.Clone(); c.ServerTLS.ClientAuth = 0 },
		"no client TLS":   func(c *Config) { c.ClientTLS = nil },
		"too many":        func(c *Config) { c.InFlight = maxInFlight + 1 },
		"too hasty":       func(c *Config) { c.HeartbeatTimeout = time.Millisecond },
		"no time to vote": func(c *Config) { c.ElectionTimeout = time.Millisecond },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good
			spoil(&cfg)
			_, err := Open(cfg, &ledger{})
			wantError(t, err, ErrConfig)
		})
	}
}

func TestErrorsName(t *testing.T) {
	if got := (&NotLeaderError{}).Error(); !strings.Contains(got, "try again") {
		t.Error(got)
	}
	if got := (&NotLeaderError{LeaderID: "core-2", LeaderAddr: "10.0.0.2:7"}).Error(); !strings.Contains(got, "core-2 at 10.0.0.2:7") {
		t.Error(got)
	}
}
