package history

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-edge/holdfast/internal/disk"
)

// damaged is a directory with two sealed segments and an open one, of which the records up to synced are behind the mark and the others
// are not. It is a copy made while the store was open, as the end of the process leaves it.
type damaged struct {
	dir    string
	recs   []Record
	synced int
	first  int // of recs, what is in the first segment
	opts   Options
}

func newDamaged(tb testing.TB, unsynced int) damaged {
	tb.Helper()
	d := damaged{opts: Options{SegmentBytes: smallSegment, FS: quickFS{}}, recs: testRecords(1, 7)}
	d.synced = len(d.recs) - unsynced
	s := mustOpen(tb, tb.TempDir(), d.opts)
	mustAppend(tb, s, d.recs[:d.synced])
	if err := s.Sync(); err != nil {
		tb.Fatal(err)
	}
	mustAppend(tb, s, d.recs[d.synced:])
	if len(s.segments) != 3 || s.active == nil {
		tb.Fatalf("the test wants two sealed segments and an open one, not %d", len(s.segments))
	}
	d.first = int(s.segments[0].Records)
	d.dir = copyDir(tb, s.dir)
	return d
}

// files returns the names of the files, the newest segment last.
func (d *damaged) files(tb testing.TB) []string {
	tb.Helper()
	names, err := filepath.Glob(filepath.Join(d.dir, "*.hist"))
	if err != nil {
		tb.Fatal(err)
	}
	return append([]string{filepath.Join(d.dir, markName)}, names...)
}

// wantCorrupt checks that Open refuses the directory and says where and what to do.
func (d *damaged) wantCorrupt(tb testing.TB, file string) {
	tb.Helper()
	s, err := Open(d.dir, d.opts)
	if err == nil {
		mustClose(tb, s)
		tb.Fatal("opened")
	}
	broken, ok := errors.AsType[*CorruptError](err)
	if !ok || !errors.Is(err, ErrCorrupt) {
		tb.Fatalf("got %v, want a CorruptError", err)
	}
	if file != "" && broken.File != file {
		tb.Fatalf("the error names %s, not %s: %v", broken.File, file, err)
	}
	if !strings.Contains(err.Error(), "remove this node from the cluster and join it again") {
		tb.Fatalf("the error does not say what to do: %v", err)
	}
}

// wantRepaired checks that Open succeeds with all synced records and a prefix of the others, and that applying the log again makes the
// segments what they would have been.
func (d *damaged) wantRepaired(tb testing.TB, want map[string]string) {
	tb.Helper()
	s, err := Open(d.dir, d.opts)
	if err != nil {
		tb.Fatal(err)
	}
	defer mustClose(tb, s)
	got, err := scanAll(s, 0)
	if err != nil {
		tb.Fatal(err)
	}
	if len(got) < d.synced || len(got) > len(d.recs) {
		tb.Fatalf("got %d records; %d were synced, %d written", len(got), d.synced, len(d.recs))
	}
	wantStored(tb, s, d.recs[:len(got)])
	mustAppend(tb, s, d.recs)
	wantStored(tb, s, d.recs)
	wantSameFiles(tb, segmentFiles(tb, disk.OS{}, d.dir), want)
}

func TestTornTailAtEveryByte(t *testing.T) {
	d := newDamaged(t, 3)
	want := segmentFiles(t, disk.OS{}, d.dir)
	mark := readFile(t, filepath.Join(d.dir, markName))
	m, err := decodeMark(mark)
	if err != nil {
		t.Fatal(err)
	}
	newest := d.files(t)[3]
	whole := readFile(t, newest)
	for size := range whole {
		for _, zeros := range []int{0, 1, 200} { // a file may have grown before its content came
			writeFile(t, filepath.Join(d.dir, markName), mark)
			writeFile(t, newest, append(bytes.Clone(whole[:size]), make([]byte, zeros)...))
			if int64(size) < m.end && (zeros == 0 || !bytes.HasPrefix(readFile(t, newest), whole[:m.end])) {
				d.wantCorrupt(t, newest)
			} else {
				d.wantRepaired(t, want)
			}
		}
	}
}

// Every record but those of the newest segment is synced by the seal, without any Sync.
func TestTornTailWithoutSync(t *testing.T) {
	d := newDamaged(t, 0)
	opts := Options{SegmentBytes: smallSegment, FS: quickFS{}}
	s := mustOpen(t, t.TempDir(), opts)
	mustAppend(t, s, d.recs)
	d.dir = copyDir(t, s.dir)
	d.synced = int(s.segments[0].Records + s.segments[1].Records)
	want := segmentFiles(t, disk.OS{}, d.dir)
	newest := d.files(t)[3]
	whole := readFile(t, newest)
	mark := readFile(t, filepath.Join(d.dir, markName))
	for size := range whole {
		writeFile(t, filepath.Join(d.dir, markName), mark)
		writeFile(t, newest, whole[:size])
		if size < headerSize { // the file got its name with the header synced
			d.wantCorrupt(t, newest)
		} else {
			d.wantRepaired(t, want)
		}
	}
}

// The process may end between sealing a segment and starting the next, or within the footer.
func TestTornFooterAtEveryByte(t *testing.T) {
	d := newDamaged(t, 0)
	want := segmentFiles(t, disk.OS{}, d.dir)
	files := d.files(t)
	sealed := readFile(t, files[2])
	if err := os.Remove(files[3]); err != nil {
		t.Fatal(err)
	}
	first, _ := parseName(filepath.Base(files[1]))
	info, err := os.Stat(files[1])
	if err != nil {
		t.Fatal(err)
	}
	d.synced = d.first
	for size := len(sealed) - frameHead - footerBody; size <= len(sealed); size++ {
		writeFile(t, files[0], syncMark{first, info.Size(), markOf(d.recs[:d.first])}.encode())
		writeFile(t, files[2], sealed[:size])
		d.wantRepaired(t, want)
		if err := os.Remove(files[3]); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBitFlipBeforeTheMarkIsRefused(t *testing.T) {
	d := newDamaged(t, 0)
	for _, name := range d.files(t) {
		good := readFile(t, name)
		for i := range good {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << (i % 8)
			writeFile(t, name, bad)
			d.wantCorrupt(t, name)
			if got := readFile(t, name); !bytes.Equal(got, bad) {
				t.Fatalf("open changed %s although it refused it", name)
			}
		}
		writeFile(t, name, good)
	}
	s := mustOpen(t, d.dir, d.opts)
	wantStored(t, s, d.recs)
}

func TestBitFlipBehindTheMarkIsCut(t *testing.T) {
	d := newDamaged(t, 4)
	want := segmentFiles(t, disk.OS{}, d.dir)
	files := d.files(t)
	markBytes, newest := readFile(t, files[0]), readFile(t, files[3])
	m, err := decodeMark(markBytes)
	if err != nil {
		t.Fatal(err)
	}
	for i := m.end; i < int64(len(newest)); i++ {
		bad := bytes.Clone(newest)
		bad[i] ^= 1 << (i % 8)
		writeFile(t, files[0], markBytes)
		writeFile(t, files[3], bad)
		d.wantRepaired(t, want)
	}
}

// A store that is open must notice what happens to its files, in whatever way it reads them.
func TestBitFlipUnderAnOpenStoreIsNeverDelivered(t *testing.T) {
	d := newDamaged(t, 0)
	s := mustOpen(t, d.dir, d.opts)
	for _, name := range d.files(t)[1:] {
		good := readFile(t, name)
		for i := range good {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << (i % 8)
			writeFile(t, name, bad)
			if err := s.Verify(context.Background(), markOf(d.recs), math.MaxUint64); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("byte %d of %s: verify says %v", i, name, err)
			}
			got, err := scanAll(s, 0)
			wantRecords(t, got, d.recs[:len(got)])
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("byte %d of %s: scan says %v", i, name, err)
			}
			wantReadsGoodOrCorrupt(t, s, d.recs)
		}
		writeFile(t, name, good)
	}
	wantStored(t, s, d.recs)
}

// wantReadsGoodOrCorrupt checks that each stream is read as it was written or not at all, in both directions and from a cursor.
func wantReadsGoodOrCorrupt(t *testing.T, s *Store, recs []Record) {
	t.Helper()
	for _, stream := range testStreams {
		for _, q := range []Query{{}, {Newest: true}, {After: Cursor{4, 0}}} {
			got, _, err := s.Read(context.Background(), stream, q)
			if err != nil {
				if broken, ok := errors.AsType[*CorruptError](err); !ok || broken.Offset < headerSize || len(got) > 0 {
					t.Fatalf("%d records and %v, want a CorruptError with its offset", len(got), err)
				}
				continue
			}
			want, _ := wantPage(recs, stream, q)
			wantRecords(t, got, want)
		}
	}
}

func TestMissingFilesAreNoticed(t *testing.T) {
	d := newDamaged(t, 0)
	files := d.files(t)
	for i, name := range files {
		good := readFile(t, name)
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		file := ""
		if i == 0 {
			file = name
		}
		d.wantCorrupt(t, file)
		writeFile(t, name, good)
	}
	for _, name := range files[1:] {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	d.wantCorrupt(t, files[0])
}

// Segments that are sound by themselves do not make a history together when one of another store is among them.
func TestForeignSegmentIsNoticed(t *testing.T) {
	d := newDamaged(t, 0)
	other := mustOpen(t, t.TempDir(), Options{SegmentBytes: 1})
	mustAppend(t, other, d.recs)
	mustClose(t, other)
	for _, e := range []uint64{2, 3, 5} {
		t.Run(filepath.Base(other.path(e)), func(t *testing.T) {
			d := damaged{dir: copyDir(t, d.dir), opts: d.opts}
			writeFile(t, filepath.Join(d.dir, filepath.Base(other.path(e))), readFile(t, other.path(e)))
			d.wantCorrupt(t, "")
		})
	}
}

func TestSegmentsSurviveBeingCopiedFromAPeer(t *testing.T) {
	d, peer := newDamaged(t, 0), newDamaged(t, 0)
	for _, name := range d.files(t)[1:3] {
		b := readFile(t, name)
		b[len(b)/2] ^= 1
		writeFile(t, name, b)
		d.wantCorrupt(t, name)
		writeFile(t, name, readFile(t, filepath.Join(peer.dir, filepath.Base(name))))
	}
	wantStored(t, mustOpen(t, d.dir, d.opts), d.recs)
	got, want := segmentFiles(t, disk.OS{}, d.dir), segmentFiles(t, disk.OS{}, peer.dir)
	if !slices.Equal(slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want))) {
		t.Error("the nodes' segments differ")
	}
}
