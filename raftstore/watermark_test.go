package raftstore

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestWatermark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			w      watermark
			wg     sync.WaitGroup
			closed = make(chan struct{})
		)
		w.advance(5)
		w.advance(3)
		if got := w.load(); got != 5 {
			t.Fatalf("fell back to %d", got)
		}
		check(t, w.wait(t.Context(), 5, closed))

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		wg.Go(func() { check(t, w.wait(t.Context(), 7, closed)) })
		wg.Go(func() { check(t, w.wait(t.Context(), 8, closed)) })
		wg.Go(func() { wantError(t, w.wait(ctx, 9, closed), context.DeadlineExceeded) })
		wg.Go(func() { wantError(t, w.wait(t.Context(), 9, closed), ErrClosed) })
		for v := uint64(6); v <= 8; v++ {
			synctest.Wait()
			w.advance(v)
		}
		<-ctx.Done()
		synctest.Wait()
		close(closed)
		wg.Wait()
	})
}
