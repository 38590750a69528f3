package history

// maxSegments and maxSegmentSize are what a position can name.
const (
	maxSegments    = 1 << 24
	maxSegmentSize = 1<<32 - 1
)

// A position says where a record lies and of which kind it is, in 8 bytes:
//
//	bits 63..40 ordinal of the segment | 39..8 offset in its file | 7..0 kind
//
// Positions of one stream grow in the order of its records.
type position uint64

// newPosition packs a place; the writer keeps both numbers within their bits.
func newPosition(segment int, offset int64, k Kind) position {
	return position(segment)<<40 | position(offset)<<8 | position(k) //nolint:gosec // neither is negative
}

func (p position) segment() int  { return int(p >> 40) }
func (p position) offset() int64 { return int64(p >> 8 & maxSegmentSize) }
func (p position) kind() Kind    { return Kind(p) } //nolint:gosec // the low 8 bits

// An index finds the records of a stream. Its slices only ever grow at the end, so that a reader may go on using one that it got under
// the lock after it let go of the lock.
type index struct {
	streams map[StreamID][]position
}

// add appends; p must lie after every position that the stream has.
func (x *index) add(s StreamID, p position) { x.streams[s] = append(x.streams[s], p) }

// A kindSet is the kinds that a query wants.
type kindSet [4]uint64

// newKindSet returns the set of kinds; none given means all.
func newKindSet(kinds []Kind) kindSet {
	if len(kinds) == 0 {
		return kindSet{^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0)}
	}
	var s kindSet
	for _, k := range kinds {
		s[k>>6] |= 1 << (k & 63)
	}
	return s
}

func (s *kindSet) has(k Kind) bool { return s[k>>6]>>(k&63)&1 == 1 }
