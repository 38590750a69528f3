package reconcile

import (
	"fmt"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
)

// View is what is so at the moment of a decision, beside what the slot remembers.
type View struct {
	Now     time.Time
	Desired *Task       // nil: the order does not name the slot, or there is none; then it is left as it is
	Running wire.Digest // where current points; zero: nowhere
	Room    bool        // the outbox has room for more than ends
	Owed    bool        // the slot's word is not stated yet
	Said    Place       // the newest status of the slot that was stated
	Run     Run
}

// Run is what this run of the agent has done in the present phase. It is not stored: an agent that starts goes through the phase from its
// beginning, and timers with it.
type Run struct {
	Done   bool // what is fetched, verified or tidied in the phase is
	Reason string
	Detail string    // with Reason: why the newest action failed
	Final  bool      // with Reason: trying again would not help, or was tried enough
	Tries  int       // actions that failed, one after the other
	Wait   time.Time // nothing is tried before

	Proof     Proof     // of the release that has to prove itself
	Activated time.Time // when it was; zero: it is not
	Checked   time.Time // the end of the newest round of checks; zero: none
	Passing   time.Time // the end of the first of the rounds that passed without a break up to now; zero: the newest did not
	Passed    bool      // a round has passed
	Look      time.Time // when to look for drift
}

// Proof is what a release has to do to count as healthy.
type Proof struct {
	Start time.Duration // for so long after the activation checks may fail
	Soak  time.Duration // for so long they must pass without a break
	Every time.Duration // from round to round
}

// A Do says what an action does.
type Do uint8

// What actions do.
const (
	Wait     Do = iota // nothing, until Until or until something changes
	Enter              // take Step
	Fetch              // stage Artifact: release and manifest are verified, what is missing is fetched
	Verify             // read Artifact on the disk
	Switch             // have current point to Artifact
	Activate           // restart what runs from Artifact, and read what it has to prove
	Check              // one round of Artifact's health checks
	Look               // see whether Artifact is on the disk as it was installed
	Tidy               // remove releases that nobody goes back to
)

// An Action is what to do next.
type Action struct {
	Do       Do
	Artifact wire.Digest
	Until    time.Time // with Wait; zero: until something changes
	Step     Step      // with Enter
}

// A Step enters a phase.
type Step struct {
	Phase          Phase
	Task           Task
	Quiet          bool
	Reason, Detail string
}

// roomEvery is how often to look whether what keeps a task from beginning is over.
const roomEvery = 30 * time.Second

// Decide is what a slot is to do next. It is pure.
func Decide(m Memory, v View) Action {
	switch {
	case m.Phase.atRest():
		return atRest(m, v)
	case v.superseded(m.Task) && (m.Phase == Fetching || m.Phase == Verifying || m.Phase == Repairing):
		return begin(m, v) // what is staged runs nowhere
	}
	switch m.Phase {
	case Fetching, Repairing:
		return fetching(m, v)
	case Verifying:
		return verifying(m, v)
	case Applying:
		return applying(m, v)
	case Reverting:
		return reverting(m, v)
	case Removing:
		switch {
		case v.Run.waits(v.Now):
			return until(v.Run.Wait)
		case !v.Running.IsZero():
			return Action{Do: Switch}
		}
		return m.to(Removed, "", "")
	case Rest, Healthy, RolledBack, Failed, Removed:
	}
	return Action{Do: Wait}
}

// superseded tells whether an order wants something else than t.
func (v *View) superseded(t Task) bool { return v.Desired != nil && !v.Desired.same(t) }

func (r *Run) waits(now time.Time) bool { return now.Before(r.Wait) }

func until(t time.Time) Action { return Action{Do: Wait, Until: t} }

// to goes on with the task.
func (m *Memory) to(p Phase, reason, detail string) Action {
	return Action{Do: Enter, Step: Step{Phase: p, Task: m.Task, Quiet: m.Quiet && p == Applying, Reason: reason, Detail: detail}}
}

// atRest begins what is new, and looks after what is there.
func atRest(m Memory, v View) Action {
	switch {
	case !v.Run.Done && m.Phase != Rest:
		return Action{Do: Tidy}
	case v.Owed: // the end of a task is stated before another one begins
		return until(v.Now.Add(roomEvery))
	case v.superseded(m.Task) || m.Phase == Rest && v.Desired != nil:
		if !v.Room {
			return until(v.Now.Add(roomEvery))
		}
		return begin(m, v)
	case m.Phase != Healthy:
		return Action{Do: Wait}
	case v.Run.Reason == ReasonDrift && v.Room:
		return m.to(Repairing, ReasonDrift, v.Run.Detail)
	case v.Now.Before(v.Run.Look):
		return until(v.Run.Look)
	}
	return Action{Do: Look, Artifact: m.Good.Artifact}
}

// begin is the first step of the task that is desired.
func begin(m Memory, v View) Action {
	s := Step{Phase: Fetching, Task: *v.Desired}
	switch f, failed := m.fault(s.Task.Artifact); {
	case s.Task.Artifact.IsZero():
		s.Phase = Removing
	case failed && f.Attempt >= s.Task.Attempt:
		s.Phase, s.Reason = Failed, ReasonRemembered
		s.Detail = fmt.Sprintf("failed here before (%s); not tried again before an operator says so", f.Reason)
	case s.Task.Artifact == m.Good.Artifact && v.Running == s.Task.Artifact && m.Phase != Repairing:
		s.Phase, s.Quiet = Applying, true
	}
	return Action{Do: Enter, Step: s}
}

func fetching(m Memory, v View) Action {
	switch r := &v.Run; {
	case r.Final:
		return m.to(Failed, r.Reason, r.Detail)
	case r.Done && m.Phase == Repairing:
		return m.to(Applying, "", "")
	case r.Done:
		return m.to(Verifying, "", "")
	case r.waits(v.Now):
		return until(r.Wait)
	}
	return Action{Do: Fetch, Artifact: m.Task.Artifact}
}

func verifying(m Memory, v View) Action {
	switch r := &v.Run; {
	case r.Done:
		return m.to(Applying, "", "")
	case (r.Reason == ReasonDrift || r.Tries >= maxTries) && m.Redone >= maxRedone: // the disk does not give back what it took
		return m.to(Failed, ReasonDisk, r.Detail)
	case r.Reason == ReasonDrift || r.Tries >= maxTries:
		return m.to(Fetching, ReasonDisk, r.Detail)
	case r.waits(v.Now):
		return until(r.Wait)
	}
	return Action{Do: Verify, Artifact: m.Task.Artifact}
}

// applying has the new release prove itself. From the switch on another order waits for the verdict, because what runs unproved must be
// watched; but nothing is lost when it is to be removed, or to make way for the release before.
func applying(m Memory, v View) Action {
	t := m.Task.Artifact
	if v.superseded(m.Task) && v.Room {
		switch v.Desired.Artifact {
		case wire.Digest{}:
			return begin(m, v)
		case m.Good.Artifact:
			if !m.Quiet && m.Good.Artifact != t {
				return m.to(Reverting, ReasonSuperseded, fmt.Sprintf("order %d wants the release before", v.Desired.Order))
			}
		}
	}
	a, verdict := proving(t, v)
	switch verdict {
	case passed:
		return m.to(Healthy, "", "")
	case fell:
		return m.to(Reverting, v.Run.why(), v.Run.Detail)
	case pending:
	}
	return a
}

// reverting has the release before prove itself anew. A round that passes is enough: it has soaked before.
func reverting(m Memory, v View) Action {
	good := m.Good.Artifact
	switch {
	case good == m.Task.Artifact: // it was repaired, or only looked at: there is nothing else to go back to
		return m.to(Failed, m.Reason, m.Detail)
	case good.IsZero() && v.Run.Final:
		return m.to(Failed, m.Reason, m.Detail+"; and it cannot be removed: "+v.Run.Detail)
	case good.IsZero() && v.Run.waits(v.Now):
		return until(v.Run.Wait)
	case good.IsZero() && !v.Running.IsZero():
		return Action{Do: Switch}
	case good.IsZero():
		return m.to(Failed, m.Reason, m.Detail+"; there is no release before it")
	}
	v.Run.Proof.Soak = 0
	a, verdict := proving(good, v)
	switch verdict {
	case passed:
		return m.to(RolledBack, m.Reason, m.Detail)
	case fell:
		return m.to(Failed, m.Reason, m.Detail+"; and the release before is not healthy: "+v.Run.Detail)
	case pending:
	}
	return a
}

// A verdict is what came of a proof.
type verdict int

const (
	pending verdict = iota
	passed
	fell
)

// proving switches to a release, activates it, and checks it until there is a verdict.
func proving(d wire.Digest, v View) (Action, verdict) {
	r := &v.Run
	switch {
	case r.Final:
		return Action{}, fell
	case r.waits(v.Now):
		return until(r.Wait), pending
	case v.Running != d:
		return Action{Do: Switch, Artifact: d}, pending
	case r.Activated.IsZero():
		return Action{Do: Activate, Artifact: d}, pending
	}
	due, deadline := v.Now, r.Activated.Add(r.Proof.Start)
	if !r.Checked.IsZero() {
		due = r.Checked.Add(r.Proof.Every)
	}
	if r.Passing.IsZero() {
		if !v.Now.Before(deadline) {
			return Action{}, fell
		}
		due = earlier(due, deadline)
	} else {
		if r.Checked.Sub(r.Passing) >= r.Proof.Soak {
			return Action{}, passed
		}
		due = earlier(due, r.Passing.Add(r.Proof.Soak))
	}
	if v.Now.Before(due) {
		return until(due), pending
	}
	return Action{Do: Check, Artifact: d}, pending
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// why is the reason that a release fell for.
func (r *Run) why() string {
	if r.Reason == ReasonHealth && r.Passed {
		return ReasonSoak
	}
	if r.Reason == "" {
		return ReasonHealth
	}
	return r.Reason
}
