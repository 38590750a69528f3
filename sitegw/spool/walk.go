package spool

import (
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"sort"

	"github.com/holdfast-edge/holdfast/internal/disk"
)

// A walker goes through the durable records as of when it was made, over all segments. It opens the files itself, one at a time, so that it
// minds neither the writer nor the end of a segment.
type walker struct {
	s     *Spool
	segs  []segment
	end   Point  // behind the newest durable record
	at    Point  // behind the record that was returned last
	known bool   // the chain of at is known
	prev  Point  // behind the record before the one that was returned last
	after uint64 // what the reader has, or has done with

	i     int   // the segment in which at lies; len(segs) behind the last
	start int64 // where to begin in it
	f     disk.File
	sc    scanner
	hash  hasher
}

// errGone says that a segment was trimmed meanwhile.
var errGone = errors.New("spool: segment is gone")

// walk calls fn with a walker that stands at number after, or before it in the same segment. What is trimmed is passed over.
func (s *Spool) walk(after uint64, fn func(*walker) error) error {
	for {
		w, err := s.walker(after)
		if err != nil {
			return err
		}
		err = errors.Join(fn(w), w.leave())
		if !errors.Is(err, errGone) {
			return err
		}
	}
}

func (s *Spool) walker(after uint64) (*walker, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	after = max(after, s.trim.Seq)
	w := &walker{s: s, segs: slices.Clone(s.segments), end: s.durable, at: s.trim, known: true, after: after, start: headerSize, hash: hasher{sha: sha256.New()}}
	if after >= w.end.Seq {
		w.at, w.i = w.end, len(w.segs)
		return w, nil
	}
	w.i = max(0, sort.Search(len(w.segs), func(i int) bool { return w.segs[i].before.Seq > after })-1)
	if w.i >= len(w.segs) || w.segs[w.i].before.Seq > after {
		return w, nil
	}
	g := &w.segs[w.i]
	w.at, w.known = g.before, !g.lost
	if c := s.cursors.find(after, g.first()); c != nil {
		w.at, w.known, w.start = c.at, true, c.off
	}
	return w, nil
}

// leave ends reading the current segment.
func (w *walker) leave() error {
	f := w.f
	w.f, w.start = nil, headerSize
	if f == nil {
		return nil
	}
	return f.Close()
}

// bound is where the current segment ends: at the next one's first record, whose chain is known if that header is sound.
func (w *walker) bound() (p Point, known bool) {
	if w.i+1 < len(w.segs) {
		g := &w.segs[w.i+1]
		return g.before, !g.lost
	}
	return w.end, true
}

// next returns the next record, whose Data is valid until the next call; or the range of records that are lost there. It returns neither at the
// end. Its error is errGone, or the disk's.
func (w *walker) next() (*Record, Range, error) {
	for w.at.Seq < w.end.Seq {
		if w.i >= len(w.segs) {
			return nil, w.jump(w.end, true), nil
		}
		if g := &w.segs[w.i]; w.at.Seq < g.before.Seq {
			return nil, w.jump(g.before, !g.lost), nil
		}
		if to, known := w.bound(); w.at.Seq >= to.Seq {
			if known && !w.known {
				w.at, w.known = to, true
			}
			if err := w.leave(); err != nil {
				return nil, Range{}, err
			}
			w.i++
			continue
		}
		r, lost, err := w.step()
		if r != nil || !lost.Empty() || err != nil {
			return r, lost, err
		}
	}
	return nil, Range{}, nil
}

// step is next within the current segment, which holds a further record, or should. It may return nothing, having come to a place where reading
// can go on.
func (w *walker) step() (*Record, Range, error) {
	if err := w.open(); err != nil {
		if _, bad := errors.AsType[damage](err); !bad {
			return nil, Range{}, err
		}
		w.s.note(&w.segs[w.i], 0, err)
		return w.pass()
	}
	off := w.sc.off
	f, err := w.sc.next()
	if err == nil {
		if err = f.follows(w.at, w.known); err == nil {
			if !w.known {
				w.at.Chain, w.known = f.chain, true
			}
			w.prev = w.at
			w.hash.chain = w.at.Chain
			w.hash.add(f.bytes)
			w.at = Point{f.rec.Seq, w.hash.chain}
			return &f.rec, Range{}, nil
		}
	}
	if errors.Is(err, errEnd) {
		err = damage("records are missing here")
	}
	if _, bad := errors.AsType[damage](err); !bad {
		w.s.unreadable(&w.segs[w.i])
		return nil, Range{}, err
	}
	w.s.note(&w.segs[w.i], off, err)
	w.sc.off = off
	to, _ := w.bound()
	f, found, err := w.sc.search(Range{w.at.Seq + 1, to.Seq}, false)
	if err != nil {
		w.s.unreadable(&w.segs[w.i])
		return nil, Range{}, err
	}
	if !found {
		return w.pass()
	}
	return nil, w.jump(Point{f.rec.Seq - 1, f.chain}, true), nil
}

// pass gives up the rest of the current segment.
func (w *walker) pass() (*Record, Range, error) {
	to, known := w.bound()
	err := w.leave()
	w.i++
	return nil, w.jump(to, known), err
}

// jump goes on at a later point and returns what lies in between.
func (w *walker) jump(to Point, known bool) Range {
	lost := Range{w.at.Seq + 1, to.Seq}
	w.at, w.known = to, known
	return lost
}

// open makes the current segment readable. Its error is damage when the file is missing, errGone when that is as it should be.
func (w *walker) open() error {
	if w.f != nil {
		return nil
	}
	g := &w.segs[w.i]
	f, err := w.s.cfg.FS.OpenFile(w.s.path(g.first()), os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if !w.s.has(g.first()) {
			return errGone
		}
		return damage("the file is missing")
	}
	if err != nil {
		return err
	}
	w.f = f
	var r io.ReaderAt = f
	if g.errors >= patience {
		r = decayed{f}
	}
	w.sc = scanner{r: r, seed: w.s.seed, end: g.size, off: w.start, buf: w.sc.buf[:0]}
	return nil
}

func (s *Spool) has(first uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.segments, func(g segment) bool { return g.first() == first })
}

// note counts and logs damage, each place once.
func (s *Spool) note(g *segment, off int64, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.segments, func(h segment) bool { return h.first() == g.first() })
	if i < 0 || off < s.segments[i].noted {
		return
	}
	s.segments[i].noted = off + 1
	s.damaged++
	s.cfg.Log.Error("the spool is damaged; what is lost with it comes again from the devices", "file", s.path(g.first()), "offset", off, "reason", why.Error())
}
