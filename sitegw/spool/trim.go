package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"
)

// saveEvery is how often Trim saves the mark when it deletes nothing. What is lost with it is only read again.
const saveEvery = 10 * time.Second

// Trim says that everything up to and including a record is done with: it will not be read again, and segments without anything else are
// deleted. A number that is trimmed already changes nothing; one within a range that is lost counts as the last record before it.
//
// The mark is durable before anything is deleted, and otherwise from time to time: after a crash, records that were trimmed can be there again.
// Errors are ErrAhead, ErrClosed, or the disk's; after those of the disk the next Trim tries again.
func (s *Spool) Trim(through uint64) error {
	p, err := s.pointAt(through)
	if err != nil {
		return fmt.Errorf("trim through %d: %w", through, err)
	}
	s.diskMu.Lock()
	defer s.diskMu.Unlock()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	if p.Seq > s.trim.Seq {
		s.trim = p
	}
	drained := s.full && s.active != nil && s.trim.Seq == s.durable.Seq
	s.mu.Unlock()
	if drained { // what fills the quota must not stay because it is written to
		if err := s.seal(); err != nil {
			return err
		}
	}
	s.mu.Lock()
	n := s.trimmable()
	late := s.trim != s.mark.trim && time.Since(s.saved) >= saveEvery
	s.mu.Unlock()
	if n > 0 || late {
		if err := s.save(); err != nil {
			return fmt.Errorf("save mark: %w", err)
		}
	}
	return s.drop(n, true)
}

// trimmable counts the segments from the oldest on that hold nothing behind the trim mark. The one that is being written does not count, nor one
// that is still to be cut back. The caller holds diskMu and mu.
func (s *Spool) trimmable() int {
	for i := range s.segments {
		switch last := i == len(s.segments)-1; {
		case last && (s.active != nil || s.broken || s.trim.Seq < s.durable.Seq):
			return i
		case !last && s.segments[i+1].before.Seq > s.trim.Seq:
			return i
		}
	}
	return len(s.segments)
}

// drop deletes n segments: the oldest, or the newest. The caller holds diskMu.
func (s *Spool) drop(n int, oldest bool) error {
	for range n {
		s.mu.Lock()
		i := len(s.segments) - 1
		if oldest {
			i = 0
		}
		g := s.segments[i]
		s.mu.Unlock()
		if err := s.cfg.FS.Remove(s.path(g.first())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		s.mu.Lock()
		s.segments = slices.Delete(slices.Clone(s.segments), i, i+1)
		s.used -= g.size
		if s.full && oldest {
			s.full = false
			s.cfg.Log.Info("the spool has room again", "bytes", s.used, "quota", s.cfg.Quota)
		}
		if s.ailing != nil && oldest {
			signal(s.kick)
		}
		s.mu.Unlock()
	}
	return nil
}

// save makes the mark durable. The caller holds diskMu.
func (s *Spool) save() error {
	s.mu.Lock()
	m := mark{generation: s.mark.generation + 1, incarnation: s.incarnation, trim: s.trim, last: s.durable}
	s.mu.Unlock()
	if err := saveMark(s.cfg.FS, s.cfg.Dir, &m); err != nil {
		return err
	}
	s.mark = m
	s.mu.Lock()
	defer s.mu.Unlock()
	s.saved = time.Now()
	return nil
}
