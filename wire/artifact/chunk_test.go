package artifact

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/holdfast-edge/holdfast/wire"
)

// noise is n bytes that do not compress, the same for the same seed.
func noise(n int, seed byte) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func compress(t testing.TB, plain []byte, o ...zstd.EOption) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil, append([]zstd.EOption{zstd.WithEncoderConcurrency(1)}, o...)...)
	if err != nil {
		t.Fatal(err)
	}
	return e.EncodeAll(plain, nil)
}

// patch is what makes file out of base.
func patch(t testing.TB, base, file []byte) []byte {
	t.Helper()
	return compress(t, file, zstd.WithEncoderDictRaw(0, base), zstd.WithWindowSize(32<<20), zstd.WithEncoderLevel(zstd.SpeedBestCompression))
}

// streamed is plain in a frame that does not tell its size.
func streamed(t testing.TB, plain []byte, o ...zstd.EOption) []byte {
	t.Helper()
	var b bytes.Buffer
	e, err := zstd.NewWriter(&b, append([]zstd.EOption{zstd.WithEncoderConcurrency(1)}, o...)...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// allocated is how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestOpenChunk(t *testing.T) {
	for _, n := range []int{1, 2, 1023, 1024, 1025, 70_000, wire.MaxChunk} {
		for _, plain := range [][]byte{make([]byte, n), noise(n, 1)} {
			d := wire.DigestOf(plain)
			for codec, data := range map[wire.Codec][]byte{wire.CodecRaw: plain, wire.CodecZstd: compress(t, plain)} {
				if len(data) > wire.MaxChunk {
					continue // it is stored as it is
				}
				got, err := OpenChunk(d, codec, data)
				if err != nil || !bytes.Equal(got, plain) {
					t.Errorf("%d bytes with codec %d: %v", n, codec, err)
				}
			}
		}
	}
}

func TestOpenChunkRefuses(t *testing.T) {
	plain := bytes.Repeat([]byte("holdfast "), 1000)
	d, packed := wire.DigestOf(plain), compress(t, plain)
	tooLarge := make([]byte, wire.MaxChunk+1)
	flipped := bytes.Clone(packed)
	flipped[len(flipped)/2] ^= 1
	for name, c := range map[string]struct {
		digest wire.Digest
		codec  wire.Codec
		data   []byte
	}{
		"other bytes":        {d, wire.CodecRaw, plain[1:]},
		"an extra byte":      {d, wire.CodecRaw, append(bytes.Clone(plain), 0)},
		"nothing":            {wire.DigestOf(nil), wire.CodecRaw, nil},
		"nothing compressed": {wire.DigestOf(nil), wire.CodecZstd, nil},
		"no frame":           {d, wire.CodecZstd, plain},
		"a flipped bit":      {d, wire.CodecZstd, flipped},
		"cut off":            {d, wire.CodecZstd, packed[:len(packed)-1]},
		"bytes behind":       {d, wire.CodecZstd, append(bytes.Clone(packed), 1, 2, 3, 4)},
		"another codec":      {d, 2, plain},
		"too large":          {wire.DigestOf(tooLarge), wire.CodecRaw, tooLarge},
		"too large inside":   {wire.DigestOf(tooLarge), wire.CodecZstd, compress(t, tooLarge)},
		"too large in two":   {wire.DigestOf(tooLarge), wire.CodecZstd, append(compress(t, tooLarge[:wire.MaxChunk]), compress(t, tooLarge[:1])...)},
		"untold size":        {wire.DigestOf(tooLarge), wire.CodecZstd, streamed(t, tooLarge, zstd.WithWindowSize(64<<10))},
		"large window":       {wire.DigestOf(tooLarge), wire.CodecZstd, streamed(t, tooLarge, zstd.WithWindowSize(1<<20))},
	} {
		if _, err := OpenChunk(c.digest, c.codec, c.data); !errors.Is(err, ErrChunk) {
			t.Errorf("%s: error %v, want ErrChunk", name, err)
		}
	}
}

// A frame of a few KiB that becomes a gigabyte costs no more than a chunk.
func TestChunkBombCostsLittle(t *testing.T) {
	bombs := [][]byte{compress(t, make([]byte, 8<<20)), streamed(t, make([]byte, 8<<20), zstd.WithWindowSize(64<<10)), streamed(t, make([]byte, 8<<20))}
	warm := func() { _, _ = OpenChunk(wire.Digest{}, wire.CodecZstd, bombs[1]) }
	warm()
	for i, b := range bombs {
		if n := allocated(func() { _, _ = OpenChunk(wire.Digest{}, wire.CodecZstd, b) }); n > 16*wire.MaxChunk { // with a new decoder: the race detector empties pools
			t.Errorf("bomb %d of %d bytes: %d bytes were allocated", i, len(b), n)
		}
	}
}

func TestSplitStored(t *testing.T) {
	codec, data, err := SplitStored([]byte{1, 2, 3})
	if err != nil || codec != wire.CodecZstd || !bytes.Equal(data, []byte{2, 3}) {
		t.Errorf("got codec %d, %v, error %v", codec, data, err)
	}
	for _, n := range []int{0, 1, MaxStored + 1} {
		if _, _, err := SplitStored(make([]byte, n)); !errors.Is(err, ErrChunk) {
			t.Errorf("%d bytes: error %v, want ErrChunk", n, err)
		}
	}
	if _, _, err := SplitStored(make([]byte, MaxStored)); err != nil {
		t.Error(err)
	}
}

func TestOpenPatch(t *testing.T) {
	for _, n := range []int{1, 100, 1023, 1024, 1025, 5000, 300 << 10, 1 << 20} {
		base, file := noise(n, 1), noise(n, 1)
		file[n/2] ^= 1
		p := patch(t, base, file)
		if len(p) > 50+n/1000 {
			t.Errorf("%d bytes with one changed: patch of %d", n, len(p))
		}
		got, err := OpenPatch(base, p, uint64(n))
		if err != nil || !bytes.Equal(got, file) {
			t.Errorf("%d bytes: %v", n, err)
		}
		if got, err := OpenPatch(noise(n, 2), p, uint64(n)); n >= 1024 && err == nil && bytes.Equal(got, file) {
			t.Errorf("%d bytes: a patch that does not depend on its base", n)
		}
	}
}

func TestOpenPatchRefuses(t *testing.T) {
	base := noise(100_000, 1)
	file := append(bytes.Clone(base), "more"...)
	size := uint64(len(file))
	p := patch(t, base, file)
	for name, c := range map[string]struct {
		base, patch []byte
		size        uint64
	}{
		"one byte less":   {base, p, size - 1},
		"one byte more":   {base, p, size + 1},
		"no size":         {base, p, 0},
		"too large":       {base, p, MaxPatched},
		"larger yet":      {base, p, 1 << 63},
		"wraps around":    {base, p, -uint64(len(base))},
		"cut off":         {base, p[:len(p)-1], size},
		"nothing":         {base, nil, size},
		"no frame":        {base, file, size},
		"a short base":    {base[:10], p, size},
		"a bomb":          {base, compress(t, make([]byte, 8<<20)), size},
		"an untold bomb":  {base, streamed(t, make([]byte, 8<<20), zstd.WithWindowSize(64<<10)), size},
		"a window":        {base, streamed(t, make([]byte, 8<<20), zstd.WithWindowSize(4<<20)), size},
		"two frames":      {base, append(bytes.Clone(p), p...), size},
		"with dictionary": {base, compress(t, file, zstd.WithEncoderDictRaw(7, base)), size},
	} {
		var err error
		if n := allocated(func() { _, err = OpenPatch(c.base, c.patch, c.size) }); n > 4<<20 && c.size < 1<<20 {
			t.Errorf("%s: %d bytes were allocated", name, n)
		}
		if !errors.Is(err, ErrChunk) {
			t.Errorf("%s: error %v, want ErrChunk", name, err)
		}
	}
}

func FuzzOpenChunk(f *testing.F) {
	for _, plain := range [][]byte{[]byte("a"), make([]byte, 5000), noise(300, 1)} {
		f.Add(byte(wire.CodecRaw), plain)
		f.Add(byte(wire.CodecZstd), compress(f, plain))
		f.Add(byte(wire.CodecZstd), streamed(f, plain))
	}
	free, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(1<<20))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, codec byte, data []byte) {
		want := data
		if codec == byte(wire.CodecZstd) {
			want, _ = free.DecodeAll(data, nil) // or what came before the mistake
		}
		plain, err := OpenChunk(wire.DigestOf(want), wire.Codec(codec), data)
		switch {
		case err != nil && !errors.Is(err, ErrChunk):
			t.Fatalf("error %v is not ErrChunk", err)
		case err == nil && (len(plain) == 0 || len(plain) > wire.MaxChunk || !bytes.Equal(plain, want)):
			t.Fatalf("%d bytes passed that are not what was asked for", len(plain))
		}
	})
}

func FuzzOpenPatch(f *testing.F) {
	base := noise(2000, 1)
	f.Add(base, patch(f, base, append(noise(10, 2), base...)), uint64(2010))
	f.Add([]byte{}, compress(f, make([]byte, 10_000)), uint64(10_000))
	f.Fuzz(func(t *testing.T, base, patch []byte, size uint64) {
		file, err := OpenPatch(base, patch, size%(1<<20))
		switch {
		case err != nil && !errors.Is(err, ErrChunk):
			t.Fatalf("error %v is not ErrChunk", err)
		case err == nil && uint64(len(file)) != size%(1<<20):
			t.Fatalf("%d bytes, want %d", len(file), size%(1<<20))
		}
	})
}
