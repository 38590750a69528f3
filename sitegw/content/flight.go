package content

import (
	"context"
	"errors"

	"github.com/holdfast-edge/holdfast/sitegw/cache"
	"github.com/holdfast-edge/holdfast/wire"
)

// A flightKey names what is fetched. Two who want the same share one flight, but for a sibling's wish, which goes over the WAN at once:
// two gateways that take each other for the owner would otherwise wait for each other.
type flightKey struct {
	cache.Key
	offset  uint64 // of a part of a manifest that is not kept
	wanOnly bool
}

// A flight is a fetch under way.
type flight struct {
	done chan struct{} // closed when out and err are set
	out  wire.Blob     // no data: it is on the disk
	err  error
}

// fly fetches content, together with whoever wants the same, and waits for it.
func (s *Site) fly(ctx context.Context, k cache.Key, f *wire.Fetch, wanOnly bool) (wire.Blob, error) {
	if k.Kind != wire.ContentManifest {
		return s.join(ctx, flightKey{Key: k, wanOnly: wanOnly}, func(ctx context.Context) (wire.Blob, error) { return s.fetch(ctx, k, wanOnly) })
	}
	if s.Cache.Keeping() {
		out, err := s.join(ctx, flightKey{Key: k, wanOnly: wanOnly}, func(ctx context.Context) (wire.Blob, error) {
			return wire.Blob{}, s.manifest(ctx, k, wanOnly)
		})
		if !errors.Is(err, cache.ErrNotKept) {
			return out, err
		}
	}
	return s.join(ctx, flightKey{k, f.Offset, wanOnly}, func(ctx context.Context) (wire.Blob, error) {
		b, _, err := s.ask(ctx, k, f.Offset, wanOnly)
		if err != nil && !wanOnly {
			b, _, err = s.ask(ctx, k, f.Offset, true)
		}
		if err != nil {
			return wire.Blob{}, err
		}
		return *b, nil
	})
}

// join waits for a flight, which it starts if there is none.
func (s *Site) join(ctx context.Context, k flightKey, fetch func(ctx context.Context) (wire.Blob, error)) (wire.Blob, error) {
	s.mu.Lock()
	fl, ok := s.flights[k]
	switch {
	case s.stopped:
		s.mu.Unlock()
		return wire.Blob{}, errStopped
	case !ok && len(s.flights) >= maxFlights:
		s.mu.Unlock()
		return wire.Blob{}, wire.Refuse(wire.CodeBusy, "%d contents are being fetched", maxFlights).After(busyAfter)
	case !ok:
		fl = &flight{done: make(chan struct{})}
		s.flights[k] = fl
		s.wg.Go(func() { //nolint:contextcheck // who asks may leave: it is wanted again
			ctx, cancel := context.WithTimeout(s.ctx, flightTime)
			defer cancel()
			fl.out, fl.err = fetch(ctx)
			s.mu.Lock()
			delete(s.flights, k)
			s.mu.Unlock()
			close(fl.done)
		})
	}
	s.mu.Unlock()
	select {
	case <-fl.done:
		return fl.out, fl.err
	case <-ctx.Done():
		return wire.Blob{}, wire.Refuse(wire.CodeUnavailable, "%v is being fetched", k.Key).After(retryAfter)
	}
}

// crowded tells whether so much is being fetched that nothing is fetched ahead.
func (s *Site) crowded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.flights) >= maxFlights/2
}

// ahead brings content to the disk before its turn comes. done is closed when there is nothing more to wait for; nil: there is nothing
// to fetch. hit: it is on the disk.
func (s *Site) ahead(ctx context.Context, f *wire.Fetch, wanOnly bool, begin func(func())) (done <-chan struct{}, hit bool) {
	k, refused := keyOf(f)
	if refused != nil {
		return nil, false
	}
	if s.here(k) {
		return nil, true
	}
	if f.Local || k.Kind != wire.ContentChunk || !s.Cache.Keeping() || s.crowded() {
		return nil, false
	}
	c := make(chan struct{})
	begin(func() {
		defer close(c)
		s.fly(ctx, k, f, wanOnly) //nolint:errcheck // it is tried again when its turn comes
	})
	return c, false
}
