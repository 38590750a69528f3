package artifact

import (
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/holdfast-edge/holdfast/wire"
)

// ErrChunk is the sentinel of content that is not what its digest or its size promises.
var ErrChunk = errors.New("content is not what was asked for")

// MaxStored bounds the stored form of a chunk, in bytes: what does not get smaller is stored as it is.
const MaxStored = 1 + wire.MaxChunk

// SplitStored takes the stored form of a chunk apart: a byte with the codec, and the data, which aliases b. The error is ErrChunk.
func SplitStored(b []byte) (wire.Codec, []byte, error) {
	if len(b) < 2 || len(b) > MaxStored {
		return 0, nil, fmt.Errorf("stored chunk of %d bytes, want 2 to %d: %w", len(b), MaxStored, ErrChunk)
	}
	return wire.Codec(b[0]), b[1:], nil
}

// decoders are what OpenChunk decodes with, each by one goroutine at a time. None of them has a goroutine of its own.
var decoders = sync.Pool{New: func() any { return newDecoder(wire.MaxChunk) }}

// newDecoder makes a decoder that returns at most limit bytes, at least zstd.MinWindowSize, and takes little more memory than these.
func newDecoder(limit uint64, more ...zstd.DOption) *zstd.Decoder {
	d, err := zstd.NewReader(nil, append([]zstd.DOption{
		zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(limit), zstd.WithDecoderMaxWindow(limit),
	}, more...)...)
	if err != nil {
		panic(err) // the library takes these options for every limit from zstd.MinWindowSize
	}
	return d
}

// OpenChunk decodes a chunk and holds it against the digest that was asked for. It takes no more memory than a chunk may have, whatever data is,
// and may be called from many goroutines at once. What it returns aliases data when the codec is CodecRaw. The error is ErrChunk.
func OpenChunk(d wire.Digest, codec wire.Codec, data []byte) ([]byte, error) {
	plain, err := decode(codec, data)
	if err != nil {
		return nil, fmt.Errorf("chunk %s: %w", d.Short(), err)
	}
	if got := wire.DigestOf(plain); got != d {
		return nil, fmt.Errorf("chunk %s: these %d bytes have the digest %s: %w", d.Short(), len(plain), got.Short(), ErrChunk)
	}
	return plain, nil
}

// OpenPart is OpenChunk for a part of a manifest, which is stored as a chunk and asked for without its digest: what it returns proves nothing. It has
// 1 to wire.MaxPart bytes.
func OpenPart(codec wire.Codec, data []byte) ([]byte, error) {
	plain, err := decode(codec, data)
	if err != nil {
		return nil, fmt.Errorf("part of a manifest: %w", err)
	}
	return plain, nil
}

// decode decodes 1 to wire.MaxChunk bytes.
func decode(codec wire.Codec, data []byte) ([]byte, error) {
	if len(data) > wire.MaxChunk {
		return nil, fmt.Errorf("%d bytes, limit %d: %w", len(data), wire.MaxChunk, ErrChunk)
	}
	plain := data
	switch codec {
	case wire.CodecRaw:
	case wire.CodecZstd:
		dec := decoders.Get().(*zstd.Decoder)
		b, err := dec.DecodeAll(data, nil)
		decoders.Put(dec)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrChunk, err)
		}
		plain = b
	default:
		return nil, fmt.Errorf("codec %d is not known: %w", codec, ErrChunk)
	}
	if len(plain) == 0 {
		return nil, fmt.Errorf("no bytes: %w", ErrChunk)
	}
	return plain, nil
}

// OpenPatch applies a patch to its base and returns the file, which has size bytes; whether they are the file's, its digest tells. Base and file
// are at most MaxPatched bytes together, and it takes little more than these. The error is ErrChunk.
func OpenPatch(base, patch []byte, size uint64) ([]byte, error) {
	if size == 0 || size > MaxPatched || uint64(len(base))+size > MaxPatched {
		return nil, fmt.Errorf("patch: base of %d bytes and file of %d, together at most %d: %w", len(base), size, MaxPatched, ErrChunk)
	}
	// Encoders round their windows up. The bound of what is returned is its capacity.
	dec := newDecoder(2*max(size, zstd.MinWindowSize), zstd.WithDecoderDictRaw(0, base), zstd.WithDecodeAllCapLimit(true))
	defer dec.Close()
	b, err := dec.DecodeAll(patch, make([]byte, 0, size))
	if err != nil {
		return nil, fmt.Errorf("patch: %w: %w", ErrChunk, err)
	}
	if uint64(len(b)) != size {
		return nil, fmt.Errorf("patch makes %d bytes, want %d: %w", len(b), size, ErrChunk)
	}
	return b, nil
}
