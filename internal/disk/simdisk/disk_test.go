package simdisk

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"syscall"
	"testing"

	"github.com/holdfast-edge/holdfast/internal/disk"
)

var _ disk.FS = (*Disk)(nil)

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, seed)) }

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func create(t *testing.T, d *Disk, name string) disk.File {
	t.Helper()
	f, err := d.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	must(t, err)
	return f
}

func write(t *testing.T, f disk.File, b []byte, offset int64) {
	t.Helper()
	_, err := f.WriteAt(b, offset)
	must(t, err)
}

// outcomes crashes the disk often and returns which contents of a file were found; "-" is no file.
func outcomes(d *Disk, name string) map[string]int {
	found := make(map[string]int)
	for seed := range uint64(300) {
		c := d.Crash(newRand(seed))
		content := "-"
		if slices.Contains(c.Files(), name) {
			content = string(c.Content(name))
		}
		found[content]++
	}
	return found
}

func want(t *testing.T, got map[string]int, contents ...string) {
	t.Helper()
	slices.Sort(contents)
	if keys := slices.Sorted(maps.Keys(got)); !slices.Equal(keys, contents) {
		t.Errorf("found %q, want %q", keys, contents)
	}
}

// What was synced, with its name, is always there; what was not can be, in part.
func TestCrash(t *testing.T) {
	d := New(1)
	f := create(t, d, "f")
	write(t, f, []byte("aa"), 0)
	want(t, outcomes(d, "f"), "-", "", "a\x00", "aa", "\x00\x00")
	must(t, f.Sync())
	want(t, outcomes(d, "f"), "-", "aa")
	must(t, d.SyncDir("."))
	want(t, outcomes(d, "f"), "aa")
	write(t, f, []byte("b"), 0)
	write(t, f, []byte("c"), 0)
	want(t, outcomes(d, "f"), "aa", "ba", "ca")
	must(t, f.Truncate(1))
	want(t, outcomes(d, "f"), "aa", "ba", "ca", "a", "b", "c")
	must(t, f.Sync())
	want(t, outcomes(d, "f"), "c")
	want(t, outcomes(d.Kill(), "f"), "c")
}

func TestCrashTearsSectors(t *testing.T) {
	d := New(1)
	f := create(t, d, "f")
	write(t, f, make([]byte, 3*Sector), 0)
	must(t, f.Sync(), d.SyncDir("."))
	write(t, f, bytes.Repeat([]byte{1}, 3*Sector), 0)
	seen := make(map[string]bool)
	for content := range outcomes(d, "f") {
		var kinds string
		for sector := range slices.Chunk([]byte(content), Sector) {
			switch bytes.Count(sector, []byte{1}) {
			case 0:
				kinds += "0"
			case Sector:
				kinds += "1"
			default:
				kinds += "t"
			}
		}
		seen[kinds] = true
	}
	for _, kinds := range []string{"000", "111", "010", "101", "001", "t11", "1t1"} {
		if !seen[kinds] {
			t.Errorf("%s never happened: %v", kinds, seen)
		}
	}
}

// Changes of names are durable in their order, and with the directory above them.
func TestNames(t *testing.T) {
	d := New(1)
	if _, err := d.OpenFile("dir/f", os.O_CREATE, 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("into no directory: %v", err)
	}
	must(t, d.MkdirAll("dir/sub", 0o700), d.SyncDir("dir"))
	f := create(t, d, "dir/tmp")
	write(t, f, []byte("x"), 0)
	must(t, f.Sync(), d.Rename("dir/tmp", "dir/f"))
	want(t, outcomes(d, "dir/f"), "-", "x")
	must(t, d.SyncDir("dir"))
	want(t, outcomes(d, "dir/f"), "-", "x") // dir itself can be lost
	must(t, d.SyncDir("."))
	want(t, outcomes(d, "dir/f"), "x")
	must(t, d.Remove("dir/f"))
	want(t, outcomes(d, "dir/f"), "-", "x")
	list, err := d.ReadDir("dir")
	if err != nil || len(list) != 1 || list[0].Name() != "sub" || !list[0].IsDir() {
		t.Errorf("%v, %v", list, err)
	}
	for name, err := range map[string]error{
		"remove nothing":      d.Remove("dir/f"),
		"rename nothing":      d.Rename("dir/f", "dir/g"),
		"sync no directory":   d.SyncDir("none"),
		"read no directory":   second(d.ReadDir("none")),
		"lock no directory":   second(d.Lock("none")),
		"open what is not":    second(d.OpenFile("dir/f", os.O_RDONLY, 0)),
		"truncate what isn't": second(d.OpenFile("dir/f", os.O_TRUNC, 0)),
	} {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	create(t, d, "dir/g")
	if err := second(d.OpenFile("dir/g", os.O_CREATE|os.O_EXCL, 0)); !errors.Is(err, fs.ErrExist) {
		t.Errorf("made twice: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestLock(t *testing.T) {
	d := New(1)
	l, err := d.Lock(".")
	must(t, err)
	if err := second(d.Lock(".")); !errors.Is(err, disk.ErrLocked) {
		t.Errorf("the second lock: %v", err)
	}
	must(t, second(d.Crash(newRand(1)).Lock(".")), l.Close(), second(d.Lock(".")))
}

// A sync that failed has forgotten: the next one succeeds, the file reads well, and the disk does not have it.
func TestFailedSync(t *testing.T) {
	d := New(1)
	f := create(t, d, "f")
	must(t, f.Sync(), d.SyncDir("."))
	lost := false
	for seed := uint64(0); seed < 20 && !lost; seed++ {
		write(t, f, []byte("data"), 0)
		d.SetHook(FailNth(OpSync, 1, syscall.EIO))
		if err := f.Sync(); !errors.Is(err, syscall.EIO) {
			t.Fatal(err)
		}
		write(t, f, []byte("more"), 4)
		must(t, f.Sync())
		if got := d.Content("f"); string(got) != "datamore" {
			t.Fatalf("reads %q", got)
		}
		content := d.Crash(newRand(seed)).Content("f")
		if string(content[4:]) != "more" {
			t.Fatalf("the disk has %q", content)
		}
		lost = string(content[:4]) != "data"
		must(t, f.DropCache())
		if got := d.Content("f"); !bytes.Equal(got, content) {
			t.Fatalf("reads %q, the disk has %q", got, content)
		}
		must(t, f.Truncate(0), f.Sync())
	}
	if !lost {
		t.Error("nothing was ever lost")
	}
}

func TestLimit(t *testing.T) {
	d := New(1)
	d.Limit(100)
	f := create(t, d, "f")
	if n, err := f.WriteAt(make([]byte, 150), 0); n != 100 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("wrote %d, %v", n, err)
	}
	write(t, f, make([]byte, 100), 0) // in place
	must(t, f.Truncate(10), f.Reserve(60))
	g := create(t, d, "g")
	if err := g.Reserve(41); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("reserved: %v", err)
	}
	must(t, g.Reserve(40))
	write(t, f, make([]byte, 50), 10)
	if d.Used() != 100 {
		t.Errorf("%d bytes are used", d.Used())
	}
	must(t, d.Remove("f"))
	write(t, g, make([]byte, 100), 0)
}

func TestHookAndFuse(t *testing.T) {
	d := New(1)
	f := create(t, d, "a")
	var ops []Op
	d.SetHook(func(op Op) error { ops = append(ops, op); return nil })
	write(t, f, []byte("0123"), 6)
	must(t, d.Rename("a", "b"), second(f.ReadAt(make([]byte, 3), 7)), f.Sync())
	wantOps := []Op{{OpWrite, "a", 6, 4}, {OpRename, "b", 0, 0}, {OpRead, "b", 7, 3}, {OpSync, "b", 0, 0}}
	if !slices.Equal(ops, wantOps) {
		t.Errorf("%v", ops)
	}
	d.SetHook(FailNth(OpWrite, 2, syscall.EIO))
	write(t, f, []byte("ab"), 0)
	if n, err := f.WriteAt([]byte("cdef"), 0); n != 2 || !errors.Is(err, syscall.EIO) || string(d.Content("b")[:4]) != "cd\x00\x00" {
		t.Errorf("wrote %d, %v: %q", n, err, d.Content("b"))
	}
	d.CutAfter(2)
	write(t, f, []byte("ab"), 0)
	must(t, second(f.ReadAt(make([]byte, 3), 0)), f.Sync())
	for _, err := range []error{f.Sync(), second(f.WriteAt(nil, 0)), second(f.ReadAt(nil, 0)), d.SyncDir("."), second(d.OpenFile("b", 0, 0)), d.Remove("b")} {
		if !errors.Is(err, ErrPowerCut) {
			t.Errorf("after the power cut: %v", err)
		}
	}
	must(t, f.Close())
	if err := f.Close(); !errors.Is(err, os.ErrClosed) || d.Handles() != 0 {
		t.Errorf("closed twice: %v, %d handles", err, d.Handles())
	}
}

func TestReadAndFlip(t *testing.T) {
	d := New(1)
	d.Put("dir/f", []byte{0, 0})
	d.Flip("dir/f", 9)
	d.Flip("dir/f", 900)
	d.Flip("none", 0)
	f, err := d.OpenFile("dir/f", os.O_RDONLY, 0)
	must(t, err)
	b := make([]byte, 3)
	if n, err := f.ReadAt(b, 0); n != 2 || !errors.Is(err, io.EOF) || b[1] != 2 {
		t.Errorf("read %v, %v", b[:n], err)
	}
	if n, err := f.ReadAt(b, 2); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("read %d at the end, %v", n, err)
	}
	if got := d.Crash(newRand(1)).Content("dir/f"); !bytes.Equal(got, []byte{0, 2}) {
		t.Errorf("%v after a crash", got)
	}
	if d.Content("none") != nil {
		t.Error("a file that is not there has content")
	}
}
