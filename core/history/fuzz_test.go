package history

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"testing"
)

// seedSegment is a sealed segment with first index 5.
func seedSegment() []byte {
	b := encodeHeader(header{first: 5})
	t := newTally()
	for _, r := range testRecords(5, 7) {
		b = appendRecord(b, 5, int64(len(b)), &r)
		t.last = r.Cursor()
		t.records++
	}
	t.sum.Write(b)
	return appendFooter(b, 5, int64(len(b)), t.footer())
}

// mend makes the checksums of a segment fit, as far as its lengths lead, so that the fuzzer gets behind them.
func mend(b []byte) []byte {
	b = bytes.Clone(b)
	if len(b) < headerSize {
		return b
	}
	copy(b, segmentMagic)
	reseal(b)
	for pos := headerSize; len(b)-pos > frameHead; {
		size := frameHead + int(binary.BigEndian.Uint32(b[pos:])%(maxBody+1))
		if size > len(b)-pos {
			break
		}
		closeFrame(b[pos:pos+size], 5, int64(pos))
		pos += size
	}
	return b
}

// Whatever bytes a segment has: the scan ends, in an error that a caller can tell or with the whole file accepted, and what it accepted is
// what a writer would have made of the records it delivered.
func FuzzScanSegment(f *testing.F) {
	whole := seedSegment()
	f.Add(whole, false)
	f.Add(whole[:len(whole)-frameHead-footerBody], true)
	f.Add(whole[:len(whole)-3], true)
	f.Add(append(bytes.Clone(whole), whole[headerSize:]...), true)
	f.Add([]byte{}, false)
	f.Add(append(bytes.Clone(whole[:headerSize]), 0, 0, 0, recordHead, 0, 0, 0, 0), true)
	f.Fuzz(func(t *testing.T, b []byte, fix bool) {
		if fix {
			b = mend(b)
		}
		rewritten := encodeHeader(header{first: 5})
		var last Cursor
		tally, err := scanSegment(bytes.NewReader(b), "file", header{first: 5}, func(pos int64, r *Record) error {
			if pos != int64(len(rewritten)) || r.Cursor().Compare(last) <= 0 || len(r.Data) > MaxData {
				t.Fatalf("record %v at %d after %v", r.Cursor(), pos, last)
			}
			last = r.Cursor()
			rewritten = appendRecord(rewritten, 5, pos, r)
			return nil
		})
		broken, damaged := errors.AsType[*CorruptError](err)
		switch {
		case err != nil && !damaged && !errors.Is(err, ErrVersion):
			t.Fatalf("unexpected error: %v", err)
		case damaged && broken.Offset != tally.end:
			t.Fatalf("damage at %d, but %d bytes are good", broken.Offset, tally.end)
		case err == nil && tally.end != int64(len(b)):
			t.Fatalf("accepted %d of %d bytes", tally.end, len(b))
		case tally.end == 0:
			return
		}
		if tally.sealed {
			rewritten = appendFooter(rewritten, 5, int64(len(rewritten)), tally.footer())
		}
		if !bytes.Equal(rewritten, b[:tally.end]) {
			t.Fatalf("accepted\n%x, a writer makes\n%x", b[:tally.end], rewritten)
		}
	})
}

func FuzzDecodeMark(f *testing.F) {
	f.Add(syncMark{}.encode())
	f.Add(syncMark{first: 7, end: 83}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := decodeMark(b); err == nil && !bytes.Equal(m.encode(), b) {
			t.Fatalf("%x became %x", b, m.encode())
		}
	})
}

func FuzzDecodeGap(f *testing.F) {
	recs := testRecords(1, 9)
	g := gap{state: gapOpen, upto: 9, want: markOf(recs), base: syncMark{3, 200, markOf(recs[:4])}}
	f.Add(g.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == gapSize { // get behind the checksum
			b = binary.BigEndian.AppendUint32(bytes.Clone(b[:gapSize-4]), crc32.Checksum(b[:gapSize-4], castagnoli))
		}
		if g, err := decodeGap(b); err == nil && !bytes.Equal(g.encode(), b) {
			t.Fatalf("%x became %x", b, g.encode())
		}
	})
}

// Whatever a peer sends: a chunk that is accepted is what Export would have made of its records, and those are in order and within the range.
func FuzzDecodeChunk(f *testing.F) {
	b := newChunk(Cursor{4, 2}, 7)
	for _, r := range testRecords(5, 7) {
		b = appendRecord(b, 0, int64(len(b)), &r)
	}
	f.Add(b, false)
	f.Add(b[:len(b)-1], true)
	f.Add(b[:chunkHead], true)
	f.Add([]byte{}, false)
	f.Fuzz(func(t *testing.T, b []byte, fix bool) {
		if fix {
			b = mendChunk(b)
		}
		c, err := decodeChunk(b)
		if err != nil {
			if !errors.Is(err, ErrChunk) {
				t.Fatalf("unexpected error: %v", err)
			}
			return
		}
		again, last := newChunk(c.after, c.upto), c.after
		if c.last {
			again[1] = 1
		}
		for i := range c.recs {
			r := &c.recs[i]
			if r.Cursor().Compare(last) <= 0 || r.Index > c.upto || len(r.Data) > MaxData {
				t.Fatalf("record %v after %v, up to %d", r.Cursor(), last, c.upto)
			}
			last = r.Cursor()
			again = appendRecord(again, 0, int64(len(again)), r)
		}
		if !bytes.Equal(again, b) {
			t.Fatalf("accepted\n%x, Export makes\n%x", b, again)
		}
	})
}

// mendChunk makes the checksums of a chunk fit, as far as its lengths lead.
func mendChunk(b []byte) []byte {
	b = bytes.Clone(b)
	for pos := chunkHead; len(b)-pos > frameHead; {
		size := frameHead + int(binary.BigEndian.Uint32(b[pos:])%(maxBody+1))
		if size > len(b)-pos {
			break
		}
		closeFrame(b[pos:pos+size], 0, int64(pos))
		pos += size
	}
	return b
}
