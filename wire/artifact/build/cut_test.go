package build

import (
	"bytes"
	"errors"
	"testing"
	"testing/iotest"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
)

func keepNothing(artifact.Chunk, []byte) error { return nil }

// Where chunks are cut decides what devices have to fetch: it changes on purpose or not at all.
func TestCutIsPinned(t *testing.T) {
	const want = "eef8de99ded2992fea34d4ea75bd5d8bfd42144786fc95e50d83203fd0ea5cc3"
	c, err := NewCutter()
	fatal(t, err)
	plain := append(noise(6<<20, 1), make([]byte, 1<<20)...)
	for _, read := range []func() (Content, error){
		func() (Content, error) { return c.Cut(bytes.NewReader(plain), keepNothing) },
		func() (Content, error) { return c.Cut(iotest.HalfReader(bytes.NewReader(plain)), keepNothing) },
	} {
		got, err := read()
		fatal(t, err)
		if got.Digest != wire.DigestOf(plain) || got.Size != 7<<20 {
			t.Errorf("digest %v, %d bytes", got.Digest, got.Size)
		}
		if d := wire.DigestOf(got.Chunks).String(); d != want {
			t.Errorf("chunks with digest %s, want %s", d, want)
		}
	}
}

func TestCut(t *testing.T) {
	c, err := NewCutter()
	fatal(t, err)
	for _, n := range []int{0, 1, MinChunk - 1, MinChunk, MinChunk + 1, wire.MaxChunk, wire.MaxChunk + 1, 3 << 20} {
		for _, plain := range [][]byte{noise(n, 1), make([]byte, n)} {
			var again []byte
			got, err := c.Cut(bytes.NewReader(plain), func(x artifact.Chunk, b []byte) error {
				if x.Digest != wire.DigestOf(b) || int(x.Size) != len(b) || len(b) == 0 || len(b) > wire.MaxChunk {
					t.Errorf("of %d bytes: chunk %+v of %d", n, x, len(b))
				}
				again = append(again, b...)
				return nil
			})
			if err != nil || !bytes.Equal(again, plain) || got.Digest != wire.DigestOf(plain) || got.Size != uint64(n) {
				t.Errorf("%d bytes are cut into %d, error %v", n, len(again), err)
			}
			for i := range got.Chunks.Len() - 1 {
				if got.Chunks.At(i).Size < MinChunk {
					t.Errorf("of %d bytes: chunk %d has %d", n, i, got.Chunks.At(i).Size)
				}
			}
		}
	}
	// A byte that is put in moves what follows, and changes the chunks around it alone.
	plain := noise(3<<20, 1)
	one, err := c.Cut(bytes.NewReader(plain), keepNothing)
	fatal(t, err)
	known := map[wire.Digest]bool{}
	for _, x := range one.Chunks.All() {
		known[x.Digest] = true
	}
	changed := 0
	_, err = c.Cut(bytes.NewReader(append(append(bytes.Clone(plain[:1<<20]), 'x'), plain[1<<20:]...)), func(x artifact.Chunk, _ []byte) error {
		if !known[x.Digest] {
			changed++
		}
		return nil
	})
	if err != nil || changed == 0 || changed > 3 {
		t.Errorf("%d of %d chunks changed, error %v", changed, one.Chunks.Len(), err)
	}
	broken := errors.New("broken")
	if _, err := c.Cut(iotest.ErrReader(broken), keepNothing); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	if _, err := c.Cut(bytes.NewReader(plain), func(artifact.Chunk, []byte) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
}
