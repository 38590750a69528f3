package spool

// A cursor is where a reader got to, so that it need not go through the segment again for the next page.
type cursor struct {
	at    Point
	first uint64 // of the segment
	off   int64  // behind the record
	used  uint64 // when, by the clock of cursors
}

// cursors remembers where readers got to last: a few that lag behind each other, as the one that sends is ahead of the one that trims.
type cursors struct {
	list  [8]cursor
	clock uint64
}

// find returns the cursor behind number after in a segment, nil when there is none.
func (c *cursors) find(after, first uint64) *cursor {
	for i := range c.list {
		if k := &c.list[i]; k.off > 0 && k.at.Seq == after && k.first == first {
			c.clock++
			k.used = c.clock
			return k
		}
	}
	return nil
}

// point returns the point behind record number seq; ok is false when no reader stopped there lately.
func (c *cursors) point(seq uint64) (p Point, ok bool) {
	for i := range c.list {
		if k := &c.list[i]; k.off > 0 && k.at.Seq == seq {
			return k.at, true
		}
	}
	return Point{}, false
}

// put remembers a cursor in place of the one that was not used for longest.
func (c *cursors) put(k cursor) {
	if k.off == 0 || c.find(k.at.Seq, k.first) != nil {
		return
	}
	at := 0
	for i := range c.list {
		if c.list[i].used < c.list[at].used {
			at = i
		}
	}
	c.clock++
	k.used = c.clock
	c.list[at] = k
}

// cursor is where the walker is; its off is 0 when that is between segments.
func (w *walker) cursor() cursor {
	if w.f == nil || !w.known {
		return cursor{}
	}
	return cursor{at: w.at, first: w.segs[w.i].first(), off: w.sc.off}
}

func (s *Spool) remember(k cursor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cursors.put(k)
}
