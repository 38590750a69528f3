package install

import (
	"errors"
)

// syncEvery bounds what a power cut takes of a download, and how much is written between two looks at the room on the disk, in bytes.
const syncEvery = 16 << 20

// A writer writes to files, of which it has one open: chunks mostly come in the order of the files.
type writer struct {
	fs    FS
	path  string
	f     File
	dirty int // bytes since the last sync
	room  func() error
}

// write puts data into the file at path.
func (w *writer) write(path string, data []byte, off uint64) error {
	if w.f == nil || w.path != path {
		if err := w.close(); err != nil {
			return err
		}
		f, err := w.fs.Create(path)
		if err != nil {
			return err
		}
		w.f, w.path = f, path
	}
	if _, err := w.f.WriteAt(data, int64(off)); err != nil { //nolint:gosec // G115: at most artifact.MaxSize
		return err
	}
	if w.dirty += len(data); w.dirty < syncEvery {
		return nil
	}
	w.dirty = 0
	if err := w.f.Sync(); err != nil {
		return err
	}
	return w.room()
}

func (w *writer) close() error {
	if w.f == nil {
		return nil
	}
	err := w.f.Close()
	w.f = nil
	return err
}

// A reader reads from files, of which it has one open.
type reader struct {
	fs   FS
	path string
	f    File
	err  error // why path could not be opened
}

// read fills b from the file at path.
func (r *reader) read(path string, b []byte, off uint64) error {
	if r.path != path {
		if err := r.close(); err != nil {
			return err
		}
		r.path = path
		r.f, r.err = r.fs.Open(path)
	}
	if r.err != nil {
		return r.err
	}
	_, err := r.f.ReadAt(b, int64(off)) //nolint:gosec // G115: at most artifact.MaxSize
	return err
}

func (r *reader) close() (err error) {
	if r.f != nil {
		err = r.f.Close()
	}
	r.f, r.path, r.err = nil, "", nil
	return err
}

// closing closes what is open and adds what that says to err.
func closing(err error, all ...interface{ close() error }) error {
	for _, c := range all {
		err = errors.Join(err, c.close())
	}
	return err
}
