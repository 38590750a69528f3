package raftstore

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Two of three nodes are lost for good; the third one goes on alone with all that it had, and takes new ones in.
func TestRecoverAfterLosingTheMajority(t *testing.T) {
	for name, tune := range map[string]Tuning{"from the log": {}, "from a snapshot and the log": manual} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.tune = tune
				leader := w.trio()
				defer w.stopAll()
				left := others(trio, leader.id)[0]
				w.propose(leader, numbered("a", 40)...)
				if tune == manual {
					check(t, w.nodes[left].Snapshot())
				}
				w.caughtUp(w.propose(leader, numbered("b", 40)...), trio...)
				want := w.nodes[left].sm.all()
				for _, id := range trio {
					w.crash(id)
				}
				cfg := w.config(left)
				check(t, Recover(Config{Dir: cfg.Dir, NodeID: left, Advertise: left}, &ledger{}))
				check(t, Recover(Config{Dir: cfg.Dir, NodeID: left, Advertise: left}, &ledger{})) // again does no harm

				w.start(left)
				n := w.leader(left)
				_, err := n.ReadBarrier(t.Context())
				check(t, err)
				if got := n.sm.all(); !slices.Equal(got, want) {
					t.Fatalf("state %v", got)
				}
				if st := n.Status(); len(st.Nodes) != 1 || st.Nodes[0].ID != left || !st.Nodes[0].Voter {
					t.Fatalf("members %+v", st.Nodes)
				}
				last := w.propose(n, "and on")
				if rows := n.sm.all(); rows[len(rows)-1].Index <= want[len(want)-1].Index || rows[len(rows)-1].Time.Before(want[len(want)-1].Time) {
					t.Error("index or time went back")
				}
				w.join["core-4"] = true
				w.start("core-4")
				check(t, n.AddNode(t.Context(), "core-4", "core-4"))
				w.awaitVoters(n, left, "core-4")
				w.caughtUp(last, "core-4")
				if got := w.nodes["core-4"].sm.all(); !slices.Equal(got, n.sm.all()) {
					t.Error("the new node has another state")
				}
				// A lost node that turns up again is sent away, and changes nothing.
				term := n.Status().Term
				w.start(leader.id)
				<-time.After(30 * time.Second)
				wantError(t, w.nodes[leader.id].Err(), ErrRemoved)
				if st := n.Status(); st.Term != term || st.LeaderID == leader.id {
					t.Errorf("it disturbed the others: %+v", st)
				}
			})
		})
	}
}

func TestRecoverRefuses(t *testing.T) {
	w := newWorld(t)
	wantError(t, Recover(Config{Dir: w.dir("core-1"), NodeID: "core-1"}, &ledger{}), ErrConfig)
	cfg := Config{Dir: w.dir("core-1"), NodeID: "core-1", Advertise: "core-1"}
	wantError(t, Recover(cfg, &ledger{}), ErrEmpty)
	w.found("core-1")
	cfg.NodeID = "core-2"
	err := Recover(cfg, &ledger{})
	wantError(t, err, ErrNotMember)
	if !strings.Contains(err.Error(), "core-1") {
		t.Errorf("%q does not say whose directory it is", err)
	}
}

var errUnknown77 = errors.New("unknown command 77")

// What stops a node stops its recovery too: a state that was applied in part must not become the cluster's.
func TestRecoverStopsAtDamage(t *testing.T) {
	oneNode(t, Tuning{}, func(w *world, n *node) {
		t := w.t
		w.propose(n, "a", "77", "b")
		w.stop("core-1")
		cfg := Config{Dir: w.dir("core-1"), NodeID: "core-1", Advertise: "elsewhere"}
		unknown := &ledger{fault: func(_ Meta, c []byte) error {
			if string(c) == "77" {
				return errUnknown77
			}
			return nil
		}}
		err := Recover(cfg, unknown)
		wantError(t, err, errUnknown77)
		wantError(t, err, ErrStateMachine)
		check(t, Recover(cfg, &ledger{}))
		w.start("core-1")
		_, err = w.leader("core-1").ReadBarrier(t.Context())
		check(t, err)
		if got := w.nodes["core-1"].sm.commands(); !slices.Equal(got, []string{"a", "77", "b"}) {
			t.Errorf("state %v", got)
		}
	})
}
