package history

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/holdfast-edge/holdfast/internal/disk"
)

const (
	gapName   = "gap"
	gapSize   = 117
	aheadName = "ahead"
)

var gapMagic = []byte("hfhstgap")

// A gapState says what is being done about a gap. The numbers are on the disk.
type gapState uint8

const (
	gapOpen    gapState = 1 // records are missing; what is filled in goes behind the base
	gapCutting gapState = 2 // what was filled in did not fit and is being cut off, back to the base
	gapClosing gapState = 3 // everything is there; what was appended meanwhile is being moved behind it
)

// A gap is the stretch of the history that this node lacks. Its file is replaced as a whole, so each change of it happens or does not.
type gap struct {
	state gapState
	upto  uint64   // log index up to which records are missing
	want  Mark     // what there must be up to there
	base  syncMark // what there was before the gap opened; all of it is synced. Invariant: base.chain.Count < want.Count
}

func (g *gap) encode() []byte {
	b := append([]byte(nil), gapMagic...)
	b = append(b, byte(g.state))
	b = binary.BigEndian.AppendUint64(b, g.upto)
	b = g.want.appendTo(b)
	b = g.base.appendTo(b)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// decodeGap reads a whole gap file. Its error is damage.
func decodeGap(b []byte) (gap, error) {
	if err := checkSmall(b, gapMagic, gapSize); err != nil {
		return gap{}, err
	}
	base, err := decodeSyncMark(b[57:])
	if err != nil {
		return gap{}, err
	}
	g := gap{state: gapState(b[8]), upto: binary.BigEndian.Uint64(b[9:]), want: decodeChain(b[17:]), base: base}
	switch {
	case g.state < gapOpen || g.state > gapClosing:
		return gap{}, damage(fmt.Sprintf("there is no state %d", g.state))
	case g.base.chain.Count >= g.want.Count:
		return gap{}, damage("nothing is missing in this gap")
	}
	return g, nil
}

// readGap returns the gap of dir, nil when there is none.
func readGap(fsys disk.FS, dir string) (*gap, error) {
	name := filepath.Join(dir, gapName)
	b, err := disk.ReadSmall(fsys, name, gapSize)
	if b == nil || err != nil {
		return nil, err
	}
	g, err := decodeGap(b)
	if err != nil {
		return nil, located(err, name, 0)
	}
	return &g, nil
}

// writeGap replaces the gap of dir, durably.
func writeGap(fsys disk.FS, dir string, g *gap) error {
	return disk.Replace(fsys, dir, gapName, g.encode())
}

// newAhead makes the store for what is appended while g is open, not yet restored. It lies in a folder of s's directory; it needs no lock
// and has no gap of its own, and its chain goes on from what will be there once g is closed.
func (s *Store) newAhead(g *gap) *Store {
	a := &Store{dir: filepath.Join(s.dir, aheadName), segmentBytes: s.segmentBytes, log: s.log, fs: s.fs, chain: g.want}
	a.index.streams = make(map[StreamID][]position)
	return a
}

// openAhead opens that store. A folder that is left of an earlier gap, which reached less far, is emptied.
func (s *Store) openAhead(g *gap) (*Store, error) {
	a := s.newAhead(g)
	if err := s.fs.MkdirAll(a.dir, disk.DirPerm); err != nil {
		return nil, err
	}
	if err := s.fs.SyncDir(s.dir); err != nil {
		return nil, err
	}
	firsts, err := a.clean()
	if err != nil {
		return nil, err
	}
	if len(firsts) > 0 && firsts[0] <= g.upto {
		if err := a.wipe(); err != nil {
			return nil, err
		}
	}
	if err := a.restoreSegments(); err != nil {
		return nil, errors.Join(err, a.closeActive())
	}
	return a, nil
}

// wipe removes the files of a store that is not in use, if there are any. The mark goes first: segments without a mark are known by their
// numbers to be of no use, but a mark without its segments would be damage.
func (s *Store) wipe() error {
	list, err := s.fs.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(list) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	firsts, err := s.clean()
	if err != nil {
		return err
	}
	if err := s.fs.Remove(filepath.Join(s.dir, markName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := s.fs.SyncDir(s.dir); err != nil {
		return err
	}
	return s.removeSegments(firsts)
}

// removeSegments removes the files of these segments, durably.
func (s *Store) removeSegments(firsts []uint64) error {
	for _, first := range slices.Backward(firsts) {
		if err := s.fs.Remove(s.path(first)); err != nil {
			return err
		}
	}
	return s.fs.SyncDir(s.dir)
}
