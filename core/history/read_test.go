package history

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"testing"
	"time"
)

// wantPage is Read done the simple way: over a slice.
func wantPage(recs []Record, stream StreamID, q Query) ([]Record, Cursor) {
	var all []Record
	for _, r := range recs {
		if r.Stream == stream && (len(q.Kinds) == 0 || slices.Contains(q.Kinds, r.Kind)) {
			all = append(all, r)
		}
	}
	if q.Newest {
		slices.Reverse(all)
	}
	if !q.After.IsZero() {
		all = slices.DeleteFunc(all, func(r Record) bool {
			c := r.Cursor().Compare(q.After)
			return c == 0 || (c < 0) != q.Newest
		})
	}
	limit := q.Limit
	if limit <= 0 {
		limit = DefaultLimit
	}
	if limit = min(limit, MaxLimit); len(all) > limit {
		return all[:limit], all[limit-1].Cursor()
	}
	return all, Cursor{}
}

func TestReadEveryCursorAndOrder(t *testing.T) {
	s := mustOpen(t, t.TempDir(), Options{SegmentBytes: smallSegment})
	recs := append(testRecords(3, 12), testRecords(20, 24)...)
	mustAppend(t, s, recs)
	ctx := context.Background()
	for index := range uint64(27) {
		for n := range uint32(4) {
			for _, q := range []Query{{}, {Limit: 1}, {Limit: 3}, {Kinds: []Kind{0, 3}}, {Kinds: []Kind{4}, Limit: 1}, {Kinds: []Kind{77}}} {
				for _, q.Newest = range []bool{false, true} {
					q.After = Cursor{index, n}
					got, next, err := s.Read(ctx, testStreams[1], q)
					if err != nil {
						t.Fatal(err)
					}
					want, wantNext := wantPage(recs, testStreams[1], q)
					wantRecords(t, got, want)
					if next != wantNext {
						t.Fatalf("%+v: next is %v, want %v", q, next, wantNext)
					}
				}
			}
		}
	}
}

func TestReadUnknownStream(t *testing.T) {
	s := mustOpen(t, t.TempDir(), Options{})
	for range 2 {
		got, next, err := s.Read(context.Background(), StreamID{9}, Query{After: Cursor{Index: 2}})
		if err != nil || len(got) != 0 || !next.IsZero() {
			t.Fatalf("got %v, %v, %v", got, next, err)
		}
		mustAppend(t, s, testRecords(1, 3))
	}
}

func TestReadLimits(t *testing.T) {
	s := mustOpen(t, t.TempDir(), Options{})
	recs := make([]Record, MaxLimit+50)
	for i := range recs {
		recs[i] = Record{Index: uint64(i + 1), Time: time.UnixMilli(0), Stream: testStreams[0]}
	}
	mustAppend(t, s, recs)
	for limit, want := range map[int]int{0: DefaultLimit, -1: DefaultLimit, 7: 7, MaxLimit: MaxLimit, MaxLimit + 10: MaxLimit} {
		got, next, err := s.Read(context.Background(), testStreams[0], Query{Limit: limit})
		if err != nil || len(got) != want || next.Index != uint64(want) {
			t.Errorf("limit %d: %d records, next %v, error %v", limit, len(got), next, err)
		}
	}
}

func TestReadEndsAPageOfLargeRecordsEarly(t *testing.T) {
	s := mustOpen(t, t.TempDir(), Options{})
	recs := make([]Record, 10)
	for i := range recs {
		recs[i] = Record{Index: 1, N: uint32(i), Time: time.UnixMilli(0), Stream: testStreams[0], Data: make([]byte, MaxData-i)}
	}
	mustAppend(t, s, recs)
	got, next, err := s.Read(context.Background(), testStreams[0], Query{})
	if err != nil || len(got) != 5 || next != (Cursor{1, 4}) {
		t.Fatalf("got %d records, next %v, error %v", len(got), next, err)
	}
	all, err := readAll(s, testStreams[0], Query{Newest: true})
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(all)
	wantRecords(t, all, recs)
}

func TestReadRecordsAreTheCallersOwn(t *testing.T) {
	s := mustOpen(t, t.TempDir(), Options{})
	recs := testRecords(1, 9)
	mustAppend(t, s, recs)
	for range 2 {
		got, _, err := s.Read(context.Background(), testStreams[0], Query{})
		if err != nil {
			t.Fatal(err)
		}
		wantRecords(t, got, only(recs, testStreams[0]))
		for i := range got {
			clear(got[i].Data)
		}
	}
}

func TestScanFromEveryIndex(t *testing.T) {
	s := mustOpen(t, t.TempDir(), Options{SegmentBytes: smallSegment})
	recs := append(testRecords(3, 12), testRecords(20, 24)...)
	mustAppend(t, s, recs)
	for from := range uint64(27) {
		got, err := scanAll(s, from)
		if err != nil {
			t.Fatal(err)
		}
		wantRecords(t, got, slices.DeleteFunc(slices.Clone(recs), func(r Record) bool { return r.Index < from }))
	}
}

func TestScanStopsOnTheVisitorsError(t *testing.T) {
	s := mustOpen(t, t.TempDir(), Options{SegmentBytes: smallSegment})
	mustAppend(t, s, testRecords(1, 9))
	for _, stop := range []error{errors.New("enough"), io.EOF, io.ErrUnexpectedEOF} {
		calls := 0
		err := s.Scan(context.Background(), 0, func(*Record) error {
			if calls++; calls == 3 {
				return stop
			}
			return nil
		})
		if calls != 3 || !errors.Is(err, stop) {
			t.Errorf("%d calls, error %v", calls, err)
		}
	}
}

func TestReadsObeyTheContext(t *testing.T) {
	s := mustOpen(t, t.TempDir(), Options{})
	mustAppend(t, s, testRecords(1, 9))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := s.Read(ctx, testStreams[0], Query{}); !errors.Is(err, context.Canceled) {
		t.Errorf("read: %v", err)
	}
	if err := s.Scan(ctx, 0, func(*Record) error { t.Error("called"); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("scan: %v", err)
	}
}

func TestReadOfAMissingFile(t *testing.T) {
	s := mustOpen(t, t.TempDir(), Options{SegmentBytes: 1})
	mustAppend(t, s, testRecords(1, 9))
	if err := os.Remove(s.path(1)); err != nil {
		t.Fatal(err)
	}
	if _, err := readAll(s, testRecord(1, 0).Stream, Query{}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("read: %v", err)
	}
	if err := s.Verify(context.Background(), Mark{}, 0); !errors.Is(err, ErrCorrupt) {
		t.Errorf("verify: %v", err)
	}
}

func TestKindSet(t *testing.T) {
	all, some := newKindSet(nil), newKindSet([]Kind{0, 63, 64, 200, 255})
	for k := range 256 {
		if !all.has(Kind(k)) {
			t.Errorf("kind %d is not among all", k)
		}
		if got, want := some.has(Kind(k)), slices.Contains([]int{0, 63, 64, 200, 255}, k); got != want {
			t.Errorf("kind %d: %v, want %v", k, got, want)
		}
	}
}
