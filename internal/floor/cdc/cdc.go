// Package cdc is what it costs at least to cut a content where its bytes say so and to name the pieces: the raw chunker, and one SHA-256 over
// each chunk. It keeps nothing; what a real builder adds is measured against it.
package cdc

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	chunkers "github.com/PlakarKorp/go-cdc-chunkers"
	_ "github.com/PlakarKorp/go-cdc-chunkers/chunkers/fastcdc" // registers the algorithm
)

// Sizes are those of chunks, in bytes.
type Sizes struct{ Min, Normal, Max int }

// Cut reads r to its end and returns how many chunks it made, and the last byte of each digest, so that none is for nothing.
func Cut(r io.Reader, algorithm string, s Sizes) (chunks int, sum byte, err error) {
	c, err := chunkers.NewChunker(algorithm, r, &chunkers.ChunkerOpts{MinSize: s.Min, NormalSize: s.Normal, MaxSize: s.Max})
	if err != nil {
		return 0, 0, fmt.Errorf("chunker: %w", err)
	}
	for {
		b, err := c.Next()
		last := errors.Is(err, io.EOF)
		if err != nil && !last {
			return 0, 0, err
		}
		if len(b) > 0 {
			d := sha256.Sum256(b)
			sum ^= d[len(d)-1]
			chunks++
		}
		if last {
			return chunks, sum, nil
		}
	}
}
