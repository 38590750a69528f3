package history

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	markName = "synced"
	markSize = 28
)

var markMagic = []byte("hfsynced")

// A mark says how far the history is known to be on the disk. What lies before it must be there, unharmed, at the next Open; what lies
// after it may be torn by a crash and comes back out of the log. It lies in a file of its own, because segments must not depend on when
// a node happened to sync.
type mark struct {
	first uint64 // the newest segment with synced data, 0 when nothing was ever synced
	end   int64  // its synced bytes
}

func (m mark) encode() []byte {
	b := append([]byte(nil), markMagic...)
	b = binary.BigEndian.AppendUint64(b, m.first)
	b = binary.BigEndian.AppendUint64(b, uint64(m.end)) //nolint:gosec // an offset is never negative
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// decodeMark reads a whole mark file. Its error is damage.
func decodeMark(b []byte) (mark, error) {
	switch {
	case len(b) != markSize:
		return mark{}, damage("the file has a wrong length")
	case !bytes.Equal(b[:8], markMagic):
		return mark{}, damage("the file does not start as it should")
	case crc32.Checksum(b[:24], castagnoli) != binary.BigEndian.Uint32(b[24:]):
		return mark{}, damage("the checksum does not fit")
	}
	m := mark{first: binary.BigEndian.Uint64(b[8:]), end: int64(binary.BigEndian.Uint64(b[16:]))} //nolint:gosec // checked below
	if m.end < 0 || m.end > maxSegmentSize {
		return mark{}, damage("the synced length is impossible")
	}
	return m, nil
}

// readMark returns the mark of dir; found is false when there is none.
func readMark(fsys FS, dir string) (m mark, found bool, err error) {
	name := filepath.Join(dir, markName)
	f, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return mark{}, false, nil
	}
	if err != nil {
		return mark{}, false, fmt.Errorf("open the sync mark: %w", err)
	}
	b := make([]byte, markSize+1)
	n, err := readFull(f, b, 0)
	if err = errors.Join(err, f.Close()); err != nil {
		return mark{}, false, fmt.Errorf("read the sync mark: %w", err)
	}
	m, err = decodeMark(b[:n])
	return m, true, located(err, name, 0)
}

// writeMark replaces the mark of dir, durably.
func writeMark(fsys FS, dir string, m mark) error {
	f, err := createDurably(fsys, dir, markName, m.encode())
	if err != nil {
		return fmt.Errorf("write the sync mark: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("close the sync mark: %w", err)
	}
	return nil
}
