package load

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestBuckets(t *testing.T) {
	if got := bucketOf(math.MaxInt64); got != buckets-1 {
		t.Errorf("longest duration falls into bucket %d of %d", got, buckets)
	}
	if got := bucketOf(-time.Second); got != 0 {
		t.Errorf("negative duration falls into bucket %d", got)
	}
	for i := range buckets {
		if got := bucketOf(bucketMiddle(i)); got != i {
			t.Fatalf("middle of bucket %d is %d, in bucket %d", i, bucketMiddle(i), got)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 10_000 {
		d := time.Duration(r.Int64() >> r.IntN(63))
		if off := math.Abs(float64(bucketMiddle(bucketOf(d))-d)) / float64(max(d, 1)); off > 0.016 {
			t.Fatalf("%d is off by %.4f", d, off)
		}
	}
}

// TestPercentile compares with a sorted slice.
func TestPercentile(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var h Histogram
	var all []time.Duration
	for range 5000 {
		d := time.Duration(r.ExpFloat64() * float64(time.Millisecond))
		h.Add(d)
		all = append(all, d)
	}
	slices.Sort(all)
	counts := h.Snapshot()
	if counts.Count() != 5000 {
		t.Fatalf("%d counted", counts.Count())
	}
	for _, p := range []float64{-1, 0, 0.01, 0.5, 0.9, 0.99, 0.999, 1, 2} {
		rank := min(max(int(math.Ceil(p*5000)), 1), 5000)
		want := all[rank-1]
		if got := counts.Percentile(p); math.Abs(float64(got-want)) > 0.017*float64(want)+1 {
			t.Errorf("percentile %v is %v, want %v", p, got, want)
		}
	}
	if got := (&Histogram{}).Snapshot().Percentile(0.5); got != 0 {
		t.Errorf("percentile of nothing is %v", got)
	}
}

// after waits for virtual time to pass.
func after(d time.Duration) { <-time.After(d) }

func TestLoadDrivesEachDeviceInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		seqs := make([][]uint32, 3)
		devices := make([]Device, 3)
		for i := range devices {
			devices[i] = func(seq uint32) error {
				mu.Lock()
				seqs[i] = append(seqs[i], seq)
				mu.Unlock()
				after(time.Duration(i+1) * 10 * time.Millisecond)
				return nil
			}
		}
		l := New(devices)
		runFor(t, l, 595*time.Millisecond)
		first := l.Totals()
		runFor(t, l, 595*time.Millisecond)
		second := l.Totals().Since(first)
		// 60 exchanges of 10 ms, 30 of 20 ms, 20 of 30 ms, the last of each begun before the end.
		if first.Completed() != 110 || second.Completed() != 110 || first.Failed+second.Failed != 0 {
			t.Errorf("completed %d and %d, failed %d", first.Completed(), second.Completed(), first.Failed+second.Failed)
		}
		if p50, p99 := second.Latency.Percentile(0.5).Round(time.Millisecond), second.Latency.Percentile(0.99).Round(time.Millisecond); p50 != 10*time.Millisecond || p99 != 30*time.Millisecond {
			t.Errorf("p50 %v, p99 %v", p50, p99)
		}
		for i, s := range seqs {
			for k, seq := range s {
				if seq != uint32(k+1) {
					t.Fatalf("device %d: exchange %d has number %d", i, k+1, seq)
				}
			}
		}
	})
}

// runFor runs the load for d of virtual time and checks that Run waited for the exchanges under way.
func runFor(t *testing.T, l *Load, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	begin := time.Now()
	l.Run(ctx)
	if took := time.Since(begin); took < d || took > d+30*time.Millisecond {
		t.Errorf("ran for %v, want %v and what was under way", took, d)
	}
}

func TestLoadSlowsDownFailingDevices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		errFirst, errLater := errors.New("first"), errors.New("later")
		l := New([]Device{func(seq uint32) error {
			if seq == 1 {
				return errFirst
			}
			return errLater
		}})
		if l.Err() != nil {
			t.Error("failed before it ran")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*failurePause-time.Millisecond)
		defer cancel()
		l.Run(ctx)
		if got := l.Totals(); got.Failed != 10 || got.Completed() != 0 {
			t.Errorf("failed %d, completed %d, want 10 and 0", got.Failed, got.Completed())
		}
		if !errors.Is(l.Err(), errFirst) {
			t.Errorf("error is %v, want the first", l.Err())
		}
	})
}
