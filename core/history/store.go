package history

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"path/filepath"
	"sync"

	"github.com/holdfast-edge/holdfast/internal/disk"
)

const (
	// DefaultSegmentBytes is the size from which on a segment is sealed: small enough to fetch from a peer in one go over a slow line,
	// large enough that a year's history of a big fleet is hundreds of files and not tens of thousands.
	DefaultSegmentBytes = 16 << 20

	// MaxSegmentBytes leaves three quarters of what a position can name to the records of the one index that a segment may grow by.
	MaxSegmentBytes = 1 << 30

	// flushBytes is how much Append gathers before it writes. With one record more it bounds the writer's buffer.
	flushBytes = 256 << 10

	// segmentName has room for every uint64, so that names sort like the numbers in them.
	segmentName = "%020d.hist"
)

// Options adjust a store. The zero value is ready for use.
type Options struct {
	// SegmentBytes is the size from which on a segment is sealed, at the next new log index; 0 means DefaultSegmentBytes, at most
	// MaxSegmentBytes. It must be the same on all nodes and must not change, or their segments can no longer be compared.
	SegmentBytes int64
	Logger       *slog.Logger // nil: say nothing
	FS           disk.FS      // nil: the operating system's
}

// A Segment describes a sealed segment.
type Segment struct {
	First   uint64 // log index of its first record; names the file
	Last    Cursor // its last record
	Records uint64
	Bytes   int64             // size of the file
	Sum     [sha256.Size]byte // of the file without its footer; equal on nodes that were given the same records
}

// segmentInfo is what the store remembers of a segment.
type segmentInfo struct {
	Segment

	sealed bool // Sum is set and nothing is added any more
}

// Store is the history of one node in one directory. See the package comment for what may run at the same time.
type Store struct {
	// Immutable.
	dir          string
	segmentBytes int64
	log          *slog.Logger
	fs           disk.FS
	lock         io.Closer

	// Held through Skip and Fill, the calls that open and close the gap. Lock order: fillMu, wmu, syncMu, mu; those of ahead like its own.
	fillMu sync.Mutex

	// The writer's, guarded by wmu. While a gap is open only the holder of fillMu adds to these.
	wmu     sync.Mutex
	active  *writer // nil before the first record and after a seal
	tail    Cursor  // last record put; ahead of last only within Append
	chain   Mark    // of the records put
	pending []entry // records in active's buffer, not yet to be found

	// Guarded by syncMu, which also keeps the active file open while a Sync uses it.
	syncMu sync.Mutex
	mark   syncMark

	// The gap and the store of what is appended while it is open; nil when there is none. Guarded by wmu and mu: to change them takes both.
	// Neither is changed in place.
	gap   *gap
	ahead *Store

	// What readers see, guarded by mu.
	mu       sync.RWMutex
	down     error // ErrClosed, or what stopped the store; nil while it works
	last     Cursor
	applied  uint64   // log index up to which the caller said that all is appended
	firsts   []uint64 // first index of each segment; only ever grows at the end
	segments []segmentInfo
	index    index
}

// A writer is the segment that is being written.
type writer struct {
	f     disk.File
	first uint64
	tally        // what is in the file
	buf   []byte // what is not yet; at most flushBytes and one record
}

// size is the size that the file will have once the buffer is written.
func (w *writer) size() int64 { return w.end + int64(len(w.buf)) }

// An entry is a record on its way into the index.
type entry struct {
	stream StreamID
	pos    position
}

// Append stores recs, which must be in ascending order of (Index, N), with all records of an index in one call. Those at or before the last
// stored record are passed over, so that a log can be applied again; so are, while a gap is open, those that Fill brings. A nil error means
// that reads find the records and that they survive the end of the process, but not a power cut: see Sync. The records may be reused after
// the call.
//
// An error that wraps ErrInvalid has changed nothing; every other one has stopped the store.
func (s *Store) Append(recs []Record) error {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	if err := check(recs); err != nil {
		return err
	}
	t := s
	if s.gap != nil {
		t, recs = s.ahead, after(recs, Cursor{Index: s.gap.upto, N: math.MaxUint32})
	}
	recs = after(recs, t.tail)
	if err := t.fits(recs); err != nil {
		return err
	}
	if err := t.write(recs); err != nil {
		return s.fail(err)
	}
	return nil
}

// write puts records that follow on the last one, and flushes.
func (s *Store) write(recs []Record) error {
	for i := range recs {
		if err := s.put(&recs[i]); err != nil {
			return err
		}
	}
	return s.flush()
}

// fits refuses a batch whose records of one index would outgrow what a position can name.
func (s *Store) fits(recs []Record) error {
	var size int64 = headerSize
	if s.active != nil {
		size = s.active.end
	}
	last := s.tail.Index
	for i := range recs {
		if recs[i].Index != last && size >= s.segmentBytes {
			size = headerSize
		}
		last = recs[i].Index
		if size += recordSize(len(recs[i].Data)); size > maxSegmentSize-frameHead-footerBody {
			return fmt.Errorf("%w: the records of log index %d take more than a segment can hold", ErrInvalid, last)
		}
	}
	return nil
}

// put adds one record to the active segment's buffer. A full segment is sealed here, and only between two log indexes: so where a segment
// ends depends on the records alone, and every index lies in one segment.
func (s *Store) put(r *Record) error {
	if s.active != nil && s.active.size() >= s.segmentBytes && r.Index != s.tail.Index {
		if err := s.seal(); err != nil {
			return err
		}
	}
	if s.active == nil {
		if err := s.begin(r.Index); err != nil {
			return err
		}
	}
	w := s.active
	pos := w.size()
	w.buf = appendRecord(w.buf, w.first, pos, r)
	s.pending = append(s.pending, entry{r.Stream, newPosition(len(s.firsts)-1, pos, r.Kind)})
	s.tail, s.chain = r.Cursor(), s.chain.next(r)
	if len(w.buf) < flushBytes {
		return nil
	}
	return s.flush()
}

// flush writes the buffer and lets readers find what was in it.
func (s *Store) flush() error {
	w := s.active
	if len(s.pending) == 0 {
		return nil
	}
	if _, err := w.f.WriteAt(w.buf, w.end); err != nil {
		return fmt.Errorf("write %s at offset %d: %w", s.path(w.first), w.end, err)
	}
	w.add(w.buf, s.tail, uint64(len(s.pending)))
	w.buf = w.buf[:0]
	s.publish()
	return nil
}

// publish moves the pending records into the index.
func (s *Store) publish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.pending {
		s.index.add(e.stream, e.pos)
	}
	s.pending = s.pending[:0]
	s.last = s.tail
	s.segments[len(s.segments)-1] = s.active.info()
}

// info describes the segment as it stands in the file.
func (t *tally) info(first uint64) segmentInfo {
	info := segmentInfo{sealed: t.sealed}
	info.First, info.Last, info.Records, info.Bytes = first, t.last, t.records, t.end
	if t.sealed {
		t.sum.Sum(info.Sum[:0])
	}
	return info
}

// here is the sync mark of everything that was written. The buffer is empty.
func (s *Store) here() syncMark { return syncMark{s.active.first, s.active.end, s.chain} }

func (w *writer) info() segmentInfo { return w.tally.info(w.first) }

// seal ends the active segment. The mark is moved before another segment begins: so only the newest segment can ever hold bytes that
// are not synced.
func (s *Store) seal() error {
	if err := s.flush(); err != nil {
		return err
	}
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	w := s.active
	b := appendFooter(nil, w.first, w.end, w.footer())
	if _, err := w.f.WriteAt(b, w.end); err != nil {
		return fmt.Errorf("seal %s: %w", s.path(w.first), err)
	}
	w.end += int64(len(b))
	w.sealed = true
	if err := s.syncTo(w.f, s.here()); err != nil {
		return err
	}
	s.mu.Lock()
	s.segments[len(s.segments)-1] = w.info()
	s.mu.Unlock()
	s.active = nil
	if err := w.f.Close(); err != nil {
		return fmt.Errorf("close sealed segment: %w", err)
	}
	return nil
}

// begin starts the segment whose first record has this index.
func (s *Store) begin(first uint64) error {
	if len(s.firsts) >= maxSegments {
		return fmt.Errorf("%d segments are all that a store can have, use larger ones", maxSegments)
	}
	h := header{first: first}
	if n := len(s.firsts); n > 0 {
		h.prev = s.firsts[n-1]
	}
	b := encodeHeader(h)
	f, err := disk.Create(s.fs, s.dir, fmt.Sprintf(segmentName, first), b)
	if err != nil {
		return err
	}
	if err := f.Reserve(s.segmentBytes); err != nil {
		return errors.Join(fmt.Errorf("reserve room for %s: %w", s.path(first), err), f.Close())
	}
	w := &writer{f: f, first: first, tally: newTally()}
	w.add(b, Cursor{}, 0)
	s.active = w
	s.mu.Lock()
	defer s.mu.Unlock()
	s.firsts = append(s.firsts, first)
	s.segments = append(s.segments, w.info())
	return nil
}

// Sync makes everything durable whose Append returned before. Call it before the log that produced the records is cut, that is before a
// snapshot of the replicated state is taken. Its errors stop the store.
func (s *Store) Sync() error {
	s.wmu.Lock()
	if err := s.usable(); err != nil {
		s.wmu.Unlock()
		return err
	}
	t := s
	if s.gap != nil { // what is filled in need not survive
		t = s.ahead
	}
	w := t.active
	if w == nil { // sealing has synced all there is
		s.wmu.Unlock()
		return nil
	}
	m := t.here()
	t.syncMu.Lock()
	defer t.syncMu.Unlock()
	s.wmu.Unlock()
	if err := t.syncTo(w.f, m); err != nil {
		return s.fail(err)
	}
	return nil
}

// syncTo makes f durable and then says so in the mark. The caller holds syncMu.
func (s *Store) syncTo(f disk.File, m syncMark) error {
	if m == s.mark {
		return nil
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", s.path(m.first), err)
	}
	if err := writeMark(s.fs, s.dir, m); err != nil {
		return err
	}
	s.mark = m
	return nil
}

// syncAll makes everything that was written durable. The caller holds wmu.
func (s *Store) syncAll() error {
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	if s.active == nil {
		return nil
	}
	return s.syncTo(s.active.f, s.here())
}

// Close syncs, and releases the directory. Reads that are under way end by themselves, in either way. Closing again does nothing.
func (s *Store) Close() error {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	err := s.usable()
	if errors.Is(err, ErrClosed) {
		return nil
	}
	working := err == nil
	for _, t := range []*Store{s, s.ahead} {
		if t != nil {
			err = errors.Join(err, t.shut(working))
		}
	}
	s.mu.Lock()
	s.down = ErrClosed
	s.mu.Unlock()
	return errors.Join(err, s.lock.Close())
}

// shut closes the active segment, after a last sync if the store works. The caller holds wmu.
func (s *Store) shut(working bool) error {
	var err error
	if working {
		err = s.syncAll()
	}
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	return errors.Join(err, s.closeActive())
}

// usable returns why the store does not work any more, or nil.
func (s *Store) usable() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.down
}

// fail stops the store and returns the error that every later call will return: the first one.
func (s *Store) fail(cause error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down == nil {
		s.down = fmt.Errorf("%w, restart the process when it is dealt with: %w", ErrFailed, cause)
		s.log.Error("history store stopped", "dir", s.dir, "err", cause)
	}
	return s.down
}

// path names a segment's file.
func (s *Store) path(first uint64) string {
	return filepath.Join(s.dir, fmt.Sprintf(segmentName, first))
}
