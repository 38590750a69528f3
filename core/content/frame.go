package content

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/holdfast-edge/holdfast/wire/artifact"
)

// A chunk's file:
//
//	format (1) | stored form (codec, data) | CRC-32C of all before (4, big-endian)
const (
	format    = 1
	frameMore = 1 + crc32.Size // bytes of a file beside the stored form
	minFrame  = frameMore + 2
	maxFrame  = frameMore + artifact.MaxStored
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encodeFrame is what a file has for a stored form.
func encodeFrame(stored []byte) []byte {
	b := make([]byte, 0, frameMore+len(stored))
	b = append(append(b, format), stored...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// decodeFrame returns the stored form, which aliases b, or the reason why it is none.
func decodeFrame(b []byte) (stored []byte, reason string) {
	if len(b) < minFrame || len(b) > maxFrame {
		return nil, fmt.Sprintf("%d bytes, want %d to %d", len(b), minFrame, maxFrame)
	}
	body, sum := b[:len(b)-crc32.Size], binary.BigEndian.Uint32(b[len(b)-crc32.Size:])
	if got := crc32.Checksum(body, castagnoli); got != sum {
		return nil, fmt.Sprintf("checksum %08x, its bytes have %08x", sum, got)
	}
	if b[0] != format {
		return nil, fmt.Sprintf("format %d, known is %d", b[0], format)
	}
	return body[1:], ""
}
