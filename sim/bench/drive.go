package main

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-edge/holdfast/internal/floor/load"
)

// A drive is what a fleet is made to do.
type drive interface {
	// Run drives the fleet until ctx ends, or until there is nothing left to do.
	Run(ctx context.Context)
	Totals() load.Totals
	Err() error
}

// tally counts exchanges as a load.Load does.
type tally struct {
	failed  atomic.Uint64
	latency load.Histogram

	mu    sync.Mutex
	first error
}

func (t *tally) add(took time.Duration, err error) {
	if err == nil {
		t.latency.Add(took)
		return
	}
	t.failed.Add(1)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.first == nil {
		t.first = err
	}
}

// Totals implements drive.
func (t *tally) Totals() load.Totals {
	return load.Totals{Failed: t.failed.Load(), Latency: t.latency.Snapshot()}
}

// Err implements drive.
func (t *tally) Err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.first
}

// calm lets each device beat as a real one does: once an interval, at a moment of its own. The latency is the heartbeat's.
type calm struct {
	tally

	players []*player
	every   time.Duration
}

// Run implements drive.
func (c *calm) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, p := range c.players {
		wg.Go(func() {
			wait := rand.N(c.every) //nolint:gosec // spreads the devices
			for rest(ctx, wait) == nil {
				begin := time.Now()
				err := p.beat(0) //nolint:contextcheck // a player watches its session's context
				c.add(time.Since(begin), err)
				wait = c.every*9/10 + rand.N(c.every/5) //nolint:gosec // as agents jitter
			}
		})
	}
	wg.Wait()
}

// stating lets each device state what is signed for it, one after the other. It ends when everything is in custody.
type stating struct {
	tally

	players []*player
}

// Run implements drive.
func (s *stating) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, p := range s.players {
		wg.Go(func() {
			for ctx.Err() == nil && len(p.ready) > 0 {
				begin := time.Now()
				err := p.state(0) //nolint:contextcheck // as above
				s.add(time.Since(begin), err)
				if err != nil && rest(ctx, failurePause) != nil {
					return
				}
			}
		})
	}
	wg.Wait()
}

// failurePause keeps a device that always fails from taking the core away from those that work.
const failurePause = 10 * time.Millisecond
