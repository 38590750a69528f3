package content

import (
	"context"
	"sync"
	"time"

	"github.com/holdfast-edge/holdfast/internal/backoff"
	"github.com/holdfast-edge/holdfast/wire"
)

// untilOpen is how long it takes for a window to open, and when it does; 0: it is open. One that does not read is always open: the
// mirror has none.
func untilOpen(window string, now time.Time) (time.Duration, time.Time) {
	opens, closes, err := wire.ParseWindow(window)
	if err != nil {
		return 0, now
	}
	now = now.UTC()
	midnight := now.Truncate(24 * time.Hour)
	at := now.Sub(midnight)
	if open := at >= opens && at < closes; opens < closes && open || opens > closes && (at >= opens || at < closes) {
		return 0, now
	}
	next := midnight.Add(opens)
	if !next.After(now) {
		next = next.Add(24 * time.Hour)
	}
	return next.Sub(now), next
}

// closed is why nothing may be fetched over the WAN now; nil: it may.
func closed(window string, now time.Time) *wire.Error {
	wait, at := untilOpen(window, now)
	if wait == 0 {
		return nil
	}
	return wire.Refuse(wire.CodeUnavailable, "this site fetches content over its WAN at %s UTC: the window opens at %s", window, at.Format(time.RFC3339)).After(wait)
}

// A bucket shares out bytes by a rate. What an answer will take is not known before it is there: it is guessed, and settled then, so
// that the bucket may be in debt, and the rate holds on average.
type bucket struct {
	mu      sync.Mutex
	balance float64   // bytes
	at      time.Time // of the balance
	guess   float64   // of the next answer, bytes
}

const (
	firstGuess = 64 << 10    // the usual size of a chunk
	maxNap     = time.Second // between two looks at the rate, which may change
)

// take waits for the balance. rate is asked each time, in bytes a second; 0: no limit.
func (b *bucket) take(ctx context.Context, rate func() float64) (paid float64, err error) {
	for {
		paid, wait := b.try(rate(), time.Now())
		if wait == 0 {
			return paid, nil
		}
		if !backoff.Sleep(ctx, min(wait, maxNap)) {
			return 0, ctx.Err()
		}
	}
}

// try pays what the next answer may take, or says how long to wait.
func (b *bucket) try(rate float64, now time.Time) (paid float64, wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.guess == 0 {
		b.guess = firstGuess
	}
	if rate <= 0 {
		b.balance, b.at = 0, now
		return 0, 0
	}
	if !b.at.IsZero() {
		b.balance = min(b.balance+rate*now.Sub(b.at).Seconds(), rate) // at most a second's worth is saved up
	}
	if b.at = now; b.balance < 0 {
		return 0, max(time.Duration(-b.balance/rate*float64(time.Second)), time.Millisecond)
	}
	b.balance -= b.guess
	return b.guess, 0
}

// settle takes note of what an answer took.
func (b *bucket) settle(paid float64, bytes int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if paid > 0 {
		b.balance += paid - float64(bytes)
	}
	if bytes > 0 {
		b.guess += (float64(bytes) - b.guess) / 8
	}
}

// share is this gateway's part of the site's rate, in bytes a second; 0: no limit.
func (s *Site) share() float64 {
	r := s.Told.Content().BytesPerSecond
	if r == 0 {
		return 0
	}
	return max(float64(r)/float64(1+len(s.Siblings())), 1)
}
