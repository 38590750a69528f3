package content

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/holdfast-edge/holdfast/core/content/pack"
	"github.com/holdfast-edge/holdfast/internal/disk"
	"github.com/holdfast-edge/holdfast/wire"
)

// chunk is the nth chunk of the tests, stored as it is.
func chunk(n int) pack.Chunk {
	r := rand.New(rand.NewPCG(uint64(n), 1))
	plain := binary.BigEndian.AppendUint64(nil, uint64(n))
	for range 100 + r.IntN(100) {
		plain = binary.BigEndian.AppendUint64(plain, r.Uint64())
	}
	return raw(plain)
}

// raw is a chunk of these bytes as they are.
func raw(plain []byte) pack.Chunk {
	return pack.Chunk{Digest: wire.DigestOf(plain), Stored: append([]byte{byte(wire.CodecRaw)}, plain...)}
}

// squeezed is a chunk of these bytes, compressed.
func squeezed(t *testing.T, plain []byte) pack.Chunk {
	t.Helper()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return pack.Chunk{Digest: wire.DigestOf(plain), Stored: enc.EncodeAll(plain, []byte{byte(wire.CodecZstd)})}
}

func chunks(from, to int) (out []pack.Chunk) {
	for n := from; n < to; n++ {
		out = append(out, chunk(n))
	}
	return out
}

func verified(t *testing.T, list ...pack.Chunk) Verified {
	t.Helper()
	v, err := Verify(list)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func openStore(t *testing.T, fsys disk.FS, quota int64) *Store {
	t.Helper()
	s, err := Open("content", Options{FS: fsys, Quota: quota})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// holds fails the test unless the store has the chunk as it was put.
func holds(t *testing.T, s *Store, c pack.Chunk) {
	t.Helper()
	b, err := s.Get(c.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, c.Stored) {
		t.Fatalf("chunk %s has other bytes", c.Digest.Short())
	}
}
