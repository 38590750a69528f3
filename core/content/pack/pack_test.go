package pack

import (
	"bytes"
	"errors"
	"testing"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
)

func sample() []Chunk {
	return []Chunk{
		{wire.DigestOf([]byte("a")), []byte{0, 'a'}},
		{wire.DigestOf([]byte("bc")), []byte{0, 'b', 'c'}},
		{wire.DigestOf(nil), make([]byte, artifact.MaxStored)},
	}
}

func TestPack(t *testing.T) {
	var b []byte
	size := 0
	for _, c := range sample() {
		b = Append(b, c)
		size += c.Size()
	}
	if len(b) != size {
		t.Errorf("%d bytes, told were %d", len(b), size)
	}
	got, err := Read(b)
	if err != nil || len(got) != 3 {
		t.Fatalf("%d chunks: %v", len(got), err)
	}
	for i, want := range sample() {
		if got[i].Digest != want.Digest || !bytes.Equal(got[i].Stored, want.Stored) {
			t.Errorf("chunk %d is another", i)
		}
	}
	ends := map[int]bool{0: true, 38: true, 77: true}
	for n := range 200 { // where it is cut
		if _, err := Read(b[:n]); errors.Is(err, ErrPack) == ends[n] {
			t.Errorf("cut after %d bytes: %v", n, err)
		}
	}
	if _, err := Read(append(b, 0)); !errors.Is(err, ErrPack) {
		t.Errorf("a byte behind it: %v", err)
	}
	for _, n := range []byte{0, 1} {
		if _, err := Read(append(append(make([]byte, 35), n), make([]byte, n)...)); !errors.Is(err, ErrPack) {
			t.Errorf("a chunk of %d bytes: %v", n, err)
		}
	}
	long := append(append(make([]byte, 32), 0, 4, 0, 2), make([]byte, artifact.MaxStored+1)...)
	if _, err := Read(long); !errors.Is(err, ErrPack) {
		t.Errorf("a chunk that is too long: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte{})
	f.Add(Append(Append(nil, sample()[0]), sample()[1]))
	f.Add(make([]byte, 40))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := Read(b)
		if err != nil {
			return
		}
		var again []byte
		for _, c := range list {
			again = Append(again, c)
		}
		if !bytes.Equal(again, b) {
			t.Error("it reads as another pack")
		}
	})
}
