package roster

import (
	"time"

	"github.com/holdfast-edge/holdfast/internal/pace"
)

// A Pace is how seldom the devices here have to beat, by this gateway's measure and by the core's. What is in force is the longer one.
// 0: it holds nobody back.
type Pace struct {
	Own  time.Duration
	Core time.Duration
}

// Least is the least interval in force; 0: none.
func (p Pace) Least() time.Duration { return max(p.Own, p.Core) }

// unasked is what a device is taken to be asked for while nobody has said it: the fleet's default.
const unasked = 30 * time.Second

// Paced makes the roster hold the heartbeats here at or under target a second, beginning at the pace that was in force before
// this run: a crowd that comes back finds it. busy tells the share of its processors that the process was busy since it told it
// last, and 0 when it does not know. It must be called before Watch.
//
// A device is told in its welcome and in the answers to its heartbeats, so a change of the pace costs no message, and those who
// are told do not all act at once.
func (r *Roster) Paced(target float64, before Pace, busy func() float64) {
	r.target, r.busy, r.own = target, busy, pace.State{Least: before.Own}
	r.pace = before
	r.least.Store(int64(before.Least()))
}

// Pace is the pace now.
func (r *Roster) Pace() Pace {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pace
}

// Repaced receives a value when the pace has changed.
func (r *Roster) Repaced() <-chan struct{} { return r.repaced }

// CorePace takes the core's pace.
func (r *Roster) CorePace(least time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if least <= time.Second { // as often as any device may: it holds nobody back
		least = 0
	}
	r.repace(Pace{Own: r.pace.Own, Core: least})
}

// repace puts a pace in force. The caller holds r.mu.
func (r *Roster) repace(p Pace) {
	if p == r.pace {
		return
	}
	r.pace = p
	r.least.Store(int64(p.Least()))
	signal(r.repaced)
}

// measure moves the pace by what the crowd asks for now. Watch alone calls it.
func (r *Roster) measure(now time.Time, crowd pace.Crowd) {
	if r.target <= 0 {
		return
	}
	r.own = r.own.Next(pace.Input{Crowd: crowd, Target: r.target, Busy: r.busy(), Now: now})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.repace(Pace{Own: r.own.Least, Core: r.pace.Core})
}

// InForce is the interval that a device is to be told now which is asked for another one.
func (r *Roster) InForce(asked time.Duration) time.Duration {
	return max(asked, time.Duration(r.least.Load()))
}

// due is the interval that the device is to use now. The caller holds e.mu.
func (e *Entry) due(r *Roster) time.Duration {
	if e.asked == 0 {
		return r.InForce(e.told)
	}
	return r.InForce(e.asked)
}

// tell notes that the device is told an interval. The caller holds e.mu.
func (e *Entry) tell(interval time.Duration) {
	before := e.inForce()
	e.peak = max(e.peak, e.told)
	e.told = interval
	e.retold = e.retold || e.inForce() != before
}
