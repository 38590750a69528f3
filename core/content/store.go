package content

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast-edge/holdfast/internal/disk"
	"github.com/holdfast-edge/holdfast/wire"
)

// DefaultQuota is what a node's chunks may take on its disk unless the configuration says otherwise: some dozens of large releases.
const DefaultQuota = 32 << 30

// Options adjust a store. The zero value is ready for use.
type Options struct {
	Quota  int64        // bytes of files; 0: DefaultQuota
	Logger *slog.Logger // nil: say nothing
	FS     disk.FS      // nil: the operating system's
}

// A Store keeps chunks in a directory.
type Store struct {
	// Immutable.
	dir     string
	quota   int64
	log     *slog.Logger
	fs      disk.FS
	lock    io.Closer
	putting chan struct{} // capacity 1; whoever has its element puts, so that no two make the same file
	damage  chan struct{} // capacity 1; an element: something was moved aside

	// Held for writing while names in the directory change, and for reading while a file is opened, so that what the index has can be
	// opened. Lock order: names, mu.
	names sync.RWMutex

	mu    sync.Mutex
	index map[wire.Digest]entry // guarded by mu: what is durable under its name
	aside map[wire.Digest]entry // guarded by mu: what is damaged and was moved aside
	used  int64                 // guarded by mu: bytes of both
	dirs  map[string]struct{}   // owned by whoever puts: subdirectories whose names are durable
	found uint64                // guarded by mu: damaged chunks that were found since Open
}

// An entry is a file.
type entry struct {
	size    int64
	touched time.Time
}

// Stats is what a store holds.
type Stats struct {
	Chunks  int
	Bytes   int64 // of files, damaged ones included
	Quota   int64
	Damaged uint64 // chunks that were found to be damaged since the store was opened
}

// Stats returns what the store holds.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{Chunks: len(s.index), Bytes: s.used, Quota: s.quota, Damaged: s.found}
}

// Damage has an element when chunks were found to be damaged since it was read last.
func (s *Store) Damage() <-chan struct{} { return s.damage }

// Close gives the directory up. No other call may be under way.
func (s *Store) Close() error { return s.lock.Close() }

// path is where a chunk's file is.
func (s *Store) path(d wire.Digest) string {
	hex := d.String()
	return filepath.Join(s.dir, hex[:2], hex)
}

// Has tells whether a chunk is stored.
func (s *Store) Has(d wire.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.index[d]
	return ok
}

// Touch counts the chunks as asked for by a sender, and returns the indexes of those that are not stored.
func (s *Store) Touch(digests []wire.Digest) (missing []int) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, d := range digests {
		if !s.touch(d, now) {
			missing = append(missing, i)
		}
	}
	return missing
}

// touch is Touch for one chunk. The caller holds mu.
func (s *Store) touch(d wire.Digest, now time.Time) bool {
	e, ok := s.index[d]
	if ok {
		e.touched = now
		s.index[d] = e
	}
	return ok
}

// Get reads the stored form of a chunk. The errors are ErrMissing, ErrDamaged, or the disk's.
func (s *Store) Get(d wire.Digest) ([]byte, error) {
	b, err := s.read(d)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.EIO):
		return nil, s.setAside(d, err.Error())
	case err != nil:
		return nil, err
	}
	stored, reason := decodeFrame(b)
	if reason != "" {
		return nil, s.setAside(d, reason)
	}
	return stored, nil
}

// read returns the bytes of a chunk's file.
func (s *Store) read(d wire.Digest) (_ []byte, err error) {
	f, err := s.open(d)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", s.path(d), err)
	}
	b := make([]byte, min(size, maxFrame+1))
	n, err := disk.ReadFull(f, b, 0)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", s.path(d), err)
	}
	return b[:n], nil
}

func (s *Store) open(d wire.Digest) (disk.File, error) {
	s.names.RLock()
	defer s.names.RUnlock()
	if !s.Has(d) {
		return nil, fmt.Errorf("chunk %s: %w", d.Short(), ErrMissing)
	}
	f, err := s.fs.OpenFile(s.path(d), os.O_RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("open a chunk: %w", err)
	}
	return f, nil
}

const asideSuffix = ".damaged"

// setAside takes a damaged chunk out of the store. It returns the error that says so.
func (s *Store) setAside(d wire.Digest, reason string) error {
	damaged := &DamageError{File: s.path(d), Reason: reason}
	s.names.Lock()
	defer s.names.Unlock()
	if !s.Has(d) { // somebody else read it at the same time
		return damaged
	}
	err := s.fs.Rename(s.path(d), s.path(d)+asideSuffix)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(damaged, fmt.Errorf("move it aside: %w", err))
	}
	s.log.Error("stored chunk is damaged and was moved aside; it is fetched from another node if it is needed",
		"file", damaged.File, "reason", reason, "moved", err == nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.index[d]
	delete(s.index, d)
	s.used -= e.size
	s.found++
	if err == nil {
		s.used += e.size - s.aside[d].size
		s.aside[d] = entry{e.size, time.Now()}
	}
	select {
	case s.damage <- struct{}{}:
	default:
	}
	return damaged
}
