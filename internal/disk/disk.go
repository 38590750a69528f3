// Package disk is what a store needs of a file system, as an interface: the operating system's is [OS], and tests hand in one that loses what
// was not synced (package simdisk), or that fails. What it adds to package os are the calls that decide what a power cut leaves behind.
package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	// DirPerm is the mode of a store's directory: nobody else's business.
	DirPerm = 0o700

	// TmpSuffix ends the name of a file that is being created. A store removes such files when it is opened.
	TmpSuffix = ".tmp"

	filePerm = 0o600
)

// ErrLocked is wrapped by [FS.Lock]'s error when another store has the directory.
var ErrLocked = errors.New("directory is in use")

// FS is the file operations that a store needs.
type FS interface {
	// Lock makes dir this store's alone until the lock is closed. Its error wraps [ErrLocked] when another store has it.
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

// OS is the operating system's FS.
type OS struct{}

// MkdirAll makes a directory, and those above it that are missing.
func (OS) MkdirAll(dir string, perm fs.FileMode) error { return os.MkdirAll(dir, perm) }

// ReadDir lists a directory, sorted by name.
func (OS) ReadDir(dir string) ([]fs.DirEntry, error) { return os.ReadDir(dir) }

// Rename gives a file another name, in place of the file that had it.
func (OS) Rename(oldName, newName string) error { return os.Rename(oldName, newName) }

// Remove takes a file's name away.
func (OS) Remove(name string) error { return os.Remove(name) }

// Lock locks the directory itself, so that no file is left behind. On other systems than Linux it does nothing.
func (OS) Lock(dir string) (io.Closer, error) { return lockDir(dir) }

// OpenFile opens a file, with the flags of package os.
func (OS) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	f, err := os.OpenFile(name, flag, perm) //nolint:gosec // the path is made from the store's directory and a number
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// SyncDir makes the names in dir durable.
func (OS) SyncDir(dir string) (err error) {
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

// osFile adds to os.File what the platform's file has (see disk_linux.go).
type osFile struct{ *os.File }

// Size returns the file's length in bytes.
func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Create makes name in dir with this content. After a crash the file is there with all of it, or as it was before. The file is returned open
// for reading and writing.
func Create(fsys FS, dir, name string, content []byte) (File, error) {
	path := filepath.Join(dir, name)
	f, err := fsys.OpenFile(path+TmpSuffix, os.O_RDWR|os.O_CREATE|os.O_TRUNC, filePerm)
	if err != nil {
		return nil, err
	}
	if err := fill(fsys, f, path, content); err != nil {
		return nil, errors.Join(fmt.Errorf("create %s: %w", path, err), f.Close())
	}
	return f, nil
}

// fill is Create's way from the empty temporary file to the durable one.
func fill(fsys FS, f File, path string, content []byte) error {
	if _, err := f.WriteAt(content, 0); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := fsys.Rename(path+TmpSuffix, path); err != nil {
		return err
	}
	return fsys.SyncDir(filepath.Dir(path))
}

// Replace gives name in dir a new content as a whole, durably.
func Replace(fsys FS, dir, name string, content []byte) error {
	f, err := Create(fsys, dir, name, content)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("close %s: %w", filepath.Join(dir, name), err)
	}
	return nil
}

// ReadFull reads into b from offset on. Reaching the end of the file is no error: fewer bytes are returned.
func ReadFull(f io.ReaderAt, b []byte, offset int64) (int, error) {
	n, err := f.ReadAt(b, offset)
	if errors.Is(err, io.EOF) {
		return n, nil
	}
	return n, err
}

// ReadSmall returns the content of a file of at most size bytes, and one byte more when it is longer; nil when there is no such file.
func ReadSmall(fsys FS, name string, size int) ([]byte, error) {
	f, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b := make([]byte, size+1)
	n, err := ReadFull(f, b, 0)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return b[:n], nil
}
