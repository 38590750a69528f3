package spool

import (
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/holdfast-edge/holdfast/internal/disk"
)

const (
	// DefaultQuota holds two weeks of what a plant of a thousand devices states, several times over.
	DefaultQuota = 1 << 30
	// DefaultReserve is more than the mark and the headers of a thousand segments take.
	DefaultReserve = 128 << 10
	// DefaultSegment is what a drained spool still takes, at most; hundreds of files make up the default quota.
	DefaultSegment = 8 << 20

	// maxQueue bounds the bytes that wait for the disk.
	maxQueue = 4 << 20
)

// Config is what a spool is opened with.
type Config struct {
	Dir     string // the spool's alone; made when it is missing, durably if the directory above it is durable
	FS      disk.FS
	Quota   int64            // bytes on the disk, preallocated ones included; 0: DefaultQuota
	Reserve int64            // of the quota, what records must leave to the mark and the headers; 0: DefaultReserve
	Segment int64            // bytes from which on a segment is full; 0: DefaultSegment, or less under a small quota
	Wall    func() time.Time // stamps the headers; nil: time.Now
	Log     *slog.Logger     // nil: say nothing
}

func (c Config) withDefaults() (Config, error) {
	if c.FS == nil {
		c.FS = disk.OS{}
	}
	if c.Quota == 0 {
		c.Quota = DefaultQuota
	}
	if c.Reserve == 0 {
		c.Reserve = DefaultReserve
	}
	if c.Segment == 0 {
		c.Segment = min(DefaultSegment, (c.Quota-c.Reserve)/4)
	}
	if c.Wall == nil {
		c.Wall = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Reserve < 0 || c.Segment < headerSize || c.Quota-c.Reserve < 2*c.Segment {
		return c, fmt.Errorf("%w: a quota of %d bytes, less %d in reserve, must hold two segments of %d (at least %d)",
			ErrConfig, c.Quota, c.Reserve, c.Segment, headerSize)
	}
	return c, nil
}

// A segment is what is known of one file of records.
type segment struct {
	before Point // behind the record before its first; its number names the file
	lost   bool  // the header is damaged: the chain in before is not known
	size   int64 // bytes of it that are durable
	noted  int64 // damage before this offset is counted
	errors int   // times that it could not be read
}

func (g *segment) first() uint64 { return g.before.Seq + 1 }

// A writer is the segment that is being written.
type writer struct {
	f    disk.File
	size int64
}

// A batch is what is written, synced and acknowledged at once.
type batch struct {
	buf   []byte // frames
	dones []func(uint64, error)
	from  Point // behind the record before it
	to    Point // behind its last
}

// Spool is a durable queue. See the package comment for what may run at the same time.
type Spool struct {
	// Immutable.
	cfg         Config
	lock        io.Closer
	incarnation [16]byte
	seed        uint32
	kick        chan struct{} // capacity 1: the writer has something to do
	wake        chan struct{} // capacity 1: readers have

	// diskMu is held by whoever changes files: the writer, Trim, Close. Lock order: diskMu, mu.
	diskMu sync.Mutex
	mark   mark   // as it was saved last
	spare  []byte // the buffer of the batch before, to be used again
	active *writer
	broken bool // the newest segment must be cut back before anything else

	mu      sync.Mutex
	closed  bool
	pending batch
	hash    hasher // computes the chain behind pending
	plain   int    // frames without a chain at the end of pending
	writing int64  // bytes of the batch that is being written

	segments []segment // oldest first; replaced as a whole or grown at its end, of one in place only size, noted and errors change
	used     int64     // bytes of all segments
	trim     Point
	durable  Point

	full     bool  // at the quota, until a segment is trimmed
	ailing   error // why the disk takes nothing at present; nil when it does
	failures uint64
	damaged  uint64
	cursors  cursors
	oldest   Record // the first record that is not trimmed, without its data, as far as it was looked up
	saved    time.Time
}

// Incarnation identifies the spool: random, and as old as its directory. Records of different incarnations have nothing to do with each other.
func (s *Spool) Incarnation() [16]byte { return s.incarnation }

// Trimmed returns the point up to which everything is done with; the oldest record that can be read is behind it.
func (s *Spool) Trimmed() Point {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trim
}

// Last returns the point behind the newest durable record.
func (s *Spool) Last() Point {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.durable
}

// Wake returns the channel that gets a value when there are new durable records. Its capacity is 1: one value can stand for many.
func (s *Spool) Wake() <-chan struct{} { return s.wake }

// signal puts a value into a channel of capacity 1, unless there is one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// path names a segment's file.
func (s *Spool) path(first uint64) string { return filepath.Join(s.cfg.Dir, fileName(first)) }

// A Status is how the spool does at a moment.
type Status struct {
	Records  uint64 // durable and not trimmed; those that are lost to damage count
	Bytes    int64  // of all segments
	Quota    int64  // what Bytes is held under
	OldestMS int64  // time of the oldest of the records; 0 when there is none, or it cannot be read
	Holding  bool   // Append refuses with ErrHold
	Failed   error  // why the disk takes nothing at present: it is full, or a write failed; nil when it does
	Failures uint64 // times that a write or a sync failed since Open, full disks included
	Damaged  uint64 // places found damaged since Open
}

// Status returns how the spool does. It may read the oldest record from the disk.
func (s *Spool) Status() Status {
	s.mu.Lock()
	st := Status{
		Records: s.durable.Seq - s.trim.Seq, Bytes: s.used, Quota: s.cfg.Quota,
		Holding: s.full || noRoom(s.ailing), Failed: s.ailing, Failures: s.failures,
	}
	oldest, first := s.oldest, s.trim.Seq+1
	s.mu.Unlock()
	if st.Records > 0 && oldest.Seq < first {
		oldest = s.lookUp(first)
	}
	if st.Records > 0 {
		st.OldestMS = oldest.TimeMS
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Damaged = s.damaged
	return st
}

// lookUp finds the oldest record from number first on, and remembers it.
func (s *Spool) lookUp(first uint64) Record {
	p, err := s.Read(first-1, 1, 1)
	if err != nil || len(p.Records) == 0 {
		return Record{}
	}
	r := p.Records[0]
	r.Data = nil
	s.mu.Lock()
	defer s.mu.Unlock()
	s.oldest = r
	return r
}
