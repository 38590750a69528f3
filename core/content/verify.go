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
