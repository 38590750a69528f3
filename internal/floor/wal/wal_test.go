package wal

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"
)

func TestAppend(t *testing.T) {
	dir := t.TempDir()
	l, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := [][]byte{[]byte("one"), nil, bytes.Repeat([]byte("three"), 100)}
	for range 2 {
		if err := l.Append(want); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "segment-0"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 * len(want) {
		n := binary.LittleEndian.Uint32(b)
		got := b[frameHead : frameHead+n]
		if !bytes.Equal(got, want[i%len(want)]) || crc32.Checksum(got, castagnoli) != binary.LittleEndian.Uint32(b[4:]) {
			t.Fatalf("frame %d is %q", i, got)
		}
		b = b[frameHead+n:]
	}
	if len(b) > 0 {
		t.Errorf("%d bytes too many", len(b))
	}
}

func TestSegmentsAreReused(t *testing.T) {
	dir := t.TempDir()
	l, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	big := [][]byte{make([]byte, segmentBytes/2)}
	for range 2*segments + 1 {
		if err := l.Append(big); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	list, err := os.ReadDir(dir)
	if err != nil || len(list) != segments {
		t.Errorf("%v, %v", list, err)
	}
	if _, err := Open(filepath.Join(dir, "none")); err == nil {
		t.Error("opened where there is no directory")
	}
}
