// Package roster is a gateway's presence: which devices are attached, when each was last heard, and who is offline. It
// decides offline for the devices behind the gateway.
//
// A heartbeat costs a lock and no memory. What changed since the last report is gathered when the report is made.
package roster

import (
	"cmp"
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-edge/holdfast/internal/pace"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

// Silent is how many intervals without a heartbeat make a device offline.
const Silent = 3

// What is counted of a device: one heartbeat in minBeat at the most, and a few besides. Both numbers are the device's word, and its
// gateway must not answer for them: the core names one that counts more than there can be (core/sitelink, with twice the spare).
const (
	minBeat = 500 * time.Millisecond
	spare   = 8
)

// A Session is what the roster can do to a device's session.
type Session interface {
	// Tell sends an interval to use from now on.
	Tell(interval time.Duration)
	// Receipt sends the device its receipt.
	Receipt(sealed []byte)
	// Refused tells the device that the core will never take a statement of it.
	Refused(e *wire.Error)
	// Drop ends the session with a reason.
	Drop(e *wire.Error)
}

// Roster may be used from any goroutine.
type Roster struct {
	wall    func() time.Time
	wake    chan struct{} // capacity 1: there are transitions to report
	ready   chan struct{} // capacity 1: a device came, so the watch has something to watch
	repaced chan struct{} // capacity 1: the pace changed

	// Of Watch, once it runs.
	target float64        // heartbeats a second; 0: there is no pace of its own
	busy   func() float64 // set with target
	own    pace.State

	least atomic.Int64 // pace.Least(), for who holds an entry

	book  *book         // nil: spans are not kept
	over  over          // unused without book
	ended chan struct{} // capacity 1: there is something in over

	mu      sync.Mutex
	pace    Pace
	devices map[ident.DeviceID]*Entry
	slots   []*Entry // nil: free
	free    []uint32
}

// An Entry is one device's presence here. Its fields are guarded by mu, but for those that never change.
type Entry struct {
	Device ident.DeviceID // immutable
	slot   uint32         // immutable

	mu       sync.Mutex
	session  Session // nil: none
	attach   []byte  // as signed
	online   bool
	since    time.Time     // start of the span
	last     time.Time     // newest heartbeat, or the attach
	asked    time.Duration // what the core set for it; 0: not known, so it keeps to what it is told
	told     time.Duration // the longer of asked and the pace, when it was told
	echoed   time.Duration
	peak     time.Duration // largest told before that the device may still use; 0 since it echoed the newest
	run      uint64
	number   uint64
	beats    uint64 // of the span
	missed   uint64
	wentDown time.Time // when the verdict fell
	sinceMS  int64     // since and wentDown as they were told last: see steady
	downMS   int64

	report bool // a transition, or a new attach, that no report has carried
	beaten bool // beat since the last digest
	retold bool // interval in force changed since the last digest
}

// New makes an empty roster.
func New(wall func() time.Time) *Roster {
	return &Roster{
		wall: wall, wake: make(chan struct{}, 1), ready: make(chan struct{}, 1), repaced: make(chan struct{}, 1),
		ended: make(chan struct{}, 1), devices: make(map[ident.DeviceID]*Entry),
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Attached notes a device's session, which takes the place of any other that it has here. interval is what the device is
// told in its welcome, echoed what it uses now.
func (r *Roster) Attached(d ident.DeviceID, s Session, attach []byte, interval, echoed time.Duration) *Entry {
	now := time.Now()
	r.mu.Lock()
	e := r.entry(d)
	e.mu.Lock()
	r.mu.Unlock()
	old := e.session
	e.session, e.attach = s, attach
	if !e.online {
		e.online, e.since, e.beats, e.missed = true, now, 0, 0
	}
	e.last, e.asked, e.told, e.echoed, e.peak, e.run, e.number = now, 0, interval, echoed, 0, 0, 0
	e.report = true
	e.mu.Unlock()
	if old != nil {
		old.Drop(wire.Refuse(wire.CodeNone, "another session of this device took over"))
	}
	signal(r.wake)
	signal(r.ready)
	return e
}

// entry finds or makes a device's entry. The caller holds r.mu.
func (r *Roster) entry(d ident.DeviceID) *Entry {
	if e, ok := r.devices[d]; ok {
		return e
	}
	e := &Entry{Device: d}
	if n := len(r.free); n > 0 {
		e.slot = r.free[n-1]
		r.free = r.free[:n-1]
		r.slots[e.slot] = e
	} else {
		e.slot = uint32(len(r.slots)) //nolint:gosec // G115: as many slots as devices
		r.slots = append(r.slots, e)
	}
	r.devices[d] = e
	return e
}

// Refreshed notes a newer attach on the same session.
func (r *Roster) Refreshed(e *Entry, attach []byte) {
	e.mu.Lock()
	e.attach, e.report = attach, true
	e.mu.Unlock()
	signal(r.wake)
}

// Detached notes the end of a session. The device stays online until it has been silent for long enough: it may come back.
func (r *Roster) Detached(e *Entry, s Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.session == s {
		e.session = nil
	}
	r.drop(e)
}

// drop lets go of a device that is offline, reported so, and without a session. The caller holds r.mu and e.mu.
func (r *Roster) drop(e *Entry) {
	if e.online || e.report || e.session != nil || r.devices[e.Device] != e {
		return
	}
	delete(r.devices, e.Device)
	r.slots[e.slot] = nil
	r.free = append(r.free, e.slot)
}

// Beat notes a heartbeat and returns the interval to answer with: 0 when the device uses it already. A change of the pace is told
// here.
func (r *Roster) Beat(e *Entry, h *wire.Heartbeat) (interval time.Duration) {
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	most := spare + uint64(now.Sub(e.since)/minBeat) //nolint:gosec // G115: the span began before
	if h.Run == e.run && h.Number > e.number {
		e.missed += min(h.Number-e.number-1, most-min(e.missed, most))
	}
	e.run, e.number = h.Run, h.Number
	if e.beats < most {
		e.beats++
	}
	e.last, e.beaten = now, true
	before := e.inForce()
	if e.echoed = time.Duration(h.IntervalMS) * time.Millisecond; e.echoed == e.told {
		e.peak = 0
	}
	e.retold = e.retold || e.inForce() != before
	if due := e.due(r); due != e.told {
		e.tell(due)
	}
	if !e.online { // heard again on a session that the verdict had outrun
		e.online, e.since, e.report, e.beats, e.missed = true, now, true, 1, 0
		signal(r.wake)
		signal(r.ready)
	}
	if e.told == e.echoed {
		return 0
	}
	return e.told
}

// Told notes the interval that the core set for a device. When the device has to be told something new, it returns the session
// to tell it to and what; else 0.
func (r *Roster) Told(d ident.DeviceID, asked time.Duration) (Session, time.Duration) {
	r.mu.Lock()
	e, ok := r.devices[d]
	r.mu.Unlock()
	if !ok {
		return nil, 0
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked = asked
	due := e.due(r)
	if e.told == due || e.session == nil {
		return nil, 0
	}
	e.tell(due)
	return e.session, due
}

// SessionOf is a device's session here, if it has one.
func (r *Roster) SessionOf(d ident.DeviceID) (Session, bool) {
	r.mu.Lock()
	e, ok := r.devices[d]
	r.mu.Unlock()
	if !ok {
		return nil, false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.session, e.session != nil
}

// Devices lists the devices in the roster.
func (r *Roster) Devices() []ident.DeviceID {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]ident.DeviceID, 0, len(r.devices))
	for d := range r.devices {
		out = append(out, d)
	}
	return out
}

// inForce is the longest interval that the device may be using.
//
// What was told before the newest counts until the device echoes the newest. Without that: told 1 h, which arrives; told 2 s
// before the next heartbeat, which is late or lost; the last echo says 2 s, and a device that keeps to its 1 h is offline.
func (e *Entry) inForce() time.Duration { return max(e.told, e.echoed, e.peak) }

// deadline is when the device is offline unless it is heard.
func (e *Entry) deadline() time.Time { return e.last.Add(Silent * e.inForce()) }

// maxWatch bounds the wait between two looks at the deadlines. It is below the shortest deadline that a new device or a
// shorter interval can bring, 3 s.
const maxWatch = time.Second

// Watch decides who is offline until ctx ends.
func (r *Roster) Watch(ctx context.Context) {
	for {
		wait := r.verdicts(time.Now())
		if wait == 0 { // nobody to watch
			select {
			case <-r.ready:
				continue
			case <-ctx.Done():
				return
			}
		}
		t := time.NewTimer(min(wait, maxWatch))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

// verdicts finds the devices whose deadline has passed, and how long until the next one passes; 0: nobody is online. The pace is
// measured on the way.
func (r *Roster) verdicts(now time.Time) time.Duration {
	r.mu.Lock()
	all := make([]*Entry, 0, len(r.devices))
	for _, e := range r.devices {
		all = append(all, e)
	}
	r.mu.Unlock()
	var wait time.Duration
	crowd := make(pace.Crowd)
	_, ms := r.clock()
	for _, e := range all {
		e.mu.Lock()
		if e.online {
			crowd[cmp.Or(e.asked, unasked)]++
			left := e.deadline().Sub(now)
			if left <= 0 {
				e.online, e.wentDown, e.report = false, now, true
				r.end(e, ms)
				signal(r.wake)
			} else if wait == 0 || left < wait {
				wait = left
			}
		}
		e.mu.Unlock()
	}
	r.measure(now, crowd)
	return wait
}
