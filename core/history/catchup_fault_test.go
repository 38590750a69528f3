package history

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/holdfast-edge/holdfast/internal/disk"
	"github.com/holdfast-edge/holdfast/internal/disk/simdisk"
)

// A course is a run that needs everything that catching up does: it appends, falls behind, falls behind further, is filled by a peer that
// has other records and then by one that has the right ones, while new records come in. Its steps can be done over from the first one: what
// was done already changes nothing.
type course struct {
	recs        []Record
	good, wrong *Store
	synced      int // of recs behind the gap or, when it is closed, of all: the log index up to which Sync returned nil
}

const (
	courseHad    = 5  // records before the gap
	courseFirst  = 14 // log index up to which the gap first reaches
	courseUpto   = 20 // and then
	courseBehind = 26 // log index up to which records are appended before the gap is closed
)

func newCourse(tb testing.TB) *course {
	tb.Helper()
	c := &course{recs: testRecords(1, 30)}
	other := slices.Clone(c.recs)
	other[25].Kind++
	c.good, c.wrong = whole(tb, c.recs), whole(tb, other)
	return c
}

// run goes through the course on s. It ends with the first error of s.
func (c *course) run(t failer, s *Store) error {
	steps := []func() error{
		func() error { return s.Append(c.recs[:courseHad]) },
		s.Sync,
		func() error { return s.Skip(courseFirst, markOf(upToIndex(c.recs, courseFirst))) },
		func() error { return s.Append(upToIndex(behindIndex(c.recs, courseFirst), courseFirst+3)) },
		func() error { return c.fill(t, s, c.good, 1) },
		func() error { return s.Skip(courseUpto, markOf(upToIndex(c.recs, courseUpto))) },
		func() error { return s.Append(upToIndex(c.recs, courseBehind)) },
		func() error { return c.sync(s, courseBehind) },
		func() error { return c.fill(t, s, c.wrong, 100) },
		func() error { return s.Append(upToIndex(c.recs, courseBehind+1)) },
		func() error { return c.fill(t, s, c.good, 100) },
		func() error { return s.Append(c.recs) },
		func() error { return c.sync(s, 30) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (c *course) sync(s *Store, upto int) error {
	err := s.Sync()
	if err == nil {
		c.synced = upto
	}
	return err
}

// fill gives s a few chunks of what peer has, as long as something is missing and the peer's records fit.
func (c *course) fill(t failer, s, peer *Store, chunks int) error {
	for range chunks {
		after, n, upto, open := s.Missing()
		if !open {
			return nil
		}
		b, _, err := peer.Export(after, n, upto, 400)
		if err != nil {
			t.Fatalf("export: %v", err)
		}
		if _, err := s.Fill(b); errors.Is(err, ErrMismatch) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}

// wantOpenOrClosed checks s after a kill or a power cut: either the gap is open, nothing is read, and what is behind it was not lost; or there
// is none, and the records are a beginning of what they should be.
func (c *course) wantOpenOrClosed(t failer, s *Store) {
	t.Helper()
	index, n, upto, open := s.Missing()
	newest, _ := s.Last()
	if newest < uint64(c.synced) {
		t.Fatalf("the newest record is of log index %d, up to %d was synced", newest, c.synced)
	}
	if open {
		wantIncomplete(t, s, Cursor{index, n}, upto)
		if at := (Cursor{index, n}); at.Compare(c.recs[0].Cursor()) < 0 && c.synced > 0 || index > upto {
			t.Fatalf("records are missing from %v to %d", at, upto)
		}
		return
	}
	got, err := scanAll(s, 0)
	if err != nil {
		t.Fatalf("scan: %v", err)
	}
	if len(got) > len(c.recs) {
		t.Fatalf("%d records", len(got))
	}
	wantStored(t, s, c.recs[:len(got)])
}

// The power is cut after each operation of the course, and a part of what was not synced is lost, in several ways. The next run finishes it.
func TestPowerCutAtEveryStepOfCatchingUp(t *testing.T) {
	cuts := 0
	c := newCourse(t)
	for n := 0; ; n++ {
		finished := false
		for seed := range uint64(4) {
			fsys := simdisk.New(1)
			opts := Options{SegmentBytes: smallSegment, FS: fsys}
			s := mustOpenFailer(t, opts)
			fsys.CutAfter(n)
			c.synced = 0
			err := c.run(t, s)
			if finished = err == nil; finished {
				break
			}
			if !errors.Is(err, ErrFailed) || !errors.Is(err, simdisk.ErrPowerCut) {
				t.Fatalf("after %d operations: got %v, want ErrFailed for a power cut", n, err)
			}
			cuts++
			next := fsys.Crash(newRand(seed))
			if seed == 3 { // only the process ends
				next = fsys.Kill()
			}
			c.resume(t, next, uint64(n)+seed)
		}
		if finished {
			break
		}
	}
	if cuts < 4*150 {
		t.Errorf("only %d power cuts, the test does not reach what it should", cuts)
	}
}

// mustOpenFailer opens a store in memory, which needs no closing.
func mustOpenFailer(t failer, opts Options) *Store {
	t.Helper()
	s, err := Open("dir", opts)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return s
}

// resume opens the store with another power cut on the way, checks what is there, and finishes the course.
func (c *course) resume(t failer, fsys *simdisk.Disk, chance uint64) {
	t.Helper()
	fsys.CutAfter(int(chance*7) % 40)
	if _, err := Open("dir", Options{SegmentBytes: smallSegment, FS: fsys}); err != nil {
		if !errors.Is(err, simdisk.ErrPowerCut) {
			t.Fatalf("open: %v", err)
		}
	}
	fsys = fsys.Crash(newRand(chance))
	opts := Options{SegmentBytes: smallSegment, FS: fsys}
	s := mustOpenFailer(t, opts)
	c.wantOpenOrClosed(t, s)
	if err := c.run(t, s); err != nil {
		t.Fatalf("the course after the power cut: %v", err)
	}
	wantComplete(t, s, c.recs)
	s = mustOpenFailer(t, Options{SegmentBytes: smallSegment, FS: fsys.Crash(newRand(chance))})
	wantComplete(t, s, c.recs)
}

// Each operation of the course fails once. The call says so, later ones too, and after a restart the course can be finished.
func TestEveryFailureOfCatchingUp(t *testing.T) {
	failures := 0
	c := newCourse(t)
	for n := int64(0); ; n++ {
		fsys := simdisk.New(1)
		s := mustOpenFailer(t, Options{SegmentBytes: smallSegment, FS: fsys})
		faulty := newFaultFS(n, syscall.EIO)
		faulty.FS = fsys
		s.fs = faulty
		err := c.run(t, s)
		faulty.countdown.Store(-1)
		if err == nil {
			wantComplete(t, s, c.recs)
			break
		}
		failures++
		wantStopped(t, s, err, syscall.EIO)
		s = mustOpenFailer(t, Options{SegmentBytes: smallSegment, FS: fsys})
		if err := c.run(t, s); err != nil {
			t.Fatalf("operation %d: the course after the restart: %v", n, err)
		}
		wantComplete(t, s, c.recs)
	}
	if failures < 150 {
		t.Errorf("only %d operations failed, the test does not reach what it should", failures)
	}
}

// gapped is a directory with an open gap that is filled in part and records behind it, as the end of the process leaves it.
func gapped(t *testing.T, recs []Record) string {
	t.Helper()
	s := mustOpen(t, t.TempDir(), catchupOptions)
	mustAppend(t, s, recs[:9])
	mustSkip(t, s, 20, markOf(upToIndex(recs, 20)))
	mustAppend(t, s, recs)
	peer := whole(t, recs)
	for range 3 {
		b, _ := exportNext(t, s, peer, 400)
		if _, err := s.Fill(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	return copyDir(t, s.dir)
}

// loadMem returns the files of a store's directory in memory, in a directory "dir".
func loadMem(t *testing.T, dir string) *simdisk.Disk {
	t.Helper()
	m := simdisk.New(1)
	for _, sub := range []string{"", aheadName} {
		list, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			if name := filepath.Join(sub, e.Name()); !e.IsDir() {
				b := readFile(t, filepath.Join(dir, name))
				m.Put(filepath.Join("dir", name), b)
			}
		}
	}
	return m
}

// Bits that flip in the files of a gap are noticed at Open, wherever they are synced; what was filled in and not synced is fetched again.
func TestBitFlipsAroundAGap(t *testing.T) {
	recs := testRecords(1, 26)
	peer := whole(t, recs)
	dir := gapped(t, recs)
	names := loadMem(t, dir).Files()
	if len(names) < 10 {
		t.Fatalf("only %v", names)
	}
	behind := slices.IndexFunc(names, func(name string) bool { return filepath.Dir(name) != "dir" })
	newest, refetched := names[behind-1], 0
	for _, name := range names {
		for i := range loadMem(t, dir).Content(name) {
			m := loadMem(t, dir)
			m.Flip(name, int64(i*8+i%8))
			opts := Options{SegmentBytes: smallSegment, FS: m}
			s, err := Open("dir", opts)
			if err != nil {
				if broken, ok := errors.AsType[*CorruptError](err); !ok || broken.File != name {
					t.Fatalf("byte %d of %s: %v", i, name, err)
				}
				continue
			}
			// Only the newest of the segments that are filled in can hold what was not synced.
			if refetched++; name != newest {
				t.Fatalf("byte %d of %s: opened", i, name)
			}
			mustCatchUp(t, s, peer, MaxChunk)
			wantComplete(t, s, recs)
		}
	}
	if refetched == 0 {
		t.Error("there was nothing that was not synced")
	}
}

func TestMissingFilesAroundAGap(t *testing.T) {
	recs := testRecords(1, 26)
	dir := gapped(t, recs)
	ahead, err := filepath.Glob(filepath.Join(dir, aheadName, "*"))
	if err != nil || len(ahead) < 3 {
		t.Fatal(ahead, err)
	}
	for _, name := range append(ahead, filepath.Join(dir, markName)) {
		d := damaged{dir: copyDir(t, dir), opts: catchupOptions}
		if err := os.Remove(filepath.Join(d.dir, name[len(dir):])); err != nil {
			t.Fatal(err)
		}
		d.wantCorrupt(t, "")
	}
	d := damaged{dir: copyDir(t, dir), opts: catchupOptions}
	g, err := readGap(disk.OS{}, d.dir)
	if err != nil {
		t.Fatal(err)
	}
	g.state = gapCutting
	if err := writeGap(disk.OS{}, d.dir, g); err != nil {
		t.Fatal(err)
	}
	base := filepath.Join(d.dir, filepath.Base((&Store{}).path(g.base.first)))
	if err := os.Remove(base); err != nil {
		t.Fatal(err)
	}
	d.wantCorrupt(t, base)
}

func TestGapRefusesEveryChange(t *testing.T) {
	recs := testRecords(1, 9)
	g := gap{state: gapOpen, upto: 9, want: markOf(recs), base: syncMark{3, 200, markOf(recs[:4])}}
	good := g.encode()
	if got, err := decodeGap(good); err != nil || got != g {
		t.Fatalf("got %+v, %v", got, err)
	}
	for i := range good {
		if _, err := decodeGap(good[:i]); !errors.As(err, new(damage)) {
			t.Errorf("cut to %d bytes: %v", i, err)
		}
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << bit
			if _, err := decodeGap(bad); !errors.As(err, new(damage)) {
				t.Errorf("bit %d of byte %d: %v", bit, i, err)
			}
		}
	}
	if _, err := decodeGap(append(good, 0)); err == nil {
		t.Error("a longer file was accepted")
	}
	for name, change := range map[string]func(*gap){
		"state 0":         func(g *gap) { g.state = 0 },
		"state 4":         func(g *gap) { g.state = 4 },
		"nothing missing": func(g *gap) { g.want.Count = g.base.chain.Count },
		"negative length": func(g *gap) { g.base.end = -1 },
	} {
		bad := g
		change(&bad)
		if _, err := decodeGap(bad.encode()); !errors.As(err, new(damage)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A folder that cannot be read is not one that is empty.
func TestAheadThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, aheadName), nil)
	if s, err := Open(dir, catchupOptions); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, %v", s, err)
	}
}
