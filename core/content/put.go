package content

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-edge/holdfast/core/content/pack"
	"github.com/holdfast-edge/holdfast/internal/disk"
	"github.com/holdfast-edge/holdfast/wire"
)

// maxSyncs is how many files of a Put are written at a time: file systems put the syncs that wait together into one.
const maxSyncs = 16

// Put stores chunks, and returns when all of them are on the disk. What is stored already is touched. One Put goes on at a time; others wait,
// until ctx ends. The errors are ErrQuota, ctx's, or the disk's: then some of the chunks may be stored.
func (s *Store) Put(ctx context.Context, v Verified) error {
	select {
	case s.putting <- struct{}{}:
		defer func() { <-s.putting }()
	case <-ctx.Done():
		return fmt.Errorf("wait to store chunks: %w", context.Cause(ctx))
	}
	batch, err := s.lacks(v.chunks)
	if err != nil || len(batch) == 0 {
		return err
	}
	if err := s.makeDirs(batch); err != nil {
		return fmt.Errorf("store chunks: %w", err)
	}
	if err := s.write(batch); err != nil {
		return fmt.Errorf("store chunks: %w", errors.Join(err, s.discard(batch)))
	}
	if err := s.name(batch); err != nil {
		return fmt.Errorf("store chunks: %w", err)
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range batch {
		size := int64(frameMore + len(batch[i].Stored))
		s.index[batch[i].Digest] = entry{size, now}
		s.used += size
	}
	return nil
}

// lacks returns the chunks that are not stored, each once, if there is room for them, and touches the others.
func (s *Store) lacks(chunks []pack.Chunk) ([]pack.Chunk, error) {
	now, size := time.Now(), int64(0)
	seen := make(map[wire.Digest]struct{}, len(chunks))
	var out []pack.Chunk
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range chunks {
		c := &chunks[i]
		if _, twice := seen[c.Digest]; twice || s.touch(c.Digest, now) {
			continue
		}
		seen[c.Digest] = struct{}{}
		out = append(out, *c)
		size += int64(frameMore + len(c.Stored))
	}
	if s.used+size > s.quota {
		return nil, fmt.Errorf("%w: %d bytes of %d are used, %d more do not fit", ErrQuota, s.used, s.quota, size)
	}
	return out, nil
}

// makeDirs sees to it that the subdirectories are there for good.
func (s *Store) makeDirs(batch []pack.Chunk) error {
	made := make(map[string]struct{})
	for i := range batch {
		sub := filepath.Base(filepath.Dir(s.path(batch[i].Digest)))
		if _, ok := s.dirs[sub]; ok {
			continue
		}
		if err := s.fs.MkdirAll(filepath.Join(s.dir, sub), disk.DirPerm); err != nil {
			return err
		}
		made[sub] = struct{}{}
	}
	if len(made) == 0 {
		return nil
	}
	if err := s.fs.SyncDir(s.dir); err != nil {
		return err
	}
	for sub := range made {
		s.dirs[sub] = struct{}{}
	}
	return nil
}

// write makes the temporary files.
func (s *Store) write(batch []pack.Chunk) error {
	var g errgroup.Group
	g.SetLimit(maxSyncs)
	for i := range batch {
		g.Go(func() error { return s.writeTmp(&batch[i]) })
	}
	return g.Wait()
}

func (s *Store) writeTmp(c *pack.Chunk) (err error) {
	f, err := s.fs.OpenFile(s.path(c.Digest)+disk.TmpSuffix, os.O_RDWR|os.O_CREATE|os.O_TRUNC, filePerm)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.WriteAt(encodeFrame(c.Stored), 0); err != nil {
		return err
	}
	return f.Sync()
}

const filePerm = 0o600

// discard removes temporary files. Those that stay behind are overwritten by the next Put, or removed when the store is opened.
func (s *Store) discard(batch []pack.Chunk) error {
	var errs []error
	for i := range batch {
		if err := s.fs.Remove(s.path(batch[i].Digest) + disk.TmpSuffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// name gives the files their names for good. Files that got theirs before an error are not in the index: the next Put replaces them.
func (s *Store) name(batch []pack.Chunk) error {
	dirs := make(map[string]struct{})
	s.names.Lock()
	for i := range batch {
		path := s.path(batch[i].Digest)
		if err := s.fs.Rename(path+disk.TmpSuffix, path); err != nil {
			s.names.Unlock()
			return err
		}
		dirs[filepath.Dir(path)] = struct{}{}
	}
	s.names.Unlock()
	var g errgroup.Group
	g.SetLimit(maxSyncs)
	for dir := range dirs {
		g.Go(func() error { return s.fs.SyncDir(dir) })
	}
	return g.Wait()
}
