package history

import (
	"cmp"
	"fmt"
	"time"
)

// MaxData is the most bytes a record's Data may have: 1 MiB. It bounds what one read has to hold and what a damaged length can ask for.
const MaxData = 1 << 20

// Kind says what sort of thing a record tells. The store only filters by it.
type Kind uint8

// StreamID names whose history a record belongs to: by convention one byte for the sort of subject and its 16-byte id. The store only
// compares it.
type StreamID [17]byte

// A Record is one thing that happened, as applying a log entry returned it.
type Record struct {
	Index  uint64    // log index of the entry that produced it, from 1
	N      uint32    // position among the records of that index, from 0
	Time   time.Time // log time; kept to the millisecond, returned in UTC
	Kind   Kind
	Stream StreamID
	Data   []byte // opaque, at most MaxData bytes; empty comes back as nil
}

// Cursor returns the record's own place in the history.
func (r *Record) Cursor() Cursor { return Cursor{Index: r.Index, N: r.N} }

// A Cursor names one record by log index and position within it. It means the same on every node and after every restart. The zero
// Cursor names none: log indexes start at 1.
type Cursor struct {
	Index uint64
	N     uint32
}

// IsZero reports whether the cursor names no record.
func (c Cursor) IsZero() bool { return c == Cursor{} }

// Compare returns -1, 0 or +1 as c lies before, at or after d.
func (c Cursor) Compare(d Cursor) int {
	if r := cmp.Compare(c.Index, d.Index); r != 0 {
		return r
	}
	return cmp.Compare(c.N, d.N)
}

// String returns "index/n".
func (c Cursor) String() string { return fmt.Sprintf("%d/%d", c.Index, c.N) }

// check reports the first record that cannot be stored: without an index, too large, or not after the one before it.
func check(recs []Record) error {
	var prev Cursor
	for i := range recs {
		r := &recs[i]
		switch c := r.Cursor(); {
		case r.Index == 0:
			return fmt.Errorf("%w: record %d of the batch has log index 0", ErrInvalid, i)
		case len(r.Data) > MaxData:
			return fmt.Errorf("%w: record %v has %d bytes of data, at most %d are kept", ErrInvalid, c, len(r.Data), MaxData)
		case c.Compare(prev) <= 0 && i > 0:
			return fmt.Errorf("%w: record %v follows %v in one batch", ErrInvalid, c, prev)
		default:
			prev = c
		}
	}
	return nil
}

// after returns the part of recs, which is in order, that lies after c.
func after(recs []Record, c Cursor) []Record {
	for i := range recs {
		if recs[i].Cursor().Compare(c) > 0 {
			return recs[i:]
		}
	}
	return nil
}
