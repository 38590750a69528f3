package history

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-edge/holdfast/internal/disk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// smallSegment makes a segment hold a handful of test records.
const smallSegment = 300

// quickFS is the operating system's file system without waiting for the disk, for tests that end no more than the process.
type quickFS struct{ disk.OS }

type quickFile struct{ disk.File }

func (quickFS) SyncDir(string) error { return nil }
func (quickFile) Sync() error        { return nil }
func (quickFile) DropCache() error   { return nil }

func (f quickFS) OpenFile(name string, flag int, perm fs.FileMode) (disk.File, error) {
	file, err := f.OS.OpenFile(name, flag, perm)
	return quickFile{file}, err
}

var testStreams = []StreamID{{1, 0xaa}, {1, 0xbb}, {2, 0xcc}}

// testRecord makes the record (index, n) in such a way that its content follows from its place.
func testRecord(index uint64, n uint32) Record {
	seed := index*7 + uint64(n)*3
	return Record{
		Index: index, N: n,
		Time:   time.UnixMilli(1_700_000_000_000 + int64(index)*1000).UTC(),
		Kind:   Kind(seed % 5),
		Stream: testStreams[seed%uint64(len(testStreams))],
		Data:   fmt.Appendf(nil, "%d/%d:%s", index, n, strings.Repeat("x", int(seed%40))),
	}
}

// testRecords makes the records of the indexes from..to: one for the odd ones, three for the even ones.
func testRecords(from, to uint64) []Record {
	var recs []Record
	for i := from; i <= to; i++ {
		recs = append(recs, testRecord(i, 0))
		if i%2 == 0 {
			recs = append(recs, testRecord(i, 1), testRecord(i, 2))
		}
	}
	return recs
}

func mustOpen(tb testing.TB, dir string, opts Options) *Store {
	tb.Helper()
	s, err := Open(dir, opts)
	if err != nil {
		tb.Fatalf("open: %v", err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return s
}

func mustClose(tb testing.TB, s *Store) {
	tb.Helper()
	if err := s.Close(); err != nil {
		tb.Fatalf("close: %v", err)
	}
}

func mustAppend(tb testing.TB, s *Store, recs []Record) {
	tb.Helper()
	if err := s.Append(recs); err != nil {
		tb.Fatalf("append: %v", err)
	}
}

func equalRecord(a, b Record) bool {
	return a.Cursor() == b.Cursor() && a.Time.Equal(b.Time) && a.Kind == b.Kind && a.Stream == b.Stream && bytes.Equal(a.Data, b.Data)
}

// failer is the part of testing.TB that rapid's T has too.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

func wantRecords(t failer, got, want []Record) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("got %d records, want %d", len(got), len(want))
	}
	for i := range got {
		if !equalRecord(got[i], want[i]) {
			t.Fatalf("record %d: got %+v, want %+v", i, got[i], want[i])
		}
	}
}

// scanAll returns every record from index from on, by Scan, and Scan's error.
func scanAll(s *Store, from uint64) ([]Record, error) {
	var recs []Record
	err := s.Scan(context.Background(), from, func(r *Record) error {
		c := *r
		c.Data = slices.Clone(r.Data)
		recs = append(recs, c)
		return nil
	})
	return recs, err
}

// readAll returns every record of a stream, by as many Reads as it takes.
func readAll(s *Store, stream StreamID, q Query) ([]Record, error) {
	var recs []Record
	for {
		page, next, err := s.Read(context.Background(), stream, q)
		if err != nil {
			return recs, err
		}
		recs = append(recs, page...)
		if next.IsZero() {
			return recs, nil
		}
		q.After = next
	}
}

// only returns the records of one stream.
func only(recs []Record, stream StreamID) []Record {
	return slices.DeleteFunc(slices.Clone(recs), func(r Record) bool { return r.Stream != stream })
}

// wantStored checks that the store holds exactly recs, by every way of reading.
func wantStored(t failer, s *Store, recs []Record) {
	t.Helper()
	got, err := scanAll(s, 0)
	if err != nil {
		t.Fatalf("scan: %v", err)
	}
	wantRecords(t, got, recs)
	for _, stream := range testStreams {
		got, err := readAll(s, stream, Query{Limit: 3})
		if err != nil {
			t.Fatalf("read: %v", err)
		}
		wantRecords(t, got, only(recs, stream))
	}
	var last Cursor
	if len(recs) > 0 {
		last = recs[len(recs)-1].Cursor()
	}
	if index, n := s.Last(); index != last.Index || n != last.N {
		t.Fatalf("last is %d/%d, want %v", index, n, last)
	}
	if s.chain != markOf(recs) {
		t.Fatalf("the chain is at %v, want %v", s.chain, markOf(recs))
	}
}

// markOf sums up recs the simple way.
func markOf(recs []Record) Mark {
	var m Mark
	for i := range recs {
		m = Mark{Count: m.Count + 1, Head: Chain(m.Head, &recs[i])}
	}
	return m
}

// copyDir copies a store's directory as it is now, as a crash of the process leaves it.
func copyDir(tb testing.TB, from string) string {
	tb.Helper()
	to := tb.TempDir()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		tb.Fatal(err)
	}
	return to
}

// segmentFiles returns the content of all segments by name.
func segmentFiles(t failer, fsys disk.FS, dir string) map[string]string {
	t.Helper()
	list, err := fsys.ReadDir(dir)
	if err != nil {
		t.Fatalf("%v", err)
	}
	files := make(map[string]string)
	for _, e := range list {
		if !strings.HasSuffix(e.Name(), ".hist") {
			continue
		}
		f, err := fsys.OpenFile(filepath.Join(dir, e.Name()), os.O_RDONLY, 0)
		if err != nil {
			t.Fatalf("%v", err)
		}
		size, err := f.Size()
		if err != nil {
			t.Fatalf("%v", err)
		}
		b := make([]byte, size)
		if _, err := disk.ReadFull(f, b, 0); err != nil {
			t.Fatalf("%v", err)
		}
		if err := f.Close(); err != nil {
			t.Fatalf("%v", err)
		}
		files[e.Name()] = string(b)
	}
	return files
}

// wantSameFiles checks that two sets of segments have the same names and bytes.
func wantSameFiles(t failer, got, want map[string]string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got[name] != want[name] {
			t.Fatalf("%s differs: %d and %d bytes", name, len(got[name]), len(want[name]))
		}
	}
	if len(got) != len(want) {
		t.Fatalf("got segments %v, want %v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
}

// readFile and writeFile are for tests that damage a file.
func readFile(tb testing.TB, name string) []byte {
	tb.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func writeFile(tb testing.TB, name string, b []byte) {
	tb.Helper()
	if err := os.WriteFile(name, b, 0o600); err != nil {
		tb.Fatal(err)
	}
}

// newRand is a source of chance that a test can repeat.
func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, seed)) }
