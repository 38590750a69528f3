package history

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/holdfast-edge/holdfast/internal/disk"
	"github.com/holdfast-edge/holdfast/internal/disk/simdisk"
)

// faultFS is the operating system's file system, whose nth operation fails. A failing write has written half.
type faultFS struct {
	disk.FS

	countdown *atomic.Int64 // operations until the failing one, which is at 0
	err       error
	reads     bool // count operations that only read, too
}

func newFaultFS(n int64, err error) faultFS {
	f := faultFS{FS: quickFS{}, countdown: new(atomic.Int64), err: err}
	f.countdown.Store(n)
	return f
}

func (f faultFS) op() error {
	if f.countdown.Add(-1) == -1 {
		return f.err
	}
	return nil
}

func (f faultFS) Rename(a, b string) error { return errors.Join(f.op(), f.FS.Rename(a, b)) }
func (f faultFS) Remove(name string) error { return errors.Join(f.op(), f.FS.Remove(name)) }
func (f faultFS) SyncDir(dir string) error { return errors.Join(f.op(), f.FS.SyncDir(dir)) }
func (f faultFS) MkdirAll(d string, p fs.FileMode) error {
	return errors.Join(f.op(), f.FS.MkdirAll(d, p))
}

func (f faultFS) OpenFile(name string, flag int, perm fs.FileMode) (disk.File, error) {
	if err := f.op(); err != nil {
		return nil, err
	}
	file, err := f.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return faultFile{file, f}, nil
}

type faultFile struct {
	disk.File

	fs faultFS
}

func (f faultFile) WriteAt(b []byte, offset int64) (int, error) {
	if err := f.fs.op(); err != nil {
		n, werr := f.File.WriteAt(b[:len(b)/2], offset)
		return n, errors.Join(err, werr)
	}
	return f.File.WriteAt(b, offset)
}

func (f faultFile) ReadAt(b []byte, offset int64) (int, error) {
	if f.fs.reads {
		if err := f.fs.op(); err != nil {
			return 0, err
		}
	}
	return f.File.ReadAt(b, offset)
}

func (f faultFile) Sync() error            { return errors.Join(f.fs.op(), f.File.Sync()) }
func (f faultFile) Reserve(n int64) error  { return errors.Join(f.fs.op(), f.File.Reserve(n)) }
func (f faultFile) Truncate(n int64) error { return errors.Join(f.fs.op(), f.File.Truncate(n)) }
func (f faultFile) Close() error           { return errors.Join(f.fs.op(), f.File.Close()) }

// Each operation of a run with appends, syncs and new segments fails once, for every reason. The call must say so, later calls too, and
// after a restart everything is as if it had not happened.
func TestEveryFailureStopsTheStore(t *testing.T) {
	recs := testRecords(1, 7)
	want := referenceFiles(t, smallSegment, recs)
	for _, cause := range []error{syscall.ENOSPC, syscall.EIO} {
		failures := 0
		for n := int64(0); ; n++ {
			dir := t.TempDir()
			s, err := Open(dir, Options{SegmentBytes: smallSegment, FS: quickFS{}})
			if err != nil {
				t.Fatal(err)
			}
			faulty := newFaultFS(n, cause)
			s.fs = faulty
			synced, err := appendAndSync(s, recs)
			if err == nil {
				if err := s.Close(); err == nil {
					break
				} else if !errors.Is(err, cause) {
					t.Fatalf("close: got %v, want %v", err, cause)
				}
			} else {
				failures++
				wantStopped(t, s, err, cause)
			}
			s = mustOpen(t, dir, Options{SegmentBytes: smallSegment, FS: quickFS{}})
			got, err := scanAll(s, 0)
			if err != nil || len(got) < synced {
				t.Fatalf("%d records and %v after restart, %d were synced", len(got), err, synced)
			}
			wantRecords(t, got, recs[:len(got)])
			mustAppend(t, s, recs)
			wantStored(t, s, recs)
			wantSameFiles(t, segmentFiles(t, disk.OS{}, dir), want)
			mustClose(t, s)
		}
		if failures < 40 {
			t.Errorf("only %d operations failed, the test does not reach what it should", failures)
		}
	}
}

// appendAndSync returns how many records a Sync that succeeded has covered.
func appendAndSync(s *Store, recs []Record) (synced int, err error) {
	for i := range recs {
		if err := s.Append(recs[i : i+1]); err != nil {
			return synced, err
		}
		if i%3 == 2 {
			if err := s.Sync(); err != nil {
				return synced, err
			}
			synced = i + 1
		}
	}
	return synced, nil
}

// wantStopped checks the error that stopped the store, that every call returns it again, and that Close does and still lets go.
func wantStopped(t *testing.T, s *Store, err, cause error) {
	t.Helper()
	if !errors.Is(err, ErrFailed) || !errors.Is(err, cause) {
		t.Fatalf("got %v, want ErrFailed for %v", err, cause)
	}
	for name, again := range everyCall(s) {
		if !errors.Is(again, ErrFailed) || !errors.Is(again, cause) {
			t.Fatalf("%s: got %v, want %v", name, again, err)
		}
	}
	if cerr := s.Close(); !errors.Is(cerr, ErrFailed) {
		t.Fatalf("close: got %v, want %v", cerr, err)
	}
}

// Opening fails with the disk's error, changes nothing that a later Open would miss, and lets go of the directory.
func TestEveryFailureOfOpen(t *testing.T) {
	recs := testRecords(1, 7)
	failures := 0
	for n := int64(0); ; n++ {
		d := newDamaged(t, 4)
		newest := d.files(t)[3]
		whole := readFile(t, newest)
		writeFile(t, newest, whole[:len(whole)-5])
		faulty := newFaultFS(n, syscall.EIO)
		faulty.reads = true
		s, err := Open(d.dir, Options{SegmentBytes: smallSegment, FS: faulty})
		if err == nil {
			faulty.countdown.Store(-1)
			mustClose(t, s)
			break
		}
		failures++
		if !errors.Is(err, syscall.EIO) || errors.Is(err, ErrCorrupt) {
			t.Fatalf("operation %d: got %v, want EIO", n, err)
		}
		s = mustOpen(t, d.dir, d.opts)
		wantStored(t, s, recs[:len(recs)-1])
		mustClose(t, s)
	}
	if failures < 20 {
		t.Errorf("only %d operations failed, the test does not reach what it should", failures)
	}
}

// A disk that cannot be read is neither damage nor the end of the store.
func TestReadErrorIsPassedOn(t *testing.T) {
	s := mustOpen(t, t.TempDir(), Options{SegmentBytes: smallSegment, FS: quickFS{}})
	recs := testRecords(1, 9)
	mustAppend(t, s, recs)
	for n := range int64(4) {
		faulty := newFaultFS(n, syscall.EIO)
		faulty.reads = true
		s.fs = faulty
		got, _, err := s.Read(context.Background(), testStreams[0], Query{})
		if !errors.Is(err, syscall.EIO) || errors.Is(err, ErrCorrupt) || len(got) > 0 {
			t.Errorf("read, operation %d: %d records, error %v", n, len(got), err)
		}
		faulty.countdown.Store(n)
		if err := s.Scan(context.Background(), 0, func(*Record) error { return nil }); !errors.Is(err, syscall.EIO) || errors.Is(err, ErrCorrupt) {
			t.Errorf("scan, operation %d: %v", n, err)
		}
	}
	s.fs = disk.OS{}
	wantStored(t, s, recs)
}

func TestSyncOfNothingNewLeavesTheDiskAlone(t *testing.T) {
	fsys := simdisk.New(1)
	s := mustOpen(t, "dir", Options{FS: fsys})
	for _, recs := range [][]Record{nil, testRecords(1, 3)} {
		mustAppend(t, s, recs)
		if err := s.Sync(); err != nil {
			t.Fatal(err)
		}
		fsys.CutAfter(0)
		if err := s.Sync(); err != nil {
			t.Fatal(err)
		}
		fsys.CutAfter(-1)
	}
}

func TestCloseSyncs(t *testing.T) {
	fsys := simdisk.New(1)
	s := mustOpen(t, "dir", Options{FS: fsys})
	recs := testRecords(1, 9)
	mustAppend(t, s, recs)
	mustClose(t, s)
	s = mustOpen(t, "dir", Options{FS: fsys.Crash(rand.New(rand.NewPCG(1, 1)))})
	wantStored(t, s, recs)
}

// After a failed sync the kernel may keep in memory what never reached the disk, and the next sync succeeds. A store that is opened then
// must believe the disk.
func TestOpenAfterAFailedSyncReadsTheDisk(t *testing.T) {
	fsys := simdisk.New(1)
	s := mustOpen(t, "dir", Options{FS: fsys})
	recs := testRecords(1, 9)
	mustAppend(t, s, recs[:5])
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, s, recs)
	fsys.SetHook(simdisk.FailNth(simdisk.OpSync, 1, syscall.EIO))
	wantStopped(t, s, s.Sync(), syscall.EIO)
	s = mustOpen(t, "dir", Options{FS: fsys})
	wantStored(t, s, recs[:5])
	mustAppend(t, s, recs)
	mustClose(t, s)
	wantStored(t, mustOpen(t, "dir", Options{FS: fsys.Crash(rand.New(rand.NewPCG(1, 1)))}), recs)
}
