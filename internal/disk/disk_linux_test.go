package disk

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestReplaceAndReadSmall(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "file")
	if b, err := ReadSmall(OS{}, name, 10); b != nil || err != nil {
		t.Fatalf("no file: %q, %v", b, err)
	}
	for _, content := range []string{"old", "new and longer", ""} {
		if err := Replace(OS{}, dir, "file", []byte(content)); err != nil {
			t.Fatal(err)
		}
		got, err := ReadSmall(OS{}, name, 10)
		if err != nil || got == nil || string(got) != content[:min(len(content), 11)] {
			t.Errorf("read %q, %v; want %q", got, err, content)
		}
	}
	list, err := OS{}.ReadDir(dir)
	if err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
	if err := Replace(OS{}, filepath.Join(dir, "none"), "file", nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("into no directory: %v", err)
	}
}

func TestFile(t *testing.T) {
	dir := t.TempDir()
	f, err := Create(OS{}, dir, "file", []byte("0123456789"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, step := range []error{f.Reserve(1 << 20), f.Sync(), f.DropCache(), f.Truncate(5), f.Sync()} {
		if step != nil {
			t.Fatal(step)
		}
	}
	if n, err := f.Size(); n != 5 || err != nil {
		t.Errorf("size %d, %v", n, err)
	}
	b := make([]byte, 10)
	if n, err := ReadFull(f, b, 2); n != 3 || err != nil || !bytes.Equal(b[:n], []byte("234")) {
		t.Errorf("read %q, %v", b[:n], err)
	}
}

// What was reserved and is not used is given back by a truncation to the size that the file has.
func TestReservationIsGivenBack(t *testing.T) {
	dir := t.TempDir()
	f, err := Create(OS{}, dir, "file", make([]byte, 1000))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	blocks := func() int64 {
		info, err := os.Stat(filepath.Join(dir, "file"))
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t).Blocks * 512 //nolint:forcetypeassert // on Linux it is
	}
	if err := f.Reserve(1 << 20); err != nil {
		t.Fatal(err)
	}
	if blocks() < 1<<20 {
		t.Skipf("nothing is reserved on this file system: %d bytes", blocks())
	}
	if err := errors.Join(f.Truncate(1000), f.Sync()); err != nil {
		t.Fatal(err)
	}
	if n := blocks(); n > 8192 {
		t.Errorf("the file still takes %d bytes", n)
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	l, err := OS{}.Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (OS{}).Lock(dir); !errors.Is(err, ErrLocked) {
		t.Errorf("the second lock: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l, err = (OS{}).Lock(dir); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := (OS{}).Lock(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) || strings.Contains(err.Error(), ErrLocked.Error()) {
		t.Errorf("no directory: %v", err)
	}
}
