// Package simdisk is a file system in memory that knows what a power cut takes away, and that fails on demand. It is for tests.
//
// A file's content counts as durable from its Sync on, a name from SyncDir of its directory on. Of what was not synced, Crash keeps an
// arbitrary part that a real disk could have kept too: of each sector any of its versions, or a torn one; of a file's sizes any; of the names in
// a directory the first few changes. What the disk does depends on its seed and on the calls alone: there is no goroutine and no clock in it.
package simdisk

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast-edge/holdfast/internal/disk"
)

// ErrPowerCut is what every operation returns once the power is cut.
var ErrPowerCut = errors.New("power cut")

// Kind names an operation.
type Kind string

// The operations.
const (
	OpOpen     Kind = "open"
	OpRead     Kind = "read"
	OpReadDir  Kind = "read directory"
	OpLock     Kind = "lock"
	OpCreate   Kind = "create" // or empty an existing file
	OpMkdir    Kind = "make directory"
	OpWrite    Kind = "write"
	OpTruncate Kind = "truncate"
	OpReserve  Kind = "reserve"
	OpSync     Kind = "sync"
	OpSyncDir  Kind = "sync directory"
	OpRename   Kind = "rename"
	OpRemove   Kind = "remove"
)

// Changes tells whether the operation changes what the disk holds, or what of it is durable.
func (k Kind) Changes() bool { return !slices.Contains([]Kind{OpOpen, OpRead, OpReadDir, OpLock}, k) }

// An Op is an operation that is about to be done.
type Op struct {
	Kind   Kind
	Name   string // of the file or directory; of a rename the new name
	Offset int64  // of a read or a write
	Bytes  int64  // length of a read or a write; new size of a truncate or a reservation
}

// A Hook is called before each operation, which fails with the error that it returns. A write that fails so has written half; a sync that fails
// so has written anything, and has forgotten the rest. A hook may call the disk, and may wait.
type Hook func(Op) error

// FailNth makes a hook that fails the nth operation of a kind, counted from 1, and no other.
func FailNth(kind Kind, n int, err error) Hook {
	return func(op Op) error {
		if op.Kind != kind {
			return nil
		}
		if n--; n != 0 {
			return nil
		}
		return err
	}
}

// node is a file or a directory.
type node struct {
	dir      bool
	name     string // that it has or had last
	data     []byte // as programs see it
	durable  []byte // as of the last Sync
	changes  []change
	reserved int64 // bytes that have found room, however long the file is
	dropped  bool  // a sync failed: data may hold what the disk does not
}

// room is what the file takes on the disk.
func (n *node) room() int64 { return max(int64(len(n.data)), n.reserved) }

// names are the files and directories by path.
type names = map[string]*node

// Disk is a simulated disk with one file system. Its methods may be called from several goroutines.
type Disk struct {
	mu       sync.Mutex
	rand     *rand.Rand
	live     names
	durable  names
	pending  map[string][]func(names) // by directory: changes of names since SyncDir, oldest first
	locked   map[string]bool
	open     int   // handles
	fuse     int   // operations that change something until the power is cut; negative: never
	capacity int64 // bytes; negative: without limit
	hook     Hook
}

// New makes an empty disk. The directories "." and "/" are there.
func New(seed uint64) *Disk {
	return &Disk{
		rand: rand.New(rand.NewPCG(seed, seed)), //nolint:gosec // it must be repeatable
		live: make(names), durable: make(names), pending: make(map[string][]func(names)), locked: make(map[string]bool),
		fuse: -1, capacity: -1,
	}
}

// SetHook sets what is called before each operation; nil: nothing.
func (d *Disk) SetHook(h Hook) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hook = h
}

// CutAfter cuts the power after so many further operations that change something; negative: never.
func (d *Disk) CutAfter(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fuse = n
}

// Limit sets how many bytes of files have room; negative: any number.
func (d *Disk) Limit(capacity int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.capacity = capacity
}

// Used returns how many bytes the files take, reservations included.
func (d *Disk) Used() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.used()
}

func (d *Disk) used() int64 {
	var sum int64
	for _, n := range d.live {
		sum += n.room()
	}
	return sum
}

// Handles returns how many files are open.
func (d *Disk) Handles() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.open
}

// Files returns the paths of all files, sorted.
func (d *Disk) Files() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []string
	for _, name := range slices.Sorted(maps.Keys(d.live)) {
		if !d.live[name].dir {
			out = append(out, name)
		}
	}
	return out
}

// Content returns a file's bytes; nil when there is no such file.
func (d *Disk) Content(name string) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := d.live[name]; n != nil {
		return slices.Clone(n.data)
	}
	return nil
}

// Put makes or replaces a file, and the directories above it, durably.
func (d *Disk) Put(name string, content []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := &node{name: name, data: slices.Clone(content), durable: slices.Clone(content)}
	d.live[name], d.durable[name] = n, n
	for dir := filepath.Dir(name); !isRoot(dir); dir = filepath.Dir(dir) {
		if d.live[dir] == nil {
			m := &node{dir: true}
			d.live[dir], d.durable[dir] = m, m
		}
	}
}

// Flip inverts one bit of a file, as a decaying disk does: bit 0 is the lowest one of the first byte. Nothing happens behind the file's end.
func (d *Disk) Flip(name string, bit int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.live[name]
	if n == nil {
		return
	}
	for _, b := range [][]byte{n.data, n.durable} {
		if i := bit / 8; i < int64(len(b)) {
			b[i] ^= 1 << (bit % 8)
		}
	}
}

// before is how each operation begins: the hook may fail it, and the power may be gone.
func (d *Disk) before(op Op) error {
	d.mu.Lock()
	h := d.hook
	d.mu.Unlock()
	if h != nil {
		if err := h(op); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fuse == 0 {
		return ErrPowerCut
	}
	if d.fuse > 0 && op.Kind.Changes() {
		d.fuse--
	}
	return nil
}

// rename makes a change of names in dir now and leaves it to the next SyncDir or crash. The caller holds mu.
func (d *Disk) rename(dir string, change func(names)) {
	change(d.live)
	d.pending[dir] = append(d.pending[dir], change)
}

func isRoot(dir string) bool { return dir == "." || dir == "/" }

func (d *Disk) isDir(dir string) bool { return isRoot(dir) || d.live[dir] != nil && d.live[dir].dir }

func missing(op, name string) error {
	return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
}

type lock struct {
	d   *Disk
	dir string
}

func (l lock) Close() error {
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	delete(l.d.locked, l.dir)
	return nil
}

// Lock implements [disk.FS].
func (d *Disk) Lock(dir string) (io.Closer, error) {
	if err := d.before(Op{Kind: OpLock, Name: dir}); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case !d.isDir(dir):
		return nil, missing("lock", dir)
	case d.locked[dir]:
		return nil, disk.ErrLocked
	}
	d.locked[dir] = true
	return lock{d, dir}, nil
}

// MkdirAll implements [disk.FS].
func (d *Disk) MkdirAll(dir string, perm fs.FileMode) error {
	d.mu.Lock()
	there := d.isDir(dir)
	d.mu.Unlock()
	if there {
		return nil
	}
	if err := d.MkdirAll(filepath.Dir(dir), perm); err != nil {
		return err
	}
	if err := d.before(Op{Kind: OpMkdir, Name: dir}); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.live[dir] != nil {
		return &fs.PathError{Op: "mkdir", Path: dir, Err: syscall.ENOTDIR}
	}
	made := &node{dir: true}
	d.rename(filepath.Dir(dir), func(n names) { n[dir] = made })
	return nil
}

// entry is a file or directory as ReadDir found it.
type entry struct {
	name string
	size int64
	dir  bool
}

func (e entry) Name() string               { return e.name }
func (e entry) Size() int64                { return e.size }
func (e entry) IsDir() bool                { return e.dir }
func (e entry) Type() fs.FileMode          { return e.Mode() }
func (e entry) Info() (fs.FileInfo, error) { return e, nil }
func (e entry) ModTime() time.Time         { return time.Time{} }
func (e entry) Sys() any                   { return nil }

func (e entry) Mode() fs.FileMode {
	if e.dir {
		return fs.ModeDir
	}
	return 0
}

// ReadDir implements [disk.FS].
func (d *Disk) ReadDir(dir string) ([]fs.DirEntry, error) {
	if err := d.before(Op{Kind: OpReadDir, Name: dir}); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.isDir(dir) {
		return nil, missing("open", dir)
	}
	var list []fs.DirEntry
	for _, name := range slices.Sorted(maps.Keys(d.live)) {
		if filepath.Dir(name) == dir && name != dir {
			list = append(list, entry{filepath.Base(name), int64(len(d.live[name].data)), d.live[name].dir})
		}
	}
	return list, nil
}

// OpenFile implements [disk.FS]. Of the flags it knows O_CREATE, O_EXCL and O_TRUNC.
func (d *Disk) OpenFile(name string, flag int, _ fs.FileMode) (disk.File, error) {
	d.mu.Lock()
	n := d.live[name]
	d.mu.Unlock()
	makes := n == nil && flag&os.O_CREATE != 0
	empties := n != nil && flag&os.O_TRUNC != 0
	op := Op{Kind: OpOpen, Name: name}
	if makes || empties {
		op.Kind = OpCreate
	}
	if err := d.before(op); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case n == nil && !makes || !d.isDir(filepath.Dir(name)):
		return nil, missing("open", name)
	case n != nil && flag&os.O_CREATE != 0 && flag&os.O_EXCL != 0:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrExist}
	case n != nil && n.dir:
		return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.EISDIR}
	case makes:
		n = &node{name: name}
		d.rename(filepath.Dir(name), func(all names) { all[name] = n })
	case empties:
		n.truncate(0)
	}
	d.open++
	return &handle{d: d, n: n}, nil
}

// Rename implements [disk.FS], within a directory.
func (d *Disk) Rename(oldName, newName string) error {
	if err := d.before(Op{Kind: OpRename, Name: newName}); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.live[oldName]
	switch {
	case n == nil:
		return missing("rename", oldName)
	case filepath.Dir(oldName) != filepath.Dir(newName):
		return &fs.PathError{Op: "rename", Path: newName, Err: syscall.EXDEV}
	}
	n.name = newName
	d.rename(filepath.Dir(newName), func(all names) {
		delete(all, oldName)
		all[newName] = n
	})
	return nil
}

// Remove implements [disk.FS].
func (d *Disk) Remove(name string) error {
	if err := d.before(Op{Kind: OpRemove, Name: name}); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.live[name] == nil {
		return missing("remove", name)
	}
	d.rename(filepath.Dir(name), func(all names) { delete(all, name) })
	return nil
}

// SyncDir implements [disk.FS].
func (d *Disk) SyncDir(dir string) error {
	if err := d.before(Op{Kind: OpSyncDir, Name: dir}); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.isDir(dir) {
		return missing("open", dir)
	}
	within := func(name string, _ *node) bool { return filepath.Dir(name) == dir }
	maps.DeleteFunc(d.durable, within)
	for name, n := range d.live {
		if within(name, n) {
			d.durable[name] = n
		}
	}
	delete(d.pending, dir)
	return nil
}
