package history

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"math"
	"testing"
	"time"
)

// reseal corrects the checksum of a header that a test has changed.
func reseal(b []byte) { binary.BigEndian.PutUint32(b[28:], crc32.Checksum(b[:28], castagnoli)) }

// The bytes of the format must not change: nodes of different releases compare segments.
func TestGoldenBytes(t *testing.T) {
	rec := Record{
		Index: 0x0102030405060708, N: 0x090a0b0c, Time: time.UnixMilli(0x18bcfe56800), Kind: 0x0d,
		Stream: StreamID{0xe1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, Data: []byte("data"),
	}
	foot := footer{records: 3, last: Cursor{Index: 8, N: 9}}
	m := Mark{Count: 0x1112131415161718}
	for i := range foot.sum {
		foot.sum[i], m.Head[i] = byte(i), byte(0x20+i)
	}
	base := syncMark{first: 7, end: 83, chain: m}
	whole := Mark{Count: m.Count + 1, Head: foot.sum}
	for name, c := range map[string]struct {
		got  []byte
		want string
	}{
		"header": {encodeHeader(header{first: 7, prev: 5}), goldenHeader},
		"record": {appendRecord(nil, 7, headerSize, &rec), goldenRecord},
		"footer": {appendFooter(nil, 7, 83, &foot), goldenFooter},
		"mark":   {base.encode(), goldenMark},
		"gap":    {(&gap{state: gapClosing, upto: 9, want: whole, base: base}).encode(), goldenGap},
		"chunk":  {appendRecord(newChunk(Cursor{3, 4}, 0x0102030405060708), 0, chunkHead, &rec), goldenChunk},
	} {
		if got := hex.EncodeToString(c.got); got != c.want {
			t.Errorf("%s is\n%s, want\n%s", name, got, c.want)
		}
	}
}

const (
	goldenHeader = "6866686973741a0a00010000000000000000000700000000000000054dc73cf8"
	goldenRecord = "0000002b1e730783010d0102030405060708090a0b0c0000018bcfe56800e10102030405060708090a0b0c0d0e0f1064617461"
	goldenFooter = "00000035ed8a7f7f020000000000000003000000000000000800000009000102030405060708090a0b0c0d0e0f101112131415161718191a" +
		"1b1c1d1e1f"
	goldenMark  = "686673796e636564000000000000000700000000000000531112131415161718202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f1b2f4155"
	goldenGap   = "68666873746761700300000000000000091112131415161719000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f000000000000000700000000000000531112131415161718202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f23c1bfe0"
	goldenChunk = "010000000000000000030000000401020304050607080000002bcf2f5e42010d0102030405060708090a0b0c0000018bcfe56800e10102030405060708090a0b0c0d0e0f1064617461"
)

func TestHeaderRefusesEveryChange(t *testing.T) {
	good := encodeHeader(header{first: 7, prev: 5})
	if h, err := decodeHeader(good); err != nil || h != (header{first: 7, prev: 5}) {
		t.Fatalf("got %+v, %v", h, err)
	}
	for i := range good {
		if _, err := decodeHeader(good[:i]); err == nil {
			t.Errorf("cut to %d bytes: accepted", i)
		}
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << bit
			if _, err := decodeHeader(bad); err == nil {
				t.Errorf("bit %d of byte %d: accepted", bit, i)
			}
		}
	}
	reserved := bytes.Clone(good)
	reserved[11] = 1
	reseal(reserved)
	if _, err := decodeHeader(reserved); !errors.As(err, new(damage)) {
		t.Errorf("reserved byte: %v", err)
	}
}

func TestFrameRefusesEveryChangeAndOtherPlaces(t *testing.T) {
	rec := testRecord(5, 2)
	good := appendRecord(nil, 7, 32, &rec)
	if int64(len(good)) != recordSize(len(rec.Data)) {
		t.Errorf("recordSize says %d, the frame has %d bytes", recordSize(len(rec.Data)), len(good))
	}
	f, err := decodeFrame(good, 7, 32)
	if err != nil || !equalRecord(f.rec, rec) {
		t.Fatalf("got %+v, %v", f.rec, err)
	}
	if _, err := decodeFrame(good, 8, 32); err == nil {
		t.Error("accepted in another segment")
	}
	if _, err := decodeFrame(good, 7, 33); err == nil {
		t.Error("accepted at another offset")
	}
	for i := range good {
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << bit
			if _, err := decodeFrame(bad, 7, 32); err == nil {
				t.Errorf("bit %d of byte %d: accepted", bit, i)
			}
		}
	}
}

// A checksum that fits does not make every body a frame.
func TestFrameRefusesForeignBodies(t *testing.T) {
	for name, body := range map[string][]byte{
		"type 0":       append([]byte{0}, make([]byte, 60)...),
		"type 3":       append([]byte{3}, make([]byte, 60)...),
		"long footer":  append([]byte{bodyFooter}, make([]byte, footerBody)...),
		"short footer": append([]byte{bodyFooter}, make([]byte, footerBody-2)...),
	} {
		b := append(make([]byte, frameHead), body...)
		closeFrame(b, 7, 32)
		if _, err := decodeFrame(b, 7, 32); !errors.As(err, new(damage)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for n, ok := range map[uint32]bool{0: false, recordHead - 1: false, recordHead: true, maxBody: true, maxBody + 1: false, math.MaxUint32: false} {
		if _, err := bodyLength(binary.BigEndian.AppendUint32(nil, n)); (err == nil) != ok {
			t.Errorf("length %d: %v", n, err)
		}
	}
}

func TestPositionKeepsItsParts(t *testing.T) {
	for _, segment := range []int{0, 1, maxSegments - 1} {
		for _, offset := range []int64{0, headerSize, maxSegmentSize} {
			for _, k := range []Kind{0, 1, 255} {
				p := newPosition(segment, offset, k)
				if p.segment() != segment || p.offset() != offset || p.kind() != k {
					t.Errorf("(%d, %d, %d) became (%d, %d, %d)", segment, offset, k, p.segment(), p.offset(), p.kind())
				}
			}
		}
	}
}

func TestMarkRefusesEveryChange(t *testing.T) {
	m := syncMark{first: 9, end: 4711, chain: markOf(testRecords(1, 3))}
	good := m.encode()
	if got, err := decodeMark(good); err != nil || got != m {
		t.Fatalf("got %+v, %v", got, err)
	}
	for i := range good {
		if _, err := decodeMark(good[:i]); err == nil {
			t.Errorf("cut to %d bytes: accepted", i)
		}
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << bit
			if _, err := decodeMark(bad); err == nil {
				t.Errorf("bit %d of byte %d: accepted", bit, i)
			}
		}
	}
	if _, err := decodeMark(append(good, 0)); err == nil {
		t.Error("a longer file was accepted")
	}
	if _, err := decodeMark(syncMark{first: 1, end: -1}.encode()); err == nil {
		t.Error("a negative length was accepted")
	}
}
