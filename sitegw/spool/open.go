package spool

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/holdfast-edge/holdfast/internal/disk"
)

// Open opens the spool in a directory, which it makes when it is missing, and finds out how far it reaches. Only the newest segment is read, so
// the size of the backlog does not matter. What a crash tore off its end, which was never acknowledged, is cut. Damage is no error: it is
// counted, logged, and told by Read.
//
// Errors wrap ErrConfig, ErrVersion or [disk.ErrLocked], or are the disk's.
func Open(c Config) (*Spool, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := c.FS.MkdirAll(c.Dir, disk.DirPerm); err != nil {
		return nil, fmt.Errorf("make spool directory: %w", err)
	}
	if err := c.FS.SyncDir(filepath.Dir(c.Dir)); err != nil {
		return nil, fmt.Errorf("make spool directory %s: %w", c.Dir, err)
	}
	s := &Spool{cfg: c, kick: make(chan struct{}, 1), wake: make(chan struct{}, 1), hash: hasher{sha: sha256.New()}}
	if s.lock, err = c.FS.Lock(c.Dir); err != nil {
		return nil, fmt.Errorf("lock spool %s: %w", c.Dir, err)
	}
	if err := s.restore(); err != nil {
		return nil, errors.Join(fmt.Errorf("open spool: %w", err), s.lock.Close())
	}
	signal(s.wake)
	return s, nil
}

// restore brings the spool from the directory's content to where Append may go on.
func (s *Spool) restore() error {
	firsts, err := s.clean()
	if err != nil {
		return err
	}
	found, err := s.loadMark(len(firsts) > 0)
	if err != nil {
		return err
	}
	if err := s.loadHeaders(firsts, &found); err != nil {
		return err
	}
	if !found {
		if _, err := rand.Read(s.incarnation[:]); err != nil {
			return fmt.Errorf("make incarnation: %w", err)
		}
	}
	s.seed = seeded(s.incarnation)
	s.trim, s.durable = s.mark.trim, s.mark.last
	if len(s.segments) > 0 {
		if s.mark.generation == 0 { // it is lost: what is there is not trimmed
			s.trim = s.segments[0].before
		}
		if err := s.loadNewest(); err != nil {
			return err
		}
	}
	s.pending = batch{from: s.durable, to: s.durable}
	if err := s.save(); err != nil {
		return err
	}
	return s.drop(s.trimmable(), true)
}

// clean removes what an interrupted creation left behind and returns the numbers of the segments, in order.
func (s *Spool) clean() ([]uint64, error) {
	list, err := s.cfg.FS.ReadDir(s.cfg.Dir)
	if err != nil {
		return nil, err
	}
	var firsts []uint64
	for _, e := range list {
		base, tmp := strings.CutSuffix(e.Name(), disk.TmpSuffix)
		first, ok := parseName(base)
		switch {
		case tmp && (ok || base == markName):
			if err := s.cfg.FS.Remove(filepath.Join(s.cfg.Dir, e.Name())); err != nil {
				return nil, err
			}
		case ok && !tmp:
			firsts = append(firsts, first)
		case e.Name() != markName:
			s.cfg.Log.Warn("foreign file in the spool's directory", "dir", s.cfg.Dir, "file", e.Name())
		}
	}
	slices.Sort(firsts)
	return firsts, nil
}

// loadMark reads the mark; found is false when there is none that is whole.
func (s *Spool) loadMark(expected bool) (found bool, err error) {
	name := filepath.Join(s.cfg.Dir, markName)
	b, err := disk.ReadSmall(s.cfg.FS, name, markFile)
	if err != nil {
		return false, err
	}
	if b == nil && !expected {
		return false, nil
	}
	m, found, err := newest(b)
	switch {
	case err != nil:
		return false, fmt.Errorf("%s: %w", name, err)
	case found:
		s.mark, s.incarnation = m, m.incarnation
	default:
		s.damaged++
		s.cfg.Log.Error("the spool's mark is damaged or missing; records that were trimmed may be there again", "file", name)
	}
	return found, nil
}

// loadHeaders reads the headers of all segments. found tells whether the incarnation is known, which the first sound header can make it.
func (s *Spool) loadHeaders(firsts []uint64, found *bool) error {
	for _, first := range firsts {
		g := segment{before: Point{Seq: first - 1}}
		h, size, err := s.readHeader(first)
		_, bad := errors.AsType[damage](err)
		switch {
		case bad:
			g.lost = true
		case err != nil:
			return err
		case !*found:
			s.incarnation, *found = h.incarnation, true
			fallthrough
		default:
			if h.incarnation != s.incarnation || h.before.Seq != g.before.Seq {
				if err := s.setAside(first, "the segment belongs to another spool, or another place"); err != nil {
					return err
				}
				continue
			}
			g.before = h.before
		}
		g.size = size
		s.segments = append(s.segments, g)
		s.used += size
		if bad {
			s.note(&g, 0, err)
		}
	}
	if !*found {
		for _, g := range s.segments {
			if err := s.setAside(g.first(), "neither the mark nor any header says to which spool the segment belongs"); err != nil {
				return err
			}
		}
		s.segments, s.used = nil, 0
	}
	return nil
}

// readHeader returns a segment's header and its size. Its error is damage, wraps ErrVersion, or is the disk's.
func (s *Spool) readHeader(first uint64) (h header, size int64, err error) {
	f, err := s.cfg.FS.OpenFile(s.path(first), os.O_RDONLY, 0)
	if err != nil {
		return h, 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if size, err = f.Size(); err != nil {
		return h, 0, err
	}
	b := make([]byte, headerSize)
	n, err := disk.ReadFull(f, b, 0)
	if err != nil {
		return h, 0, err
	}
	h, err = decodeHeader(b[:n])
	if errors.Is(err, ErrVersion) {
		err = fmt.Errorf("%s: %w", s.path(first), err)
	}
	return h, size, err
}

// setAside renames a segment that cannot be used, so that somebody can look at it.
func (s *Spool) setAside(first uint64, why string) error {
	name := s.path(first)
	s.damaged++
	s.cfg.Log.Error("a file of the spool is set aside", "file", name, "new_name", name+badSuffix, "reason", why)
	if err := s.cfg.FS.Rename(name, name+badSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.cfg.FS.SyncDir(s.cfg.Dir)
}

// loadNewest reads the newest segment, cuts its torn end, and finds out which record is the last.
func (s *Spool) loadNewest() error {
	for len(s.segments) > 0 {
		g := &s.segments[len(s.segments)-1]
		end, size, err := s.readTail(g)
		switch {
		case err != nil:
			return err
		case g.lost && end.Seq == g.before.Seq && end.Seq >= s.durable.Seq: // nothing tells the chain either
			s.used -= g.size
			s.segments = s.segments[:len(s.segments)-1]
			if err := s.setAside(end.Seq+1, "neither its header nor any record can be read"); err != nil {
				return err
			}
			continue
		case end.Seq > s.durable.Seq:
			s.durable = end
		case end.Seq < s.durable.Seq && g.noted == 0:
			s.note(g, size, damage("records that were synced are missing here"))
		}
		s.used += size - g.size
		g.size = size
		if s.durable.Seq == g.before.Seq { // nothing in it
			return s.drop(1, false)
		}
		return s.cutBack(g)
	}
	return nil
}

// readTail goes through a segment and returns the point behind its last record, and how many bytes are to be kept. Those that cannot have been synced
// are torn and are not.
//
// The file is synced first, so that what is accepted is durable, and read from the disk: after a failed sync, memory may hold what the disk does
// not.
func (s *Spool) readTail(g *segment) (end Point, size int64, err error) {
	f, err := s.cfg.FS.OpenFile(s.path(g.first()), os.O_RDWR, 0)
	if err != nil {
		return end, 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := errors.Join(f.Sync(), f.DropCache()); err != nil {
		return end, 0, err
	}
	t := tail{s: s, g: g, at: g.before, known: !g.lost, hash: hasher{sha: sha256.New()}}
	t.sc = scanner{r: f, seed: s.seed, end: g.size, off: min(headerSize, g.size)}
	for {
		size, err := t.step()
		if err != nil || size >= 0 {
			return t.at, size, err
		}
	}
}
