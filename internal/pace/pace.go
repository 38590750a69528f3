// Package pace decides how seldom each member of a crowd has to speak, so that all of them together are heard. It is pure: what
// it says depends on its arguments alone.
//
// Every member is asked for an interval of its own. The pace is one least interval for all of them: whoever is asked for a
// shorter one keeps to the least, whoever is asked for a longer one keeps to that.
//
//	need    the shortest least interval at which the messages of all stay at or under the target
//	least   need, rounded up to a step of a ladder, so that a crowd that grows is told anew only now and then
//
// A need beyond the least interval in force widens it at once. A need below it narrows it only when a whole step less would do
// even at 1/Margin of the target, and did so for Hold without a break: those who left may come back, and to be told a new
// interval twice costs more than to keep a longer one for a while.
//
// Load counts besides numbers. When the process was busy for more than MaxBusy of the time, the messages of that time are taken
// for the reason, and so many are permitted as would have kept it at MaxBusy; but never less than 1/MaxRelief of what the
// asked-for intervals come to, because what keeps the process busy may be something else.
package pace

import (
	"slices"
	"time"
)

// The numbers of the hysteresis and of the load.
const (
	Margin    = 1.25            // of the target, that must be left over before the interval is narrowed
	Hold      = 5 * time.Minute // for so long; the crowd of a gateway that restarts is back within two minutes
	MaxBusy   = 0.8             // share of its processors that a process may be busy
	MaxRelief = 4               // load alone makes at most so many times fewer messages
	Max       = time.Hour       // the longest least interval: what an agent accepts at the most
	MaxTarget = 1_000_000       // messages a second that a setting may name
)

// steps is the ladder: at most half as much again from one step to the next.
var steps = []time.Duration{
	0, time.Second, 1500 * time.Millisecond, 2 * time.Second, 3 * time.Second, 4 * time.Second, 5 * time.Second, 7 * time.Second,
	10 * time.Second, 15 * time.Second, 20 * time.Second, 30 * time.Second, 45 * time.Second, 60 * time.Second, 90 * time.Second,
	2 * time.Minute, 3 * time.Minute, 4 * time.Minute, 5 * time.Minute, 7 * time.Minute, 10 * time.Minute, 15 * time.Minute,
	20 * time.Minute, 30 * time.Minute, 45 * time.Minute, Max,
}

// step is the first step of the ladder that is not below d.
func step(d time.Duration) time.Duration {
	i, _ := slices.BinarySearch(steps, d)
	return steps[min(i, len(steps)-1)]
}

// A Crowd says how many members are asked for which interval. Intervals are above zero.
type Crowd map[time.Duration]int

// Rate is the messages a second of the whole crowd when nobody speaks more often than every least.
func (c Crowd) Rate(least time.Duration) float64 {
	rate := 0.0
	for asked, n := range c {
		rate += float64(n) / max(asked, least).Seconds()
	}
	return rate
}

// Need is the shortest least interval at which the crowd's messages stay at or under target a second; 0: none is needed.
func (c Crowd) Need(target float64) time.Duration {
	slower := c.Rate(0)
	if slower <= target || target <= 0 {
		return 0
	}
	asked := make([]time.Duration, 0, len(c))
	for a := range c {
		asked = append(asked, a)
	}
	slices.Sort(asked)
	var need float64 // seconds
	held := 0        // members that the least interval holds back; slower is the rate of the others
	for i, a := range asked {
		held += c[a]
		slower -= float64(c[a]) / a.Seconds()
		if left := target - slower; left > 0 {
			need = float64(held) / left
			if i == len(asked)-1 || need <= asked[i+1].Seconds() {
				break
			}
		}
	}
	// Rounded up to the millisecond, as intervals are told: one that is cut off would pass the target.
	return time.Duration(min(need, Max.Seconds())*1e3+0.999) * time.Millisecond
}

// State is the pace in force. Its zero value holds nobody back.
type State struct {
	Least time.Duration // the least interval; 0: none
	Since time.Time     // since when less would do; zero: it would not
}

// Input is what the next pace depends on.
type Input struct {
	Crowd  Crowd
	Target float64   // messages a second; above 0
	Busy   float64   // share of its processors that the process was busy since it was last told; 0: not known now
	Now    time.Time // of a clock that does not go back
}

// allowed is how many messages a second are permitted at a least interval: what the target says, or the load.
func (in *Input) allowed(least time.Duration) float64 {
	if in.Busy <= 0 {
		return in.Target
	}
	byLoad := in.Crowd.Rate(least) * MaxBusy / in.Busy
	return min(in.Target, max(byLoad, in.Crowd.Rate(0)/MaxRelief))
}

// Next is the pace that follows s.
func (s State) Next(in Input) State {
	allowed := in.allowed(s.Least)
	if want := step(in.Crowd.Need(allowed)); want >= s.Least {
		return State{Least: want}
	}
	narrow := step(in.Crowd.Need(allowed / Margin))
	switch {
	case narrow >= s.Least:
		return State{Least: s.Least}
	case s.Since.IsZero():
		return State{Least: s.Least, Since: in.Now}
	case in.Now.Sub(s.Since) < Hold:
		return s
	}
	return State{Least: narrow}
}
