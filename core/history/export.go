package history

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
)

// A chunk is a stretch of the history on its way to another node. All integers are big-endian.
//
//	offset  size  field
//	     0     1  version, 1
//	     1     1  1: the sender has no more records up to "upto"; 0: it has
//	     2     8  log index of the record behind which the chunk begins, 0: from the first one
//	    10     4  position of that record
//	    14     8  upto: log index up to which records were asked for
//	    22     n  records: frames as in a segment with id 0, each at its offset in the chunk
const (
	chunkVersion = 1
	chunkHead    = 22

	// MaxChunk is the most bytes that Export puts into a chunk, unless a single record needs more, which is at most 80 bytes over MaxData.
	MaxChunk = 4 << 20
)

type chunk struct {
	last  bool
	after Cursor
	upto  uint64
	recs  []Record // in order; Data aliases the bytes that were decoded
}

// newChunk is a chunk without records that is not the last one.
func newChunk(after Cursor, upto uint64) []byte {
	b := []byte{chunkVersion, 0}
	b = binary.BigEndian.AppendUint64(b, after.Index)
	b = binary.BigEndian.AppendUint32(b, after.N)
	return binary.BigEndian.AppendUint64(b, upto)
}

// decodeChunk reads a whole chunk. Its error wraps ErrChunk.
func decodeChunk(b []byte) (chunk, error) {
	switch {
	case len(b) < chunkHead:
		return chunk{}, fmt.Errorf("%w: it has only %d bytes", ErrChunk, len(b))
	case b[0] != chunkVersion:
		return chunk{}, fmt.Errorf("%w: version %d, this release reads %d", ErrChunk, b[0], chunkVersion)
	case b[1] > 1:
		return chunk{}, fmt.Errorf("%w: byte 1 is %d", ErrChunk, b[1])
	}
	c := chunk{
		last:  b[1] == 1,
		after: Cursor{Index: binary.BigEndian.Uint64(b[2:]), N: binary.BigEndian.Uint32(b[10:])},
		upto:  binary.BigEndian.Uint64(b[14:]),
	}
	place := c.after
	for pos := chunkHead; pos < len(b); {
		rec, size, err := decodeChunkFrame(b[pos:], int64(pos))
		if err != nil {
			return chunk{}, fmt.Errorf("%w: at offset %d, behind record %v: %w", ErrChunk, pos, place, err)
		}
		if rec.Cursor().Compare(place) <= 0 || rec.Index == 0 || rec.Index > c.upto {
			return chunk{}, fmt.Errorf("%w: at offset %d, record %v follows %v in a chunk up to log index %d", ErrChunk, pos, rec.Cursor(), place, c.upto)
		}
		place = rec.Cursor()
		c.recs = append(c.recs, rec)
		pos += size
	}
	return c, nil
}

// decodeChunkFrame reads the record that b begins with, at offset pos of the chunk. Its error is damage.
func decodeChunkFrame(b []byte, pos int64) (Record, int, error) {
	if len(b) < frameHead {
		return Record{}, 0, damage("the frame is cut short")
	}
	length, err := bodyLength(b)
	if err != nil {
		return Record{}, 0, err
	}
	size := frameHead + length
	if len(b) < size {
		return Record{}, 0, damage("the frame is cut short")
	}
	f, err := decodeFrame(b[:size], 0, pos)
	if err == nil && f.footer != nil {
		err = damage("there is a footer in a record's place")
	}
	return f.rec, size, err
}

// joins checks that the chunk goes on from tail or before it, and has nothing behind upto.
func (c *chunk) joins(tail Cursor, upto uint64) error {
	switch {
	case c.after.Compare(tail) > 0:
		return fmt.Errorf("%w: it begins behind record %v, but only what is up to %v is there", ErrChunk, c.after, tail)
	case c.upto > upto:
		return fmt.Errorf("%w: it goes up to log index %d, but only %d was asked for", ErrChunk, c.upto, upto)
	}
	return nil
}

// errStop ends a scan that has seen enough.
var errStop = errors.New("history: enough")

// Export returns records for a peer's Fill: those behind (after, afterN) up to log index upto, in order over all streams, as many as fit
// into maxBytes (at most MaxChunk) and at least one when there is one. It is done when no more follow.
//
// The error wraps ErrIncomplete when this store cannot serve: it has a gap itself, or it does not know to have everything up to upto. It
// knows from a newer record, from Applied and from Skip. Other errors are those of Scan.
func (s *Store) Export(after uint64, afterN uint32, upto uint64, maxBytes int) (chunk []byte, done bool, err error) {
	if err := s.reaches(upto); err != nil {
		return nil, false, err
	}
	from := Cursor{Index: after, N: afterN}
	b := newChunk(from, upto)
	limit := int64(min(maxBytes, MaxChunk))
	err = s.Scan(context.Background(), after, func(r *Record) error {
		switch {
		case r.Cursor().Compare(from) <= 0:
			return nil
		case r.Index > upto:
			return errStop
		case len(b) > chunkHead && int64(len(b))+recordSize(len(r.Data)) > limit:
			return errFull
		}
		b = appendRecord(b, 0, int64(len(b)), r)
		return nil
	})
	switch {
	case errors.Is(err, errFull):
		return b, false, nil
	case err != nil && !errors.Is(err, errStop):
		return nil, false, err
	}
	b[1] = 1
	return b, true, nil
}

// errFull ends a scan because the next record has no room.
var errFull = errors.New("history: chunk is full")

// reaches returns why the store does not know to have all records up to this log index, or nil.
func (s *Store) reaches(upto uint64) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if reach := max(s.last.Index, s.applied); s.down == nil && s.gap == nil && reach < upto {
		return fmt.Errorf("%w: this node has the records up to log index %d, not up to %d", ErrIncomplete, reach, upto)
	}
	return s.readable()
}

// readable returns why nothing can be read, or nil. The caller holds mu.
func (s *Store) readable() error {
	switch {
	case s.down != nil:
		return s.down
	case s.gap != nil:
		return fmt.Errorf("%w: records up to log index %d are still to be fetched from another core node, try again later", ErrIncomplete, s.gap.upto)
	}
	return nil
}
