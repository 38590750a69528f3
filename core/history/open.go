package history

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/holdfast-edge/holdfast/internal/disk"
)

// Open opens the history in dir, which it creates when it is missing. It reads and checks every segment, so it takes the time that the
// disk needs for that, and finds out where the streams' records lie.
//
// What a crash left behind the last synced record is cut off, with a warning in the log: applying the log again brings it back. Any other
// damage is an error that wraps ErrCorrupt; nothing is changed then. Further errors wrap disk.ErrLocked, ErrVersion, or are the disk's.
func Open(dir string, opts Options) (*Store, error) {
	s, err := newStore(dir, opts)
	if err != nil {
		return nil, err
	}
	if err := s.fs.MkdirAll(dir, disk.DirPerm); err != nil {
		return nil, fmt.Errorf("create history directory: %w", err)
	}
	if err := s.fs.SyncDir(filepath.Dir(dir)); err != nil {
		return nil, fmt.Errorf("create history directory %s: %w", dir, err)
	}
	if s.lock, err = s.fs.Lock(dir); err != nil {
		return nil, fmt.Errorf("lock history directory %s: %w", dir, err)
	}
	if err := s.restore(); err != nil {
		return nil, errors.Join(fmt.Errorf("open history: %w%s", err, advice(err)), s.release())
	}
	return s, nil
}

// newStore makes a store of checked options, not yet opened.
func newStore(dir string, opts Options) (*Store, error) {
	s := &Store{dir: dir, segmentBytes: opts.SegmentBytes, log: opts.Logger, fs: opts.FS}
	if s.segmentBytes == 0 {
		s.segmentBytes = DefaultSegmentBytes
	}
	if s.segmentBytes < 0 || s.segmentBytes > MaxSegmentBytes {
		return nil, fmt.Errorf("history: segment size %d is not within 1 to %d bytes", opts.SegmentBytes, int64(MaxSegmentBytes))
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.fs == nil {
		s.fs = disk.OS{}
	}
	s.index.streams = make(map[StreamID][]position)
	return s, nil
}

// advice ends an error's text with what the operator can do about it.
func advice(err error) string {
	if !errors.Is(err, ErrCorrupt) {
		return ""
	}
	return "; remove this node from the cluster and join it again with an empty data directory: it fetches the history from the other core nodes"
}

// release gives up what a failed Open holds.
func (s *Store) release() error {
	err := s.closeActive()
	if s.ahead != nil {
		err = errors.Join(err, s.ahead.closeActive())
	}
	return errors.Join(err, s.lock.Close())
}

// closeActive closes the file of the active segment, if there is one.
func (s *Store) closeActive() error {
	if s.active == nil {
		return nil
	}
	w := s.active
	s.active = nil
	return w.f.Close()
}

// restore brings the store from the directory's content to where Append may go on.
func (s *Store) restore() error {
	g, err := readGap(s.fs, s.dir)
	if err != nil {
		return err
	}
	if g != nil && g.state == gapCutting {
		if err := s.cutFilled(g); err != nil {
			return err
		}
	}
	if err := s.restoreSegments(); err != nil {
		return err
	}
	if g == nil { // a gap that was closed can have left what was ahead
		if err := s.fs.SyncDir(s.dir); err != nil { // else a power cut brings the gap back, and not what was wiped
			return err
		}
		return s.newAhead(&gap{}).wipe()
	}
	if s.ahead, err = s.openAhead(g); err != nil {
		return err
	}
	s.gap = g
	if g.state == gapClosing || s.chain == g.want {
		return s.closeGap()
	}
	return nil
}

// restoreSegments loads the segments of the store's own directory. The chain begins where the new store says.
func (s *Store) restoreSegments() error {
	names, err := s.clean()
	if err != nil {
		return err
	}
	m, found, err := readMark(s.fs, s.dir)
	if err != nil {
		return err
	}
	if !found {
		if len(names) > 0 {
			return &CorruptError{File: filepath.Join(s.dir, markName), Reason: "the file is missing"}
		}
		return writeMark(s.fs, s.dir, syncMark{})
	}
	floor, err := s.floor(names, m)
	if err != nil {
		return err
	}
	s.mark = m
	if m.first != 0 {
		s.chain = m.chain
	}
	for i, first := range names {
		if i < len(names)-1 {
			err = s.loadSealed(first)
		} else {
			err = s.loadNewest(first, floor)
		}
		if err != nil {
			return err
		}
	}
	return s.markLoaded()
}

// clean removes what an interrupted creation left behind and returns the first indexes of the segments, in order.
func (s *Store) clean() ([]uint64, error) {
	list, err := s.fs.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	var firsts []uint64
	for _, e := range list {
		base, tmp := strings.CutSuffix(e.Name(), disk.TmpSuffix)
		first, ok := parseName(base)
		switch {
		case tmp && (ok || base == markName || base == gapName):
			if err := s.fs.Remove(filepath.Join(s.dir, e.Name())); err != nil {
				return nil, err
			}
		case ok && !tmp:
			firsts = append(firsts, first)
		case !slices.Contains([]string{markName, gapName, aheadName}, e.Name()):
			s.log.Warn("foreign file in the history directory", "dir", s.dir, "file", e.Name())
		}
	}
	slices.Sort(firsts)
	return firsts, nil
}

// parseName returns the first index that a segment's file name gives.
func parseName(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, ".hist")
	if !ok {
		return 0, false
	}
	first, err := strconv.ParseUint(digits, 10, 64)
	return first, err == nil && first > 0 && fmt.Sprintf(segmentName, first) == name
}

// floor returns how many bytes of the newest segment are known to have been synced. The header always was, because a segment gets its
// name only after that; a segment without records has nothing else. A mark that is neither in the newest segment nor in the one before it shows that segments are gone.
func (s *Store) floor(firsts []uint64, m syncMark) (int64, error) {
	n := len(firsts)
	switch {
	case n > 0 && m.first == firsts[n-1]:
		return max(m.end, headerSize), nil
	case n > 1 && m.first == firsts[n-2], n == 1 && m.first == 0:
		return headerSize, nil
	case n == 0 && m.first == 0:
		return 0, nil
	}
	return 0, &CorruptError{File: filepath.Join(s.dir, markName), Reason: fmt.Sprintf(
		"it says that segment %d was the newest with synced records, which the directory's %d segments do not bear out", m.first, n)}
}

// loadSealed reads a segment that has a successor: it must be whole and sealed.
func (s *Store) loadSealed(first uint64) error {
	f, err := s.fs.OpenFile(s.path(first), os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	t, err := s.load(f, first)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if !t.sealed {
		return &CorruptError{File: s.path(first), Offset: t.end, Reason: "the segment is not sealed although there is a newer one"}
	}
	return nil
}

// loadNewest reads the newest segment and makes it the active one unless it is sealed. Of its bytes, floor are known to have been synced.
//
// It is synced first, so that what the scan accepts is durable, and read from the disk: after a failed sync, memory may hold what the disk
// does not.
func (s *Store) loadNewest(first uint64, floor int64) error {
	f, err := s.fs.OpenFile(s.path(first), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	s.active = &writer{f: f, first: first}
	if err := errors.Join(f.Sync(), f.DropCache()); err != nil {
		return err
	}
	t, err := s.load(f, first)
	var broken *CorruptError
	switch {
	case err != nil && !errors.As(err, &broken):
		return err
	case broken != nil && t.end < floor:
		return broken
	case t.end < floor:
		return &CorruptError{File: s.path(first), Offset: t.end, Reason: fmt.Sprintf("the file ends here, but %d bytes were synced", floor)}
	case broken != nil:
		if err := s.cut(f, broken); err != nil {
			return err
		}
	}
	s.active.tally = t
	if t.records == 0 {
		return s.dropEmpty()
	}
	if t.sealed {
		s.active = nil
		return f.Close()
	}
	return f.Reserve(s.segmentBytes)
}

// cut removes the torn end of the newest segment.
func (s *Store) cut(f disk.File, torn *CorruptError) error {
	size, err := f.Size()
	if err != nil {
		return err
	}
	s.log.Warn("torn end of the history cut off; applying the log brings it back",
		"file", torn.File, "offset", torn.Offset, "bytes", size-torn.Offset, "reason", torn.Reason)
	if err := f.Truncate(torn.Offset); err != nil {
		return err
	}
	return f.Sync()
}

// dropEmpty removes the newest segment when no record of it survived, because the next record need not have the index that names it.
func (s *Store) dropEmpty() error {
	n := len(s.firsts) - 1
	name := s.path(s.firsts[n])
	s.firsts, s.segments = s.firsts[:n], s.segments[:n]
	err := s.active.f.Close()
	s.active = nil
	if err != nil {
		return err
	}
	if err := s.fs.Remove(name); err != nil {
		return err
	}
	return s.fs.SyncDir(s.dir)
}

// load scans one segment into the index, and the records behind the mark into the chain. Its tally covers what was good, also beside an
// error.
func (s *Store) load(f disk.File, first uint64) (tally, error) {
	h := header{first: first}
	if n := len(s.firsts); n > 0 {
		h.prev = s.firsts[n-1]
	}
	if s.last.Index >= first {
		return tally{}, &CorruptError{File: s.path(first), Reason: fmt.Sprintf("the segment before it goes up to index %d", s.last.Index)}
	}
	size, err := f.Size()
	if err != nil {
		return tally{}, err
	}
	ordinal := len(s.firsts)
	t, err := scanSegment(io.NewSectionReader(f, 0, size), s.path(first), h, func(pos int64, r *Record) error {
		if pos > maxSegmentSize {
			return damage("the segment is longer than segments get")
		}
		s.index.add(r.Stream, newPosition(ordinal, pos, r.Kind))
		if first > s.mark.first || first == s.mark.first && pos >= s.mark.end {
			s.chain = s.chain.next(r)
		}
		return nil
	})
	s.firsts = append(s.firsts, first)
	s.segments = append(s.segments, t.info(first))
	if t.records > 0 {
		s.last, s.tail = t.last, t.last
	}
	return t, err
}

// markLoaded moves the mark to the end of what was loaded, all of which is durable.
func (s *Store) markLoaded() error {
	n := len(s.segments)
	if n == 0 {
		return nil
	}
	m := syncMark{s.segments[n-1].First, s.segments[n-1].Bytes, s.chain}
	if m == s.mark {
		return nil
	}
	if err := writeMark(s.fs, s.dir, m); err != nil {
		return err
	}
	s.mark = m
	return nil
}
