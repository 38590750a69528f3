package install

import (
	"errors"
	"io/fs"
	"syscall"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
)

// block is what files are rounded up to when room is counted, in bytes.
const block = 4096

// Room tells whether the disk has room for what a release still lacks, and for the reserve. What is staged of it counts as there.
func (s *Slot) Room(d wire.Digest, m *artifact.Manifest) error {
	var need uint64
	for i := range m.Entries {
		e := &m.Entries[i]
		need += block // the entry itself, and its name
		if e.Type != artifact.TypeFile {
			continue
		}
		size := (e.Size + block - 1) / block * block
		there, err := s.taken(staging(d) + "/tree/" + e.Path)
		if err != nil {
			return onDisk(err, "room for %s", d.Short())
		}
		need += size - min(size, there)
	}
	n, err := s.o.Free(s.dir)
	if err != nil {
		return onDisk(err, "room on the disk of %s", s.dir)
	}
	if n < s.o.Reserve || n-s.o.Reserve < need {
		return fail(ReasonNoSpace, "%d bytes are needed and %d are kept in reserve, the disk has %d: free some", need, s.o.Reserve, n)
	}
	return nil
}

// taken is how much of the disk a file has, in bytes.
func (s *Slot) taken(name string) (uint64, error) {
	info, err := s.fs.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil || !info.Mode().IsRegular() {
		return 0, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, nil
	}
	return uint64(st.Blocks) * 512, nil //nolint:gosec // G115: not negative; the unit is not the file system's
}

// room tells whether the reserve is still there in the middle of writing: others write, too.
func (st *stage) room() error {
	n, err := st.o.Free(st.Slot.dir)
	if err != nil {
		return err
	}
	if n < st.o.Reserve {
		return fail(ReasonNoSpace, "%d bytes are kept in reserve, the disk has only %d left: free some", st.o.Reserve, n)
	}
	return nil
}
