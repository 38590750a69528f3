package backoff

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"
)

func TestNextGrowsToTheBound(t *testing.T) {
	var most [12]time.Duration
	for range 2000 {
		b := Backoff{Min: 100 * time.Millisecond, Max: 10 * time.Second}
		for i := range most {
			d := b.Next()
			if top := min(b.Min<<i, b.Max); d < 0 || d > top {
				t.Fatalf("wait %d is %v, at most %v", i, d, top)
			}
			most[i] = max(most[i], d)
		}
	}
	for i, d := range most { // full jitter uses all of it
		if top := min(100*time.Millisecond<<i, 10*time.Second); d < top*9/10 {
			t.Errorf("wait %d never passed %v of %v", i, d, top)
		}
	}
}

func TestReset(t *testing.T) {
	b := Backoff{Min: time.Second, Max: time.Hour}
	for range 100 {
		b.Next()
	}
	b.Reset()
	if d := b.Next(); d > time.Second {
		t.Errorf("first wait after a reset is %v", d)
	}
}

func TestHugeMinimum(t *testing.T) {
	b := Backoff{Min: math.MaxInt64 / 2, Max: time.Minute}
	for range 10 {
		if d := b.Next(); d < 0 || d > time.Minute {
			t.Errorf("wait %v", d)
		}
	}
}

func TestJitter(t *testing.T) {
	low, high := time.Hour, time.Duration(0)
	for range 2000 {
		d := Jitter(10*time.Second, 0.1)
		low, high = min(low, d), max(high, d)
	}
	if low < 9*time.Second || high > 11*time.Second || low > 9200*time.Millisecond || high < 10800*time.Millisecond {
		t.Errorf("from %v to %v", low, high)
	}
}

func TestSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		if !Sleep(t.Context(), time.Minute) || time.Since(begin) != time.Minute {
			t.Errorf("slept %v", time.Since(begin))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin = time.Now()
		if Sleep(ctx, time.Minute) || time.Since(begin) != time.Second {
			t.Errorf("slept %v past the end", time.Since(begin))
		}
	})
}
