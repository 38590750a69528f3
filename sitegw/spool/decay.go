package spool

import (
	"errors"
	"io"
	"slices"
	"syscall"
)

const (
	// patience is how often a segment must not be readable before the places that are not count as damaged. A reader that waits a second
	// between two tries, and longer each time, has given a disk that is only away for a while minutes by then.
	patience = 10

	// decayedPage is the piece that is read alone from a segment that cannot be read as a whole.
	decayedPage = 4096
)

// unreadable counts that a segment could not be read.
func (s *Spool) unreadable(g *segment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.IndexFunc(s.segments, func(h segment) bool { return h.first() == g.first() }); i >= 0 {
		s.segments[i].errors++
	}
}

// decayed reads a file with bad sectors: what cannot be read is zeros, which no checksum fits. Without it nobody would ever get past the sector.
type decayed struct{ io.ReaderAt }

func (d decayed) ReadAt(b []byte, offset int64) (int, error) {
	n, err := d.ReaderAt.ReadAt(b, offset)
	if !errors.Is(err, syscall.EIO) {
		return n, err
	}
	for n = 0; n < len(b); {
		piece := b[n:min(len(b), n+decayedPage-int((offset+int64(n))%decayedPage))]
		got, err := d.ReaderAt.ReadAt(piece, offset+int64(n))
		if errors.Is(err, syscall.EIO) {
			clear(piece)
			got, err = len(piece), nil
		}
		if n += got; err != nil {
			return n, err
		}
	}
	return n, nil
}
