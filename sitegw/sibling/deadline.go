package sibling

import (
	"sync"
	"time"
)

// A deadline is when a wait is over. Waits that are under way see it move.
type deadline struct {
	late func() // called when it passes; may be nil

	mu     sync.Mutex
	passed chan struct{} // closed when it has
	timer  *time.Timer   // nil: none runs
	set    uint64        // counts the changes
}

func newDeadline(late func()) *deadline { return &deadline{late: late, passed: make(chan struct{})} }

// move sets it; the zero time: there is none.
func (d *deadline) move(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.set++
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if d.isPast() {
		d.passed = make(chan struct{})
	}
	if t.IsZero() {
		return
	}
	mine := d.set
	d.timer = time.AfterFunc(time.Until(t), func() { d.pass(mine) })
	if !t.After(time.Now()) {
		close(d.passed) // for whoever asks before the timer's goroutine runs
	}
}

// pass ends the waits, unless the deadline was moved meanwhile.
func (d *deadline) pass(set uint64) {
	d.mu.Lock()
	if d.set != set {
		d.mu.Unlock()
		return
	}
	if !d.isPast() {
		close(d.passed)
	}
	d.mu.Unlock()
	if d.late != nil {
		d.late()
	}
}

// isPast tells whether it has passed. The caller holds mu.
func (d *deadline) isPast() bool {
	select {
	case <-d.passed:
		return true
	default:
		return false
	}
}

// over is closed when the deadline that is set now has passed.
func (d *deadline) over() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.passed
}
