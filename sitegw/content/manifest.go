package content

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"

	"github.com/holdfast-edge/holdfast/sitegw/cache"
	"github.com/holdfast-edge/holdfast/wire"
)

// A partial is a manifest that is not whole yet. What a WAN that was cut has brought of it is gone on with.
type partial struct {
	w     *cache.Writer
	sum   hash.Hash
	at    uint64 // bytes that are there
	total uint64
	from  source // a sibling, if a part came from one
}

func (p *partial) abort() {
	if p.w != nil {
		p.w.Abort()
	}
}

// maxPartials bounds the manifests that wait.
const maxPartials = 4

type partials map[cache.Key]*partial

// partial takes what waits of a manifest, or begins one.
func (s *Site) partial(k cache.Key) *partial {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.partials[k]
	delete(s.partials, k)
	if !ok {
		p = &partial{sum: sha256.New()}
	}
	return p
}

// putBack keeps what there is of a manifest for the next try.
func (s *Site) putBack(k cache.Key, p *partial) {
	s.mu.Lock()
	keep := p.w != nil && !s.stopped && s.partials[k] == nil && len(s.partials) < maxPartials
	if keep {
		s.partials[k] = p
	}
	s.mu.Unlock()
	if !keep {
		p.abort()
	}
}

// manifest brings a whole manifest to the disk. The error is cache.ErrNotKept where that does not keep it. What siblings do not bring
// comes over the WAN, in the flight in which also they may be waiting. One that does not verify with parts from siblings is fetched anew,
// from the core alone.
func (s *Site) manifest(ctx context.Context, k cache.Key, wanOnly bool) error {
	if s.here(k) { // since it was asked for
		return nil
	}
	p := s.partial(k)
	for p.w == nil || p.at < p.total {
		if err := s.part(ctx, k, p, wanOnly); err != nil {
			s.putBack(k, p)
			if wanOnly || errors.Is(err, cache.ErrNotKept) {
				return err
			}
			return s.manifestOverWAN(ctx, k)
		}
	}
	if wire.Digest(p.sum.Sum(nil)) == k.Digest {
		return p.w.Commit()
	}
	p.abort()
	s.refuse(k, p.from, fmt.Errorf("%d bytes have another digest: %w", p.total, wire.ErrMalformed))
	switch {
	case p.from.sibling == "":
		return wire.Refuse(wire.CodeUnavailable, "%v does not verify as the core has it", k).After(retryAfter)
	case wanOnly:
		return s.manifest(ctx, k, true) // which has nothing to go on with
	}
	return s.manifestOverWAN(ctx, k)
}

func (s *Site) manifestOverWAN(ctx context.Context, k cache.Key) error {
	_, err := s.join(ctx, flightKey{Key: k, wanOnly: true}, func(ctx context.Context) (wire.Blob, error) { return wire.Blob{}, s.manifest(ctx, k, true) })
	return err
}

// part adds the next part.
func (s *Site) part(ctx context.Context, k cache.Key, p *partial, wanOnly bool) error {
	b, src, err := s.ask(ctx, k, p.at, wanOnly)
	if err != nil {
		return err
	}
	if p.w == nil {
		w, err := s.Cache.Create(k, wire.CodecRaw, int64(b.Total)) //nolint:gosec // G115: at most MaxManifest
		if err != nil {
			return err
		}
		p.w, p.total = w, b.Total
	}
	if src.sibling != "" {
		p.from = src
	}
	if b.Total != p.total || p.at+uint64(len(b.Data)) > p.total {
		p.at = p.total // it cannot be whole any more: the digest will say so
		p.sum.Write([]byte("torn"))
		return nil
	}
	if err := p.w.Write(b.Data); err != nil {
		p.w = nil // it is aborted
		return err
	}
	p.sum.Write(b.Data)
	p.at += uint64(len(b.Data))
	return nil
}
