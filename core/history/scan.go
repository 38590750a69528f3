package history

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
)

// scanBuffer is how much a scan reads at once: large enough that system calls do not count.
const scanBuffer = 256 << 10

// sized is a reader that knows how much there is to read, as bytes.Reader and io.SectionReader do.
type sized interface {
	io.Reader
	Size() int64
}

// A tally is what is known of a segment from its first byte up to end. The writer and the scanner keep it in the same way, so that a
// segment is sealed alike whether it was written at a stretch or over many restarts.
type tally struct {
	end     int64 // bytes of the header and the frames counted; of the footer too once sealed
	records uint64
	last    Cursor
	sum     hash.Hash // SHA-256 of the bytes before end, without the footer
	sealed  bool
}

func newTally() tally { return tally{sum: sha256.New()} }

// add counts a frame's worth of bytes and the record in them.
func (t *tally) add(b []byte, last Cursor, records uint64) {
	t.sum.Write(b)
	t.end += int64(len(b))
	t.last = last
	t.records += records
}

func (t *tally) footer() *footer {
	f := &footer{records: t.records, last: t.last}
	t.sum.Sum(f.sum[:0])
	return f
}

// scanSegment reads a segment from its first byte, checks everything in it and calls visit with each record and its offset; the record's
// Data is valid only during the call. The tally covers what was found good, also beside an error, and its sum is never nil. The error is
// a CorruptError for the first thing that is wrong, wraps ErrVersion, or is what r or visit returned.
func scanSegment(r sized, file string, want header, visit func(pos int64, r *Record) error) (tally, error) {
	s := scanner{r: bufio.NewReaderSize(r, int(min(r.Size(), scanBuffer))), first: want.first, t: newTally()}
	err := s.header(want)
	for err == nil {
		err = s.frame(visit)
	}
	if errors.Is(err, errEnd) {
		err = nil
	}
	if d, ok := errors.AsType[damage](err); ok && s.t.records > 0 {
		err = d + damage(fmt.Sprintf(", behind record %v", s.t.last))
	}
	return s.t, located(err, file, s.t.end)
}

// A scanner goes through one segment.
type scanner struct {
	r     *bufio.Reader
	first uint64
	t     tally
	buf   []byte // the frame at hand; at most frameHead+maxBody bytes
}

func (s *scanner) header(want header) error {
	n, err := s.read(headerSize)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	got, err := decodeHeader(s.buf[:n])
	switch {
	case err != nil:
		return err
	case got.first != want.first:
		return damage(fmt.Sprintf("the header is that of segment %d", got.first))
	case got.prev != want.prev:
		return damage(fmt.Sprintf("the segment before it was %d, but the directory has %d there", got.prev, want.prev))
	}
	s.t.add(s.buf[:n], Cursor{}, 0)
	return nil
}

// errEnd is the scanner's word for the proper end of a segment. It is not io.EOF, which a visitor may return for reasons of its own.
var errEnd = errors.New("history: end of segment")

// frame reads and counts the next frame; errEnd means that the segment ends here properly.
func (s *scanner) frame(visit func(pos int64, r *Record) error) error {
	b, err := s.nextFrame()
	switch {
	case err != nil:
		return err
	case s.t.sealed:
		return damage("something follows the footer")
	}
	f, err := decodeFrame(b, s.first, s.t.end)
	if err != nil {
		return err
	}
	if f.footer != nil {
		return s.seal(f.footer, len(b))
	}
	c := f.rec.Cursor()
	switch {
	case s.t.records == 0 && c.Index != s.first:
		return damage(fmt.Sprintf("the first record is %v", c))
	case c.Compare(s.t.last) <= 0:
		return damage(fmt.Sprintf("record %v follows %v", c, s.t.last))
	}
	if err := visit(s.t.end, &f.rec); err != nil {
		return err
	}
	s.t.add(b, c, 1)
	return nil
}

// nextFrame reads one whole frame without looking into it.
func (s *scanner) nextFrame() ([]byte, error) {
	n, err := s.read(frameHead)
	if err != nil {
		return nil, cutShort(err, n)
	}
	length, err := bodyLength(s.buf)
	if err != nil {
		return nil, err
	}
	s.buf = append(s.buf[:frameHead], make([]byte, length)...)
	if _, err := io.ReadFull(s.r, s.buf[frameHead:]); err != nil {
		return nil, cutShort(err, frameHead)
	}
	return s.buf, nil
}

// seal checks the footer against what was counted.
func (s *scanner) seal(f *footer, size int) error {
	if s.t.records == 0 || *f != *s.t.footer() {
		return damage("the footer does not fit the records before it")
	}
	s.t.end += int64(size)
	s.t.sealed = true
	return nil
}

// read fills the buffer with n bytes, or fewer beside an error.
func (s *scanner) read(n int) (int, error) {
	s.buf = append(s.buf[:0], make([]byte, n)...)
	return io.ReadFull(s.r, s.buf)
}

// cutShort tells the end of the file between two frames from one within a frame, of which got bytes were there.
func cutShort(err error, got int) error {
	switch {
	case errors.Is(err, io.EOF) && got == 0:
		return errEnd
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return damage("the frame is cut short")
	}
	return err
}
