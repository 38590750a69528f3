// Package backoff spaces out attempts so that many who failed together do not come back together.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// A Backoff is the state of one series of attempts: the wait before attempt n is drawn evenly from 0 to Min·2ⁿ, at most Max
// ("full jitter"; Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
type Backoff struct {
	Min, Max time.Duration
	n        int
}

// Next is the wait before the next attempt.
func (b *Backoff) Next() time.Duration {
	top := b.Min << min(b.n, 20)
	if top <= 0 || top > b.Max {
		top = b.Max
	} else {
		b.n++
	}
	return rand.N(top + 1) //nolint:gosec // spreading load needs no secrecy
}

// Reset starts the series anew, after a success that lasted.
func (b *Backoff) Reset() { b.n = 0 }

// Jitter is d spread evenly over plus and minus the fraction f of it.
func Jitter(d time.Duration, f float64) time.Duration {
	return d + time.Duration((rand.Float64()*2-1)*f*float64(d)) //nolint:gosec // as above
}

// Sleep waits for d or until ctx ends, and tells whether the wait was whole.
func Sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
