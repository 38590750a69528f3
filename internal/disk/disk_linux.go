package disk

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// control calls fn with the file's descriptor until it is no longer interrupted by a signal.
func control(f *os.File, op string, fn func(fd int) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	cerr := conn.Control(func(fd uintptr) {
		for {
			if err = fn(int(fd)); !errors.Is(err, unix.EINTR) {
				return
			}
		}
	})
	if cerr != nil {
		return cerr
	}
	if err != nil {
		return &os.PathError{Op: op, Path: f.Name(), Err: err}
	}
	return nil
}

// Sync writes the data and, where the size changed, the size; not the times, which nobody reads.
func (f osFile) Sync() error { return control(f.File, "fdatasync", unix.Fdatasync) }

// Reserve does nothing on file systems that cannot.
func (f osFile) Reserve(size int64) error {
	err := control(f.File, "fallocate", func(fd int) error {
		return unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 0, size)
	})
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return nil
	}
	return err
}

func (f osFile) DropCache() error {
	return control(f.File, "fadvise", func(fd int) error { return unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED) })
}

// lockDir locks the directory itself, so that no file is left behind.
func lockDir(dir string) (io.Closer, error) {
	d, err := os.Open(dir) //nolint:gosec // the store's own directory
	if err != nil {
		return nil, err
	}
	err = control(d, "flock", func(fd int) error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
	if err == nil {
		return d, nil
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("%w by another process or another store of this one", ErrLocked)
	}
	return nil, errors.Join(err, d.Close())
}
