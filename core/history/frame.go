package history

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"
)

// Sizes and numbers of the format, see docs/history-format.md. All integers are big-endian.
//
//	segment: header | frame (record) ... | frame (footer, once sealed)
//	frame:   length 4 | crc 4 | body of that length
const (
	formatVersion = 1
	headerSize    = 32
	frameHead     = 8
	recordHead    = 39 // body of a record before its data
	footerBody    = 53
	maxBody       = recordHead + MaxData

	bodyRecord = 1
	bodyFooter = 2
)

var (
	segmentMagic = []byte("hfhist\x1a\n")
	castagnoli   = crc32.MakeTable(crc32.Castagnoli)
)

// A header is the start of a segment file.
type header struct {
	first uint64 // log index of the segment's first record; also the segment's id and its file name
	prev  uint64 // first of the segment before it, 0 when there is none
}

// A footer is the last frame of a sealed segment.
type footer struct {
	records uint64
	last    Cursor
	sum     [sha256.Size]byte // of every byte of the file before the footer's frame
}

func encodeHeader(h header) []byte {
	b := append([]byte(nil), segmentMagic...)
	b = binary.BigEndian.AppendUint16(b, formatVersion)
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint64(b, h.first)
	b = binary.BigEndian.AppendUint64(b, h.prev)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// decodeHeader reads exactly headerSize bytes. Its error is damage or wraps ErrVersion.
func decodeHeader(b []byte) (header, error) {
	switch {
	case len(b) < headerSize:
		return header{}, damage("the header is cut short")
	case !bytes.Equal(b[:8], segmentMagic):
		return header{}, damage("this is no history segment")
	case crc32.Checksum(b[:28], castagnoli) != binary.BigEndian.Uint32(b[28:]):
		return header{}, damage("the header's checksum does not fit")
	}
	if v := binary.BigEndian.Uint16(b[8:]); v != formatVersion {
		return header{}, fmt.Errorf("%w %d, this release reads %d", ErrVersion, v, formatVersion)
	}
	if binary.BigEndian.Uint16(b[10:]) != 0 {
		return header{}, damage("the header's reserved bytes are not zero")
	}
	return header{first: binary.BigEndian.Uint64(b[12:]), prev: binary.BigEndian.Uint64(b[20:])}, nil
}

// recordSize is the number of bytes that a record with so much data takes in a segment.
func recordSize(data int) int64 { return frameHead + recordHead + int64(data) }

// appendRecord appends the frame of r for segment id seg at offset pos of its file. The caller has checked r.
func appendRecord(b []byte, seg uint64, pos int64, r *Record) []byte {
	start := len(b)
	b = append(b, make([]byte, frameHead)...)
	b = append(b, bodyRecord, byte(r.Kind))
	b = binary.BigEndian.AppendUint64(b, r.Index)
	b = binary.BigEndian.AppendUint32(b, r.N)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Time.UnixMilli()))
	b = append(b, r.Stream[:]...)
	b = append(b, r.Data...)
	closeFrame(b[start:], seg, pos)
	return b
}

// appendFooter appends the footer's frame for segment id seg at offset pos of its file.
func appendFooter(b []byte, seg uint64, pos int64, f *footer) []byte {
	start := len(b)
	b = append(b, make([]byte, frameHead)...)
	b = append(b, bodyFooter)
	b = binary.BigEndian.AppendUint64(b, f.records)
	b = binary.BigEndian.AppendUint64(b, f.last.Index)
	b = binary.BigEndian.AppendUint32(b, f.last.N)
	b = append(b, f.sum[:]...)
	closeFrame(b[start:], seg, pos)
	return b
}

// closeFrame fills in the length and the checksum of a frame whose body is in place.
func closeFrame(frame []byte, seg uint64, pos int64) {
	binary.BigEndian.PutUint32(frame, uint32(len(frame)-frameHead)) //nolint:gosec // at most maxBody
	binary.BigEndian.PutUint32(frame[4:], frameSum(frame, seg, pos))
}

// frameSum is the checksum of a frame: over where it lies, its length and its body. With the place in it, a valid frame that the disk
// returns for another place is seen to be foreign.
func frameSum(frame []byte, seg uint64, pos int64) uint32 {
	var place [20]byte
	binary.BigEndian.PutUint64(place[:], seg)
	binary.BigEndian.PutUint64(place[8:], uint64(pos)) //nolint:gosec // an offset is never negative
	copy(place[16:], frame[:4])
	return crc32.Update(crc32.Checksum(place[:], castagnoli), castagnoli, frame[frameHead:])
}

// bodyLength reads the length from the first frameHead bytes of a frame. Its error is damage.
func bodyLength(head []byte) (int, error) {
	n := binary.BigEndian.Uint32(head)
	if n < recordHead || n > maxBody {
		return 0, damage(fmt.Sprintf("no frame has a length of %d", n))
	}
	return int(n), nil
}

// A frame is one decoded frame: a record, or a footer when it is not nil.
type frame struct {
	rec    Record // Data aliases the bytes that were decoded
	footer *footer
}

// decodeFrame checks and reads one whole frame of segment id seg at offset pos. Its error is damage.
func decodeFrame(b []byte, seg uint64, pos int64) (frame, error) {
	if frameSum(b, seg, pos) != binary.BigEndian.Uint32(b[4:]) {
		return frame{}, damage("the checksum does not fit")
	}
	switch body := b[frameHead:]; body[0] {
	case bodyRecord:
		return frame{rec: decodeRecord(body)}, nil
	case bodyFooter:
		if len(body) != footerBody {
			return frame{}, damage("the footer has a wrong length")
		}
		return frame{footer: decodeFooter(body)}, nil
	default:
		return frame{}, damage(fmt.Sprintf("there is no frame type %d", body[0]))
	}
}

// decodeRecord reads the body of a record, which has at least recordHead bytes.
func decodeRecord(body []byte) Record {
	r := Record{
		Kind:  Kind(body[1]),
		Index: binary.BigEndian.Uint64(body[2:]),
		N:     binary.BigEndian.Uint32(body[10:]),
		Time:  time.UnixMilli(int64(binary.BigEndian.Uint64(body[14:]))).UTC(), //nolint:gosec // two's complement, as written
	}
	copy(r.Stream[:], body[22:])
	if len(body) > recordHead {
		r.Data = body[recordHead:]
	}
	return r
}

// decodeFooter reads the body of a footer, which has footerBody bytes.
func decodeFooter(body []byte) *footer {
	f := &footer{
		records: binary.BigEndian.Uint64(body[1:]),
		last:    Cursor{Index: binary.BigEndian.Uint64(body[9:]), N: binary.BigEndian.Uint32(body[17:])},
	}
	copy(f.sum[:], body[21:])
	return f
}
