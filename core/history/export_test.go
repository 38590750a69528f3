package history

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
)

// A chunk that is cut or changed anywhere is refused or found out. What is changed in its head can also mean as much as before.
func TestChunkRefusesEveryChange(t *testing.T) {
	recs := testRecords(1, 9)
	peer := whole(t, recs)
	var s *Store
	begin := func() {
		s = mustOpen(t, t.TempDir(), catchupOptions)
		mustAppend(t, s, recs[:2])
		mustSkip(t, s, 9, markOf(recs))
	}
	begin()
	good, _ := exportNext(t, s, peer, MaxChunk)
	if c, err := decodeChunk(good); err != nil || !c.last || c.upto != 9 || c.after != recs[1].Cursor() {
		t.Fatalf("got %+v, %v", c, err)
	}
	refuse := func(name string, b []byte) {
		if done, err := s.Fill(b); done || !errors.Is(err, ErrChunk) {
			t.Fatalf("%s: got %v, %v", name, done, err)
		}
		wantIncomplete(t, s, recs[1].Cursor(), 9)
	}
	for i := range good {
		bad := slices.Clone(good)
		bad[i] ^= 1 << (i % 8)
		if i >= chunkHead {
			refuse(fmt.Sprintf("byte %d", i), bad)
		} else if done, err := s.Fill(bad); done {
			wantComplete(t, s, recs)
			begin()
		} else if err != nil && !errors.Is(err, ErrChunk) && !errors.Is(err, ErrMismatch) {
			t.Fatalf("byte %d: %v", i, err)
		}
		c, err := decodeChunk(good[:i])
		switch {
		case err != nil:
			refuse(fmt.Sprintf("cut to %d bytes", i), good[:i])
		case i > chunkHead && len(c.recs) == 0:
			t.Fatalf("cut to %d bytes: accepted without a record", i)
		default: // a cut between two frames leaves a chunk that ends early
			if done, err := s.Fill(good[:i]); done || !errors.Is(err, ErrMismatch) {
				t.Fatalf("cut to %d bytes: got %v, %v", i, done, err)
			}
		}
	}
	late := mustExport(t, peer, 0, 5)
	binary.BigEndian.PutUint64(late[14:], 3)
	refuse("behind what was asked", late)
	refuse("nothing", nil)
	refuse("other version", append([]byte{2}, good[1:]...))
	empty := newTally()
	refuse("a footer", appendFooter(newChunk(Cursor{}, 9), 0, chunkHead, empty.footer()))
	peer.Applied(10)
	refuse("up to more than is missing", mustExport(t, peer, 0, 10))
	mustCatchUp(t, s, peer, MaxChunk)
	wantComplete(t, s, recs)
}

func mustExport(t failer, s *Store, after, upto uint64) []byte {
	t.Helper()
	b, _, err := s.Export(after, 0, upto, MaxChunk)
	if err != nil {
		t.Fatalf("export: %v", err)
	}
	return b
}

// From every position, up to every index, with room for one record or for a few: chunks follow one another without loss or repetition.
func TestExportFromEveryPosition(t *testing.T) {
	recs := append(testRecords(3, 12), testRecords(20, 24)...)
	s := whole(t, recs)
	for index := range uint64(26) {
		for n := range uint32(4) {
			for upto := range uint64(25) {
				for _, maxBytes := range []int{-1, 0, 250, MaxChunk} {
					var got []Record
					at := Cursor{index, n}
					for {
						b, done, err := s.Export(at.Index, at.N, upto, maxBytes)
						if err != nil {
							t.Fatal(err)
						}
						c, err := decodeChunk(b)
						if err != nil {
							t.Fatal(err)
						}
						if c.after != at || c.upto != upto || c.last != done || len(c.recs) == 0 && !done || len(c.recs) > 1 && len(b) > maxBytes {
							t.Fatalf("behind %v: %d records in %d bytes, done %v, header %v %d %v", at, len(c.recs), len(b), done, c.after, c.upto, c.last)
						}
						got = append(got, c.recs...)
						if done {
							break
						}
						at = c.recs[len(c.recs)-1].Cursor()
					}
					wantRecords(t, got, after(upToIndex(recs, upto), Cursor{index, n}))
				}
			}
		}
	}
}

func TestExportHoldsALargeRecord(t *testing.T) {
	recs := []Record{{Index: 1, Data: make([]byte, MaxData)}, {Index: 1, N: 1, Data: make([]byte, MaxData)}}
	b, done, err := whole(t, recs).Export(0, 0, 1, 1)
	if err != nil || done || len(b) > MaxData+80 {
		t.Fatalf("%d bytes, %v, %v", len(b), done, err)
	}
	for i := range uint32(8) {
		recs = append(recs, Record{Index: 1, N: 2 + i, Data: make([]byte, MaxData)})
	}
	b, done, err = whole(t, recs).Export(0, 0, 1, math.MaxInt)
	if err != nil || done || len(b) > MaxChunk {
		t.Fatalf("%d bytes, %v, %v", len(b), done, err)
	}
}

// A peer serves only when it knows that it has all that is asked for.
func TestExportRefusesWhatItDoesNotHave(t *testing.T) {
	recs := testRecords(1, 10)
	s := whole(t, recs)
	export := func(upto uint64) error {
		_, _, err := s.Export(0, 0, upto, MaxChunk)
		return err
	}
	if err := export(10); err != nil {
		t.Errorf("up to the newest record: %v", err)
	}
	if err := export(11); !errors.Is(err, ErrIncomplete) {
		t.Errorf("behind the newest record: %v", err)
	}
	s.Applied(12)
	s.Applied(11)
	if err := export(12); err != nil {
		t.Errorf("up to what was applied: %v", err)
	}
	mustSkip(t, s, 15, markOf(recs))
	if err := export(15); err != nil {
		t.Errorf("up to what a snapshot bears out: %v", err)
	}
	mustSkip(t, s, 22, markOf(testRecords(1, 20)))
	for _, upto := range []uint64{1, 10, 20} {
		if err := export(upto); !errors.Is(err, ErrIncomplete) {
			t.Errorf("up to %d, with a gap: %v", upto, err)
		}
	}
	peer := whole(t, testRecords(1, 20))
	peer.Applied(22)
	mustCatchUp(t, s, peer, MaxChunk)
	if err := export(22); err != nil {
		t.Errorf("after the gap was closed: %v", err)
	}
}
