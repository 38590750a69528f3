package install

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// FS is the file operations on a slot's directory. Names are relative to it, with slashes. No operation leaves it, and but for Stat none
// follows a symbolic link as the last element.
type FS interface {
	Lstat(name string) (fs.FileInfo, error)
	Stat(name string) (fs.FileInfo, error)
	ReadDir(name string) ([]fs.DirEntry, error)
	Readlink(name string) (string, error)
	// Open opens a regular file for reading.
	Open(name string) (File, error)
	// Create opens a regular file for reading and writing, and makes it, mode 0600, when there is none.
	Create(name string) (File, error)
	// Mkdir makes a directory, mode 0700.
	Mkdir(name string) error
	Symlink(target, name string) error
	// Rename gives a file or directory another name, in place of the file that had it.
	Rename(from, to string) error
	// Exchange has two directories trade names, at once.
	Exchange(a, b string) error
	Remove(name string) error
	Chmod(name string, mode fs.FileMode) error
	// SyncDir makes the names in a directory durable.
	SyncDir(name string) error
	// SealDir gives a directory its mode, and makes that and the names in it durable.
	SealDir(name string, mode fs.FileMode) error
	Close() error
}

// File is an open file of an [FS].
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Stat() (fs.FileInfo, error)
	Truncate(size int64) error
	Chmod(mode fs.FileMode) error
	Sync() error
}

const (
	dirMode  = 0o700 // of every directory above a release, and of one that is being made
	fileMode = 0o600 // of files that are being written
)

// errForeign says that something lies where it was not put by an agent.
var errForeign = errors.New("this is none of the agent's")

// rooted is the operating system's FS below a directory.
type rooted struct{ root *os.Root }

func (r rooted) Lstat(name string) (fs.FileInfo, error)      { return r.root.Lstat(name) }
func (r rooted) Stat(name string) (fs.FileInfo, error)       { return r.root.Stat(name) }
func (r rooted) Readlink(name string) (string, error)        { return r.root.Readlink(name) }
func (r rooted) Mkdir(name string) error                     { return r.root.Mkdir(name, dirMode) }
func (r rooted) Symlink(target, name string) error           { return r.root.Symlink(target, name) }
func (r rooted) Rename(from, to string) error                { return r.root.Rename(from, to) }
func (r rooted) Remove(name string) error                    { return r.root.Remove(name) }
func (r rooted) Close() error                                { return r.root.Close() }
func (r rooted) Open(name string) (File, error)              { return r.regular(name, os.O_RDONLY) }
func (r rooted) SyncDir(name string) error                   { return r.dir(name, (*os.File).Sync) }
func (r rooted) SealDir(name string, mode fs.FileMode) error { return r.dir(name, sealed(mode)) }

func sealed(mode fs.FileMode) func(*os.File) error {
	return func(f *os.File) error {
		if err := f.Chmod(mode); err != nil {
			return err
		}
		return f.Sync()
	}
}

func (r rooted) ReadDir(name string) (list []fs.DirEntry, err error) {
	err = r.dir(name, func(f *os.File) error {
		list, err = f.ReadDir(-1)
		return err
	})
	return list, err
}

// dir calls do with the directory.
func (r rooted) dir(name string, do func(*os.File) error) (err error) {
	f, err := r.root.OpenFile(name, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	return errors.Join(do(f), f.Close())
}

func (r rooted) Create(name string) (File, error) {
	f, err := r.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, fileMode)
	if errors.Is(err, fs.ErrExist) {
		return r.regular(name, os.O_RDWR)
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

// regular opens what is there if it is a regular file. It must not follow a link, and opening a pipe would wait for its other end, so the
// file that was opened must be the one that was looked at.
func (r rooted) regular(name string, flag int) (File, error) {
	seen, err := r.root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !seen.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file (%v): %w", name, seen.Mode(), errForeign)
	}
	f, err := r.root.OpenFile(name, flag|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	got, err := f.Stat()
	if err == nil && !os.SameFile(seen, got) {
		err = fmt.Errorf("%s changes while it is opened: %w", name, errForeign)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Chmod works on what it has opened, where it may. The system call that needs no opening is newer than the filters of system calls that
// many systemd have, which then refuse it.
func (r rooted) Chmod(name string, mode fs.FileMode) error {
	f, err := r.root.OpenFile(name, unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrPermission) {
		return r.root.Chmod(name, mode)
	}
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(mode), f.Close())
}

func (r rooted) Exchange(a, b string) error {
	return r.dir(".", func(f *os.File) error {
		fd := int(f.Fd())
		return unix.Renameat2(fd, a, fd, b, unix.RENAME_EXCHANGE)
	})
}

// fewNodes is how few free inodes count as a full disk: nobody can make files there soon, however many bytes there are.
const fewNodes = 1024

// free is the room of dir's file system for users without privileges, in bytes; what it keeps for root stays root's.
func free(dir string) (uint64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if s.Files > 0 && s.Ffree < fewNodes { // some file systems have no number of inodes
		return 0, nil
	}
	return s.Bavail * uint64(s.Bsize), nil //nolint:gosec // G115: a block size is positive
}

// removeAll removes name and what is in it; directories that keep their owner out as well.
func removeAll(fsys FS, name string) error {
	info, err := fsys.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.IsDir():
		if err := removeIn(fsys, name, info.Mode().Perm()); err != nil {
			return err
		}
	}
	return fsys.Remove(name)
}

func removeIn(fsys FS, dir string, mode fs.FileMode) error {
	if mode&dirMode != dirMode {
		if err := fsys.Chmod(dir, dirMode); err != nil {
			return err
		}
	}
	list, err := fsys.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		if err := removeAll(fsys, dir+"/"+e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// exists tells whether there is anything under the name.
func exists(fsys FS, name string) (bool, error) {
	_, err := fsys.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// mkdir makes a directory unless it is there.
func mkdir(fsys FS, name string) error {
	info, err := fsys.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fsys.Mkdir(name)
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%s is no directory (%v): %w; look at it and remove it", name, info.Mode(), errForeign)
	case info.Mode().Perm() != dirMode:
		return fsys.Chmod(name, dirMode)
	}
	return nil
}

// replace gives a small file a new content as a whole, durably.
func replace(fsys FS, dir, name string, content []byte) error {
	f, err := fsys.Create(dir + "/" + name + tmpSuffix)
	if err != nil {
		return err
	}
	err = func() error {
		if err := f.Truncate(0); err != nil {
			return err
		}
		if _, err := f.WriteAt(content, 0); err != nil {
			return err
		}
		return f.Sync()
	}()
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := fsys.Rename(dir+"/"+name+tmpSuffix, dir+"/"+name); err != nil {
		return err
	}
	return fsys.SyncDir(dir)
}

// readSmall is the content of a regular file of at most limit bytes.
func readSmall(fsys FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	b, err := func() ([]byte, error) {
		info, err := f.Stat()
		if err != nil {
			return nil, err
		}
		if info.Size() > limit {
			return nil, fmt.Errorf("%s has %d bytes, at most %d: %w", name, info.Size(), limit, errForeign)
		}
		b := make([]byte, info.Size())
		if _, err := f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		return b, nil
	}()
	return b, errors.Join(err, f.Close())
}

const tmpSuffix = ".tmp"
