package content

import (
	"errors"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
)

// Stale returns the chunks that were not touched since before, in order.
func (s *Store) Stale(before time.Time) []wire.Digest {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []wire.Digest
	for d, e := range s.index {
		if e.touched.Before(before) {
			out = append(out, d)
		}
	}
	slices.SortFunc(out, wire.Digest.Compare)
	return out
}

// Sweep removes those of the chunks that were not touched since before, and what was moved aside before then. Its caller has seen that
// nothing refers to them. It returns how many chunks it removed, and their bytes.
func (s *Store) Sweep(chunks []wire.Digest, before time.Time) (n int, bytes int64, err error) {
	var errs []error
	for _, d := range chunks {
		size, err := s.remove(s.index, d, s.path(d), before)
		if size > 0 {
			n++
			bytes += size
		}
		errs = append(errs, err)
	}
	s.mu.Lock()
	aside := slices.Collect(maps.Keys(s.aside))
	s.mu.Unlock()
	for _, d := range aside {
		_, err := s.remove(s.aside, d, s.path(d)+asideSuffix, before)
		errs = append(errs, err)
	}
	return n, bytes, errors.Join(errs...)
}

// remove takes one file away, if it was not touched since before. Nothing reads or makes it meanwhile.
func (s *Store) remove(from map[wire.Digest]entry, d wire.Digest, path string, before time.Time) (size int64, err error) {
	s.names.Lock()
	defer s.names.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := from[d]
	if !ok || !e.touched.Before(before) {
		return 0, nil
	}
	if err := s.fs.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	delete(from, d)
	s.used -= e.size
	return e.size, nil
}
