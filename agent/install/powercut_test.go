package install

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// errCut is what every operation returns once the power is cut, or the process is killed.
var errCut = errors.New("power cut")

// An unsynced is an FS that leaves the syncs out: a test that loses no power is faster so.
type unsynced struct{ FS }

func (unsynced) SyncDir(string) error                          { return nil }
func (u unsynced) SealDir(name string, mode fs.FileMode) error { return u.Chmod(name, mode) }

func (u unsynced) Create(name string) (File, error) {
	f, err := u.FS.Create(name)
	return unsyncedFile{f}, err
}

type unsyncedFile struct{ File }

func (unsyncedFile) Sync() error { return nil }

func fast(fsys FS) FS { return unsynced{fsys} }

// A power is an FS on a real directory that knows what of it is durable. Its power is cut before the nth operation that changes something; cut then
// takes back what a disk may have lost (nothing is really synced): of each file what was written since its last sync, in whole or by sectors; of the names in a directory
// the newest changes since its last sync; modes likewise. The names' changes that others lean on are lost with them or kept with them.
type power struct {
	FS
	t    *testing.T
	dir  string
	fuse int // operations until the power is cut; negative: never
	ops  int
	fail func(op, name string) error // nil: nothing

	changes []*change
	dirty   map[uint64]*dirtyFile
	holds   []*os.File // of removed directories, so that their numbers are not given to others
	graves  string
}

// A change is one of names or of a mode.
type change struct {
	key     string   // what makes it durable: a directory's or a file's number
	names   []string // that it changes
	undo    func() error
	durable bool
	creates bool
}

type dirtyFile struct {
	f       *os.File
	durable []byte
}

func cutAfter(t *testing.T, dir string, n int) *power {
	return &power{t: t, dir: dir, fuse: n, dirty: map[uint64]*dirtyFile{}, graves: t.TempDir()}
}

func (p *power) wrap(fsys FS) FS { p.FS = fsys; return p }

func (p *power) abs(name string) string { return filepath.Join(p.dir, name) }

func (p *power) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// inode is the number of what has a name.
func (p *power) inode(name string) string {
	info, err := os.Lstat(p.abs(name))
	if err != nil {
		return ""
	}
	return strconv.FormatUint(info.Sys().(*syscall.Stat_t).Ino, 10)
}

// step counts an operation that changes something, before it is done.
func (p *power) step(op, name string) error {
	if p.ops++; p.fuse == 0 {
		return errCut
	}
	if p.fail != nil {
		if err := p.fail(op, name); err != nil {
			return err
		}
	}
	p.fuse--
	return nil
}

func (p *power) look(op, name string) error {
	if p.fuse == 0 {
		return errCut
	}
	if p.fail != nil {
		return p.fail(op, name)
	}
	return nil
}

func (p *power) changed(name string, creates bool, undo func() error, more ...string) {
	p.changes = append(p.changes, &change{key: p.inode(path.Dir(name)), names: append(more, name), undo: undo, creates: creates})
}

func (p *power) synced(key string) {
	for _, c := range p.changes {
		if c.key == key {
			c.durable = true
		}
	}
}

// bury keeps what has a name, so that its removal can be undone.
func (p *power) bury(name string) (restore func() error) {
	info, err := os.Lstat(p.abs(name))
	if err != nil {
		return func() error { return nil }
	}
	if info.IsDir() {
		f, err := os.Open(p.abs(name))
		p.must(err)
		p.holds = append(p.holds, f)
		return func() error { return os.Mkdir(p.abs(name), info.Mode().Perm()) }
	}
	grave := filepath.Join(p.graves, strconv.Itoa(p.ops))
	p.must(os.Link(p.abs(name), grave))
	return func() error { return os.Link(grave, p.abs(name)) }
}

func (p *power) Lstat(name string) (fs.FileInfo, error) {
	if err := p.look("lstat", name); err != nil {
		return nil, err
	}
	return p.FS.Lstat(name)
}

func (p *power) ReadDir(name string) ([]fs.DirEntry, error) {
	if err := p.look("read directory", name); err != nil {
		return nil, err
	}
	return p.FS.ReadDir(name)
}

func (p *power) Open(name string) (File, error) {
	if err := p.look("open", name); err != nil {
		return nil, err
	}
	f, err := p.FS.Open(name)
	return &powerFile{f, p, name}, err
}

func (p *power) Create(name string) (File, error) {
	if err := p.step("create", name); err != nil {
		return nil, err
	}
	_, missing := os.Lstat(p.abs(name))
	f, err := p.FS.Create(name)
	if err == nil && missing != nil {
		p.changed(name, true, func() error { return os.Remove(p.abs(name)) })
	}
	return &powerFile{f, p, name}, err
}

func (p *power) Mkdir(name string) error {
	if err := p.step("mkdir", name); err != nil {
		return err
	}
	err := p.FS.Mkdir(name)
	if err == nil {
		p.changed(name, true, func() error { return os.RemoveAll(p.abs(name)) })
	}
	return err
}

func (p *power) Symlink(target, name string) error {
	if err := p.step("symlink", name); err != nil {
		return err
	}
	err := p.FS.Symlink(target, name)
	if err == nil {
		p.changed(name, true, func() error { return os.Remove(p.abs(name)) })
	}
	return err
}

func (p *power) Rename(from, to string) error {
	if err := p.step("rename", to); err != nil {
		return err
	}
	restore := p.bury(to)
	err := p.FS.Rename(from, to)
	if err == nil {
		p.changed(to, false, func() error {
			return errors.Join(os.Rename(p.abs(to), p.abs(from)), restore())
		}, from)
	}
	return err
}

func (p *power) Exchange(a, b string) error {
	if err := p.step("exchange", b); err != nil {
		return err
	}
	err := p.FS.Exchange(a, b)
	if err == nil {
		p.changed(b, false, func() error {
			tmp := filepath.Join(p.graves, "exchange")
			return errors.Join(os.Rename(p.abs(a), tmp), os.Rename(p.abs(b), p.abs(a)), os.Rename(tmp, p.abs(b)))
		}, a)
	}
	return err
}

func (p *power) Remove(name string) error {
	if err := p.step("remove", name); err != nil {
		return err
	}
	restore := p.bury(name)
	err := p.FS.Remove(name)
	if err == nil {
		p.changed(name, false, restore)
	}
	return err
}

func (p *power) chmod(name string, do func() error) error {
	info, err := os.Lstat(p.abs(name))
	if err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	p.changes = append(p.changes, &change{key: p.inode(name), names: []string{name}, undo: func() error { return os.Chmod(p.abs(name), info.Mode().Perm()) }})
	return nil
}

func (p *power) Chmod(name string, mode fs.FileMode) error {
	if err := p.step("chmod", name); err != nil {
		return err
	}
	return p.chmod(name, func() error { return p.FS.Chmod(name, mode) })
}

func (p *power) SyncDir(name string) error {
	if err := p.step("sync directory", name); err != nil {
		return err
	}
	p.synced(p.inode(name))
	return nil
}

func (p *power) SealDir(name string, mode fs.FileMode) error {
	if err := p.step("seal directory", name); err != nil {
		return err
	}
	err := p.chmod(name, func() error { return p.FS.Chmod(name, mode) })
	if err == nil {
		p.synced(p.inode(name))
	}
	return err
}

type powerFile struct {
	File
	p    *power
	name string
}

func (f *powerFile) ReadAt(b []byte, off int64) (int, error) {
	if err := f.p.look("read", f.name); err != nil {
		return 0, err
	}
	return f.File.ReadAt(b, off)
}

// soil notes what of the file is durable, before it is changed.
func (f *powerFile) soil() {
	info, err := f.Stat()
	f.p.must(err)
	ino := info.Sys().(*syscall.Stat_t).Ino
	if f.p.dirty[ino] != nil {
		return
	}
	g, err := os.OpenFile(f.p.abs(f.name), os.O_RDWR, 0)
	f.p.must(err)
	b, err := os.ReadFile(f.p.abs(f.name))
	f.p.must(err)
	f.p.dirty[ino] = &dirtyFile{g, b}
}

func (f *powerFile) WriteAt(b []byte, off int64) (int, error) {
	f.soil()
	if err := f.p.step("write", f.name); err != nil {
		n, _ := f.File.WriteAt(b[:len(b)/2], off) // half of it
		return n, err
	}
	return f.File.WriteAt(b, off)
}

func (f *powerFile) Truncate(size int64) error {
	f.soil()
	if err := f.p.step("truncate", f.name); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func (f *powerFile) Chmod(mode fs.FileMode) error {
	if err := f.p.step("chmod", f.name); err != nil {
		return err
	}
	return f.p.chmod(f.name, func() error { return f.File.Chmod(mode) })
}

func (f *powerFile) Sync() error {
	if err := f.p.step("sync", f.name); err != nil {
		return err
	}
	info, err := f.Stat()
	f.p.must(err)
	ino := info.Sys().(*syscall.Stat_t).Ino
	if d := f.p.dirty[ino]; d != nil {
		d.f.Close()
		delete(f.p.dirty, ino)
	}
	f.p.synced(strconv.FormatUint(ino, 10))
	return nil
}

// cut loses what a power cut may lose.
func (p *power) cut(r *rand.Rand) {
	for _, d := range p.dirty {
		p.lose(d, r)
	}
	p.dirty = nil
	kept := map[string]int{} // by key: how many pending changes of it the disk has
	for _, c := range p.changes {
		if !c.durable {
			kept[c.key]++
		}
	}
	for k, n := range kept {
		kept[k] = r.IntN(n + 1)
	}
	lost := map[*change]bool{}
	for i, c := range p.changes {
		if c.durable {
			continue
		}
		if kept[c.key]--; kept[c.key] < 0 || slices.ContainsFunc(p.changes[:i], func(b *change) bool { return lost[b] && (b.key == c.key || leans(b, c)) }) {
			lost[c] = !p.held(i)
		}
	}
	for _, c := range slices.Backward(p.changes) {
		if lost[c] {
			p.must(c.undo())
		}
	}
	p.end()
}

func (p *power) end() {
	for _, f := range p.holds {
		f.Close()
	}
	for _, d := range p.dirty {
		d.f.Close()
	}
}

// held tells whether a change must be durable because a later one is that needs it. What is made in a directory that is lost is lost, and needs
// nothing.
func (p *power) held(i int) bool {
	return !p.changes[i].creates && slices.ContainsFunc(p.changes[i+1:], func(c *change) bool { return c.durable && leans(p.changes[i], c) })
}

// leans tells whether a later change touches a name that an earlier one changed, or what is below or above it.
func leans(a, b *change) bool {
	for _, x := range a.names {
		for _, y := range b.names {
			if x == y || strings.HasPrefix(x, y+"/") || strings.HasPrefix(y, x+"/") {
				return true
			}
		}
	}
	return false
}

// lose takes from a file what was not synced: all of it, nothing, or some sectors and some of its end.
func (p *power) lose(d *dirtyFile, r *rand.Rand) {
	defer d.f.Close()
	info, err := d.f.Stat()
	p.must(err)
	now := make([]byte, info.Size())
	if len(now) > 0 {
		_, err = d.f.ReadAt(now, 0)
		p.must(err)
	}
	switch r.IntN(3) {
	case 0:
		return
	case 1:
		now = d.durable
	default:
		for off := 0; off < len(now); off += 512 {
			if end := min(off+512, len(now)); r.IntN(2) == 0 {
				clear(now[off:end])
				if off < len(d.durable) {
					copy(now[off:end], d.durable[off:])
				}
			}
		}
		now = now[:len(now)-r.IntN(min(len(now), 1000)+1)]
	}
	p.must(d.f.Truncate(0))
	_, err = d.f.WriteAt(now, 0)
	p.must(err)
}
