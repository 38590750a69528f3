package history

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/holdfast-edge/holdfast/internal/disk"
	"github.com/holdfast-edge/holdfast/internal/disk/simdisk"
)

// machine drives a store over a file system that loses power, beside a model of it: the plain list of records.
type machine struct {
	t    *rapid.T
	fs   *simdisk.Disk
	opts Options
	s    *Store
	log  []Record // every record that was ever appended: what the replicated log would give again
	have int      // of log, what the store was told; after a crash, what it has
	sure int      // of log, what was synced
	rand *rand.Rand
}

func (m *machine) open() {
	s, err := Open("dir", m.opts)
	if err != nil {
		m.t.Fatalf("open: %v", err)
	}
	m.s = s
}

// grow adds new records to the log: some to the last index, some to the next ones.
func (m *machine) grow(t *rapid.T) {
	for range rapid.IntRange(1, 6).Draw(t, "records") {
		next := Cursor{Index: 1}
		if n := len(m.log); n > 0 {
			next = m.log[n-1].Cursor()
			next.N++
			if step := rapid.Uint64Range(0, 3).Draw(t, "step"); step > 0 {
				next = Cursor{Index: next.Index + step}
			}
		}
		m.log = append(m.log, testRecord(next.Index, next.N))
	}
}

// apply appends a stretch of the log that may begin with records that the store has.
func (m *machine) apply(t *rapid.T) error {
	from := rapid.IntRange(max(0, m.have-4), m.have).Draw(t, "from")
	to := rapid.IntRange(from, len(m.log)).Draw(t, "to")
	if err := m.s.Append(m.log[from:to]); err != nil {
		return err
	}
	m.have = max(m.have, to)
	return nil
}

func (m *machine) Append(t *rapid.T) {
	m.grow(t)
	if err := m.apply(t); err != nil {
		t.Fatalf("append: %v", err)
	}
}

func (m *machine) Sync(t *rapid.T) {
	if err := m.s.Sync(); err != nil {
		t.Fatalf("sync: %v", err)
	}
	m.sure = m.have
}

func (m *machine) Restart(t *rapid.T) {
	if err := m.s.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	m.sure = m.have
	m.open()
}

func (m *machine) Read(t *rapid.T) {
	q := Query{
		Newest: rapid.Bool().Draw(t, "newest"),
		Limit:  rapid.IntRange(0, 5).Draw(t, "limit"),
		Kinds:  rapid.SliceOfN(rapid.Map(rapid.Uint8Range(0, 5), func(k uint8) Kind { return Kind(k) }), 0, 3).Draw(t, "kinds"),
		After:  Cursor{Index: rapid.Uint64Range(0, 60).Draw(t, "index"), N: rapid.Uint32Range(0, 3).Draw(t, "n")},
	}
	stream := rapid.SampledFrom(testStreams).Draw(t, "stream")
	got, next, err := m.s.Read(context.Background(), stream, q)
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	want, wantNext := wantPage(m.log[:m.have], stream, q)
	wantRecords(t, got, want)
	if next != wantNext {
		t.Fatalf("next is %v, want %v", next, wantNext)
	}
}

// PowerCut lets the power go after a few more operations, in whichever call that is; comes back with what the disk kept; and may lose
// power again while the store is opened.
func (m *machine) PowerCut(t *rapid.T) {
	m.grow(t)
	m.fs.CutAfter(rapid.IntRange(0, 25).Draw(t, "fuse"))
	err := m.apply(t)
	if err == nil && rapid.Bool().Draw(t, "sync") {
		if err = m.s.Sync(); err == nil {
			m.sure = m.have
		}
	}
	if err != nil && (!errors.Is(err, ErrFailed) || !errors.Is(err, simdisk.ErrPowerCut)) {
		t.Fatalf("got %v, want ErrFailed for a power cut", err)
	}
	for {
		m.fs = m.fs.Crash(m.rand)
		m.opts.FS = m.fs
		m.fs.CutAfter(rapid.IntRange(0, 40).Draw(t, "next fuse"))
		s, err := Open("dir", m.opts)
		m.fs.CutAfter(-1)
		if err == nil {
			m.s = s
			break
		}
		if !errors.Is(err, simdisk.ErrPowerCut) {
			t.Fatalf("open after a power cut: %v", err)
		}
	}
	m.recount(t)
}

// Kill ends the process without Close, and starts it again.
func (m *machine) Kill(t *rapid.T) {
	m.fs = m.fs.Kill()
	m.opts.FS = m.fs
	m.open()
	m.recount(t)
}

// recount finds out how many records survived, which must be a beginning of the log and all that was synced. What Open has found must
// itself be durable.
func (m *machine) recount(t *rapid.T) {
	wantSameFiles(t, segmentFiles(t, m.fs.Crash(m.rand), "dir"), segmentFiles(t, m.fs, "dir"))
	got, err := scanAll(m.s, 0)
	if err != nil {
		t.Fatalf("scan: %v", err)
	}
	if len(got) < m.sure || len(got) > len(m.log) {
		t.Fatalf("%d records survived; %d were synced, %d logged", len(got), m.sure, len(m.log))
	}
	m.have, m.sure = len(got), len(got)
}

// Check is run after each action.
func (m *machine) Check(t *rapid.T) {
	wantStored(t, m.s, m.log[:m.have])
	for stream, positions := range m.s.index.streams {
		if !slices.IsSorted(positions) || cap(positions)*8 > 16*len(positions) {
			t.Fatalf("stream %v has %d positions in %d bytes", stream, len(positions), cap(positions)*8)
		}
	}
}

// Whatever happens, the store holds a beginning of the log with everything that was synced, reads like the model, and in the end has the
// same bytes as a store that was given everything at once and saw no crash.
func TestStoreAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		m := &machine{t: t, fs: simdisk.New(1), rand: rand.New(rand.NewPCG(seed, seed))}
		m.opts = Options{SegmentBytes: rapid.SampledFrom([]int64{1, smallSegment, 1 << 20}).Draw(t, "segment size"), FS: m.fs}
		m.open()
		t.Repeat(map[string]func(*rapid.T){
			"append":    m.Append,
			"sync":      m.Sync,
			"restart":   m.Restart,
			"read":      m.Read,
			"power cut": m.PowerCut,
			"kill":      m.Kill,
			"":          m.Check,
		})
		if err := m.s.Append(m.log[m.have:]); err != nil {
			t.Fatalf("append: %v", err)
		}
		wantStored(t, m.s, m.log)
		wantSameFiles(t, segmentFiles(t, m.fs, "dir"), referenceFiles(t, m.opts.SegmentBytes, m.log))
	})
}

// referenceFiles returns the segments of a store that was given recs in one go.
func referenceFiles(t failer, segmentBytes int64, recs []Record) map[string]string {
	t.Helper()
	fsys := simdisk.New(1)
	s, err := Open("dir", Options{SegmentBytes: segmentBytes, FS: fsys})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	if err := s.Append(recs); err != nil {
		t.Fatalf("append: %v", err)
	}
	return segmentFiles(t, fsys, "dir")
}

// The same in real files, with batches and restarts of every regularity.
func TestSegmentsAreIdenticalHoweverWritten(t *testing.T) {
	recs := testRecords(1, 60)
	want := referenceFiles(t, smallSegment, recs)
	for _, batch := range []int{1, 2, 5, 17, len(recs)} {
		for _, restart := range []int{1, 3, 1000} {
			dir := t.TempDir()
			s := mustOpen(t, dir, Options{SegmentBytes: smallSegment, FS: quickFS{}})
			for i, chunk := range slices.Collect(slices.Chunk(recs, batch)) {
				mustAppend(t, s, chunk)
				if i%restart == restart-1 {
					mustClose(t, s)
					s = mustOpen(t, dir, Options{SegmentBytes: smallSegment, FS: quickFS{}})
				}
			}
			wantSameFiles(t, segmentFiles(t, disk.OS{}, dir), want)
		}
	}
}
