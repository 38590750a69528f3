package raftstore

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestNodesHaveTheSameCheckpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.tune = manual
		leader := w.trio()
		defer w.stopAll()
		late := others(trio, leader.id)[0]
		w.stop(late)
		w.propose(leader, numbered("a", 3*checkpointEvery)...)
		check(t, leader.Snapshot())
		w.start(late) // gets a snapshot
		w.caughtUp(w.propose(leader, numbered("b", 3*checkpointEvery)...), trio...)
		want := leader.applier.checkpoints.list()
		if len(want) != 6 {
			t.Fatalf("checkpoints %v", want)
		}
		for i, p := range want {
			if p.Index/checkpointEvery != uint64(i+1) {
				t.Errorf("checkpoint %d is at %d", i, p.Index)
			}
		}
		for _, id := range trio {
			got := w.nodes[id].applier.checkpoints.list()
			if id == late {
				want := want[len(want)-len(got):]
				if len(got) < 2 || !slices.Equal(got, want) {
					t.Errorf("%s, which took a snapshot in: %v", id, got)
				}
			} else if !slices.Equal(got, want) {
				t.Errorf("%s: %v", id, got)
			}
			if st := w.nodes[id].Status(); st.Checkpoint != want[5] {
				t.Errorf("%s: status shows %v", id, st.Checkpoint)
			}
		}
		<-time.After(2 * vitalsEvery)
		for _, id := range trio {
			check(t, w.nodes[id].Err())
			for _, m := range w.nodes[id].Status().Nodes {
				if m.LastIndex != w.nodes[id].Status().LastIndex {
					t.Errorf("%s does not know how far %s is: %+v", id, m.ID, m)
				}
			}
		}
	})
}

func TestADivergingNodeStops(t *testing.T) {
	for name, which := range map[string]func(leader string) string{
		"follower": func(leader string) string { return others(trio, leader)[0] },
		"leader":   func(leader string) string { return leader },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				leader := w.trio()
				defer w.stopAll()
				wrong := which(leader.id)
				sm := w.nodes[wrong].sm
				sm.mu.Lock()
				sm.bends = 100
				sm.mu.Unlock()
				w.propose(leader, numbered("a", checkpointEvery)...)
				err := w.wantEnd(wrong, ErrDiverged)
				if !strings.Contains(err.Error(), "join it again") {
					t.Errorf("%q does not say what to do", err)
				}
				if _, _, err := w.nodes[wrong].Propose(t.Context(), []byte("x")); err == nil {
					t.Error("it still takes commands")
				}
				if err := w.nodes[wrong].Snapshot(); err == nil {
					t.Error("it kept its wrong state")
				}
				w.stop(wrong)
				rest := others(trio, wrong)
				next := w.leader(rest...)
				w.caughtUp(w.propose(next, numbered("b", 2*checkpointEvery)...), rest...)
				<-time.After(3 * vitalsEvery)
				for _, id := range rest {
					check(t, w.nodes[id].Err())
				}
			})
		})
	}
}

// Of two states nobody can tell which one is right.
func TestWithoutAMajorityNobodyStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		duo := trio[:2]
		w.bends[duo[0]] = 100
		w.found(duo...)
		w.start(duo...)
		defer w.stopAll()
		w.propose(w.leader(duo...), numbered("a", 2*checkpointEvery)...)
		<-time.After(5 * vitalsEvery)
		for _, id := range duo {
			check(t, w.nodes[id].Err())
		}
	})
}

func TestCompareStates(t *testing.T) {
	points := func(from, to uint64, h byte) (out []Checkpoint) {
		for i := from; i <= to; i++ {
			out = append(out, Checkpoint{Index: i * 256, Hash: [32]byte{h}})
		}
		return out
	}
	type voters = map[string][]Checkpoint
	for name, c := range map[string]struct {
		own    []Checkpoint
		others voters
		voters int
		want   verdict
	}{
		"nobody answers":             {points(1, 3, 1), voters{}, 3, verdict{}},
		"all agree":                  {points(1, 3, 1), voters{"b": points(2, 4, 1), "c": points(1, 2, 1)}, 3, verdict{}},
		"nothing in common":          {points(1, 3, 1), voters{"b": points(4, 9, 2), "c": points(4, 9, 2)}, 3, verdict{}},
		"one differs":                {points(1, 3, 1), voters{"b": points(1, 3, 2), "c": points(1, 3, 1)}, 3, verdict{index: 768, differing: 1}},
		"all differ":                 {points(1, 3, 1), voters{"b": points(1, 3, 2), "c": points(1, 3, 2)}, 3, verdict{index: 768, differing: 2, diverged: true}},
		"all differ in all ways":     {points(1, 3, 1), voters{"b": points(1, 3, 2), "c": points(1, 3, 3)}, 3, verdict{index: 768, differing: 2}},
		"the majority at an old one": {points(1, 3, 1), voters{"b": points(1, 3, 2), "c": points(1, 2, 2)}, 3, verdict{index: 512, differing: 2, diverged: true}},
		"the other of two":           {points(1, 3, 1), voters{"b": points(1, 3, 2)}, 2, verdict{index: 768, differing: 1}},
		"two of five":                {points(1, 1, 1), voters{"b": points(1, 1, 2), "c": points(1, 1, 2), "d": points(1, 1, 1)}, 5, verdict{index: 256, differing: 2}},
		"three of five":              {points(1, 1, 1), voters{"b": points(1, 1, 2), "c": points(1, 1, 2), "d": points(1, 1, 2)}, 5, verdict{index: 256, differing: 3, diverged: true}},
		"a node without a vote":      {points(1, 1, 1), voters{"b": points(1, 1, 2)}, 1, verdict{index: 256, differing: 1, diverged: true}},
	} {
		if got := compareStates(c.own, c.others, c.voters); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func TestALeaderWithAWrongClockHandsOver(t *testing.T) {
	for _, skew := range []time.Duration{-time.Hour, 6 * time.Minute, 200 * 365 * 24 * time.Hour} {
		t.Run(skew.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.wall[trio[0]] = func() time.Time { return time.Now().Add(skew) }
				w.trio()
				defer w.stopAll()
				check(t, w.nodes[trio[1]].TransferLeadership(t.Context(), trio[0]))
				<-time.After(2*vitalsEvery + 2*time.Second)
				next := w.leader(trio[1:]...)
				<-time.After(time.Minute)
				if now, _ := next.Leadership(); !now.Leader {
					t.Error("leadership goes from one to the other")
				}
				w.propose(w.nodes[trio[0]], "x")
			})
		})
	}
}

func TestALeaderWithAClockThatIsRightEnoughStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.wall[trio[0]] = func() time.Time { return time.Now().Add(maxSkew - time.Second) }
		w.trio()
		defer w.stopAll()
		check(t, w.nodes[trio[1]].TransferLeadership(t.Context(), trio[0]))
		leader := w.leader(trio[0])
		<-time.After(time.Minute)
		if now, _ := leader.Leadership(); !now.Leader {
			t.Error("it handed over")
		}
	})
}

func TestSuccessor(t *testing.T) {
	const m = time.Minute
	type clocks = map[string]time.Duration
	for name, c := range map[string]struct {
		ahead  clocks
		voters int
		next   string
		due    bool
	}{
		"alone":                {clocks{"a": 0}, 1, "", false},
		"no majority":          {clocks{"a": 0}, 3, "", false},
		"right":                {clocks{"a": 0, "b": 5 * m, "c": -m}, 3, "", false},
		"behind":               {clocks{"a": 0, "b": 9 * m, "c": 8 * m}, 3, "c", true},
		"ahead":                {clocks{"a": 0, "b": -9 * m, "c": -8 * m}, 3, "c", true},
		"another one is wrong": {clocks{"a": 0, "b": 90 * m, "c": m}, 3, "", false},
		"one of two is wrong":  {clocks{"a": 0, "b": 90 * m}, 2, "", true},
		"nearest to the rest":  {clocks{"a": 0, "b": 60 * m, "c": 61 * m, "d": 62 * m, "e": 90 * m}, 5, "c", true},
		"a minority answers":   {clocks{"a": 0, "b": 60 * m}, 5, "", false},
	} {
		next, _, due := successor("a", c.ahead, c.voters)
		if next != c.next || due != c.due {
			t.Errorf("%s: next %q, due %v", name, next, due)
		}
	}
}

func TestClocksCenturiesApart(t *testing.T) {
	if d := clockDistance(maxLogTime); d < 29*365*24*time.Hour {
		t.Errorf("%v", d)
	}
	if d := clockDistance(-maxLogTime); d > -29*365*24*time.Hour {
		t.Errorf("%v", d)
	}
	if d := clockDistance(-1500); d != -1500*time.Millisecond {
		t.Errorf("%v", d)
	}
}

func TestVitals(t *testing.T) {
	v := vitals{wallMS: maxLogTime, last: 9, applied: 8}
	for i := range uint64(keepCheckpoints) {
		v.checkpoints = append(v.checkpoints, Checkpoint{Index: i, Hash: [32]byte{byte(i)}})
	}
	b := v.encode()
	got, err := decodeVitals(b)
	check(t, err)
	if fmt.Sprint(got) != fmt.Sprint(v) {
		t.Errorf("%v, want %v", got, v)
	}
	for n := range b {
		if _, err := decodeVitals(b[:n]); (err == nil) != (n >= vitalsFixed && (n-vitalsFixed)%checkpointSize == 0) {
			t.Errorf("the first %d bytes: %v", n, err)
		}
	}
	if _, err := decodeVitals(append(b, make([]byte, checkpointSize)...)); err == nil {
		t.Error("too many checkpoints were accepted")
	}
	b[0] = 0xff
	_, err = decodeVitals(b)
	wantError(t, err, errAnswer)
}

func FuzzDecodeVitals(f *testing.F) {
	v := vitals{wallMS: 1, last: 2, applied: 3, checkpoints: []Checkpoint{{Index: 4}}}
	f.Add(v.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := decodeVitals(b); err == nil && string(v.encode()) != string(b) {
			t.Fatalf("%x became %x", b, v.encode())
		}
	})
}
