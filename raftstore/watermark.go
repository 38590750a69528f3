package raftstore

import (
	"context"
	"sync"
)

// watermark is a number that only grows and that goroutines can wait for.
type watermark struct {
	mu      sync.Mutex
	value   uint64        // guarded by mu. Invariant: never decreases
	changed chan struct{} // guarded by mu; closed at the next growth; nil while nobody waits
}

// advance raises the mark to v; a smaller v changes nothing.
func (w *watermark) advance(v uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if v <= w.value {
		return
	}
	w.value = v
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
}

// load returns the present value.
func (w *watermark) load() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.value
}

// wait returns nil once the mark is v or more, ctx's error when that ends first, and ErrClosed once closed is closed.
func (w *watermark) wait(ctx context.Context, v uint64, closed <-chan struct{}) error {
	for {
		changed, reached := w.poll(v)
		if reached {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-closed:
			return ErrClosed
		}
	}
}

// poll says whether the mark has reached v, and otherwise returns what to wait for.
func (w *watermark) poll(v uint64) (changed <-chan struct{}, reached bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.value >= v {
		return nil, true
	}
	if w.changed == nil {
		w.changed = make(chan struct{})
	}
	return w.changed, false
}
