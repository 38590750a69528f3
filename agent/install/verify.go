package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
)

// maxNamed bounds how many entries a DriftError names.
const maxNamed = 16

// A DriftError says how an installed release differs from its manifest.
type DriftError struct {
	Release                 wire.Digest
	Changed, Missing, Extra []string // paths; together at most 16
	More                    int      // that are not named
}

// Error names the entries.
func (e *DriftError) Error() string {
	var parts []string
	for _, p := range []struct {
		what  string
		paths []string
	}{{"changed", e.Changed}, {"missing", e.Missing}, {"extra", e.Extra}} {
		if len(p.paths) > 0 {
			parts = append(parts, fmt.Sprintf("%s %.100q", p.what, p.paths))
		}
	}
	if e.More > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", e.More))
	}
	return fmt.Sprintf("release %s is not as it was installed: %s", e.Release.Short(), strings.Join(parts, ", "))
}

func (e *DriftError) add(list *[]string, path string) {
	if len(e.Changed)+len(e.Missing)+len(e.Extra) == maxNamed {
		e.More++
		return
	}
	*list = append(*list, path)
}

func (e *DriftError) none() bool { return len(e.Changed)+len(e.Missing)+len(e.Extra) == 0 }

// Verify holds an installed release against its manifest: it reads every file. The error has ReasonDrift when they differ, and is or wraps
// a DriftError if it is known how. One that cannot be read has another reason.
func (s *Slot) Verify(ctx context.Context, d wire.Digest) error {
	m, err := s.Manifest(d)
	if err != nil {
		return err
	}
	drift := &DriftError{Release: d}
	info, err := s.fs.Lstat(release(d))
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir():
		return fail(ReasonDrift, "release %s is gone", d.Short())
	case err != nil:
		return onDisk(err, "verify %s", d.Short())
	case info.Mode().Perm() != rootMode:
		drift.add(&drift.Changed, ".")
	}
	err = s.compare(ctx, m, drift)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return onDisk(err, "verify %s", d.Short())
	}
	if !drift.none() {
		return &Error{ReasonDrift, drift}
	}
	return nil
}

func (s *Slot) compare(ctx context.Context, m *artifact.Manifest, drift *DriftError) error {
	dir := release(drift.Release)
	buf := make([]byte, wire.MaxChunk)
	gone := make(map[string]bool) // directories that are none any more: what they had is not looked for, wherever they lead now
	for i := range m.Entries {
		e := &m.Entries[i]
		if gone[path.Dir(e.Path)] {
			markGone(gone, e, true)
			drift.add(&drift.Missing, e.Path)
			continue
		}
		info, err := s.fs.Lstat(dir + "/" + e.Path)
		markGone(gone, e, err != nil || !info.IsDir())
		if errors.Is(err, fs.ErrNotExist) {
			drift.add(&drift.Missing, e.Path)
			continue
		}
		if err != nil {
			return err
		}
		same, err := s.same(ctx, dir+"/"+e.Path, info, e, buf)
		if err != nil {
			return err
		}
		if !same {
			drift.add(&drift.Changed, e.Path)
		}
	}
	return walk(s.fs, dir, "", func(path string, _ fs.DirEntry) (bool, error) {
		if e := entryOf(m, path); e != nil {
			return e.Type == artifact.TypeDir, nil
		}
		drift.add(&drift.Extra, path)
		return false, nil
	})
}

func markGone(gone map[string]bool, e *artifact.Entry, is bool) {
	if is && e.Type == artifact.TypeDir {
		gone[e.Path] = true
	}
}

// same tells whether what lies under name is what the entry says.
func (s *Slot) same(ctx context.Context, name string, info fs.FileInfo, e *artifact.Entry, buf []byte) (bool, error) {
	switch e.Type {
	case artifact.TypeDir:
		return info.IsDir() && info.Mode().Perm() == fs.FileMode(e.Mode), nil
	case artifact.TypeSymlink:
		if info.Mode().Type() != fs.ModeSymlink {
			return false, nil
		}
		target, err := s.fs.Readlink(name)
		return target == e.Target, err
	case artifact.TypeFile:
	}
	if !info.Mode().IsRegular() || info.Mode() != fs.FileMode(e.Mode) || info.Size() != int64(e.Size) { //nolint:gosec // G115: at most artifact.MaxSize
		return false, nil
	}
	f, err := s.fs.Open(name)
	if err != nil {
		return false, err
	}
	got, _, err := hashFile(ctx, f, buf)
	return got == e.Digest, errors.Join(err, f.Close())
}
