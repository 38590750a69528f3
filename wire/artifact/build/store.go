package build

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
)

// A Packer compresses chunks. It is for one goroutine.
type Packer struct{ e *zstd.Encoder }

// NewPacker makes a packer.
func NewPacker() (*Packer, error) {
	// A chunk is built once and downloaded often. Its digest says more than a checksum of the frame would.
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBetterCompression),
		zstd.WithWindowSize(wire.MaxChunk), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, fmt.Errorf("encoder: %w", err)
	}
	return &Packer{e}, nil
}

// Pack returns the stored form of a chunk: compressed where that saves a sixteenth, since opening it costs every receiver.
func (p *Packer) Pack(plain []byte) []byte {
	out := make([]byte, 1, 1+len(plain))
	out[0] = byte(wire.CodecZstd)
	if out = p.e.EncodeAll(plain, out); len(out)-1 <= len(plain)-len(plain)/16 && len(out) <= len(plain) {
		return out
	}
	return append(append(out[:0], byte(wire.CodecRaw)), plain...)
}

// A store is the directory of chunks of a build, each under its digest.
type store struct {
	dir    string
	packer *Packer
	sizes  map[wire.Digest]int // bytes of the stored form
	bytes  uint64              // of all stored forms
}

func newStore(dir string) (*store, error) {
	if err := os.Mkdir(dir, 0o750); err != nil {
		return nil, err
	}
	p, err := NewPacker()
	return &store{dir: dir, packer: p, sizes: make(map[wire.Digest]int)}, err
}

// put stores a chunk that is not there yet.
func (s *store) put(x artifact.Chunk, plain []byte) error {
	if _, there := s.sizes[x.Digest]; there {
		return nil
	}
	b := s.packer.Pack(plain)
	if err := os.WriteFile(filepath.Join(s.dir, x.Digest.String()), b, 0o644); err != nil { //nolint:gosec // G306: what is in it is for everybody who may have the artifact
		return err
	}
	s.sizes[x.Digest] = len(b)
	s.bytes += uint64(len(b))
	return nil
}

// readChunk opens a stored chunk.
func readChunk(dir string, x artifact.Chunk) ([]byte, error) {
	stored, err := readStored(dir, x.Digest)
	if err != nil {
		return nil, err
	}
	codec, data, err := artifact.SplitStored(stored)
	if err == nil {
		data, err = artifact.OpenChunk(x.Digest, codec, data)
	}
	if err == nil && len(data) != int(x.Size) {
		err = fmt.Errorf("%d bytes, want %d: %w", len(data), x.Size, artifact.ErrChunk)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, x.Digest.String()), err)
	}
	return data, nil
}

// readContent joins chunks that are small enough together.
func readContent(dir string, size uint64, chunks artifact.Chunks) ([]byte, error) {
	out := make([]byte, 0, size)
	for _, x := range chunks.All() {
		b, err := readChunk(dir, x)
		if err != nil {
			return nil, err
		}
		out = append(out, b...)
	}
	return out, nil
}
