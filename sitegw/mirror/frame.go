package mirror

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"

	"github.com/holdfast-edge/holdfast/internal/durable"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// The file is a magic and frames; of two frames about one thing the later one counts, if it is the newer word:
//
//	offset  size  what
//	0       4     magic "HFM1"
//	then, for each frame:
//	0       1     kind
//	1       4     length n of the body, big endian, at most 16 KiB
//	5       4     CRC-32C of kind, length and body
//	9       n     body
const (
	fileMagic = "HFM1"
	frameHead = 9
	maxBody   = wire.MaxStatement // a sealed gateway list has no more
	maxFile   = 512 << 20         // nothing behind it is read; a full mirror has a fraction of it
)

// The kinds of frames.
const (
	kindEntry = 1 // a sealed device entry
	kindList  = 2 // a sealed gateway list
	kindMark  = 3 // a mark: every entry of the site up to it stands before
	kindAge   = 4 // an age: for how long a device of another site has been away

	kindOrder    = 5 // a sealed order of a device whose entry stands before
	kindSettings = 6 // settings
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A frame is one frame of the file.
type frame struct {
	kind byte
	body []byte
}

// append appends the frame's bytes.
func (f frame) append(dst []byte) []byte {
	at := len(dst)
	dst = append(dst, f.kind)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(f.body))) //nolint:gosec // G115: at most maxBody
	sum := crc32.Update(crc32.Checksum(dst[at:], castagnoli), castagnoli, f.body)
	dst = binary.BigEndian.AppendUint32(dst, sum)
	return append(dst, f.body...)
}

type mark struct {
	ClusterEpoch uint64 `cbor:"1,keyasint"`
	Number       uint64 `cbor:"2,keyasint"`
}

type age struct {
	Device ident.DeviceID `cbor:"1,keyasint"`
	Days   uint32         `cbor:"2,keyasint"` // whole days since it was seen last
}

func markFrame(s seal.Stamp) frame { return frame{kindMark, encoded(mark(s))} }

func ageFrame(id ident.DeviceID, idle time.Duration) frame {
	return frame{kindAge, encoded(age{id, uint32(idle / day)})} //nolint:gosec // G115: a few days
}

// encoded is v as CBOR. Encoding a struct of this package cannot fail.
func encoded(v any) []byte {
	b, err := wire.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("mirror: %T does not encode: %v", v, err))
	}
	return b
}

// errTorn is a last frame that a power cut left behind: what it was to say was never said to be there.
var errTorn = errors.New("torn at the end")

// readFrames calls f with each frame that is whole. The error is nil, errTorn, or, joined, what is damaged and where: a frame
// whose checksum or content is wrong is left out, and behind a length that cannot be, nothing is found again.
func readFrames(r io.Reader, f func(kind byte, body []byte) error) (damage error) {
	br := bufio.NewReaderSize(io.LimitReader(r, maxFile), 256<<10)
	var head [frameHead]byte
	if _, err := io.ReadFull(br, head[:len(fileMagic)]); err != nil || string(head[:len(fileMagic)]) != fileMagic {
		damage = fmt.Errorf("no mirror begins here: %w", durable.ErrDamaged)
	}
	at, reported := int64(len(fileMagic)), 0
	wrong := func(err error) {
		if reported++; reported <= maxReported {
			damage = errors.Join(damage, fmt.Errorf("at byte %d: %w: %w", at, durable.ErrDamaged, err))
		}
	}
	body := make([]byte, maxBody)
	for {
		switch _, err := io.ReadFull(br, head[:]); {
		case errors.Is(err, io.EOF):
			return damage
		case errors.Is(err, io.ErrUnexpectedEOF):
			return torn(damage)
		case err != nil:
			wrong(err)
			return damage
		}
		n := binary.BigEndian.Uint32(head[1:])
		if n > maxBody {
			wrong(fmt.Errorf("frame of %d bytes", n))
			return damage
		}
		switch _, err := io.ReadFull(br, body[:n]); {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return torn(damage)
		case err != nil:
			wrong(err)
			return damage
		}
		if crc32.Update(crc32.Checksum(head[:5], castagnoli), castagnoli, body[:n]) != binary.BigEndian.Uint32(head[5:]) {
			wrong(errors.New("checksum does not match"))
		} else if err := f(head[0], body[:n]); err != nil {
			wrong(err)
		}
		at += frameHead + int64(n)
	}
}

// maxReported bounds the places that are named of a damaged file.
const maxReported = 8

func torn(damage error) error {
	if damage != nil {
		return damage
	}
	return errTorn
}
