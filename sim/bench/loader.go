package main

import (
	"context"
	"crypto/ed25519"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-edge/holdfast/internal/floor/load"
)

// counts is what a load has done since it began; the percentiles are since the last count.
type counts struct {
	Completed, Failed uint64
	P50, P99          time.Duration
	FirstFailure      string // for people
}

// loader runs one load at a time. Its methods are called one at a time. The zero value runs none.
type loader struct {
	last    drive // the newest load, to be counted; nil: none
	before  load.Totals
	cancel  context.CancelFunc // nil while no load runs
	stopped chan struct{}      // closed when the load that cancel ends has ended
}

// watch makes next the load that is counted.
func (l *loader) watch(next drive) { l.last, l.before = next, next.Totals() }

func (l *loader) start(ctx context.Context, next drive) error {
	if l.cancel != nil {
		return errRunning
	}
	l.watch(next)
	ctx, l.cancel = context.WithCancel(ctx)
	stopped := make(chan struct{})
	l.stopped = stopped
	go func() {
		defer close(stopped)
		next.Run(ctx)
	}()
	return nil
}

// stop ends the load and waits for what is under way.
func (l *loader) stop() error {
	if l.cancel == nil {
		return nil
	}
	l.cancel()
	grace := time.NewTimer(stopGrace)
	defer grace.Stop()
	select {
	case <-l.stopped:
		l.cancel = nil
		return nil
	case <-grace.C:
		return errStuck
	}
}

// abandon ends the load; drop ends what its exchanges wait for.
func (l *loader) abandon(drop func() error) error {
	if l.cancel == nil {
		return drop()
	}
	l.cancel()
	err := drop()
	<-l.stopped
	return err
}

// sum is what was done since the load began.
func (l *loader) sum() counts {
	if l.last == nil {
		return counts{}
	}
	now := l.last.Totals()
	c := counts{Completed: now.Completed(), Failed: now.Failed}
	if err := l.last.Err(); err != nil {
		c.FirstFailure = err.Error()
	}
	return c
}

// count is the same, with the percentiles since the last count.
func (l *loader) count() counts {
	if l.last == nil {
		return counts{}
	}
	c, now := l.sum(), l.last.Totals()
	window := now.Since(l.before)
	l.before = now
	c.P50, c.P99 = window.Latency.Percentile(0.5), window.Latency.Percentile(0.99)
	return c
}

// prepared is what was signed.
type prepared struct {
	Signed int
	Ahead  int // statements that are signed and not yet stated
	Bytes  int // mean size of a sealed statement
}

// prepare signs until every device has n statements ahead. No load may run.
func prepare(players []*player, n int) (prepared, error) {
	what := profile()
	signed := make([]int, len(players))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, p := range players {
		g.Go(func() error {
			for len(p.ready) < n {
				if err := p.sign(&what); err != nil {
					return err
				}
				signed[i]++
			}
			return nil
		})
	}
	err := g.Wait()
	var out prepared
	var total int
	for i, p := range players {
		out.Signed += signed[i]
		out.Ahead += len(p.ready)
		for _, s := range p.ready {
			total += len(s)
		}
	}
	out.Bytes = total / max(1, out.Ahead)
	return out, err
}

// receipts waits for the receipts of all devices that stated something: each must come to cover exactly what is in custody.
func receipts(players []*player, authority ed25519.PublicKey) (int, error) {
	opened := 0
	for _, p := range players {
		if p.stated == 0 {
			continue
		}
		if err := p.await(authority); err != nil {
			return opened, err
		}
		opened++
	}
	return opened, nil
}
