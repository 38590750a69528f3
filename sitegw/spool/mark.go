package spool

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/holdfast-edge/holdfast/internal/disk"
)

// The mark lies in two slots of one file, of which each save overwrites the older. So saving it takes no room on a full disk, and a torn save
// leaves the other slot. The slots are a page apart, because a page is what a disk may lose at once.
const (
	markName  = "mark"
	markSize  = 120
	slotSpace = 4096
	markFile  = slotSpace + markSize
)

var markMagic = []byte("hfspmark")

// A mark says what is known of the spool's two ends, as of when it was saved.
type mark struct {
	generation  uint64
	incarnation [16]byte
	trim        Point // everything up to here is done with
	last        Point // everything up to here was synced
}

func (m *mark) encode() []byte {
	b := append(make([]byte, 0, markSize), markMagic...)
	b = binary.BigEndian.AppendUint16(b, version)
	b = append(b, 0, 0)
	b = binary.BigEndian.AppendUint64(b, m.generation)
	b = append(b, m.incarnation[:]...)
	for _, p := range []Point{m.trim, m.last} {
		b = binary.BigEndian.AppendUint64(b, p.Seq)
		b = append(b, p.Chain[:]...)
	}
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// decodeMark reads one slot. Its error is damage, or wraps ErrVersion.
func decodeMark(b []byte) (m mark, err error) {
	if err := checkSealed(b, markMagic, markSize); err != nil {
		return m, err
	}
	m.generation = binary.BigEndian.Uint64(b[12:])
	m.incarnation = [16]byte(b[20:])
	m.trim = Point{binary.BigEndian.Uint64(b[36:]), Chain(b[44:])}
	m.last = Point{binary.BigEndian.Uint64(b[76:]), Chain(b[84:])}
	if m.trim.Seq > m.last.Seq {
		return m, damage("more is trimmed than there is")
	}
	return m, nil
}

// newest returns the newer one of the whole slots of a mark file; found is false when none is whole. One that is not can be a save that a
// power cut tore. The error wraps ErrVersion.
func newest(b []byte) (m mark, found bool, err error) {
	for _, at := range []int{0, slotSpace} {
		got, err := decodeMark(b[min(at, len(b)):])
		if errors.Is(err, ErrVersion) {
			return m, false, err
		}
		if err == nil && (!found || got.generation > m.generation) {
			m, found = got, true
		}
	}
	return m, found, nil
}

// saveMark overwrites the older slot, durably. A missing file is made anew.
func saveMark(fsys disk.FS, dir string, m *mark) (err error) {
	f, err := fsys.OpenFile(filepath.Join(dir, markName), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return makeMark(fsys, dir, m)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.WriteAt(m.encode(), int64(m.generation%2)*slotSpace); err != nil {
		return err
	}
	return f.Sync()
}

// makeMark makes the file, with the mark in both slots.
func makeMark(fsys disk.FS, dir string, m *mark) error {
	b := make([]byte, markFile)
	copy(b, m.encode())
	copy(b[slotSpace:], m.encode())
	return disk.Replace(fsys, dir, markName, b)
}
