package durable

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
)

// ErrDamaged says that neither copy of a state reads.
var ErrDamaged = errors.New("damaged")

// Slots keep a small state in two files, path.a and path.b, each with a generation and a checksum. Save replaces the older
// one; Load takes the newer one that is whole, so a damaged file costs the newest change at most.
//
//	offset  size  what
//	0       4     magic "HFS1"
//	4       8     generation, big endian
//	12      4     length n of the data, big endian
//	16      4     CRC-32C of generation, length and data
//	20      n     data
type Slots struct {
	path  string
	gen   uint64
	older bool
}

const (
	slotMagic  = "HFS1"
	slotHeader = 20
	maxSlot    = 32 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// OpenSlots names the state at path. Nothing is read yet.
func OpenSlots(path string) *Slots { return &Slots{path: path} }

// Load returns the newest whole copy. The error is os.ErrNotExist when there is none and never was, ErrDamaged when there
// are files and none is whole, and the reader's own otherwise: a file that cannot be read may be the newest.
func (s *Slots) Load() ([]byte, error) {
	var (
		best          []byte
		copies, whole int
		why           error
	)
	for _, name := range []string{s.path + ".a", s.path + ".b"} {
		b, err := ReadFile(name, maxSlot+slotHeader)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil && !errors.Is(err, ErrTooLarge) {
			return nil, err
		}
		copies++
		gen, data, err := parseSlot(b)
		if err != nil {
			why = errors.Join(why, fmt.Errorf("%s: %w", name, err))
			continue
		}
		whole++
		if best == nil || gen > s.gen {
			s.gen, best = gen, data
		}
	}
	switch {
	case best != nil:
		s.older = whole < copies || copies == 1 && s.gen > 1 // from the second generation on there are two
		return best, nil
	case copies > 0:
		return nil, why
	}
	return nil, fmt.Errorf("%s: %w", s.path, os.ErrNotExist)
}

// Older tells whether what Load returned may be older, by one Save, than what was saved last: the other copy is damaged or gone. No
// power cut does that; a disk that rots does. Numbers that must not be used twice have to skip what the lost one may have used.
func (s *Slots) Older() bool { return s.older }

// Save stores data as the newest copy, durably.
func (s *Slots) Save(data []byte, mode os.FileMode) error {
	b := make([]byte, slotHeader, slotHeader+len(data))
	copy(b, slotMagic)
	binary.BigEndian.PutUint64(b[4:], s.gen+1)
	binary.BigEndian.PutUint32(b[12:], uint32(len(data))) //nolint:gosec // G115: a state is far below 4 GiB
	b = append(b, data...)
	binary.BigEndian.PutUint32(b[16:], slotSum(b))
	name := s.path + ".a"
	if (s.gen+1)%2 == 0 {
		name = s.path + ".b"
	}
	if err := WriteFile(name, b, mode); err != nil {
		return err
	}
	s.gen++
	return nil
}

func slotSum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[4:16], castagnoli), castagnoli, b[slotHeader:])
}

func parseSlot(b []byte) (gen uint64, data []byte, err error) {
	if len(b) < slotHeader || !bytes.Equal(b[:4], []byte(slotMagic)) || int(binary.BigEndian.Uint32(b[12:])) != len(b)-slotHeader {
		return 0, nil, fmt.Errorf("no whole state: %w", ErrDamaged)
	}
	if slotSum(b) != binary.BigEndian.Uint32(b[16:]) {
		return 0, nil, fmt.Errorf("checksum does not match: %w", ErrDamaged)
	}
	return binary.BigEndian.Uint64(b[4:]), b[slotHeader:], nil
}
