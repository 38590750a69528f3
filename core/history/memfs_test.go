package history

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
)

// errPowerCut is what every operation returns once the power is cut.
var errPowerCut = errors.New("power cut")

// memFS is a file system in memory that knows what a power cut takes away. File content counts as durable from the file's Sync on, names
// from SyncDir of their directory on. Of what was not synced, crash keeps an arbitrary part: of the writes any pieces, of the names the first
// few changes in each directory.
type memFS struct {
	mu      sync.Mutex
	files   map[string]*memFile
	durable map[string]*memFile
	names   map[string][]func(map[string]*memFile) // by directory: changes since SyncDir, oldest first
	fuse    int                                    // operations that change something until the power is cut; negative: never
	locked  bool
	broken  bool // a file's Sync fails and forgets what it should have written, as Linux does
}

type memFile struct {
	data    []byte
	durable []byte
	changes []func(old []byte, r *rand.Rand) []byte // since Sync, oldest first; each may take effect in part
}

func newMemFS() *memFS {
	return &memFS{
		files: make(map[string]*memFile), durable: make(map[string]*memFile), names: make(map[string][]func(map[string]*memFile)), fuse: -1,
	}
}

// spend counts an operation; it fails once the power is cut. The caller holds mu.
func (m *memFS) spend() error {
	if m.fuse == 0 {
		return errPowerCut
	}
	if m.fuse > 0 {
		m.fuse--
	}
	return nil
}

// crash returns the file system as it is found when the power is back.
func (m *memFS) crash(r *rand.Rand) *memFS {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := newMemFS()
	names := maps.Clone(m.durable)
	for _, dir := range slices.Sorted(maps.Keys(m.names)) {
		for _, change := range m.names[dir][:r.IntN(len(m.names[dir])+1)] {
			change(names)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		content := bytes.Clone(names[name].durable)
		for _, change := range names[name].changes {
			content = change(content, r)
		}
		f := &memFile{data: content, durable: bytes.Clone(content)}
		next.files[name], next.durable[name] = f, f
	}
	return next
}

// kill returns the file system as the end of the process leaves it: with everything that was written.
func (m *memFS) kill() *memFS {
	m.mu.Lock()
	defer m.mu.Unlock()
	names := make(map[string][]func(map[string]*memFile))
	for dir, changes := range m.names {
		names[dir] = slices.Clone(changes)
	}
	return &memFS{files: maps.Clone(m.files), durable: maps.Clone(m.durable), names: names, fuse: -1}
}

type memLock struct{ m *memFS }

func (l memLock) Close() error {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	l.m.locked = false
	return nil
}

func (m *memFS) Lock(string) (io.Closer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.locked {
		return nil, ErrLocked
	}
	m.locked = true
	return memLock{m}, nil
}

func (m *memFS) MkdirAll(string, fs.FileMode) error { return nil }

type memEntry struct {
	fs.DirEntry

	name string
}

func (e memEntry) Name() string { return e.name }

func (m *memFS) ReadDir(dir string) ([]fs.DirEntry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []fs.DirEntry
	for _, name := range slices.Sorted(maps.Keys(m.files)) {
		if filepath.Dir(name) == dir {
			list = append(list, memEntry{name: filepath.Base(name)})
		}
	}
	return list, nil
}

// rename makes a change of names in dir now and leaves it to the next SyncDir or crash.
func (m *memFS) rename(dir string, change func(map[string]*memFile)) error {
	if err := m.spend(); err != nil {
		return err
	}
	change(m.files)
	m.names[dir] = append(m.names[dir], change)
	return nil
}

func (m *memFS) OpenFile(name string, flag int, _ fs.FileMode) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.files[name]
	switch {
	case f == nil && flag&createFlags == 0:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	case flag&createFlags != 0:
		f = &memFile{}
		if err := m.rename(filepath.Dir(name), func(names map[string]*memFile) { names[name] = f }); err != nil {
			return nil, err
		}
	}
	return &memHandle{m, f}, nil
}

func (m *memFS) Rename(oldName, newName string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.files[oldName]
	return m.rename(filepath.Dir(newName), func(names map[string]*memFile) {
		delete(names, oldName)
		names[newName] = f
	})
}

func (m *memFS) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.files[name] == nil {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	return m.rename(filepath.Dir(name), func(names map[string]*memFile) { delete(names, name) })
}

func (m *memFS) SyncDir(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.spend(); err != nil {
		return err
	}
	within := func(name string, _ *memFile) bool { return filepath.Dir(name) == dir }
	maps.DeleteFunc(m.durable, within)
	for name, f := range m.files {
		if within(name, f) {
			m.durable[name] = f
		}
	}
	delete(m.names, dir)
	return nil
}

type memHandle struct {
	m *memFS
	f *memFile
}

func (h *memHandle) Close() error         { return nil }
func (h *memHandle) Reserve(int64) error  { return nil }
func (h *memHandle) Size() (int64, error) { return int64(len(h.f.data)), nil }

func (h *memHandle) ReadAt(b []byte, offset int64) (int, error) {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	if offset >= int64(len(h.f.data)) {
		return 0, io.EOF
	}
	n := copy(b, h.f.data[offset:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (h *memHandle) DropCache() error {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	if len(h.f.changes) == 0 { // what is still to be written stays
		h.f.data = bytes.Clone(h.f.durable)
	}
	return nil
}

// memPage is the piece of a write that reaches the disk as a whole or not at all; small, so that small tests have many.
const memPage = 16

func (h *memHandle) WriteAt(b []byte, offset int64) (int, error) {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	if err := h.m.spend(); err != nil {
		return 0, err
	}
	b = bytes.Clone(b)
	h.f.data = put(h.f.data, b, offset)
	h.f.changes = append(h.f.changes, func(old []byte, r *rand.Rand) []byte {
		for start := 0; start < len(b); start += memPage {
			if r.IntN(3) > 0 {
				old = put(old, b[start:min(start+memPage, len(b))], offset+int64(start))
			}
		}
		return old
	})
	return len(b), nil
}

// put writes b into data, which grows with zeros where needed.
func put(data, b []byte, offset int64) []byte {
	if end := int(offset) + len(b); end > len(data) {
		data = append(data, make([]byte, end-len(data))...)
	}
	copy(data[offset:], b)
	return data
}

func (h *memHandle) Truncate(size int64) error {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	if err := h.m.spend(); err != nil {
		return err
	}
	h.f.data = h.f.data[:size:size]
	h.f.changes = append(h.f.changes, func(old []byte, r *rand.Rand) []byte {
		if r.IntN(2) == 0 || int64(len(old)) < size {
			return old
		}
		return old[:size:size]
	})
	return nil
}

func (h *memHandle) Sync() error {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	if err := h.m.spend(); err != nil {
		return err
	}
	dirty := len(h.f.changes) > 0
	h.f.changes = nil
	switch {
	case h.m.broken:
		return syscall.EIO
	case dirty:
		h.f.durable = bytes.Clone(h.f.data)
	}
	return nil
}
