package roster

import (
	"time"

	"github.com/holdfast-edge/holdfast/wire"
)

// Wake receives a value when there are transitions to report.
func (r *Roster) Wake() <-chan struct{} { return r.wake }

// maxReport bounds the entries of one report, so that it fits its frame: an online device takes at most 1 KiB.
const maxReport = 900

// Resync makes everything be reported again: what an earlier uplink session was told no longer counts.
func (r *Roster) Resync() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.devices {
		e.mu.Lock()
		e.report = true
		e.mu.Unlock()
	}
	signal(r.wake)
}

// Transitions gathers what changed since the last call, at most maxReport devices; more tells whether there is more. A report
// that does not arrive ends its uplink session, and the next one starts with Resync, so nothing is kept for a repetition.
// Devices that were reported offline leave the roster.
func (r *Roster) Transitions() (p wire.Presence, more bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, ms := r.clock()
	p.TimeMS = at
	for id, e := range r.devices {
		if len(p.Online)+len(p.Offline) == maxReport {
			return p, true
		}
		e.mu.Lock()
		switch {
		case !e.report:
		case e.online:
			p.Online = append(p.Online, wire.DeviceOnline{
				Slot: e.slot, Device: id, Attach: e.attach, SinceMS: steady(&e.sinceMS, ms(e.since)), LastMS: ms(e.last),
				IntervalMS: wire.Millis(e.inForce()), Beats: e.beats, Missed: e.missed,
			})
			e.report = false
		default:
			p.Offline = append(p.Offline, wire.DeviceOffline{
				Device: id, LastMS: ms(e.last), AtMS: steady(&e.downMS, ms(e.wentDown)), Beats: e.beats, Missed: e.missed,
			})
			e.report = false
			r.drop(e)
		}
		e.mu.Unlock()
	}
	return p, false
}

// Digest is the report that closes a period: how many devices are online, and for each that beat in it, how long ago. It
// comes in as many messages as it needs; the last one says that it is.
func (r *Roster) Digest() []wire.Presence {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, ms := r.clock()
	out := []wire.Presence{{TimeMS: at}}
	var beats wire.BeatPacker
	var online uint32
	for slot, e := range r.slots {
		if e == nil {
			continue
		}
		p := &out[len(out)-1]
		if beats.Len() >= digestPage || len(p.Told) >= digestPage {
			p.Beats, beats = beats.Beats(), wire.BeatPacker{}
			out = append(out, wire.Presence{TimeMS: at})
			p = &out[len(out)-1]
		}
		e.mu.Lock()
		if e.online {
			online++
		}
		if e.beaten {
			beats.Add(uint32(slot), time.Duration(at-ms(e.last))*time.Millisecond)
		}
		if e.retold {
			p.Told = append(p.Told, wire.DeviceInterval{Slot: uint32(slot), IntervalMS: wire.Millis(e.inForce())})
		}
		e.beaten, e.retold = false, false
		e.mu.Unlock()
	}
	last := &out[len(out)-1]
	last.Digest, last.Count, last.LeastMS, last.Beats = true, online, wire.Millis(r.pace.Least()), beats.Beats()
	return out
}

// digestPage bounds the devices of one message of a digest, below the codec's limit on elements.
const digestPage = 4000

// Online counts the devices that are online here.
func (r *Roster) Online() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, e := range r.devices {
		e.mu.Lock()
		if e.online {
			n++
		}
		e.mu.Unlock()
	}
	return n
}

// clock is the wall clock now, in Unix ms, and what it showed at a moment of the monotonic clock. A moment has the same time in
// every report, to the millisecond, as long as nobody sets the clock: a verdict and the heartbeat that it counts from are
// never nearer to each other than they were.
func (r *Roster) clock() (at int64, ms func(time.Time) int64) {
	wall, now := r.wall(), time.Now()
	return wall.UnixMilli(), func(t time.Time) int64 { return wall.Add(-now.Sub(t)).UnixMilli() }
}
