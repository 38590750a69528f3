package artifact

import (
	"encoding/binary"
	"iter"

	"github.com/holdfast-edge/holdfast/wire"
)

// Chunks are the pieces of a content in their order, packed: for each its digest (32 bytes) and its length in bytes (4, big-endian).
type Chunks []byte

// A Chunk is one of them.
type Chunk struct {
	Digest wire.Digest // of the content, before it is compressed
	Size   uint32      // 1 to wire.MaxChunk
}

const packed = len(wire.Digest{}) + 4

// Add appends a chunk.
func (c *Chunks) Add(x Chunk) {
	*c = binary.BigEndian.AppendUint32(append(*c, x.Digest[:]...), x.Size)
}

// Len is the number of chunks.
func (c Chunks) Len() int { return len(c) / packed }

// At is chunk i, from 0.
func (c Chunks) At(i int) Chunk {
	b := c[i*packed:][:packed]
	return Chunk{wire.Digest(b), binary.BigEndian.Uint32(b[len(wire.Digest{}):])}
}

// All visits the chunks in order, each with its offset in the content.
func (c Chunks) All() iter.Seq2[uint64, Chunk] {
	return func(yield func(uint64, Chunk) bool) {
		off := uint64(0)
		for i := range c.Len() {
			x := c.At(i)
			if !yield(off, x) {
				return
			}
			off += uint64(x.Size)
		}
	}
}

// size is the bytes of the content; ok is false when a chunk is of no size that it may have.
func (c Chunks) size() (n uint64, ok bool) {
	if len(c)%packed != 0 {
		return 0, false
	}
	for _, x := range c.All() {
		if x.Size == 0 || x.Size > wire.MaxChunk {
			return 0, false
		}
		n += uint64(x.Size)
	}
	return n, true
}
