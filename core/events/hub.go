// Package events tells subscribers what the registry committed, as it commits it.
//
// Publish never blocks: a subscriber that does not keep up is told so once, with ErrLagged, and must read the state afresh.
package events

import (
	"context"
	"errors"
	"sync"

	"github.com/holdfast-edge/holdfast/core/registry"
)

// ErrLagged ends a subscription that was not read quickly enough.
var ErrLagged = errors.New("subscriber did not keep up: read the state afresh and subscribe again")

const (
	kept  = 1024 // events kept for those who come back
	queue = 1024 // events a subscriber may be behind
)

// Hub fans events out. The zero value is ready.
type Hub struct {
	mu   sync.Mutex
	ring []registry.Event // newest last, at most kept
	gone uint64           // highest index whose events are not kept any more
	subs map[*Sub]struct{}
}

// Sub is one subscription.
type Sub struct {
	hub *Hub
	ch  chan registry.Event
}

// Publish tells everybody.
func (h *Hub) Publish(evs []registry.Event) {
	if len(evs) == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ring = append(h.ring, evs...)
	if over := len(h.ring) - kept; over > 0 {
		h.gone = max(h.gone, h.ring[over-1].Index)
		h.ring = append(h.ring[:0], h.ring[over:]...)
	}
	for s := range h.subs {
		s.offer(evs)
	}
}

func (s *Sub) offer(evs []registry.Event) {
	for _, e := range evs {
		select {
		case s.ch <- e:
		default:
			delete(s.hub.subs, s)
			close(s.ch)
			return
		}
	}
}

// Forget says that the state jumped to index: what happened before it was not told here.
func (h *Hub) Forget(index uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.gone, h.ring = max(h.gone, index), nil
}

// Subscribe starts a subscription with the kept events whose index is above after: 0 asks for all that are kept, the largest
// uint64 for new ones only. When events above another after are no longer kept, the subscription ends with ErrLagged at once.
func (h *Hub) Subscribe(after uint64) *Sub {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &Sub{hub: h, ch: make(chan registry.Event, queue+kept)}
	for _, e := range h.ring {
		if e.Index > after {
			s.ch <- e
		}
	}
	if after != 0 && after < h.gone {
		close(s.ch)
		return s
	}
	if h.subs == nil {
		h.subs = make(map[*Sub]struct{})
	}
	h.subs[s] = struct{}{}
	return s
}

// Next waits for the next event.
func (s *Sub) Next(ctx context.Context) (registry.Event, error) {
	select {
	case e, ok := <-s.ch:
		if !ok {
			return registry.Event{}, ErrLagged
		}
		return e, nil
	case <-ctx.Done():
		return registry.Event{}, ctx.Err()
	}
}

// Close ends the subscription.
func (s *Sub) Close() {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	delete(s.hub.subs, s)
}
