package fetch

import (
	"context"
	"fmt"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
)

// Fetch brings chunks in their order, each verified. deliver is called by the goroutine of the call and must not keep what it is given; an error of
// it ends the call and is returned.
func (c *Client) Fetch(ctx context.Context, chunks []artifact.Chunk, deliver func(i int, data []byte) error) error {
	return c.run(ctx, &job{
		ask: func(i int) (wire.Fetch, bool) {
			if i >= len(chunks) {
				return wire.Fetch{}, false
			}
			return wire.Fetch{Kind: wire.ContentChunk, Digest: chunks[i].Digest}, true
		},
		take: func(i int, b *wire.Blob) error {
			plain, err := artifact.OpenChunk(chunks[i].Digest, b.Codec, b.Data)
			if err == nil && len(plain) != int(chunks[i].Size) {
				return ownError{fmt.Errorf("chunk %s has %d bytes, the manifest says %d: %w", chunks[i].Digest.Short(), len(plain), chunks[i].Size, artifact.ErrManifest)}
			}
			if err != nil {
				return contentError{err}
			}
			if err := deliver(i, plain); err != nil {
				return ownError{err}
			}
			return nil
		},
		done: func(n int) bool { return n == len(chunks) },
	})
}

// Manifest brings the manifest of an artifact, of size bytes, which have the digest. The size comes from the verified release.
func (c *Client) Manifest(ctx context.Context, d wire.Digest, size uint64) ([]byte, error) {
	if size == 0 || size > wire.MaxManifest {
		return nil, fmt.Errorf("manifest of %d bytes, want 1 to %d: %w", size, wire.MaxManifest, artifact.ErrManifest)
	}
	var out []byte
	j := &job{
		begin: func() { out = out[:0] }, // all of it is of one gateway, so that it is clear whom to blame
		done:  func(int) bool { return uint64(len(out)) == size },
	}
	j.ask = func(i int) (wire.Fetch, bool) { // part by part, as each says where the next one begins
		return wire.Fetch{Kind: wire.ContentManifest, Digest: d, Offset: uint64(len(out))}, i == j.next && uint64(len(out)) < size
	}
	j.take = func(_ int, b *wire.Blob) error {
		part, err := artifact.OpenPart(b.Codec, b.Data)
		if err != nil {
			return contentError{err}
		}
		if b.Total != size || uint64(len(out)+len(part)) > size {
			return contentError{fmt.Errorf("manifest %s: %d bytes behind %d, of %d, signed are %d: %w", d.Short(), len(part), len(out), b.Total, size, artifact.ErrChunk)}
		}
		out = append(out, part...)
		if uint64(len(out)) == size && wire.DigestOf(out) != d {
			return contentError{fmt.Errorf("manifest %s: what came has another digest: %w", d.Short(), artifact.ErrChunk)}
		}
		return nil
	}
	if err := c.run(ctx, j); err != nil {
		return nil, err
	}
	return out, nil
}

// Release has check look at the sealed release of an artifact, as one gateway after the other has it, until it finds nothing wrong.
func (c *Client) Release(ctx context.Context, d wire.Digest, check func([]byte) error) error {
	return c.one(ctx, wire.Fetch{Kind: wire.ContentRelease, Digest: d}, check)
}

// Publishers does the same with the sealed set of publishers of a number.
func (c *Client) Publishers(ctx context.Context, number uint64, check func([]byte) error) error {
	return c.one(ctx, wire.Fetch{Kind: wire.ContentPublishers, Number: number}, check)
}

// one fetches something that has no digest.
func (c *Client) one(ctx context.Context, f wire.Fetch, check func([]byte) error) error {
	return c.run(ctx, &job{
		ask: func(i int) (wire.Fetch, bool) { return f, i == 0 },
		take: func(_ int, b *wire.Blob) error {
			if b.Codec != wire.CodecRaw {
				return contentError{fmt.Errorf("%v: codec %d: %w", f.Kind, b.Codec, wire.ErrMalformed)}
			}
			if err := check(b.Data); err != nil {
				return contentError{err}
			}
			return nil
		},
		done: func(n int) bool { return n == 1 },
	})
}
