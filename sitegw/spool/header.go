package spool

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"time"
)

const (
	headerSize = 80
	version    = 1

	// segmentName has room for every uint64, so that names sort like the numbers in them.
	segmentName   = "%020d"
	segmentSuffix = ".spool"
	// badSuffix ends the name of a file that was set aside.
	badSuffix = ".bad"
)

var headerMagic = []byte("hfspool\n")

// A header begins each segment.
type header struct {
	incarnation [16]byte
	before      Point // behind the record before the segment's first
	made        time.Time
}

func (h *header) encode() []byte {
	b := append(make([]byte, 0, headerSize), headerMagic...)
	b = binary.BigEndian.AppendUint16(b, version)
	b = append(b, 0, 0)
	b = append(b, h.incarnation[:]...)
	b = binary.BigEndian.AppendUint64(b, h.before.Seq+1)
	b = append(b, h.before.Chain[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(h.made.UnixMilli()))
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// decodeHeader reads what encode wrote. Its error is damage, or wraps ErrVersion.
func decodeHeader(b []byte) (h header, err error) {
	if err := checkSealed(b, headerMagic, headerSize); err != nil {
		return h, err
	}
	h.incarnation = [16]byte(b[12:])
	h.before = Point{binary.BigEndian.Uint64(b[28:]) - 1, Chain(b[36:])}
	h.made = time.UnixMilli(int64(binary.BigEndian.Uint64(b[68:]))) //nolint:gosec // two's complement
	return h, nil
}

// checkSealed checks bytes of a fixed size that begin with a magic and a version and end in a checksum of all before it.
func checkSealed(b, magic []byte, size int) error {
	switch {
	case len(b) < size || !bytes.HasPrefix(b, magic):
		return damage("it does not begin as it should")
	case crc32.Checksum(b[:size-4], castagnoli) != binary.BigEndian.Uint32(b[size-4:]):
		return damage("the checksum does not fit")
	}
	if v := binary.BigEndian.Uint16(b[len(magic):]); v != version {
		return fmt.Errorf("%w %d; run the release that wrote it, or a newer one", ErrVersion, v)
	}
	return nil
}

// fileName names the segment whose first record has this number.
func fileName(first uint64) string { return fmt.Sprintf(segmentName, first) + segmentSuffix }

// parseName returns the number in a segment's file name.
func parseName(name string) (first uint64, ok bool) {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok {
		return 0, false
	}
	first, err := strconv.ParseUint(digits, 10, 64)
	return first, err == nil && first > 0 && fileName(first) == name
}
