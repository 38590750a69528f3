package events

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/core/registry"
)

func batch(from, n uint64) (out []registry.Event) {
	for i := range n {
		out = append(out, registry.Event{Index: from + i})
	}
	return out
}

func next(t *testing.T, s *Sub) registry.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	e, err := s.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// ended reads a subscription to its end.
func ended(t *testing.T, s *Sub, want error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for {
		if _, err := s.Next(ctx); err != nil {
			if !errors.Is(err, want) {
				t.Errorf("ended with %v, want %v", err, want)
			}
			return
		}
	}
}

func TestSubscribe(t *testing.T) {
	var h Hub
	h.Publish(nil)
	h.Publish(batch(1, 5))
	s, fresh := h.Subscribe(2), h.Subscribe(^uint64(0))
	h.Publish(batch(6, 2))
	for want := uint64(3); want <= 7; want++ {
		if e := next(t, s); e.Index != want {
			t.Errorf("event %d, want %d", e.Index, want)
		}
	}
	for want := uint64(6); want <= 7; want++ {
		if e := next(t, fresh); e.Index != want {
			t.Errorf("event %d, want %d", e.Index, want)
		}
	}
	s.Close()
	s.Close()
	h.Publish(batch(8, 1))
	if len(s.ch) != 0 {
		t.Error("told after its end")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("next: %v", err)
	}
	if len(h.subs) != 1 {
		t.Errorf("%d subscriptions", len(h.subs))
	}
}

func TestRingIsBounded(t *testing.T) {
	var h Hub
	for i := range uint64(10) {
		h.Publish(batch(i*500+1, 500))
	}
	if len(h.ring) != kept {
		t.Errorf("%d events kept", len(h.ring))
	}
	s := h.Subscribe(0)
	if e := next(t, s); e.Index != 5000-kept+1 {
		t.Errorf("oldest kept is %d", e.Index)
	}
}

// Who does not read is told so, and holds up nobody.
func TestLagging(t *testing.T) {
	var h Hub
	slow, quick := h.Subscribe(0), h.Subscribe(0)
	for i := range uint64(queue + kept + 1) {
		h.Publish(batch(i+1, 1))
		if e := next(t, quick); e.Index != i+1 {
			t.Fatalf("event %d, want %d", e.Index, i+1)
		}
	}
	if e := next(t, slow); e.Index != 1 {
		t.Errorf("the first event is %d: what was queued is lost", e.Index)
	}
	ended(t, slow, ErrLagged)
	slow.Close()
}

func TestConcurrentUse(t *testing.T) {
	var h Hub
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				s := h.Subscribe(0)
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				if _, err := s.Next(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, ErrLagged) {
					t.Error(err)
				}
				cancel()
				s.Close()
			}
		})
	}
	wg.Go(func() {
		for i := range uint64(500) {
			h.Publish(batch(i+1, 3))
		}
	})
	wg.Wait()
	if len(h.subs) != 0 {
		t.Errorf("%d subscriptions left", len(h.subs))
	}
}
