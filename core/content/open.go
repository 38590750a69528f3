package content

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/internal/disk"
	"github.com/holdfast-edge/holdfast/wire"
)

// Open opens the store in dir, which it creates when it is missing. It reads names and sizes alone: what is in the files is verified when
// it is read. What an interrupted Put left behind is removed. Everything that is there counts as touched now. The errors wrap
// disk.ErrLocked or are the disk's.
func Open(dir string, o Options) (*Store, error) {
	s := &Store{
		dir: dir, quota: o.Quota, log: o.Logger, fs: o.FS, putting: make(chan struct{}, 1), damage: make(chan struct{}, 1),
		index: make(map[wire.Digest]entry), aside: make(map[wire.Digest]entry), dirs: make(map[string]struct{}),
	}
	if s.quota == 0 {
		s.quota = DefaultQuota
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.fs == nil {
		s.fs = disk.OS{}
	}
	err := s.fs.MkdirAll(dir, disk.DirPerm)
	if err == nil {
		err = s.fs.SyncDir(filepath.Dir(dir))
	}
	if err != nil {
		return nil, fmt.Errorf("create content directory %s: %w", dir, err)
	}
	if s.lock, err = s.fs.Lock(dir); err != nil {
		return nil, fmt.Errorf("lock content directory %s: %w", dir, err)
	}
	if err := s.scan(); err != nil {
		return nil, errors.Join(fmt.Errorf("open content: %w", err), s.lock.Close())
	}
	return s, nil
}

// scan finds out what is there.
func (s *Store) scan() error {
	list, err := s.fs.ReadDir(s.dir)
	if err != nil {
		return err
	}
	now := time.Now()
	for _, e := range list {
		if !e.IsDir() || len(e.Name()) != 2 {
			s.foreign(e.Name())
			continue
		}
		if err := s.scanDir(e.Name(), now); err != nil {
			return err
		}
		s.dirs[e.Name()] = struct{}{}
	}
	return s.fs.SyncDir(s.dir)
}

func (s *Store) foreign(name string) {
	s.log.Warn("foreign file in the content directory", "file", filepath.Join(s.dir, name))
}

// scanDir takes in one subdirectory. Its names are made durable: a process that was killed may not have come to that.
func (s *Store) scanDir(sub string, now time.Time) error {
	dir := filepath.Join(s.dir, sub)
	list, err := s.fs.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		if strings.HasSuffix(e.Name(), disk.TmpSuffix) {
			if err := s.fs.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
			continue
		}
		name, damaged := strings.CutSuffix(e.Name(), asideSuffix)
		d, err := wire.ParseDigest(name)
		if err != nil || d.String() != name || name[:2] != sub || e.IsDir() {
			s.foreign(filepath.Join(sub, e.Name()))
			continue
		}
		if err := s.take(e, d, damaged, now); err != nil {
			return err
		}
	}
	return s.fs.SyncDir(dir)
}

func (s *Store) take(e fs.DirEntry, d wire.Digest, damaged bool, now time.Time) error {
	info, err := e.Info()
	if err != nil {
		return err
	}
	s.used += info.Size()
	if damaged {
		s.aside[d] = entry{info.Size(), now}
	} else {
		s.index[d] = entry{info.Size(), now}
	}
	return nil
}
