package spool

import (
	"errors"
	"slices"
)

// What a Read returns at most when it is not told.
const (
	DefaultRecords = 1000
	DefaultBytes   = 1 << 20
)

// A Page is a stretch of the spool.
type Page struct {
	// Lost are records directly behind the one that was asked for that cannot be read any more. Raise an alarm, and go on.
	Lost Range
	// Before is the point behind which Records begin. Its chain is that of the records as they were appended, lost ones included.
	Before Point
	// Records follow on each other without a gap. The caller owns them.
	Records []Record
	// Last is the point behind the last of Records.
	Last Point
}

// After returns the number to read on behind.
func (p *Page) After() uint64 { return p.Before.Seq + uint64(len(p.Records)) }

// Read returns durable records behind number after, in order: at most maxRecords, and no more than maxBytes of data, but at least one if there is
// any; 0 or less means DefaultRecords and DefaultBytes. What is trimmed is passed over. Every checksum is verified. A page without records and
// with nothing lost means that there is nothing more at present: see Wake.
//
// Damage ends a page; the next one says what is lost. Errors are ErrClosed, or the disk's: try again later, with a back-off. What cannot be read
// after many tries counts as damaged.
func (s *Spool) Read(after uint64, maxRecords, maxBytes int) (Page, error) {
	if maxRecords <= 0 {
		maxRecords = DefaultRecords
	}
	if maxBytes <= 0 {
		maxBytes = DefaultBytes
	}
	var p Page
	err := s.walk(after, func(w *walker) (err error) {
		p, err = w.page(maxRecords, maxBytes)
		return err
	})
	return p, err
}

// page gathers a page.
func (w *walker) page(maxRecords, maxBytes int) (p Page, err error) {
	for w.at.Seq < w.after && w.at.Seq < w.end.Seq {
		if _, _, err := w.next(); err != nil {
			return Page{}, err
		}
	}
	if w.at.Seq > w.after && w.after < w.end.Seq { // what is lost reaches beyond it
		p.Lost = Range{w.after + 1, w.at.Seq}
	}
	p.Before = w.at
	here := w.cursor()
	for size := 0; len(p.Records) < maxRecords; {
		r, lost, err := w.next()
		if err != nil {
			return Page{}, err
		}
		if !lost.Empty() && len(p.Records) == 0 {
			if p.Lost.Empty() {
				p.Lost.From = lost.From
			}
			p.Lost.To, p.Before = lost.To, w.at
			here = w.cursor()
			continue
		}
		if r == nil || len(p.Records) > 0 && size+len(r.Data) > maxBytes {
			break
		}
		if len(p.Records) == 0 {
			p.Before = w.prev // only now its chain is sure to be known
		}
		c := *r
		c.Data = slices.Clone(r.Data)
		p.Records, size = append(p.Records, c), size+len(r.Data)
		p.Last = w.at
		here = w.cursor()
	}
	w.s.remember(here)
	return p, nil
}

// PointAt returns the point behind record number seq; false when it is not there: trimmed, lost to damage, or ahead of what is durable.
// Errors are ErrClosed or the disk's.
func (s *Spool) PointAt(seq uint64) (Point, bool, error) {
	p, err := s.pointAt(seq)
	if errors.Is(err, ErrAhead) {
		return Point{}, false, nil
	}
	return p, err == nil && p.Seq == seq, err
}

// pointAt returns the point behind record number seq, or the last point before it that is known.
func (s *Spool) pointAt(seq uint64) (p Point, err error) {
	s.mu.Lock()
	p = s.durable
	read, ok := s.cursors.point(seq)
	s.mu.Unlock()
	switch {
	case ok:
		return read, nil
	case seq > p.Seq:
		return Point{}, ErrAhead
	case seq == p.Seq:
		return p, nil
	}
	err = s.walk(seq, func(w *walker) error {
		p = w.at
		for w.at.Seq < seq {
			if _, _, err := w.next(); err != nil {
				return err
			}
			if w.at.Seq <= seq && w.known {
				p = w.at
			}
		}
		return nil
	})
	return p, err
}
