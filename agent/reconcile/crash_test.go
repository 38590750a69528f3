package reconcile

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A scenario is a course of events on a device that runs the old release, unless it says otherwise.
type scenario struct {
	name   string
	fresh  bool // nothing runs before
	set    func(r *rig)
	orders []Task // one after the other, each when the one before has ended
	// of the last order: how it ends, and what runs then
	ends string
	runs wire.Digest
}

func never(time.Duration) bool { return false }

// laterThan is healthy from a time on.
func laterThan(d time.Duration) func(time.Duration) bool {
	return func(since time.Duration) bool { return since >= d }
}

func scenarios() []scenario {
	one := []Task{{Order: 2, Artifact: next}}
	return []scenario{
		{name: "it is healthy", orders: one, ends: "healthy", runs: next},
		{name: "it is healthy after a while", orders: one, ends: "healthy", runs: next, set: func(r *rig) { r.healthy[next] = laterThan(15 * time.Second) }},
		{name: "it is never healthy", orders: one, ends: "rolled_back", runs: old, set: func(r *rig) { r.healthy[next] = never }},
		{name: "it falls ill in its soak", orders: one, ends: "rolled_back", runs: old, set: func(r *rig) {
			r.soak = time.Minute
			r.healthy[next] = func(since time.Duration) bool { return since < 40*time.Second }
		}},
		{name: "it does not start", orders: one, ends: "rolled_back", runs: old, set: func(r *rig) { r.activate[next] = fail(ReasonActivate, "no") }},
		{name: "neither is healthy", orders: one, ends: "failed", runs: old, set: func(r *rig) { r.healthy[next], r.healthy[old] = never, never }},
		{name: "it is refused", orders: one, ends: "failed", runs: old, set: func(r *rig) { refuses(r, ReasonPublisher) }},
		{name: "the first is healthy", fresh: true, orders: []Task{{Order: 1, Artifact: next}}, ends: "healthy", runs: next},
		{name: "the first is not healthy", fresh: true, orders: []Task{{Order: 1, Artifact: next}}, ends: "failed", set: func(r *rig) { r.healthy[next] = never }},
		{name: "removed", orders: []Task{{Order: 2}}, ends: "removed"},
		{name: "nothing is removed", fresh: true, orders: []Task{{Order: 2}}, ends: "removed"},
		{name: "mended", orders: []Task{{Order: 1, Artifact: old}}, ends: "healthy", runs: old, set: func(r *rig) { r.releases[old] = false }},
		{name: "mended, and not healthy", orders: []Task{{Order: 1, Artifact: old}}, ends: "failed", runs: old, set: func(r *rig) { r.releases[old], r.healthy[old] = false, never }},
		{name: "back to what runs", orders: []Task{{Order: 2, Artifact: next}, {Order: 3, Artifact: old}}, ends: "healthy", runs: old, set: func(r *rig) { r.healthy[next] = never }},
		{name: "what failed, again", orders: []Task{{Order: 2, Artifact: next}, {Order: 3, Artifact: old}, {Order: 4, Artifact: next}}, ends: "failed", runs: old, set: func(r *rig) { r.healthy[next] = never }},
		{name: "what failed, another attempt", orders: []Task{{Order: 2, Artifact: next}, {Order: 3, Artifact: next, Attempt: 1}}, ends: "healthy", runs: next, set: func(r *rig) {
			fits := false
			r.healthy[next] = func(time.Duration) bool { return fits || r.tasks.Attempt == 1 }
		}},
	}
}

func refuses(r *rig, reason string) {
	r.stage = func(context.Context, wire.Digest) error { return fail(reason, "refused") }
}

// play has the device go through a scenario; crashes are the steps, counted from the start of each run of the agent, at which it dies.
// It returns how many steps there were after the last crash.
func (s *scenario) play(t *testing.T, crashes ...int) (steps int) {
	r := newRig(t)
	if !s.fresh {
		r.settled()
	}
	if s.set != nil {
		s.set(r)
	}
	for i, task := range s.orders {
		began := len(r.said)
		r.forget()
		r.tasks = &task
		last := i == len(s.orders)-1
		if last {
			for _, c := range crashes {
				r.step, r.crash = 0, c
				r.run(time.Hour / 2)
			}
		}
		r.step, r.crash, r.steps = 0, 0, nil
		if !r.run(time.Hour / 2) {
			t.Fatalf("%s: died by itself", s.name)
		}
		var m Memory
		if err := wire.Unmarshal(r.memory, &m); err != nil {
			t.Fatal(err)
		}
		finals := 0
		for _, st := range r.said[began:] {
			if st.Order != task.Order || st.Artifact != task.Artifact || st.Attempt != task.Attempt {
				t.Errorf("%s %v: order %d, stated %+v", s.name, crashes, task.Order, st)
			}
			if st.State.Final() {
				finals++
			}
		}
		if finals != 1 || !r.said[len(r.said)-1].State.Final() {
			t.Errorf("%s %v: order %d ended %d times: %q", s.name, crashes, task.Order, finals, r.states())
		}
		if !m.Phase.atRest() || m.Phase.String() != r.ended() {
			t.Errorf("%s %v: at rest as %s, stated %q", s.name, crashes, m.Phase.String(), r.states())
		}
		if last && (r.ended() != s.ends || r.current != s.runs || !s.runs.IsZero() && !r.releases[s.runs]) {
			t.Errorf("%s %v: %q, current %s, want %s on %s", s.name, crashes, r.states(), r.current.Short(), s.ends, s.runs.Short())
		}
		if st := r.said[len(r.said)-1]; st.State != seal.SlotRemoved && st.Running != r.current {
			t.Errorf("%s %v: stated that %s runs, %s does", s.name, crashes, st.Running.Short(), r.current.Short())
		}
	}
	return r.step
}

// Wherever the agent dies, once or twice, it ends on the new release or on the one before, and states the end of each order exactly once.
func TestCrashes(t *testing.T) {
	every := 11 // of the second crashes one is tried; HOLDFAST_KILLS: all
	if os.Getenv("HOLDFAST_KILLS") != "" {
		every = 1
	}
	runs := 0
	for _, s := range scenarios() {
		bubble(t, func(t *testing.T) {
			steps := s.play(t)
			for i := 1; i <= steps && !t.Failed(); i++ {
				runs++
				more := s.play(t, i)
				for j := 1 + i%every; j <= more && !t.Failed(); j += every {
					runs++
					s.play(t, i, j)
				}
			}
		})
	}
	t.Logf("%d runs of %d scenarios", runs, len(scenarios()))
}
