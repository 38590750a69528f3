package content

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
)

func at(hhmm string) time.Time {
	t, err := time.Parse("2006-01-02 15:04:05", "2026-11-28 "+hhmm)
	if err != nil {
		panic(err)
	}
	return t
}

func TestUntilOpen(t *testing.T) {
	for _, c := range []struct {
		window, now string
		want        time.Duration
	}{
		{"", "12:00:00", 0},
		{"22:00-05:00", "22:00:00", 0},
		{"22:00-05:00", "21:59:59", time.Second},
		{"22:00-05:00", "00:00:00", 0},
		{"22:00-05:00", "04:59:59", 0},
		{"22:00-05:00", "05:00:00", 17 * time.Hour},
		{"08:00-17:30", "08:00:00", 0},
		{"08:00-17:30", "17:29:59", 0},
		{"08:00-17:30", "17:30:00", 14*time.Hour + 30*time.Minute},
		{"08:00-17:30", "07:00:00", time.Hour},
		{"00:00-00:01", "00:00:30", 0},
		{"00:00-00:01", "00:01:00", 24*time.Hour - time.Minute},
		{"00:01-00:00", "23:59:59", 0},
		{"00:01-00:00", "00:00:00", time.Minute},
		{"noon", "12:00:00", 0},
	} {
		wait, opens := untilOpen(c.window, at(c.now))
		if wait != c.want || !opens.Equal(at(c.now).Add(wait)) {
			t.Errorf("%q at %s: opens in %v at %v, want %v", c.window, c.now, wait, opens, c.want)
		}
		if local, _ := untilOpen(c.window, at(c.now).In(time.FixedZone("x", 3*3600))); local != c.want {
			t.Errorf("%q at %s depends on the zone", c.window, c.now)
		}
	}
}

// FuzzWindow: a window opens within a day, and is open then and not a moment before.
func FuzzWindow(f *testing.F) {
	f.Add("22:00-05:00", int64(1_795_464_000))
	f.Add("08:00-08:01", int64(0))
	f.Fuzz(func(t *testing.T, window string, unix int64) {
		now := time.Unix(unix%1e11, 0)
		wait, opens := untilOpen(window, now)
		if wait < 0 || wait >= 24*time.Hour {
			t.Fatalf("%q at %v opens in %v", window, now, wait)
		}
		if again, _ := untilOpen(window, opens); again != 0 {
			t.Fatalf("%q is not open at %v", window, opens)
		}
		if before, _ := untilOpen(window, opens.Add(-time.Second)); wait > 0 && before != time.Second {
			t.Fatalf("%q opens at %v, and a second before that in %v", window, opens, before)
		}
	})
}

// Outside of the window nothing comes over the WAN, but for sets of publishers, and what the site has is served.
func TestWindow(t *testing.T) {
	inPlant(t, 1, func(t *testing.T, p *plant) { // a bubble begins at midnight UTC
		g := p.gateways[0]
		all := p.core.chunks(2, 1000)
		a := g.agent()
		a.want(all[0])
		g.told.limited(wire.ContentLimit{Window: "22:00-05:00"})
		a.want(wire.Fetch{Kind: wire.ContentChunk, Digest: all[0].Digest})
		a.conn.Close()
		time.Sleep(6 * time.Hour)
		a = g.agent()
		a.want(all[0])
		b := a.refused(all[1])
		if b.Code != wire.CodeUnavailable || b.RetryAfterMS != wire.Millis(wire.MaxRetryAfter) || !strings.Contains(b.Detail, "opens at 2000-01-01T22:00:00Z") {
			t.Errorf("refused with %+v", b)
		}
		a.conn.Close()
		time.Sleep(16*time.Hour - time.Minute)
		a = g.agent()
		if b := a.refused(all[1]); b.RetryAfterMS > 60_000 || b.RetryAfterMS < 50_000 {
			t.Errorf("refused for %d ms", b.RetryAfterMS)
		}
		a.conn.Close()
		time.Sleep(time.Minute)
		a = g.agent()
		defer a.conn.Close()
		a.want(all[1])
	})
}

// The site keeps to its rate, however many of its gateways fetch, and whatever the sizes of what they fetch.
func TestRate(t *testing.T) {
	for _, size := range []int{3_000, 200_000} {
		inPlant(t, 2, func(t *testing.T, p *plant) {
			const rate = 100_000
			n := 3_000_000 / size
			all := p.core.chunks(n, size)
			start := time.Now()
			for _, g := range p.gateways {
				g.told.limited(wire.ContentLimit{BytesPerSecond: rate})
			}
			var wg sync.WaitGroup
			for i, g := range p.gateways {
				a := g.agent()
				defer a.conn.Close()
				wg.Go(func() { a.download(all[i*n/2:][:n/2], time.Hour) })
			}
			wg.Wait()
			took := time.Since(start).Seconds()
			if got := 3_000_000 / took; got > 1.25*rate || got < 0.6*rate {
				t.Errorf("chunks of %d: %.0f bytes a second, the limit is %d", size, got, rate)
			}
		})
	}
}

// A rate that is lifted while it is waited for holds nobody up.
func TestRateIsLifted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bucket
		var mu sync.Mutex
		rate := 1.0
		now := func() float64 {
			mu.Lock()
			defer mu.Unlock()
			return rate
		}
		if _, err := b.take(t.Context(), now); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := b.take(ctx, now); err == nil {
			t.Error("64 KiB at a byte a second take a minute")
		}
		time.AfterFunc(10*time.Second, func() {
			mu.Lock()
			defer mu.Unlock()
			rate = 0
		})
		start := time.Now()
		if _, err := b.take(t.Context(), now); err != nil || time.Since(start) > 12*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}
