package history

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	filePerm  = 0o600
	dirPerm   = 0o700
	tmpSuffix = ".tmp"
)

// FS is the file operations that a store needs. A nil FS in [Options] means the operating system's; tests hand in one that fails or that
// loses what was not synced.
type FS interface {
	// Lock makes dir this store's alone until the lock is closed. Its error wraps ErrLocked when another store has it.
	Lock(dir string) (io.Closer, error)
	MkdirAll(dir string, perm fs.FileMode) error
	ReadDir(dir string) ([]fs.DirEntry, error)
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	Rename(oldName, newName string) error
	Remove(name string) error
	// SyncDir makes the names in dir durable.
	SyncDir(dir string) error
}

// File is an open file of an [FS].
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Size() (int64, error)
	Truncate(size int64) error
	// Sync makes the data and the size durable.
	Sync() error
	// Reserve sees to it that the first size bytes find room on the disk, without changing the file's size.
	Reserve(size int64) error
	// DropCache has later reads come from the disk where data was synced, not from memory.
	DropCache() error
}

// osFS is the operating system's FS.
type osFS struct{}

func (osFS) MkdirAll(dir string, perm fs.FileMode) error { return os.MkdirAll(dir, perm) }
func (osFS) ReadDir(dir string) ([]fs.DirEntry, error)   { return os.ReadDir(dir) }
func (osFS) Rename(oldName, newName string) error        { return os.Rename(oldName, newName) }
func (osFS) Remove(name string) error                    { return os.Remove(name) }
func (osFS) Lock(dir string) (io.Closer, error)          { return lockDir(dir) }

func (osFS) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	f, err := os.OpenFile(name, flag, perm) //nolint:gosec // the path is made from the store's directory and a number
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (osFS) SyncDir(dir string) (err error) {
	d, err := os.Open(dir) //nolint:gosec // the store's own directory
	if err != nil {
		return err
	}
	defer func() {
		if cerr := d.Close(); err == nil {
			err = cerr
		}
	}()
	return d.Sync()
}

// osFile adds to os.File what the platform's file has (see fs_linux.go).
type osFile struct{ *os.File }

// Size returns the file's length in bytes.
func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// createDurably makes name in dir with this content. After a crash the file is there with all of it, or as it was before. The file is
// returned open for reading and writing.
func createDurably(fsys FS, dir, name string, content []byte) (File, error) {
	path := filepath.Join(dir, name)
	f, err := fsys.OpenFile(path+tmpSuffix, os.O_RDWR|os.O_CREATE|os.O_TRUNC, filePerm)
	if err != nil {
		return nil, err
	}
	if err := fill(fsys, f, path, content); err != nil {
		return nil, errors.Join(fmt.Errorf("create %s: %w", path, err), f.Close())
	}
	return f, nil
}

// fill is createDurably's way from the empty temporary file to the durable one.
func fill(fsys FS, f File, path string, content []byte) error {
	if _, err := f.WriteAt(content, 0); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := fsys.Rename(path+tmpSuffix, path); err != nil {
		return err
	}
	return fsys.SyncDir(filepath.Dir(path))
}

// readFull reads into b from offset on. Reaching the end of the file is no error: fewer bytes are returned.
func readFull(f io.ReaderAt, b []byte, offset int64) (int, error) {
	n, err := f.ReadAt(b, offset)
	if errors.Is(err, io.EOF) {
		return n, nil
	}
	return n, err
}
