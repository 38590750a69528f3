package spool

import (
	"errors"
	"math"
)

// A tail goes through the newest segment when the spool is opened.
type tail struct {
	s     *Spool
	g     *segment
	sc    scanner
	hash  hasher
	at    Point // behind the record that was read last
	known bool  // the chain of at is known
}

// step goes on by one record. At the end it returns how many bytes of the segment are to be kept, and a negative number before.
func (t *tail) step() (size int64, err error) {
	off := t.sc.off
	f, err := t.sc.next()
	if errors.Is(err, errEnd) {
		return off, nil
	}
	if err == nil {
		err = f.follows(t.at, t.known)
	}
	if _, bad := errors.AsType[damage](err); bad {
		t.sc.off = off
		return t.damaged(err)
	}
	if err != nil {
		return 0, err
	}
	if !t.known {
		t.at.Chain, t.known = f.chain, true
	}
	t.hash.chain = t.at.Chain
	t.hash.add(f.bytes)
	t.at = Point{f.rec.Seq, t.hash.chain}
	return -1, nil
}

// damaged decides about bytes that are not the frame that should be there. They are damage if they were synced: because something was
// written later, or because the mark says so. Otherwise a crash tore them, and the segment ends before them.
func (t *tail) damaged(why error) (size int64, err error) {
	off := t.sc.off
	f, found, err := t.sc.search(Range{t.at.Seq + 1, math.MaxUint64}, true)
	synced := t.at.Seq < t.s.mark.last.Seq
	if err == nil && !found && synced {
		f, found, err = t.sc.search(Range{t.at.Seq + 1, t.s.mark.last.Seq}, false)
	}
	switch {
	case err != nil:
		return 0, err
	case !found && !synced:
		t.s.cfg.Log.Warn("torn end of the spool cut off; none of it was acknowledged",
			"file", t.s.path(t.g.first()), "offset", off, "bytes", t.g.size-off, "reason", why.Error())
		return off, nil
	}
	t.s.note(t.g, off, why)
	if !found {
		return t.g.size, nil
	}
	t.at, t.known = Point{f.rec.Seq - 1, f.chain}, true
	return -1, nil
}
