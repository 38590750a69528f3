package content

import (
	"github.com/holdfast-edge/holdfast/core/content/pack"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
)

// Verified is chunks that are what their digests say.
type Verified struct{ chunks []pack.Chunk }

// Verify holds chunks against their digests. The error is artifact.ErrChunk.
func Verify(chunks []pack.Chunk) (Verified, error) {
	for i := range chunks {
		if _, err := open(chunks[i].Digest, chunks[i].Stored); err != nil {
			return Verified{}, err
		}
	}
	return Verified{chunks}, nil
}

// open decodes a stored form and holds it against its digest.
func open(d wire.Digest, stored []byte) ([]byte, error) {
	codec, data, err := artifact.SplitStored(stored)
	if err != nil {
		return nil, err
	}
	return artifact.OpenChunk(d, codec, data)
}

// split cuts packs of at most most bytes, or of one chunk.
func (v Verified) split(most int) (packs [][]byte) {
	var b []byte
	for i := range v.chunks {
		c := &v.chunks[i]
		if len(b) > 0 && len(b)+c.Size() > most {
			packs = append(packs, b)
			b = nil
		}
		b = pack.Append(b, *c)
	}
	if len(b) > 0 {
		packs = append(packs, b)
	}
	return packs
}
