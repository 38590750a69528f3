package history

import (
	"bytes"
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/internal/disk"
)

func TestRoundTrip(t *testing.T) {
	s := mustOpen(t, t.TempDir(), Options{})
	recs := testRecords(1, 50)
	mustAppend(t, s, recs)
	wantStored(t, s, recs)
}

func TestExtremeValues(t *testing.T) {
	dir := t.TempDir()
	recs := []Record{
		{Index: 1, Time: time.Time{}},
		{Index: 1, N: math.MaxUint32, Time: time.UnixMilli(-1), Kind: 255, Stream: testStreams[0]},
		{Index: 7, Time: time.UnixMilli(math.MaxInt64), Stream: testStreams[1], Data: bytes.Repeat([]byte{0xff}, MaxData)},
		{Index: math.MaxUint64, N: math.MaxUint32, Time: time.UnixMilli(math.MinInt64), Stream: testStreams[2], Data: []byte{}},
	}
	s := mustOpen(t, dir, Options{})
	mustAppend(t, s, recs)
	wantStored(t, s, recs)
	mustClose(t, s)
	wantStored(t, mustOpen(t, dir, Options{}), recs)
}

func TestTimeIsKeptToTheMillisecondInUTC(t *testing.T) {
	s := mustOpen(t, t.TempDir(), Options{})
	at := time.Date(2026, 3, 4, 5, 6, 7, 123_999_999, time.FixedZone("east", 3600))
	mustAppend(t, s, []Record{{Index: 1, Time: at}})
	got, _, err := s.Read(context.Background(), StreamID{}, Query{})
	if err != nil {
		t.Fatal(err)
	}
	want := time.Date(2026, 3, 4, 4, 6, 7, 123_000_000, time.UTC)
	if len(got) != 1 || got[0].Time != want {
		t.Fatalf("got %v, want %v", got, want)
	}
}

func TestReplayIsIdempotent(t *testing.T) {
	s := mustOpen(t, t.TempDir(), Options{SegmentBytes: smallSegment})
	recs := testRecords(1, 20)
	mustAppend(t, s, recs[:10])
	mustAppend(t, s, recs[:10])
	for i := range recs {
		mustAppend(t, s, recs[i/2:i+1])
	}
	mustAppend(t, s, nil)
	wantStored(t, s, recs)
}

func TestReplayContinuesWithinAnIndex(t *testing.T) {
	s := mustOpen(t, t.TempDir(), Options{SegmentBytes: 1})
	recs := testRecords(2, 2)
	mustAppend(t, s, recs[:1])
	mustAppend(t, s, recs)
	wantStored(t, s, recs)
}

func TestRestart(t *testing.T) {
	dir := t.TempDir()
	recs := testRecords(1, 40)
	for i := range recs {
		s := mustOpen(t, dir, Options{SegmentBytes: smallSegment})
		wantStored(t, s, recs[:i])
		mustAppend(t, s, recs[:i+1])
		mustClose(t, s)
	}
	wantStored(t, mustOpen(t, dir, Options{SegmentBytes: smallSegment}), recs)
}

func TestSegmentsRollBetweenIndexes(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, Options{SegmentBytes: 1})
	mustAppend(t, s, testRecords(1, 5))
	mustAppend(t, s, []Record{testRecord(9, 0)})
	segments, err := s.Segments()
	if err != nil {
		t.Fatal(err)
	}
	if len(segments) != 5 {
		t.Fatalf("got %d sealed segments, want 5", len(segments))
	}
	for i, seg := range segments {
		index := uint64(i + 1)
		info, err := os.Stat(s.path(index))
		if err != nil {
			t.Fatal(err)
		}
		wantN, wantLast := uint64(1), Cursor{index, 0}
		if index%2 == 0 {
			wantN, wantLast = 3, Cursor{index, 2}
		}
		if seg.First != index || seg.Last != wantLast || seg.Records != wantN || seg.Bytes != info.Size() {
			t.Errorf("segment %d is %+v, its file has %d bytes", i, seg, info.Size())
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "00000000000000000009.hist")); err != nil {
		t.Error(err)
	}
}

func TestSegmentsAreTheSameAfterRestart(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, Options{SegmentBytes: smallSegment})
	mustAppend(t, s, testRecords(1, 30))
	before, err := s.Segments()
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	after, err := mustOpen(t, dir, Options{SegmentBytes: smallSegment}).Segments()
	if err != nil {
		t.Fatal(err)
	}
	if len(before) == 0 || len(before) != len(after) {
		t.Fatalf("%d sealed segments before, %d after", len(before), len(after))
	}
	for i := range before {
		if before[i] != after[i] {
			t.Errorf("segment %d: %+v before, %+v after", i, before[i], after[i])
		}
	}
}

func TestInvalidRecordsChangeNothing(t *testing.T) {
	stored := testRecords(1, 4)
	for name, recs := range map[string][]Record{
		"index 0":         {testRecord(0, 0)},
		"descending":      {testRecord(6, 0), testRecord(5, 0)},
		"twice":           {testRecord(5, 0), testRecord(5, 0)},
		"descending n":    {testRecord(5, 1), testRecord(5, 0)},
		"old in disorder": {testRecord(2, 0), testRecord(1, 0)},
		"too large":       {testRecord(5, 0), {Index: 6, Data: make([]byte, MaxData+1)}},
	} {
		t.Run(name, func(t *testing.T) {
			s := mustOpen(t, t.TempDir(), Options{})
			mustAppend(t, s, stored)
			if err := s.Append(recs); !errors.Is(err, ErrInvalid) {
				t.Fatalf("got %v, want ErrInvalid", err)
			}
			wantStored(t, s, stored)
			mustAppend(t, s, testRecords(5, 6))
		})
	}
}

// An index that outgrows what a position can name must be refused before anything is written. The batch shares one buffer, so that the
// four gigabytes are only counted.
func TestOneIndexMustFitASegment(t *testing.T) {
	s := mustOpen(t, t.TempDir(), Options{})
	mustAppend(t, s, testRecords(1, 3))
	data := make([]byte, MaxData)
	recs := make([]Record, 4096)
	for i := range recs {
		recs[i] = Record{Index: 4, N: uint32(i), Data: data}
	}
	if err := s.Append(recs); !errors.Is(err, ErrInvalid) {
		t.Fatalf("got %v, want ErrInvalid", err)
	}
	wantStored(t, s, testRecords(1, 3))
	for i := range recs { // over many indexes the segments are rolled, and nothing is wrong
		recs[i].Index = uint64(i + 4)
	}
	if err := s.fits(recs); err != nil {
		t.Fatal(err)
	}
}

func TestOptions(t *testing.T) {
	for _, size := range []int64{-1, MaxSegmentBytes + 1} {
		if _, err := Open(t.TempDir(), Options{SegmentBytes: size}); err == nil {
			t.Errorf("segment size %d was accepted", size)
		}
	}
}

func TestDirectoryIsLocked(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, Options{})
	if _, err := Open(dir, Options{}); !errors.Is(err, disk.ErrLocked) {
		t.Fatalf("got %v, want disk.ErrLocked", err)
	}
	mustClose(t, s)
	mustOpen(t, dir, Options{})
}

func TestClosed(t *testing.T) {
	s := mustOpen(t, t.TempDir(), Options{})
	mustAppend(t, s, testRecords(1, 3))
	mustClose(t, s)
	for name, err := range everyCall(s) {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s: got %v, want ErrClosed", name, err)
		}
	}
	mustClose(t, s)
}

// everyCall returns the errors of all calls that can fail, Close excepted.
func everyCall(s *Store) map[string]error {
	ctx := context.Background()
	_, _, read := s.Read(ctx, testStreams[0], Query{})
	_, segments := s.Segments()
	_, markAt := s.MarkAt(ctx, 1)
	_, _, export := s.Export(0, 0, math.MaxUint64, MaxChunk)
	_, fill := s.Fill(newChunk(Cursor{}, 0))
	return map[string]error{
		"mark at":  markAt,
		"export":   export,
		"skip":     s.Skip(math.MaxUint64, Mark{Count: math.MaxUint64}),
		"fill":     fill,
		"append":   s.Append([]Record{testRecord(1000, 0)}),
		"sync":     s.Sync(),
		"read":     read,
		"scan":     s.Scan(ctx, 0, func(*Record) error { return nil }),
		"verify":   s.Verify(ctx, Mark{}, 0),
		"segments": segments,
	}
}

func TestForeignFilesAreLeftAlone(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, Options{})
	mustAppend(t, s, testRecords(1, 3))
	mustClose(t, s)
	foreign := []string{"notes.txt", "1.hist", "00000000000000000000.hist", "x.tmp"}
	for _, name := range foreign {
		writeFile(t, filepath.Join(dir, name), []byte("?"))
	}
	ours := []string{"synced.tmp", "00000000000000000004.hist.tmp"}
	for _, name := range ours {
		writeFile(t, filepath.Join(dir, name), []byte("?"))
	}
	wantStored(t, mustOpen(t, dir, Options{}), testRecords(1, 3))
	for _, name := range foreign {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	for _, name := range ours {
		if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", name, err)
		}
	}
}

func TestUnknownVersionIsNamed(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, Options{})
	mustAppend(t, s, testRecords(1, 3))
	mustClose(t, s)
	name := s.path(1)
	b := readFile(t, name)
	b[9] = 2
	reseal(b)
	writeFile(t, name, b)
	_, err := Open(dir, Options{})
	if !errors.Is(err, ErrVersion) || errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), name) {
		t.Fatalf("got %v, want ErrVersion with the file's name", err)
	}
}

// One goroutine appends, others sync, read, scan and list. Every page must be a gapless stretch of the stream, and what an Append that
// had returned stored must be seen.
func TestConcurrentReaders(t *testing.T) {
	s := mustOpen(t, t.TempDir(), Options{SegmentBytes: 4 * smallSegment, FS: quickFS{}})
	recs := testRecords(1, 600)
	var done atomic.Bool
	var wg sync.WaitGroup
	for _, stream := range testStreams {
		wg.Go(func() { followStream(t, &done, s, stream, only(recs, stream)) })
	}
	wg.Go(func() {
		for !done.Load() {
			if err := s.Sync(); err != nil {
				t.Error(err)
				return
			}
		}
	})
	wg.Go(func() {
		for !done.Load() {
			index, n := s.Last()
			got, err := scanAll(s, 0)
			if err != nil || (len(got) == 0 && index > 0) || (len(got) > 0 && got[len(got)-1].Cursor().Compare(Cursor{index, n}) < 0) {
				t.Errorf("scan ended before %d/%d with %v", index, n, err)
				return
			}
			wantRecordsPrefix(t, got, recs)
		}
	})
	for i := range recs {
		mustAppend(t, s, recs[i:i+1])
	}
	done.Store(true)
	wg.Wait()
	wantStored(t, s, recs)
}

// followStream reads a growing stream to its end, again and again from the last record it saw.
func followStream(t *testing.T, done *atomic.Bool, s *Store, stream StreamID, want []Record) {
	t.Helper()
	var seen []Record
	for len(seen) < len(want) && !done.Load() {
		q := Query{Limit: 7}
		if len(seen) > 0 {
			q.After = seen[len(seen)-1].Cursor()
		}
		page, _, err := s.Read(context.Background(), stream, q)
		if err != nil {
			t.Errorf("read: %v", err)
			return
		}
		seen = append(seen, page...)
		if !wantRecordsPrefix(t, seen, want) {
			return
		}
	}
}

// wantRecordsPrefix is for goroutines, which must not end the test.
func wantRecordsPrefix(t *testing.T, got, want []Record) bool {
	t.Helper()
	if len(got) > len(want) {
		t.Errorf("got %d records of %d", len(got), len(want))
		return false
	}
	for i := range got {
		if !equalRecord(got[i], want[i]) {
			t.Errorf("record %d: got %+v, want %+v", i, got[i], want[i])
			return false
		}
	}
	return true
}
