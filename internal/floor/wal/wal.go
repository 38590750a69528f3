// Package wal is what a durable queue costs at least on this disk: frames of length, checksum and payload, written to a file that grows, and
// synced with fdatasync once per batch. It has no numbers, no recovery, no limits and no readers; what a real queue adds is measured against it.
package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"

	"github.com/holdfast-edge/holdfast/internal/disk"
)

const (
	segmentBytes = 16 << 20
	segments     = 4 // files that are written in turns, so that a long measurement does not fill the disk
	frameHead    = 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Log is the raw log. It is for one goroutine.
type Log struct {
	dir string
	f   disk.File
	n   int   // segments begun
	off int64 // bytes of the current one
	buf []byte
}

// Open makes a log in a directory that is there.
func Open(dir string) (*Log, error) {
	l := &Log{dir: dir}
	return l, l.roll()
}

// roll begins the next segment.
func (l *Log) roll() error {
	err := l.Close()
	if err != nil {
		return err
	}
	name := filepath.Join(l.dir, fmt.Sprintf("segment-%d", l.n%segments))
	l.n++
	l.off = 0
	if l.f, err = (disk.OS{}).OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
		return fmt.Errorf("begin segment: %w", err)
	}
	return nil
}

// Append makes a batch of records durable.
func (l *Log) Append(records [][]byte) error {
	l.buf = l.buf[:0]
	for _, r := range records {
		l.buf = binary.LittleEndian.AppendUint32(l.buf, uint32(len(r))) //nolint:gosec // a record is far below 4 GiB
		l.buf = binary.LittleEndian.AppendUint32(l.buf, crc32.Checksum(r, castagnoli))
		l.buf = append(l.buf, r...)
	}
	if l.off > 0 && l.off+int64(len(l.buf)) > segmentBytes {
		if err := l.roll(); err != nil {
			return err
		}
	}
	if _, err := l.f.WriteAt(l.buf, l.off); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	l.off += int64(len(l.buf))
	if err := l.f.Sync(); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	return nil
}

// Close closes the current segment's file, if there is one. Closing again does nothing.
func (l *Log) Close() error {
	if l.f == nil {
		return nil
	}
	f := l.f
	l.f = nil
	if err := f.Close(); err != nil {
		return errors.Join(errors.New("close segment"), err)
	}
	return nil
}
