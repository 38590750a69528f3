package content

import (
	"fmt"

	"github.com/holdfast-edge/holdfast/sitegw/cache"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// maxRelease bounds a sealed release, in bytes.
const maxRelease = 8 << 10

// check holds what a source brought against what was asked for. What the core brings and a publisher or a root key would have to
// prove goes on to who asked, also where that is not proved here: the agent decides, and names whoever forged it. A part of a manifest
// proves nothing yet, but all have one size, so that whoever brings the next one knows where it begins. The core has it as it stores it, compressed
// where that is smaller; it goes on as it is, because all of them together are one file.
func (s *Site) check(k cache.Key, offset uint64, b *wire.Blob, src source) error {
	switch k.Kind {
	case wire.ContentChunk:
		_, err := artifact.OpenChunk(k.Digest, b.Codec, b.Data)
		return err
	case wire.ContentManifest:
		if b.Total == 0 || b.Total > wire.MaxManifest {
			return fmt.Errorf("part of a manifest of %d bytes: %w", b.Total, wire.ErrMalformed)
		}
		plain, err := artifact.OpenPart(b.Codec, b.Data)
		if err != nil {
			return err
		}
		b.Codec, b.Data = wire.CodecRaw, plain
		if n := uint64(len(b.Data)); n != wire.MaxPart && offset+n != b.Total {
			return fmt.Errorf("part of %d bytes at %d of a manifest of %d: %w", n, offset, b.Total, wire.ErrMalformed)
		}
	case wire.ContentRelease, wire.ContentPublishers:
		limit := maxRelease
		if k.Kind == wire.ContentPublishers {
			limit = seal.MaxPublisherSet
		}
		if b.Codec != wire.CodecRaw || len(b.Data) > limit {
			return fmt.Errorf("%v of %d bytes: %w", k, len(b.Data), wire.ErrMalformed)
		}
		if src.sibling != "" {
			return s.prove(k, b.Data)
		}
	}
	return nil
}

// proved tells whether what passed check may be kept.
func (s *Site) proved(k cache.Key, b *wire.Blob, src source) bool {
	if k.Kind != wire.ContentRelease && k.Kind != wire.ContentPublishers {
		return true
	}
	if err := s.prove(k, b.Data); err != nil {
		s.refuse(k, src, err)
		return false
	}
	return true
}

// prove verifies a release, or a set of publishers, which it then takes.
func (s *Site) prove(k cache.Key, b []byte) error {
	if k.Kind == wire.ContentPublishers {
		return s.sets.take(s, k.Number, b)
	}
	set := s.sets.newest()
	if set == nil {
		return fmt.Errorf("no set of publishers is known: %w", seal.ErrPublisher)
	}
	r, err := seal.OpenRelease(b, set)
	if err == nil && r.Manifest != k.Digest {
		err = fmt.Errorf("a release of %s: %w", r.Manifest.Short(), wire.ErrMalformed)
	}
	return err
}
