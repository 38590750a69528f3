package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/holdfast-edge/holdfast/wire/artifact"
)

const (
	modeExec  = 0o755 // of directories too
	modePlain = 0o644
	listBatch = 1024 // names of a directory that are read at once
)

// A tree is the source: what lies in it, by path, before any content is read. What is opened is opened below root, so that no symbolic
// link leads out of it, not even one that is put there meanwhile.
type tree struct {
	root    *os.Root
	kind    artifact.Kind
	entries []artifact.Entry
	infos   map[string]fs.FileInfo // of files, as they were found
	size    uint64                 // bytes of the files, as they were found
}

// openTree looks at everything in a directory, or at one file.
func openTree(ctx context.Context, source string) (t *tree, err error) {
	info, err := os.Stat(source) // the source itself may be a symbolic link: its author named it
	if err != nil {
		return nil, err
	}
	t = &tree{kind: artifact.KindTree, infos: make(map[string]fs.FileInfo)}
	dir, name := source, "."
	if !info.IsDir() {
		t.kind = artifact.KindFile
		if source, err = filepath.EvalSymlinks(source); err != nil {
			return nil, err
		}
		dir, name = filepath.Split(source)
	}
	if t.root, err = os.OpenRoot(filepath.Clean(dir)); err != nil {
		return nil, err
	}
	if t.kind == artifact.KindTree {
		err = t.walk(ctx, name)
	} else {
		err = t.look(ctx, name)
	}
	if err != nil {
		return nil, errors.Join(err, t.root.Close())
	}
	slices.SortFunc(t.entries, func(a, b artifact.Entry) int { return strings.Compare(a.Path, b.Path) })
	return t, nil
}

// at says where something lies, for people.
func (t *tree) at(name string) string { return filepath.Join(t.root.Name(), filepath.FromSlash(name)) }

func (t *tree) refuse(name, format string, args ...any) error {
	return refuse("%s: "+format, slices.Concat([]any{t.at(name)}, args)...)
}

// walk looks at everything in a directory.
func (t *tree) walk(ctx context.Context, dir string) error {
	f, err := t.root.Open(dir)
	if err != nil {
		return fmt.Errorf("%s: %w", t.at(dir), err)
	}
	defer f.Close() //nolint:errcheck // read only
	for {
		list, err := f.ReadDir(listBatch)
		for _, x := range list {
			if err := t.look(ctx, path.Join(dir, x.Name())); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("%s: %w", t.at(dir), err)
		}
	}
}

// look adds what lies at a path, and what is in it.
func (t *tree) look(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := artifact.CheckPath(name); err != nil {
		return t.refuse(name, "%w", err)
	}
	if len(t.entries) == artifact.MaxEntries {
		return t.refuse(name, "with it there are more than %d files, directories and links", artifact.MaxEntries)
	}
	info, err := t.root.Lstat(name)
	if err != nil {
		return err
	}
	e := artifact.Entry{Path: name}
	switch mode := info.Mode(); {
	case mode.IsDir():
		e.Type, e.Mode = artifact.TypeDir, modeExec
		t.entries = append(t.entries, e)
		return t.walk(ctx, name)
	case mode.Type() == fs.ModeSymlink:
		target, err := t.root.Readlink(name)
		if err != nil {
			return fmt.Errorf("%s: %w", t.at(name), err)
		}
		e.Type, e.Target = artifact.TypeSymlink, tidy(filepath.ToSlash(target))
	case mode.IsRegular():
		if special := mode & (fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky); special != 0 {
			return t.refuse(name, "it has a setuid, setgid or sticky bit (%v)", mode)
		}
		e.Type, e.Mode = artifact.TypeFile, modePlain
		if mode&0o111 != 0 {
			e.Mode = modeExec
		}
		t.infos[name] = info
		if t.size += uint64(info.Size()); t.size > artifact.MaxSize { //nolint:gosec // G115: sizes are not negative
			return t.refuse(name, "with it there are more than %d bytes of files", int64(artifact.MaxSize))
		}
	default:
		return t.refuse(name, "it is a %s", kindOf(mode))
	}
	t.entries = append(t.entries, e)
	return nil
}

// tidy cleans the target of a symbolic link, unless that could change where it leads: a ".." behind a name leads elsewhere when the name is
// itself a link. Such a target is left as it is, for the manifest's rules to refuse.
func tidy(target string) string {
	named := false
	for e := range strings.SplitSeq(target, "/") {
		if e == ".." && named {
			return target
		}
		named = named || e != ".." && e != "." && e != ""
	}
	return path.Clean(target)
}

func kindOf(m fs.FileMode) string {
	switch {
	case m&fs.ModeNamedPipe != 0:
		return "named pipe"
	case m&fs.ModeSocket != 0:
		return "socket"
	case m&fs.ModeDevice != 0:
		return "device"
	default:
		return "file of a kind that is not known"
	}
}

// cut reads a file in chunks and makes sure that it was the same file all the while.
func (t *tree) cut(c *Cutter, e *artifact.Entry, emit func(artifact.Chunk, []byte) error) (err error) {
	// Without O_NONBLOCK a pipe that was put there meanwhile would make it wait.
	f, err := t.root.OpenFile(e.Path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", t.at(e.Path), err)
	}
	defer f.Close() //nolint:errcheck // read only
	before, found := t.infos[e.Path], func() (fs.FileInfo, error) { return f.Stat() }
	if err := t.same(e.Path, before, found); err != nil {
		return err
	}
	content, err := c.Cut(f, emit)
	if err != nil {
		return fmt.Errorf("%s: %w", t.at(e.Path), err)
	}
	if content.Size != uint64(before.Size()) { //nolint:gosec // G115: sizes are not negative
		return t.refuse(e.Path, "it changed while it was read")
	}
	e.Digest, e.Size, e.Chunks = content.Digest, content.Size, content.Chunks
	return t.same(e.Path, before, found)
}

func (t *tree) same(name string, before fs.FileInfo, now func() (fs.FileInfo, error)) error {
	info, err := now()
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", t.at(name), err)
	case !os.SameFile(before, info) || before.Size() != info.Size() || before.Mode() != info.Mode() || !before.ModTime().Equal(info.ModTime()):
		return t.refuse(name, "it changed while it was read")
	}
	return nil
}
