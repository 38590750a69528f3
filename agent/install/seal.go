package install

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"slices"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
)

// rootMode is the mode of a release's directory, as programs see it that run from it.
const rootMode = 0o755

// seal reads back every file as a whole, gives everything its mode, and makes it durable.
func (st *stage) seal(ctx context.Context) error {
	if err := st.extras(); err != nil {
		return err
	}
	buf := make([]byte, wire.MaxChunk)
	for i := range st.m.Entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		e := &st.m.Entries[i]
		switch e.Type {
		case artifact.TypeFile:
			if err := st.sealFile(ctx, e, buf); err != nil {
				return err
			}
		case artifact.TypeSymlink:
			if err := st.makeLink(e); err != nil {
				return err
			}
		case artifact.TypeDir: // below: what is in it comes first
		}
	}
	for _, e := range slices.Backward(st.m.Entries) {
		if e.Type != artifact.TypeDir {
			continue
		}
		if err := st.fs.SealDir(st.tree()+"/"+e.Path, fs.FileMode(e.Mode)); err != nil {
			return err
		}
	}
	return st.fs.SealDir(st.tree(), rootMode)
}

func (st *stage) sealFile(ctx context.Context, e *artifact.Entry, buf []byte) error {
	f, err := st.fs.Create(st.tree() + "/" + e.Path)
	if err != nil {
		return err
	}
	got, n, err := hashFile(ctx, f, buf)
	if err == nil && (got != e.Digest || n != e.Size) {
		err = fail(ReasonContent, "file %.200q is put together of the chunks that the manifest names, and is not the file that it names", e.Path)
	}
	if err == nil {
		err = f.Chmod(fs.FileMode(e.Mode))
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// hashFile reads a file to its end.
func hashFile(ctx context.Context, f io.ReaderAt, buf []byte) (d wire.Digest, size uint64, err error) {
	h := sha256.New()
	for {
		if err := ctx.Err(); err != nil {
			return d, size, err
		}
		n, err := f.ReadAt(buf, int64(size))
		h.Write(buf[:n])
		size += uint64(n) //nolint:gosec // G115: not negative
		if errors.Is(err, io.EOF) {
			return sum(h), size, nil
		}
		if err != nil {
			return d, size, err
		}
	}
}

func sum(h hash.Hash) wire.Digest { return wire.Digest(h.Sum(nil)) }

func (st *stage) makeLink(e *artifact.Entry) error {
	name := st.tree() + "/" + e.Path
	if err := st.clear(name, fs.ModeSymlink); err != nil {
		return err
	}
	target, err := st.fs.Readlink(name)
	switch {
	case err == nil && target == e.Target:
		return nil
	case err == nil:
		if err := st.fs.Remove(name); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return st.fs.Symlink(e.Target, name)
}

// extras removes what lies in the tree and is no entry.
func (st *stage) extras() error {
	return walk(st.fs, st.tree(), "", func(path string, _ fs.DirEntry) (bool, error) {
		if st.entry(path) != nil {
			return true, nil
		}
		return false, removeAll(st.fs, st.tree()+"/"+path)
	})
}

func (st *stage) entry(path string) *artifact.Entry { return entryOf(st.m, path) }

// entryOf is the entry with a path, or nil.
func entryOf(m *artifact.Manifest, path string) *artifact.Entry {
	i, found := slices.BinarySearchFunc(m.Entries, path, func(e artifact.Entry, path string) int {
		switch {
		case e.Path < path:
			return -1
		case e.Path > path:
			return 1
		}
		return 0
	})
	if !found {
		return nil
	}
	return &m.Entries[i]
}

// walk calls visit with everything below dir/path, each directory before what is in it, which is visited if visit says so.
func walk(fsys FS, dir, path string, visit func(path string, e fs.DirEntry) (bool, error)) error {
	name := dir
	if path != "" {
		name += "/" + path
	}
	list, err := fsys.ReadDir(name)
	if err != nil {
		return fmt.Errorf("read directory %s: %w", name, err)
	}
	for _, e := range list {
		sub := e.Name()
		if path != "" {
			sub = path + "/" + sub
		}
		into, err := visit(sub, e)
		if err != nil {
			return err
		}
		if into && e.IsDir() {
			if err := walk(fsys, dir, sub, visit); err != nil {
				return err
			}
		}
	}
	return nil
}
