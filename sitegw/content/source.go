package content

import (
	"context"
	"errors"
	"time"

	"github.com/holdfast-edge/holdfast/sitegw/cache"
	"github.com/holdfast-edge/holdfast/wire"
)

// A source is who is asked, in the order in which to ask.
type source struct {
	sibling string // "": the core
	local   bool   // it answers with what it has
	within  time.Duration
}

// String is the source in logs.
func (s source) String() string {
	if s.sibling != "" {
		return "gateway " + s.sibling
	}
	return "core"
}

// sources are where a content may come from: what siblings have, then its owner; with wanOnly the core. A set of publishers has no
// owner: it is small, and nobody waits for another one with it.
func (s *Site) sources(k cache.Key, wanOnly bool) []source {
	if wanOnly {
		return []source{{}}
	}
	var out []source
	r := s.rank(k)
	for _, name := range r.near {
		if name != r.owner {
			out = append(out, source{name, true, localTime})
		}
	}
	if r.owner != "" {
		out = append(out, source{r.owner, k.Kind == wire.ContentPublishers, ownerTime})
	}
	return out
}

// errNowhere says that there is nobody to ask.
var errNowhere = errors.New("no other gateway of the site is alive")

// ask asks one source after the other for a content, or for a part of a manifest, and returns the first that is good.
func (s *Site) ask(ctx context.Context, k cache.Key, offset uint64, wanOnly bool) (*wire.Blob, source, error) {
	last := errNowhere
	for _, src := range s.sources(k, wanOnly) {
		b, err := s.askOne(ctx, src, wire.Fetch{Capability: wire.Capability, Kind: k.Kind, Digest: k.Digest, Number: k.Number, Offset: offset, Local: src.local})
		if err == nil {
			n := uint64(len(b.Data))
			if err = s.check(k, offset, b, src); err == nil {
				s.count(src, n)
				return b, src, nil
			}
			s.refuse(k, src, err)
		}
		if last = err; ctx.Err() != nil {
			break
		}
	}
	return nil, source{}, last
}

// askOne asks one source. What it answers is not verified.
func (s *Site) askOne(ctx context.Context, src source, f wire.Fetch) (b *wire.Blob, err error) {
	if src.sibling == "" {
		b, err = s.overWAN(ctx, &f)
	} else {
		ctx, cancel := context.WithTimeout(ctx, src.within)
		defer cancel()
		b, err = s.fromSibling(ctx, src, &f)
	}
	switch {
	case err != nil:
		return nil, err
	case b.Code != wire.CodeNone:
		e := wire.Refuse(b.Code, "%s", b.Detail)
		e.RetryAfterMS = b.RetryAfterMS
		return nil, e
	case len(b.Data) == 0 || len(b.Data) > cache.Block:
		return nil, errEmpty
	}
	return b, nil
}

var errEmpty = errors.New("a blob without data, or with too much")

// count counts n bytes that came.
func (s *Site) count(src source, n uint64) {
	if src.sibling == "" {
		s.counts.wan.Add(n)
	} else {
		s.counts.sibling.Add(n)
	}
}

// refuse notes that something did not verify.
func (s *Site) refuse(k cache.Key, src source, err error) {
	s.counts.refused.Add(1)
	if k.Kind == wire.ContentPublishers && src.sibling == "" {
		s.counts.sets.Add(1)
	}
	if s.noise.Allow() {
		s.Log.Error("content does not verify and is not kept", "content", k.String(), "from", src.String(), "err", err)
	}
}

// fetch brings a content that is no manifest, and keeps it. What no sibling has comes over the WAN, in the flight in which also siblings
// may be waiting for it.
func (s *Site) fetch(ctx context.Context, k cache.Key, wanOnly bool) (wire.Blob, error) {
	if s.here(k) { // since it was asked for
		return wire.Blob{}, nil
	}
	b, src, err := s.ask(ctx, k, 0, wanOnly)
	switch {
	case err != nil && !wanOnly:
		return s.join(ctx, flightKey{Key: k, wanOnly: true}, func(ctx context.Context) (wire.Blob, error) { return s.fetch(ctx, k, true) })
	case err != nil:
		return wire.Blob{}, err
	}
	if s.proved(k, b, src) {
		s.Cache.Put(k, b.Codec, b.Data) //nolint:errcheck // the cache says so; it is passed on all the same
	}
	return *b, nil
}

// here tells whether content is on the disk and may be handed out. A set of publishers has to be verified first, after a start.
func (s *Site) here(k cache.Key) bool {
	return s.Cache.Has(k) && (k.Kind != wire.ContentPublishers || k.Number <= s.sets.number())
}
