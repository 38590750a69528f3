package history

import (
	"bytes"
	"encoding/binary"
	"errors"
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
	f.Add(mark{}.encode())
	f.Add(mark{first: 7, end: 83}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := decodeMark(b); err == nil && !bytes.Equal(m.encode(), b) {
			t.Fatalf("%x became %x", b, m.encode())
		}
	})
}
