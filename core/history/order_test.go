package history

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"testing"
	"time"
)

// Frames with good checksums in an order that no writer makes.
func TestScanRefusesDisorder(t *testing.T) {
	rec := func(index uint64) func(b []byte) []byte {
		return func(b []byte) []byte {
			r := testRecord(index, 0)
			return appendRecord(b, 5, int64(len(b)), &r)
		}
	}
	foot := func(records uint64, last uint64) func(b []byte) []byte {
		return func(b []byte) []byte {
			t := newTally()
			t.add(b, Cursor{Index: last}, records)
			return appendFooter(b, 5, int64(len(b)), t.footer())
		}
	}
	for name, parts := range map[string][]func([]byte) []byte{
		"other first record":  {rec(6)},
		"descending":          {rec(5), rec(7), rec(6)},
		"twice":               {rec(5), rec(5)},
		"footer first":        {foot(0, 0)},
		"footer miscounts":    {rec(5), rec(6), foot(1, 6)},
		"footer ends early":   {rec(5), rec(6), foot(2, 5)},
		"record after footer": {rec(5), foot(1, 5), rec(6)},
		"two footers":         {rec(5), foot(1, 5), foot(1, 5)},
	} {
		b := encodeHeader(header{first: 5})
		for _, part := range parts {
			b = part(b)
		}
		_, err := scanSegment(bytes.NewReader(b), "file", header{first: 5}, func(int64, *Record) error { return nil })
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestScanRefusesAnothersHeader(t *testing.T) {
	for _, h := range []header{{first: 6, prev: 3}, {first: 5, prev: 4}} {
		_, err := scanSegment(bytes.NewReader(encodeHeader(h)), "file", header{first: 5, prev: 3}, nil)
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("%+v: %v", h, err)
		}
	}
}

// A segment that is sound in itself but not the one that was sealed, or that has become shorter by whole records, is not what it was.
func TestVerifyComparesWithWhatWasSealed(t *testing.T) {
	for name, keep := range map[string]int{"another": 5, "shorter": 4} {
		d := craft(t, testRecords(1, 3), testRecords(4, 5))
		s := mustOpen(t, d.dir, d.opts)
		if err := s.Verify(context.Background(), markOf(d.recs), math.MaxUint64); err != nil {
			t.Fatal(err)
		}
		recs := testRecords(1, 3)
		recs[0].Kind++
		other := craft(t, recs[:keep], testRecords(4, 5))
		writeFile(t, d.files(t)[1], readFile(t, other.files(t)[1]))
		if err := s.Verify(context.Background(), markOf(d.recs), math.MaxUint64); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// craft writes a directory with segments of the given records, each segment sealed but the last.
func craft(t *testing.T, segments ...[]Record) damaged {
	t.Helper()
	d := damaged{dir: t.TempDir(), opts: Options{SegmentBytes: smallSegment, FS: quickFS{}}}
	var h header
	var b []byte
	for i, recs := range segments {
		h = header{first: recs[0].Index, prev: h.first}
		b = encodeHeader(h)
		for j := range recs {
			b = appendRecord(b, h.first, int64(len(b)), &recs[j])
		}
		if i < len(segments)-1 {
			counted := newTally()
			counted.add(b, recs[len(recs)-1].Cursor(), uint64(len(recs)))
			b = appendFooter(b, h.first, int64(len(b)), counted.footer())
		}
		writeFile(t, filepath.Join(d.dir, fmt.Sprintf(segmentName, h.first)), b)
		d.recs = append(d.recs, recs...)
	}
	writeFile(t, filepath.Join(d.dir, markName), syncMark{h.first, int64(len(b)), markOf(d.recs)}.encode())
	return d
}

func TestSegmentsMustFollowOneAnother(t *testing.T) {
	d := craft(t, testRecords(1, 3), testRecords(4, 5), testRecords(8, 9))
	s := mustOpen(t, d.dir, d.opts)
	wantStored(t, s, d.recs)
	d = craft(t, testRecords(1, 4), testRecords(4, 5))
	d.wantCorrupt(t, filepath.Join(d.dir, fmt.Sprintf(segmentName, 4)))
}

func TestOnlyTheNewestSegmentMayBeUnsealed(t *testing.T) {
	for i := 1; i <= 2; i++ {
		d := newDamaged(t, 0)
		name := d.files(t)[i]
		b := readFile(t, name)
		writeFile(t, name, b[:len(b)-frameHead-footerBody])
		d.wantCorrupt(t, name)
	}
}

// The place in the checksum does not help when a whole file is exchanged for one that is laid out alike.
func TestReadMindsTheStream(t *testing.T) {
	recs := []Record{{Index: 1, Time: time.UnixMilli(0), Stream: testStreams[0]}}
	d := craft(t, recs)
	s := mustOpen(t, d.dir, d.opts)
	recs[0].Stream = testStreams[1]
	other := craft(t, recs)
	writeFile(t, d.files(t)[1], readFile(t, other.files(t)[1]))
	if got, err := readAll(s, testStreams[0], Query{}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("got %v, %v", got, err)
	}
}
