// Package pack is how chunks travel many at a time: from operators to the core, and among its nodes. A pack is any number of
//
//	digest (32 bytes) | length (4, big-endian) | stored form (length bytes: codec, data)
//
// one behind the other. docs/content-format.md has the table.
package pack

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
)

// ErrPack is the sentinel of bytes that are no pack.
var ErrPack = errors.New("no pack of chunks")

// Max bounds a pack that the API takes, in bytes.
const Max = 8 << 20

const head = len(wire.Digest{}) + 4

// A Chunk is one of a pack. That it is what its digest says, nobody has seen yet.
type Chunk struct {
	Digest wire.Digest
	Stored []byte // codec and data
}

// Size is what the chunk takes in a pack, in bytes.
func (c *Chunk) Size() int { return head + len(c.Stored) }

// Append adds a chunk to a pack.
func Append(b []byte, c Chunk) []byte {
	b = append(b, c.Digest[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(c.Stored))) //nolint:gosec // G115: at most artifact.MaxStored
	return append(b, c.Stored...)
}

// Read takes a pack apart. The chunks alias b. The error is ErrPack, and says at which byte.
func Read(b []byte) ([]Chunk, error) {
	var out []Chunk
	for at := 0; at < len(b); {
		if len(b)-at < head {
			return nil, fmt.Errorf("%w: it ends within the head of a chunk, at byte %d", ErrPack, at)
		}
		c := Chunk{Digest: wire.Digest(b[at:][:len(wire.Digest{})])}
		n := int64(binary.BigEndian.Uint32(b[at+len(c.Digest):]))
		at += head
		switch {
		case n < 2 || n > artifact.MaxStored:
			return nil, fmt.Errorf("%w: chunk %s at byte %d has %d bytes, want 2 to %d", ErrPack, c.Digest.Short(), at-head, n, artifact.MaxStored)
		case n > int64(len(b)-at):
			return nil, fmt.Errorf("%w: it ends within chunk %s, at byte %d", ErrPack, c.Digest.Short(), at-head)
		}
		c.Stored = b[at:][:n:n]
		at += int(n)
		out = append(out, c)
	}
	return out, nil
}
