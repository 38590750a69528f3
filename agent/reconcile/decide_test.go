package reconcile

import (
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
)

// situations are all combinations of what a slot can remember and of what can be so, in small.
func situations(each func(m Memory, v View)) {
	now := time.Unix(1000, 0)
	ago := func(s int) time.Time { return now.Add(time.Duration(-s) * time.Second) }
	digests := []wire.Digest{{}, old, next, third}
	bools := []bool{false, true}
	runs := []Run{
		{},
		{Done: true},
		{Done: true, Look: now.Add(time.Hour)},
		{Reason: ReasonDrift, Done: true, Look: now.Add(time.Hour)},
		{Reason: ReasonContent, Wait: now.Add(time.Second)},
		{Reason: ReasonManifest, Final: true},
		{Activated: ago(5), Proof: Proof{Start: 10 * time.Second, Soak: 8 * time.Second, Every: time.Second}},
		{Activated: ago(15), Proof: Proof{Start: 10 * time.Second, Soak: 8 * time.Second, Every: time.Second}, Checked: ago(1), Reason: ReasonHealth},
		{Activated: ago(15), Proof: Proof{Start: 10 * time.Second, Soak: 8 * time.Second, Every: time.Second}, Checked: ago(1), Reason: ReasonHealth, Passed: true},
		{Activated: ago(15), Proof: Proof{Start: 10 * time.Second, Soak: 8 * time.Second, Every: time.Second}, Checked: ago(1), Passing: ago(5), Passed: true},
		{Activated: ago(15), Proof: Proof{Start: 10 * time.Second, Soak: 8 * time.Second, Every: time.Second}, Checked: ago(1), Passing: ago(9), Passed: true},
	}
	for phase := Rest; phase <= Repairing; phase++ {
		for _, task := range digests {
			for _, good := range digests[:3] {
				for _, desired := range append([]wire.Digest{{9}}, digests...) {
					for _, running := range digests[:3] {
						for _, run := range runs {
							for bits := range 16 {
								m := Memory{Phase: phase, Task: Task{Order: 1, Artifact: task}, Good: Named{Artifact: good}, Quiet: bits&1 > 0 && task == good}
								if bits&2 > 0 {
									m.Faults = []Fault{{Artifact: next, Reason: ReasonHealth}}
								}
								v := View{Now: now, Running: running, Room: bools[bits>>2&1], Owed: bools[bits>>3&1], Run: run}
								if desired != (wire.Digest{9}) {
									v.Desired = &Task{Order: 2, Artifact: desired}
								}
								each(m, v)
							}
						}
					}
				}
			}
		}
	}
}

// What no decision may do, whatever is so.
func TestDecideAlways(t *testing.T) {
	n := 0
	situations(func(m Memory, v View) {
		n++
		a := Decide(m, v)
		s := a.Step
		bad := ""
		switch {
		case a.Do == Enter && s.Phase == Healthy && (m.Phase != Applying || v.Running != m.Task.Artifact || v.Run.Passing.IsZero() || v.Run.Checked.Sub(v.Run.Passing) < v.Run.Proof.Soak):
			bad = "healthy without proof"
		case a.Do == Enter && s.Phase == RolledBack && (m.Phase != Reverting || v.Running != m.Good.Artifact || v.Run.Passing.IsZero()):
			bad = "rolled back without proof"
		case a.Do == Enter && s.Phase.atRest() && v.Owed && m.Phase.atRest():
			bad = "an end is stated over one that is owed"
		case m.Phase.atRest() && v.Owed && a.Do != Wait && a.Do != Tidy:
			bad = "something begins before the end of what was before is stated"
		case m.Phase.atRest() && !v.Room && a.Do == Enter:
			bad = "something begins without room to state its end"
		case m.Phase.atRest() && a.Do == Enter && s.Phase != Repairing && v.Desired == nil:
			bad = "something begins that nobody ordered"
		case m.Phase.atRest() && m.Phase != Rest && a.Do == Enter && s.Phase != Repairing && v.Desired.same(m.Task):
			bad = "what has ended begins again"
		case a.Do == Enter && (s.Phase == Fetching || s.Phase == Applying) && s.Task != m.Task && len(m.Faults) > 0 && s.Task.Artifact == next:
			bad = "what failed is tried again"
		case a.Do == Switch && m.Phase != Applying && m.Phase != Reverting && m.Phase != Removing:
			bad = "switched outside of a proof"
		case a.Do == Switch && m.Phase == Applying && a.Artifact != m.Task.Artifact || a.Do == Switch && m.Phase == Reverting && a.Artifact != m.Good.Artifact:
			bad = "switched to something else"
		case (a.Do == Fetch || a.Do == Switch || a.Do == Activate || a.Do == Verify) && v.Now.Before(v.Run.Wait):
			bad = "tried again too soon"
		case m.Phase == Applying && v.Run.Final && a.Do != Enter:
			bad = "what failed stays"
		case a.Do == Wait && !a.Until.IsZero() && !a.Until.After(v.Now):
			bad = "waits for what is over"
		case a.Do == Wait && a.Until.IsZero() && !m.Phase.atRest():
			bad = "waits for nothing"
		}
		if bad != "" {
			t.Fatalf("%s: %+v\n%+v\n%+v", bad, a, m, v)
		}
	})
	t.Logf("%d situations", n)
}

// Whether there is a link, and whether a statement was taken, has no part in what is decided on health.
func TestDecideWithoutOutbox(t *testing.T) {
	situations(func(m Memory, v View) {
		if m.Phase != Reverting && (m.Phase != Applying || v.superseded(m.Task)) {
			return
		}
		o := v
		o.Room, o.Owed = !v.Room, !v.Owed
		if a, b := Decide(m, v), Decide(m, o); a != b {
			t.Fatalf("%+v, and with another outbox %+v", a, b)
		}
	})
}
