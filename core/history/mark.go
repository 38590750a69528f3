package history

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"path/filepath"

	"github.com/holdfast-edge/holdfast/internal/disk"
)

const (
	markName = "synced"
	markSize = 68
)

var markMagic = []byte("hfsynced")

// A syncMark says how far the history is known to be on the disk. What lies before it must be there, unharmed, at the next Open; what lies
// after it may be torn by a crash and comes back out of the log. It lies in a file of its own, because segments must not depend on when
// a node happened to sync.
type syncMark struct {
	first uint64 // the newest segment with synced data, 0 when nothing was ever synced
	end   int64  // its synced bytes
	chain Mark   // of the records that were synced
}

// appendTo appends the mark's 56 bytes.
func (m *syncMark) appendTo(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, m.first)
	b = binary.BigEndian.AppendUint64(b, uint64(m.end)) //nolint:gosec // an offset is never negative
	return m.chain.appendTo(b)
}

// decodeSyncMark reads what appendTo wrote. Its error is damage.
func decodeSyncMark(b []byte) (syncMark, error) {
	m := syncMark{first: binary.BigEndian.Uint64(b), end: int64(binary.BigEndian.Uint64(b[8:])), chain: decodeChain(b[16:])} //nolint:gosec // checked below
	if m.end < 0 || m.end > maxSegmentSize {
		return syncMark{}, damage("the synced length is impossible")
	}
	return m, nil
}

func (m syncMark) encode() []byte {
	b := m.appendTo(append([]byte(nil), markMagic...))
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// decodeMark reads a whole mark file. Its error is damage.
func decodeMark(b []byte) (syncMark, error) {
	if err := checkSmall(b, markMagic, markSize); err != nil {
		return syncMark{}, err
	}
	return decodeSyncMark(b[8:])
}

// readMark returns the mark of dir; found is false when there is none.
func readMark(fsys disk.FS, dir string) (m syncMark, found bool, err error) {
	name := filepath.Join(dir, markName)
	b, err := disk.ReadSmall(fsys, name, markSize)
	if b == nil || err != nil {
		return syncMark{}, false, err
	}
	m, err = decodeMark(b)
	return m, true, located(err, name, 0)
}

// writeMark replaces the mark of dir, durably.
func writeMark(fsys disk.FS, dir string, m syncMark) error {
	return disk.Replace(fsys, dir, markName, m.encode())
}

// checkSmall checks a file that is read as a whole: its length, how it begins, and the checksum in its last four bytes. Its error is damage.
func checkSmall(b, magic []byte, size int) error {
	switch {
	case len(b) != size:
		return damage("the file has a wrong length")
	case !bytes.HasPrefix(b, magic):
		return damage("the file does not start as it should")
	case crc32.Checksum(b[:size-4], castagnoli) != binary.BigEndian.Uint32(b[size-4:]):
		return damage("the checksum does not fit")
	}
	return nil
}
