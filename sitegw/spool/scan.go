package spool

import (
	"bytes"
	"errors"
	"io"

	"github.com/holdfast-edge/holdfast/internal/disk"
)

const (
	// window is how much a scanner reads at once.
	window = 64 << 10

	// searchBudget is how many bytes a search for the next sound frame may run through the checksum; more than any damage that is not
	// made on purpose needs.
	searchBudget = 64 << 20
)

// A scanner goes through the frames of one segment, up to end.
type scanner struct {
	r    io.ReaderAt
	seed uint32
	end  int64
	off  int64 // of the next frame

	buf  []byte // bytes of the file
	base int64  // where they begin
}

// peek returns n bytes from offset on, or fewer where the segment ends. They are valid until the next call.
func (s *scanner) peek(offset int64, n int) ([]byte, error) {
	n = int(min(int64(n), s.end-offset))
	if n <= 0 {
		return nil, nil
	}
	if from := offset - s.base; from >= 0 && from+int64(n) <= int64(len(s.buf)) {
		return s.buf[from : from+int64(n)], nil
	}
	size := int(min(int64(max(n, window)), s.end-offset))
	if cap(s.buf) < size {
		s.buf = make([]byte, size)
	}
	got, err := disk.ReadFull(s.r, s.buf[:size], offset)
	s.buf, s.base = s.buf[:got], offset
	return s.buf[:min(n, got)], err
}

// some returns bytes from offset on, as many as are at hand; none where the segment ends.
func (s *scanner) some(offset int64) ([]byte, error) {
	if from := offset - s.base; from >= 0 && from < int64(len(s.buf)) {
		return s.buf[from:], nil
	}
	return s.peek(offset, window)
}

// errEnd is the scanner's word for the end of the segment behind a whole frame.
var errEnd = errors.New("spool: end of segment")

// next reads the next frame. Its error is errEnd, damage, or the disk's; only without one the scanner moves on. The record's Data is valid until
// the next call.
func (s *scanner) next() (frame, error) {
	f, size, err := s.at(s.off)
	if err == nil {
		s.off += size
	}
	return f, err
}

func (s *scanner) at(offset int64) (frame, int64, error) {
	head, err := s.peek(offset, frameHead)
	switch {
	case err != nil:
		return frame{}, 0, err
	case len(head) == 0:
		return frame{}, 0, errEnd
	case len(head) < frameHead:
		return frame{}, 0, damage("the frame is cut short")
	}
	n, ok := bodyLength(head)
	if !ok {
		return frame{}, 0, damage("no frame begins here")
	}
	b, err := s.peek(offset, frameHead+n)
	if err != nil {
		return frame{}, 0, err
	}
	if len(b) < frameHead+n {
		return frame{}, 0, damage("the frame is cut short")
	}
	f, err := decodeFrame(s.seed, b)
	return f, int64(len(b)), err
}

// search moves the scanner to the next frame behind where it is that carries a chain, and whose record has a number within the range, and one that
// fits the distance; batch asks for one that begins a batch. found is false when there is none. The scanner stays where it is then.
func (s *scanner) search(in Range, batch bool) (f frame, found bool, err error) {
	want := byte(flagChain)
	if batch {
		want |= flagBatch
	}
	budget := int64(searchBudget)
	for offset := s.off + 1; offset < s.end && budget > 0; offset++ {
		b, err := s.some(offset)
		if err != nil {
			return f, false, err
		}
		if len(b) == 0 {
			break
		}
		skip := bytes.IndexByte(b, frameMagic)
		if skip < 0 {
			offset += int64(len(b)) - 1
			continue
		}
		offset += int64(skip)
		f, size, err := s.candidate(offset, want)
		budget -= size
		if _, bad := errors.AsType[damage](err); bad {
			continue
		}
		if err != nil {
			return f, false, err
		}
		room := uint64(offset-s.off) / (frameHead + minBody) //nolint:gosec // offset is beyond s.off
		if f.flags&want == want && f.rec.Seq >= in.From && f.rec.Seq-in.From <= room && f.rec.Seq <= in.To {
			s.off = offset
			return f, true, nil
		}
	}
	return f, false, nil
}

// candidate is at for a place that need not be the beginning of a frame: it looks at the flags before it reads all of it. The size is what the
// checksum had to go through.
func (s *scanner) candidate(offset int64, want byte) (frame, int64, error) {
	b, err := s.peek(offset, frameHead+1)
	if err != nil {
		return frame{}, 0, err
	}
	if len(b) <= frameHead || b[frameHead]&want != want {
		return frame{}, 0, damage("not the frame that is wanted")
	}
	n, ok := bodyLength(b)
	if !ok || offset+int64(frameHead+n) > s.end {
		return frame{}, 0, damage("no frame begins here")
	}
	f, _, err := s.at(offset)
	return f, int64(n), err
}
