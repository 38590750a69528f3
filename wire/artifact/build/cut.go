package build

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	chunkers "github.com/PlakarKorp/go-cdc-chunkers"
	_ "github.com/PlakarKorp/go-cdc-chunkers/chunkers/fastcdc" // registers the algorithm

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
)

// Where chunks are cut. A change makes devices fetch anew what they have, as its chunks are others; it breaks nothing else.
const (
	Algorithm   = "fastcdc-v1.0.0" // of go-cdc-chunkers
	MinChunk    = 16 << 10         // bytes, but for the last chunk of a file
	NormalChunk = 64 << 10         // bytes; wire.MaxChunk is the most
)

// A Content is what a file holds.
type Content struct {
	Digest wire.Digest
	Size   uint64
	Chunks artifact.Chunks
}

// A Cutter cuts contents into chunks, where their bytes say so. It is for one goroutine, and holds one buffer of two chunks.
type Cutter struct{ c *chunkers.Chunker }

// NewCutter makes a cutter.
func NewCutter() (*Cutter, error) {
	c, err := chunkers.NewChunker(Algorithm, nil, &chunkers.ChunkerOpts{MinSize: MinChunk, NormalSize: NormalChunk, MaxSize: wire.MaxChunk})
	if err != nil {
		return nil, fmt.Errorf("chunker: %w", err)
	}
	return &Cutter{c}, nil
}

// Cut reads r to its end. Each chunk is handed to emit with its bytes, which emit must not keep.
func (c *Cutter) Cut(r io.Reader, emit func(artifact.Chunk, []byte) error) (Content, error) {
	var out Content
	c.c.Reset(r)
	whole := sha256.New()
	for {
		data, err := c.c.Next()
		last := errors.Is(err, io.EOF)
		if err != nil && !last {
			return Content{}, err
		}
		if len(data) > 0 {
			x := artifact.Chunk{Size: uint32(len(data))} //nolint:gosec // G115: at most wire.MaxChunk
			whole.Write(data)
			if out.Size == 0 { // most files are one chunk: it is hashed once
				whole.Sum(x.Digest[:0])
			} else {
				x.Digest = wire.DigestOf(data)
			}
			out.Size += uint64(len(data))
			out.Chunks.Add(x)
			if err := emit(x, data); err != nil {
				return Content{}, err
			}
		}
		if last {
			whole.Sum(out.Digest[:0])
			return out, nil
		}
	}
}
