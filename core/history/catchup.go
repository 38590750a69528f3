package history

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
)

// Applied tells the store that the log has been applied up to this index: every record up to it has been appended. Many entries produce no
// records, so without being told, a store knows only that it reaches as far as its newest record. See Export.
func (s *Store) Applied(index uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.applied = max(s.applied, index)
}

// Skip tells the store that the replicated state was replaced by a snapshot at log index upto, up to which the history is summed up by want.
// If records are missing now, a gap opens, durably: reads answer ErrIncomplete until Fill has closed it. Records behind upto can be appended
// at once. When nothing is missing, and when the open gap reaches as far already, nothing changes. A gap that is open grows to upto; what was
// appended behind it is then a part of what is missing, and is dropped.
//
// An error that wraps ErrMismatch has changed nothing: the records that are there do not fit want, and nothing that is fetched can mend
// that. Every other error has stopped the store.
func (s *Store) Skip(upto uint64, want Mark) error {
	s.fillMu.Lock()
	defer s.fillMu.Unlock()
	s.wmu.Lock()
	defer s.wmu.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	t := s
	if g := s.gap; g != nil {
		if upto < g.upto || upto == g.upto && want == g.want {
			return nil
		}
		t = s.ahead
	}
	lacks, err := t.lacks(upto, want)
	switch {
	case err != nil:
		return err
	case !lacks:
		s.Applied(upto)
		return nil
	}
	if err := s.openGap(upto, want); err != nil {
		return s.fail(err)
	}
	return nil
}

// lacks tells whether records up to this log index are missing here. There are no holes: who has a newer record has all before it.
func (s *Store) lacks(upto uint64, want Mark) (bool, error) {
	newer := s.tail.Index > upto
	switch {
	case newer && s.chain.Count > want.Count, !newer && s.chain == want:
		return false, nil
	case !newer && s.chain.Count < want.Count:
		return true, nil
	}
	return false, fmt.Errorf("%w: up to log index %d there must be %v, but up to %v there are %v; "+
		"remove this node from the cluster and join it again with an empty data directory", ErrMismatch, upto, want, s.tail, s.chain)
}

// openGap makes it durable that records are missing up to this log index.
func (s *Store) openGap(upto uint64, want Mark) error {
	g := &gap{state: gapOpen, upto: upto, want: want}
	if s.gap != nil {
		g.base = s.gap.base
	} else {
		if err := s.syncAll(); err != nil {
			return err
		}
		s.syncMu.Lock()
		g.base = s.mark
		s.syncMu.Unlock()
	}
	if err := writeGap(s.fs, s.dir, g); err != nil {
		return err
	}
	if s.ahead != nil {
		if err := s.ahead.shut(false); err != nil {
			return err
		}
	}
	ahead, err := s.openAhead(g)
	if err != nil {
		return err
	}
	s.log.Warn("history records are missing and must be fetched from another core node",
		"dir", s.dir, "have_index", s.tail.Index, "upto_index", upto, "records", want.Count-s.chain.Count)
	s.setGap(g, ahead)
	return nil
}

// setGap changes the gap. The caller holds wmu.
func (s *Store) setGap(g *gap, ahead *Store) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gap, s.ahead = g, ahead
}

// Missing tells whether a gap is open, and what to ask a peer's Export for: the records behind (after, afterN) up to log index upto. After a
// restart the position is that of the last record that survived.
func (s *Store) Missing() (after uint64, afterN uint32, upto uint64, open bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.gap == nil {
		return 0, 0, 0, false
	}
	return s.last.Index, s.last.N, s.gap.upto, true
}

// Fill takes a chunk that a peer's Export made. It is done when nothing is missing any more: then everything up to the gap's end has the chain
// that was asked for, durably, and reads find it. Records that are there already are passed over.
//
// An error that wraps ErrChunk or ErrInvalid has changed nothing. One that wraps ErrMismatch says that the peer's records do not have that
// chain: what was filled in is thrown away; begin again with what Missing says, from another peer. Every other error has stopped the store.
//
// Memory is bounded by the chunk, the disk by the number of records that are missing. Fills take turns; Append and Sync go on beside them.
func (s *Store) Fill(b []byte) (done bool, err error) {
	s.fillMu.Lock()
	defer s.fillMu.Unlock()
	whole, err := s.take(b)
	if err != nil || !whole {
		return false, err
	}
	if err := s.closeGap(); err != nil {
		if errors.Is(err, ErrClosed) {
			return false, err
		}
		return false, s.fail(err)
	}
	return true, nil
}

// take appends the chunk's records behind what is there, and tells whether the gap is filled.
func (s *Store) take(b []byte) (whole bool, err error) {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	if err := s.usable(); err != nil {
		return false, err
	}
	g := s.gap
	if g == nil {
		return true, nil
	}
	c, err := decodeChunk(b)
	if err != nil {
		return false, err
	}
	if err := c.joins(s.tail, g.upto); err != nil {
		return false, err
	}
	recs := after(c.recs, s.tail)
	if uint64(len(recs)) > g.want.Count-s.chain.Count {
		return false, s.discard("it has more records than there are")
	}
	if err := s.fits(recs); err != nil {
		return false, err
	}
	if err := s.write(recs); err != nil {
		return false, s.fail(err)
	}
	switch {
	case s.chain == g.want:
		return true, nil
	case s.chain.Count == g.want.Count:
		return false, s.discard("the head of the chain is another")
	case c.last && c.upto == g.upto:
		return false, s.discard(fmt.Sprintf("it ends after %d of %d records", s.chain.Count, g.want.Count))
	}
	return false, nil
}

// discard throws away what was filled in and returns the error that says so.
func (s *Store) discard(reason string) error {
	g := *s.gap
	g.state = gapCutting
	if err := s.cutBack(&g); err != nil {
		return s.fail(err)
	}
	s.setGap(&g, s.ahead)
	return fmt.Errorf("%w: the history that was fetched up to log index %d: %s; fetch it from another node; "+
		"if none has what fits, remove this node from the cluster and join it again with an empty data directory", ErrMismatch, g.upto, reason)
}

// cutBack takes the store back to the base of the gap, on the disk and in memory.
func (s *Store) cutBack(g *gap) error {
	if err := writeGap(s.fs, s.dir, g); err != nil {
		return err
	}
	if err := s.shut(false); err != nil {
		return err
	}
	if err := s.cutFilled(g); err != nil {
		return err
	}
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(g.base.first)
	s.mark, s.chain = g.base, g.base.chain
	if g.base.first == 0 {
		return nil
	}
	return s.loadNewest(g.base.first, g.base.end)
}

// cutFilled brings the directory back to the base of a gap that is being cut, and opens the gap again. It can be done over at any point.
func (s *Store) cutFilled(g *gap) error {
	firsts, err := s.clean()
	if err != nil {
		return err
	}
	n := sort.Search(len(firsts), func(i int) bool { return firsts[i] > g.base.first })
	if err := s.removeSegments(firsts[n:]); err != nil {
		return err
	}
	if g.base.first != 0 {
		if err := s.cutSegment(g.base.first, g.base.end); err != nil {
			return err
		}
	}
	if err := writeMark(s.fs, s.dir, g.base); err != nil {
		return err
	}
	g.state = gapOpen
	return writeGap(s.fs, s.dir, g)
}

// cutSegment shortens a segment to this size, durably. Whether it has as much is for those to say who load it.
func (s *Store) cutSegment(first uint64, size int64) error {
	f, err := s.fs.OpenFile(s.path(first), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return &CorruptError{File: s.path(first), Reason: "the file is missing"}
	}
	if err != nil {
		return err
	}
	is, err := f.Size()
	if err == nil && is > size {
		err = f.Truncate(size)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// forget drops what is known in memory of the segments from first on. Readers may hold the old slices, so none is changed in place.
func (s *Store) forget(first uint64) {
	n := sort.Search(len(s.firsts), func(i int) bool { return s.firsts[i] >= first })
	for stream, positions := range s.index.streams {
		k := sort.Search(len(positions), func(i int) bool { return positions[i].segment() >= n })
		switch {
		case k == 0:
			delete(s.index.streams, stream)
		case k < len(positions):
			s.index.streams[stream] = slices.Clone(positions[:k])
		}
	}
	s.firsts, s.segments = slices.Clone(s.firsts[:n]), slices.Clone(s.segments[:n])
	s.last = Cursor{}
	if n > 0 {
		s.last = s.segments[n-1].Last
	}
	s.tail = s.last
}

// closeGap makes what was filled in a part of the history, and moves behind it what was appended meanwhile. Most of that is moved while
// Append goes on. The caller holds fillMu, and has checked the chain.
func (s *Store) closeGap() error {
	if s.gap == nil {
		return nil
	}
	if err := s.beginClose(); err != nil {
		return err
	}
	err := s.moveAhead(func(r *Record) error {
		s.wmu.Lock()
		defer s.wmu.Unlock()
		if err := s.usable(); err != nil {
			return err
		}
		return s.write([]Record{*r})
	})
	if err != nil {
		return err
	}
	s.wmu.Lock()
	defer s.wmu.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	if err := s.moveAhead(s.put); err != nil {
		return err
	}
	if err := s.flush(); err != nil {
		return err
	}
	return s.endClose()
}

// beginClose makes what was filled in durable, and then that all of it is there.
func (s *Store) beginClose() error {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	if err := s.syncAll(); err != nil {
		return err
	}
	g := *s.gap
	g.state = gapClosing
	s.setGap(&g, s.ahead)
	return writeGap(s.fs, s.dir, &g)
}

// moveAhead calls put with the records of the store ahead that are not yet here, up to the newest there was when it began.
func (s *Store) moveAhead(put func(*Record) error) error {
	tail := s.tail
	return s.ahead.Scan(context.Background(), tail.Index, func(r *Record) error {
		if r.Cursor().Compare(tail) <= 0 {
			return nil
		}
		return put(r)
	})
}

// endClose removes the gap once everything is durable in its place.
func (s *Store) endClose() error {
	if err := s.syncAll(); err != nil {
		return err
	}
	if err := s.fs.Remove(filepath.Join(s.dir, gapName)); err != nil {
		return err
	}
	if err := s.fs.SyncDir(s.dir); err != nil {
		return err
	}
	upto, ahead := s.gap.upto, s.ahead
	s.setGap(nil, nil)
	s.Applied(upto)
	s.log.Info("history is complete again", "dir", s.dir, "upto_index", upto)
	if err := ahead.shut(false); err != nil {
		return err
	}
	return ahead.wipe()
}
