package history

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/holdfast-edge/holdfast/internal/disk"
	"github.com/holdfast-edge/holdfast/internal/disk/simdisk"
)

var catchupOptions = Options{SegmentBytes: smallSegment, FS: quickFS{}}

// upToIndex returns the records up to a log index.
func upToIndex(recs []Record, upto uint64) []Record {
	return slices.DeleteFunc(slices.Clone(recs), func(r Record) bool { return r.Index > upto })
}

// behindIndex returns the records behind a log index.
func behindIndex(recs []Record, index uint64) []Record {
	return after(recs, Cursor{Index: index, N: math.MaxUint32})
}

func mustSkip(t failer, s *Store, upto uint64, want Mark) {
	t.Helper()
	if err := s.Skip(upto, want); err != nil {
		t.Fatalf("skip: %v", err)
	}
}

// exportNext asks peer for what s is missing.
func exportNext(t failer, s, peer *Store, maxBytes int) (b []byte, done bool) {
	t.Helper()
	after, n, upto, open := s.Missing()
	if !open {
		t.Fatalf("nothing is missing")
	}
	b, done, err := peer.Export(after, n, upto, maxBytes)
	if err != nil {
		t.Fatalf("export: %v", err)
	}
	return b, done
}

// catchUp fills s from peer in chunks of so many bytes, until it is done or goes wrong.
func catchUp(t failer, s, peer *Store, maxBytes int) error {
	t.Helper()
	for {
		b, last := exportNext(t, s, peer, maxBytes)
		done, err := s.Fill(b)
		if err != nil || done {
			return err
		}
		if last {
			t.Fatalf("the peer has given all it has, and something is missing")
		}
	}
}

func mustCatchUp(t failer, s, peer *Store, maxBytes int) {
	t.Helper()
	if err := catchUp(t, s, peer, maxBytes); err != nil {
		t.Fatalf("fill: %v", err)
	}
}

// wantIncomplete checks that nothing can be read, and what is missing.
func wantIncomplete(t failer, s *Store, after Cursor, upto uint64) {
	t.Helper()
	for name, err := range everyRead(s) {
		if !errors.Is(err, ErrIncomplete) {
			t.Fatalf("%s: got %v, want ErrIncomplete", name, err)
		}
	}
	index, n, to, open := s.Missing()
	if !open || index != after.Index || n != after.N || to != upto {
		t.Fatalf("missing is (%d/%d, %d, %v), want (%v, %d, true)", index, n, to, open, after, upto)
	}
}

func everyRead(s *Store) map[string]error {
	ctx := context.Background()
	_, _, read := s.Read(ctx, testStreams[0], Query{})
	_, segments := s.Segments()
	_, markAt := s.MarkAt(ctx, 1)
	_, _, export := s.Export(0, 0, 0, MaxChunk)
	return map[string]error{
		"read":     read,
		"scan":     s.Scan(ctx, 0, func(*Record) error { return nil }),
		"segments": segments,
		"mark at":  markAt,
		"verify":   s.Verify(ctx, Mark{}, 0),
		"export":   export,
	}
}

// wantComplete checks that s has recs, in the very files of a store that never missed any, and that nothing is left of a gap.
func wantComplete(t failer, s *Store, recs []Record) {
	t.Helper()
	if _, _, _, open := s.Missing(); open {
		t.Fatalf("the gap is open")
	}
	wantStored(t, s, recs)
	wantSameFiles(t, segmentFiles(t, s.fs, s.dir), referenceFiles(t, s.segmentBytes, recs))
	if err := s.Verify(context.Background(), markOf(recs), math.MaxUint64); err != nil {
		t.Fatalf("verify: %v", err)
	}
	for _, dir := range []string{s.dir, filepath.Join(s.dir, aheadName)} {
		list, err := s.fs.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("%v", err)
		}
		for _, e := range list {
			if name := e.Name(); !strings.HasSuffix(name, ".hist") && name != markName && name != aheadName || dir != s.dir {
				t.Fatalf("%s is left in %s", name, dir)
			}
		}
	}
}

// whole is a peer that has all of recs.
func whole(tb testing.TB, recs []Record) *Store {
	tb.Helper()
	s := mustOpen(tb, tb.TempDir(), catchupOptions)
	mustAppend(tb, s, recs)
	return s
}

// Whatever a node had, whatever it was given meanwhile, in whatever pieces the rest comes, and wherever it is restarted: in the end it has
// what the others have. In the middle of an index too.
func TestCatchUp(t *testing.T) {
	recs := testRecords(1, 30)
	peer := whole(t, recs)
	for _, had := range []int{0, 1, 2, 3, 4, 12, 20, 40} {
		for _, upto := range []uint64{21, 24} {
			for _, behind := range []uint64{upto, upto + 1, 30} {
				for _, maxBytes := range []int{0, 200, MaxChunk} {
					for _, restart := range []bool{false, true} {
						name := fmt.Sprintf("%d records, up to %d, then up to %d, by %d bytes, restart %v", had, upto, behind, maxBytes, restart)
						t.Run(name, func(t *testing.T) {
							opts := Options{SegmentBytes: smallSegment, FS: simdisk.New(1)}
							s := mustOpen(t, "dir", opts)
							again := func() {
								if restart {
									mustClose(t, s)
									s = mustOpen(t, "dir", opts)
								}
							}
							mustAppend(t, s, recs[:had])
							if had > len(upToIndex(recs, upto)) {
								mustSkip(t, s, upto, markOf(upToIndex(recs, upto)))
								wantComplete(t, s, recs[:had])
								return
							}
							mustSkip(t, s, upto, markOf(upToIndex(recs, upto)))
							var base Cursor
							if had > 0 {
								base = recs[had-1].Cursor()
							}
							again()
							mustAppend(t, s, upToIndex(recs, behind))
							again()
							wantIncomplete(t, s, base, upto)
							for {
								b, _ := exportNext(t, s, peer, maxBytes)
								done, err := s.Fill(b)
								if err != nil {
									t.Fatal(err)
								}
								again()
								if done {
									break
								}
							}
							wantComplete(t, s, upToIndex(recs, behind))
							again()
							mustAppend(t, s, recs)
							wantComplete(t, s, recs)
						})
					}
				}
			}
		}
	}
}

// What is appended while the gap is open is there after the end of the process, and after a power cut once it was synced.
func TestAppendBehindTheGapIsDurable(t *testing.T) {
	recs := testRecords(1, 30)
	peer := whole(t, recs)
	fsys := simdisk.New(1)
	opts := Options{SegmentBytes: smallSegment, FS: fsys}
	s := mustOpen(t, "dir", opts)
	mustSkip(t, s, 10, markOf(upToIndex(recs, 10)))
	behind := behindIndex(recs, 10)
	mustAppend(t, s, behind[:20])
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	last := behind[19].Cursor()
	for seed := range uint64(50) {
		s := mustOpen(t, "dir", Options{SegmentBytes: smallSegment, FS: fsys.Crash(newRand(seed))})
		if index, n := s.Last(); index != last.Index || n != last.N {
			t.Fatalf("the newest record that survived is %d/%d, want %v", index, n, last)
		}
		mustCatchUp(t, s, peer, MaxChunk)
		wantComplete(t, s, recs[:slices.IndexFunc(recs, func(r Record) bool { return r.Cursor() == last })+1])
	}
}

func TestSkipOfNothingMissingChangesNothing(t *testing.T) {
	recs := testRecords(1, 20)
	fsys := simdisk.New(1)
	s := mustOpen(t, "dir", Options{SegmentBytes: smallSegment, FS: fsys})
	mustSkip(t, s, 0, Mark{})
	mustSkip(t, s, 7, Mark{})
	mustAppend(t, s, recs)
	fsys.CutAfter(0) // not one operation that changes something
	for _, upto := range []uint64{20, 21, 1000} {
		mustSkip(t, s, upto, markOf(recs))
	}
	for _, upto := range []uint64{1, 2, 10, 19} {
		mustSkip(t, s, upto, markOf(upToIndex(recs, upto)))
	}
	fsys.CutAfter(-1)
	wantComplete(t, s, recs)
	mustSkip(t, s, 30, markOf(testRecords(1, 30)))
	fsys.CutAfter(0)
	mustSkip(t, s, 30, markOf(testRecords(1, 30)))
	mustSkip(t, s, 25, markOf(testRecords(1, 25)))
	fsys.CutAfter(-1)
	wantIncomplete(t, s, recs[len(recs)-1].Cursor(), 30)
}

// A replicated state that knows fewer records than this node, or others, is not the state of this node's history.
func TestSkipRefusesWhatCannotBe(t *testing.T) {
	recs := testRecords(1, 20)
	other := markOf(recs)
	other.Head[0]++
	s := whole(t, recs)
	for name, err := range map[string]error{
		"fewer":      s.Skip(30, markOf(recs[:5])),
		"others":     s.Skip(30, other),
		"more by 10": s.Skip(10, markOf(recs)),
	} {
		if !errors.Is(err, ErrMismatch) || !strings.Contains(err.Error(), "join it again") {
			t.Errorf("%s: got %v, want ErrMismatch and what to do", name, err)
		}
	}
	wantComplete(t, s, recs)
	mustSkip(t, s, 30, markOf(testRecords(1, 30)))
	if err := s.Skip(30, other); !errors.Is(err, ErrMismatch) {
		t.Errorf("another mark for the open gap: %v", err)
	}
	mustAppend(t, s, testRecords(31, 33))
	if err := s.Skip(40, markOf(testRecords(1, 32))); !errors.Is(err, ErrMismatch) {
		t.Errorf("fewer than there are ahead: %v", err)
	}
	mustCatchUp(t, s, whole(t, testRecords(1, 33)), MaxChunk)
	wantComplete(t, s, testRecords(1, 33))
}

// A gap that is open grows when another snapshot comes; what was filled in is kept, and what was appended behind is fetched again.
func TestGapGrows(t *testing.T) {
	recs := testRecords(1, 40)
	peer := whole(t, recs)
	for _, filled := range []int{0, 1, 3} {
		for _, behind := range []uint64{20, 25} { // nothing, or something that the larger gap takes in
			s := mustOpen(t, t.TempDir(), catchupOptions)
			mustAppend(t, s, recs[:5])
			mustSkip(t, s, 20, markOf(upToIndex(recs, 20)))
			mustAppend(t, s, upToIndex(recs, behind))
			for range filled {
				b, _ := exportNext(t, s, peer, 200)
				if done, err := s.Fill(b); done || err != nil {
					t.Fatal(done, err)
				}
			}
			index, n, _, _ := s.Missing()
			mustSkip(t, s, 30, markOf(upToIndex(recs, 30)))
			wantIncomplete(t, s, Cursor{index, n}, 30)
			mustAppend(t, s, recs)
			mustSkip(t, s, 35, markOf(upToIndex(recs, 35))) // all of that is there already
			wantIncomplete(t, s, Cursor{index, n}, 30)
			mustSkip(t, s, 40, markOf(recs))
			wantIncomplete(t, s, Cursor{index, n}, 30)
			mustClose(t, s)
			s = mustOpen(t, s.dir, catchupOptions)
			mustCatchUp(t, s, peer, MaxChunk)
			wantComplete(t, s, recs)
		}
	}
}

// What was filled in before a gap grew is not trusted more than the rest, even where it was synced.
func TestGapGrowsOverWrongRecords(t *testing.T) {
	recs := testRecords(1, 30)
	forged := slices.Clone(recs)
	forged[6].Kind++
	s := mustOpen(t, t.TempDir(), catchupOptions)
	mustAppend(t, s, recs[:5])
	mustSkip(t, s, 20, markOf(upToIndex(recs, 20)))
	b, _ := exportNext(t, s, whole(t, forged), 600)
	if _, err := s.Fill(b); err != nil || s.mark.first <= recs[4].Index {
		t.Fatalf("%v, synced up to %+v", err, s.mark)
	}
	mustSkip(t, s, 25, markOf(upToIndex(recs, 25)))
	peer := whole(t, recs)
	if err := catchUp(t, s, peer, MaxChunk); !errors.Is(err, ErrMismatch) {
		t.Fatalf("got %v, want ErrMismatch", err)
	}
	wantIncomplete(t, s, recs[4].Cursor(), 25)
	mustCatchUp(t, s, peer, MaxChunk)
	wantComplete(t, s, upToIndex(recs, 25))
}

// The end of what was asked for before the gap grew is not the end of the gap.
func TestChunkOfASmallerGapIsKept(t *testing.T) {
	recs := testRecords(1, 30)
	peer := whole(t, recs)
	s := mustOpen(t, t.TempDir(), catchupOptions)
	mustSkip(t, s, 20, markOf(upToIndex(recs, 20)))
	b, last := exportNext(t, s, peer, MaxChunk)
	mustSkip(t, s, 25, markOf(upToIndex(recs, 25)))
	if done, err := s.Fill(b); done || err != nil || !last {
		t.Fatal(done, err, last)
	}
	had := upToIndex(recs, 20)
	wantIncomplete(t, s, had[len(had)-1].Cursor(), 25)
	mustCatchUp(t, s, peer, MaxChunk)
	wantComplete(t, s, upToIndex(recs, 25))
}

// A peer that has other records, fewer or more is found out, and nothing of it stays. Another peer can then close the gap.
func TestWrongPeerIsFoundOut(t *testing.T) {
	recs := testRecords(1, 30)
	good := whole(t, recs)
	wrong := map[string][]Record{
		"other data":   slices.Clone(recs),
		"one missing":  slices.Delete(slices.Clone(recs), 20, 21),
		"one more":     slices.Insert(slices.Clone(recs), 25, testRecord(recs[24].Index, 7)),
		"ends early":   recs[:30],
		"other stream": slices.Clone(recs),
	}
	wrong["other data"][22].Data = []byte("forged")
	wrong["other stream"][35].Stream[16]++
	for name, theirs := range wrong {
		peer := whole(t, theirs)
		peer.Applied(24)
		for _, had := range []int{0, 1, 2, 4, 9, 12, 16} {
			for _, maxBytes := range []int{0, 300, MaxChunk} {
				t.Run(fmt.Sprintf("%s, %d records, by %d bytes", name, had, maxBytes), func(t *testing.T) {
					s := mustOpen(t, "dir", Options{SegmentBytes: smallSegment, FS: simdisk.New(1)})
					mustAppend(t, s, recs[:had])
					mustSkip(t, s, 24, markOf(upToIndex(recs, 24)))
					mustAppend(t, s, recs)
					before := segmentFiles(t, s.fs, s.dir)
					if err := catchUp(t, s, peer, maxBytes); !errors.Is(err, ErrMismatch) || !strings.Contains(err.Error(), "another node") {
						t.Fatalf("got %v, want ErrMismatch and what to do", err)
					}
					var base Cursor
					if had > 0 {
						base = recs[had-1].Cursor()
					}
					wantIncomplete(t, s, base, 24)
					wantSameFiles(t, segmentFiles(t, s.fs, s.dir), before)
					mustCatchUp(t, s, good, maxBytes)
					wantComplete(t, s, recs)
				})
			}
		}
	}
}

// A peer cannot make the store hold more records than are missing.
func TestFillIsBounded(t *testing.T) {
	recs := testRecords(1, 30)
	s := mustOpen(t, t.TempDir(), catchupOptions)
	mustSkip(t, s, 30, markOf(recs))
	var flood []Record
	for n := range uint32(10 * len(recs)) {
		flood = append(flood, Record{Index: 1, N: n})
	}
	b, _, err := whole(t, flood).Export(0, 0, 1, MaxChunk)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Fill(b); !errors.Is(err, ErrMismatch) {
		t.Fatalf("got %v, want ErrMismatch", err)
	}
	if files := segmentFiles(t, disk.OS{}, s.dir); len(files) > 0 {
		t.Fatalf("%d segments are there", len(files))
	}
}

func TestFillWithoutAGap(t *testing.T) {
	s := whole(t, testRecords(1, 5))
	if done, err := s.Fill(nil); !done || err != nil {
		t.Fatalf("got %v, %v", done, err)
	}
	wantComplete(t, s, testRecords(1, 5))
}

// Chunks that come twice, too late or too early do no harm.
func TestFillInDisorder(t *testing.T) {
	recs := testRecords(1, 20)
	peer := whole(t, recs)
	s := mustOpen(t, t.TempDir(), catchupOptions)
	mustSkip(t, s, 20, markOf(recs))
	var old [][]byte
	for {
		index, n, upto, _ := s.Missing()
		early, _, err := peer.Export(index+1, n, upto, 300)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Fill(early); !errors.Is(err, ErrChunk) {
			t.Fatalf("too early: %v", err)
		}
		b, _ := exportNext(t, s, peer, 300)
		for _, b := range append(old, b, b) {
			if _, err := s.Fill(b); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, _, open := s.Missing(); !open {
			break
		}
		wantIncomplete(t, s, s.tail, 20)
		old = append(old, b)
	}
	wantComplete(t, s, recs)
}

func TestMarkAt(t *testing.T) {
	recs := append(testRecords(3, 12), testRecords(20, 24)...)
	s := whole(t, recs)
	for upto := range uint64(27) {
		got, err := s.MarkAt(context.Background(), upto)
		if want := markOf(upToIndex(recs, upto)); err != nil || got != want {
			t.Fatalf("up to %d: got %v, %v, want %v", upto, got, err, want)
		}
		if err := s.Verify(context.Background(), got, upto); err != nil {
			t.Fatalf("up to %d: %v", upto, err)
		}
	}
}

// Sound frames with another chain are found out, and the error says where.
func TestVerifyNamesThePlace(t *testing.T) {
	recs := testRecords(1, 12)
	s := whole(t, recs)
	for name, want := range map[string]Mark{
		"other head": {Count: markOf(upToIndex(recs, recs[9].Index)).Count},
		"fewer":      markOf(recs[:9]),
		"more":       markOf(recs[:11]),
	} {
		upto := recs[9].Index
		err := s.Verify(context.Background(), want, upto)
		last := upToIndex(recs, upto)
		record := fmt.Sprintf("%v in %s at offset 141", last[len(last)-1].Cursor(), s.path(6))
		if !errors.Is(err, ErrMismatch) || errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), record) {
			t.Errorf("%s: got %v, want ErrMismatch with %q", name, err, record)
		}
	}
	d := newDamaged(t, 0)
	s = mustOpen(t, d.dir, d.opts)
	name := d.files(t)[2]
	b := readFile(t, name)
	first := int64(headerSize) + frameHead + int64(binary.BigEndian.Uint32(b[headerSize:]))
	b[first+20] ^= 1
	writeFile(t, name, b)
	err := s.Verify(context.Background(), markOf(d.recs), math.MaxUint64)
	broken, ok := errors.AsType[*CorruptError](err)
	behind := fmt.Sprintf("behind record %v", d.recs[d.first].Cursor())
	if !ok || broken.File != name || broken.Offset != first || !strings.Contains(err.Error(), behind) || !strings.Contains(err.Error(), "join it again") {
		t.Errorf("got %v, want %s at offset %d %s and what to do", err, name, first, behind)
	}
}

// Records are appended, synced and read, and the gap grows, while chunks come in; run with the race detector. Nothing is lost, and no read
// sees a part.
func TestCatchUpBesideEverythingElse(t *testing.T) {
	recs := testRecords(1, 500)
	peer := whole(t, recs)
	s := mustOpen(t, t.TempDir(), Options{SegmentBytes: 4 * smallSegment, FS: quickFS{}})
	mustSkip(t, s, 100, markOf(upToIndex(recs, 100)))
	var wg sync.WaitGroup
	stop := make(chan struct{})
	beside := func(do func() error) {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := do(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	beside(s.Sync)
	beside(func() error {
		s.Last()
		s.Missing()
		got, err := scanAll(s, 0)
		if !errors.Is(err, ErrIncomplete) && !wantRecordsPrefix(t, got, recs) {
			return errors.New("wrong records")
		}
		if errors.Is(err, ErrIncomplete) {
			return nil
		}
		return err
	})
	beside(func() error {
		index, n, upto, open := s.Missing()
		if !open {
			return nil
		}
		b, _, err := peer.Export(index, n, upto, 4000)
		if err != nil {
			return err
		}
		if _, err = s.Fill(b); errors.Is(err, ErrChunk) { // the gap has been closed and another one opened
			return nil
		}
		return err
	})
	at := uint64(100)
	for _, upto := range []uint64{200, 201, 350, 499} {
		mustAppend(t, s, upToIndex(behindIndex(recs, at), upto-50))
		mustSkip(t, s, upto, markOf(upToIndex(recs, upto)))
		at = upto
	}
	mustAppend(t, s, behindIndex(recs, at))
	close(stop)
	wg.Wait()
	if _, _, _, open := s.Missing(); open {
		mustCatchUp(t, s, peer, 4000)
	}
	wantComplete(t, s, recs)
}

// hookFS calls a function when a segment behind the gap is opened to be read, which is while the gap is closed.
type hookFS struct {
	disk.FS

	hook func()
}

func (f *hookFS) OpenFile(name string, flag int, perm fs.FileMode) (disk.File, error) {
	if flag == os.O_RDONLY && filepath.Base(filepath.Dir(name)) == aheadName && strings.HasSuffix(name, ".hist") && f.hook != nil {
		hook := f.hook
		f.hook = nil
		hook()
	}
	return f.FS.OpenFile(name, flag, perm)
}

// closing is a store whose gap up to log index 20 is about to be closed by b; hook is called in the middle of that.
func closing(t *testing.T, recs []Record, hook func(*Store)) (s *Store, b []byte) {
	t.Helper()
	fsys := &hookFS{FS: simdisk.New(1)}
	s = mustOpen(t, "dir", Options{SegmentBytes: smallSegment, FS: fsys})
	mustSkip(t, s, 20, markOf(upToIndex(recs, 20)))
	mustAppend(t, s, upToIndex(recs, 25))
	fsys.hook = func() { hook(s) }
	b, _ = exportNext(t, s, whole(t, recs), MaxChunk)
	return s, b
}

// What was appended behind the gap is moved while more is appended and synced.
func TestAppendWhileTheGapIsClosed(t *testing.T) {
	recs := testRecords(1, 30)
	called := false
	s, b := closing(t, recs, func(s *Store) {
		called = true
		mustAppend(t, s, recs)
		if err := s.Sync(); err != nil {
			t.Error(err)
		}
		if _, _, _, open := s.Missing(); !open {
			t.Error("the gap is closed already")
		}
	})
	if done, err := s.Fill(b); !done || err != nil || !called {
		t.Fatal(done, err, called)
	}
	wantComplete(t, s, recs)
}

// A store that is closed while it closes its gap does the rest when it is opened.
func TestCloseWhileTheGapIsClosed(t *testing.T) {
	recs := testRecords(1, 25)
	s, b := closing(t, recs, func(s *Store) { mustClose(t, s) })
	if done, err := s.Fill(b); done || !errors.Is(err, ErrClosed) {
		t.Fatal(done, err)
	}
	wantComplete(t, mustOpen(t, "dir", Options{SegmentBytes: smallSegment, FS: s.fs}), recs)
}

// The last chunk may be on the disk without the store having come to close the gap.
func TestOpenClosesAGapThatIsFull(t *testing.T) {
	recs := testRecords(1, 25)
	s, b := closing(t, recs, func(*Store) {})
	if whole, err := s.take(b); !whole || err != nil {
		t.Fatal(whole, err)
	}
	mustClose(t, s)
	wantComplete(t, mustOpen(t, "dir", Options{SegmentBytes: smallSegment, FS: s.fs}), recs)
}
