package history

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"

	"github.com/holdfast-edge/holdfast/internal/disk"
)

const (
	// DefaultLimit is how many records a Read returns when its query sets no limit.
	DefaultLimit = 100

	// MaxLimit is the most records that one Read returns.
	MaxLimit = 1000

	// maxReadBytes is the data after which a Read ends its page early. One record always fits.
	maxReadBytes = 4 << 20

	// readAhead is what a read asks for before it knows a record's length: most records are shorter.
	readAhead = 512
)

// A Query says which records of a stream a Read wants. The zero Query wants the first DefaultLimit ones.
type Query struct {
	After  Cursor // go on behind this record, in the direction asked for; it need not exist. Zero: from the start
	Newest bool   // newest first; otherwise oldest first
	Limit  int    // most records to return; 0 or less means DefaultLimit, more than MaxLimit means MaxLimit
	Kinds  []Kind // only these; empty means all
}

func (q *Query) limit() int {
	if q.Limit <= 0 {
		return DefaultLimit
	}
	return min(q.Limit, MaxLimit)
}

// Read returns records of one stream, which the caller owns, and the cursor to put into the next query. A zero cursor means that there was
// nothing more when the read began; to wait for newer records, go on behind the last one returned. A page ends early when it holds a few
// megabytes.
//
// A damaged record ends the read with an error that wraps ErrCorrupt; while a gap is open the error wraps ErrIncomplete. No records are
// returned beside an error.
func (s *Store) Read(ctx context.Context, stream StreamID, q Query) ([]Record, Cursor, error) {
	positions, r, err := s.reader(stream)
	if err != nil {
		return nil, Cursor{}, err
	}
	recs, next, err := r.page(ctx, positions, &q)
	if err = errors.Join(err, r.close()); err != nil {
		return nil, Cursor{}, fmt.Errorf("read history: %w%s", err, advice(err))
	}
	return recs, next, nil
}

// reader returns where the stream's records are now, and what it takes to read them.
func (s *Store) reader(stream StreamID) ([]position, *reader, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.readable(); err != nil {
		return nil, nil, err
	}
	return s.index.streams[stream], &reader{store: s, stream: stream, firsts: s.firsts, open: -1}, nil
}

// A reader reads single records for one call of Read. It opens the files itself, one at a time, so that it neither minds sealing nor Close.
type reader struct {
	store  *Store
	stream StreamID
	firsts []uint64
	f      disk.File
	open   int // ordinal of the segment that f is, -1 before the first
	buf    []byte
}

func (r *reader) close() error {
	if r.f == nil {
		return nil
	}
	return r.f.Close()
}

// page gathers the records that q wants from positions, which are in order.
func (r *reader) page(ctx context.Context, positions []position, q *Query) (recs []Record, next Cursor, err error) {
	i, step := 0, 1
	if q.Newest {
		i, step = len(positions)-1, -1
	}
	if !q.After.IsZero() {
		if i, err = r.seek(positions, q); err != nil {
			return nil, Cursor{}, err
		}
	}
	kinds, limit, size := newKindSet(q.Kinds), q.limit(), 0
	for ; i >= 0 && i < len(positions); i += step {
		if !kinds.has(positions[i].kind()) {
			continue
		}
		if len(recs) == limit || size >= maxReadBytes {
			return recs, recs[len(recs)-1].Cursor(), nil
		}
		if err := ctx.Err(); err != nil {
			return nil, Cursor{}, err
		}
		rec, err := r.at(positions[i])
		if err != nil {
			return nil, Cursor{}, err
		}
		rec.Data = slices.Clone(rec.Data)
		recs, size = append(recs, rec), size+len(rec.Data)
	}
	return recs, Cursor{}, nil
}

// seek returns the number of the first position behind q.After, in q's direction. The index does not hold log indexes: the segments' names
// narrow the search down to one segment, and the rest is read from there.
func (r *reader) seek(positions []position, q *Query) (int, error) {
	segment := sort.Search(len(r.firsts), func(i int) bool { return r.firsts[i] > q.After.Index }) - 1
	low := sort.Search(len(positions), func(i int) bool { return positions[i].segment() >= segment })
	high := sort.Search(len(positions), func(i int) bool { return positions[i].segment() > segment })
	least := 1 // how the wanted record must compare with After
	if q.Newest {
		least = 0
	}
	var failed error
	n := sort.Search(high-low, func(i int) bool {
		if failed != nil {
			return true
		}
		rec, err := r.at(positions[low+i])
		failed = err
		return rec.Cursor().Compare(q.After) >= least
	})
	if q.Newest {
		n--
	}
	return low + n, failed
}

// at reads and checks one record; its Data is valid until the next call.
func (r *reader) at(p position) (Record, error) {
	if err := r.use(p.segment()); err != nil {
		return Record{}, err
	}
	first := r.firsts[p.segment()]
	rec, err := r.frame(first, p.offset())
	if err == nil && rec.Stream != r.stream {
		err = damage("the record belongs to another stream")
	}
	return rec, located(err, r.store.path(first), p.offset())
}

// use makes r.f the segment with this ordinal.
func (r *reader) use(segment int) error {
	if r.open == segment {
		return nil
	}
	f, err := r.store.fs.OpenFile(r.store.path(r.firsts[segment]), os.O_RDONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return &CorruptError{File: r.store.path(r.firsts[segment]), Reason: "the file is missing"}
	}
	if err != nil {
		return err
	}
	err = r.close()
	r.f, r.open = f, segment
	return err
}

// frame reads the record's frame at offset of the open file. Its error is damage or the disk's.
func (r *reader) frame(first uint64, offset int64) (Record, error) {
	n, err := r.fill(0, readAhead, offset)
	if err != nil {
		return Record{}, err
	}
	if n < frameHead {
		return Record{}, damage("the frame is cut short")
	}
	length, err := bodyLength(r.buf)
	if err != nil {
		return Record{}, err
	}
	size := frameHead + length
	if size > n {
		if n, err = r.fill(n, size, offset); err != nil {
			return Record{}, err
		}
	}
	if n < size {
		return Record{}, damage("the frame is cut short")
	}
	f, err := decodeFrame(r.buf[:size], first, offset)
	if err == nil && f.footer != nil {
		err = damage("there is a footer in a record's place")
	}
	return f.rec, err
}

// fill reads on until the buffer has want bytes of the file from offset, or the file ends; have of them are there already.
func (r *reader) fill(have, want int, offset int64) (int, error) {
	r.buf = slices.Grow(r.buf[:have], want-have)[:want]
	n, err := disk.ReadFull(r.f, r.buf[have:], offset+int64(have))
	return have + n, err
}

// Last returns the place of the newest record; (0, 0) when there is none. After Open it is the newest that survived. While a gap is open it
// is the newest one that was appended behind the gap or, before there is one, the newest of those before it that are there.
func (s *Store) Last() (index uint64, n uint32) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	last := s.last
	if s.ahead != nil {
		if index, n := s.ahead.Last(); index > 0 {
			last = Cursor{index, n}
		}
	}
	return last.Index, last.N
}

// Segments returns the sealed segments in order.
func (s *Store) Segments() ([]Segment, error) {
	infos, err := s.view()
	if err != nil {
		return nil, err
	}
	var sealed []Segment
	for i := range infos {
		if infos[i].sealed {
			sealed = append(sealed, infos[i].Segment)
		}
	}
	return sealed, nil
}

// view returns a copy of what is known of the segments now.
func (s *Store) view() ([]segmentInfo, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.segments), s.readable()
}

// Scan calls fn with every record from log index from on, in order, up to the newest there was when the scan began. A record's Data is
// valid only during the call. An error of fn ends the scan and is wrapped; damage is an error that wraps ErrCorrupt, after the
// records before it; while a gap is open the error wraps ErrIncomplete.
func (s *Store) Scan(ctx context.Context, from uint64, fn func(*Record) error) error {
	return s.scan(ctx, from, func(_ uint64, _ int64, r *Record) error { return fn(r) })
}

// scan is Scan that tells where each record lies: the id of its segment and the offset in the file.
func (s *Store) scan(ctx context.Context, from uint64, fn func(first uint64, pos int64, r *Record) error) error {
	infos, err := s.view()
	if err != nil {
		return err
	}
	start := max(0, sort.Search(len(infos), func(i int) bool { return infos[i].First > from })-1)
	for i := start; i < len(infos); i++ {
		var prev uint64
		if i > 0 {
			prev = infos[i-1].First
		}
		err := s.scanOne(&infos[i], prev, func(pos int64, r *Record) error {
			if err := ctx.Err(); err != nil || r.Index < from {
				return err
			}
			return fn(infos[i].First, pos, r)
		})
		if err != nil {
			return fmt.Errorf("scan history: %w%s", err, advice(err))
		}
	}
	return nil
}

// MarkAt sums up the records up to log index upto, by reading them. Its errors are those of Scan.
func (s *Store) MarkAt(ctx context.Context, upto uint64) (Mark, error) {
	var m Mark
	err := s.Scan(ctx, 0, func(r *Record) error {
		if r.Index > upto {
			return errStop
		}
		m = m.next(r)
		return nil
	})
	if err != nil && !errors.Is(err, errStop) {
		return Mark{}, err
	}
	return m, nil
}

// Verify reads everything again and compares it with its checksums, with what sealed segments were when they were sealed or opened, and, up
// to log index upto, with the chain that the replicated state has there. It takes the time that the disk needs; run it now and then to learn
// of decaying disks. Damage is an error that wraps ErrCorrupt; its text names the segment, the offset and the record before it. Sound records
// with another chain are an error that wraps ErrMismatch; its text names the last record up to upto and its place. While a gap is open the
// error wraps ErrIncomplete.
func (s *Store) Verify(ctx context.Context, want Mark, upto uint64) error {
	var (
		got   Mark
		last  Cursor
		first uint64
		pos   int64
	)
	err := s.scan(ctx, 0, func(segment uint64, offset int64, r *Record) error {
		if r.Index <= upto {
			got, last, first, pos = got.next(r), r.Cursor(), segment, offset
		}
		return nil
	})
	if err == nil && got != want {
		err = fmt.Errorf("%w: up to log index %d there must be %v, but there are %v, the last of them %v in %s at offset %d; "+
			"remove this node from the cluster and join it again with an empty data directory", ErrMismatch, upto, want, got, last, s.path(first), pos)
	}
	return err
}

// scanOne scans the part of a segment that info knows, and makes sure that it is as info says.
func (s *Store) scanOne(info *segmentInfo, prev uint64, visit func(int64, *Record) error) (err error) {
	name := s.path(info.First)
	f, err := s.fs.OpenFile(name, os.O_RDONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return &CorruptError{File: name, Reason: "the file is missing"}
	}
	if err != nil {
		return err
	}
	t, err := scanSegment(io.NewSectionReader(f, 0, info.Bytes), name, header{first: info.First, prev: prev}, visit)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if t.info(info.First) != *info {
		return &CorruptError{File: name, Offset: t.end, Reason: "the segment is not what it was"}
	}
	return nil
}
