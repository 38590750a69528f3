package custody

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"github.com/holdfast-edge/holdfast/sitegw/spool"
	"github.com/holdfast-edge/holdfast/wire"
)

// A Batch is what to send in one message: statements in the order in which they were taken, and behind them spans likewise.
type Batch struct {
	recs   []spool.Record
	first  uint64 // least number in recs
	begun  time.Time
	repeat bool        // it is what the core did not take before
	upto   spool.Point // behind the last of recs; zero: they need not follow on one another
}

// newBatch makes a batch of records, at least one, in the order of their numbers.
func newBatch(recs []spool.Record) *Batch {
	b := &Batch{first: recs[0].Seq, recs: recs}
	slices.SortStableFunc(b.recs, func(x, y spool.Record) int { return cmp.Compare(x.Kind, y.Kind) })
	return b
}

// Submit is the batch as a message. A span that does not read goes as one that the core refuses.
func (b *Batch) Submit(id uint64) wire.Submit {
	m := wire.Submit{ID: id, TimeMS: b.recs[0].TimeMS}
	if b.upto.Seq != 0 {
		m.Upto = &wire.SpoolPoint{Seq: b.upto.Seq, Chain: b.upto.Chain}
	}
	for i := range b.recs {
		r := &b.recs[i]
		if r.Kind == KindStatement {
			m.Statements = append(m.Statements, r.Data)
			m.AfterMS = append(m.AfterMS, r.TimeMS-m.TimeMS)
			continue
		}
		var s wire.Span
		if wire.Unmarshal(r.Data, &s) != nil {
			s = wire.Span{}
		}
		m.Spans = append(m.Spans, s)
	}
	return m
}

// Len is how many statements and spans are in it.
func (b *Batch) Len() int { return len(b.recs) }

// Bounds of a replay. The size of a batch follows the link: one that is answered late was too large, so that a WAN that
// comes back for ten seconds every ten minutes still brings something to its end.
const (
	maxUnderWay  = 4
	minBatch     = 16
	maxBatchSize = wire.MaxFrame - wire.MaxStatement - 8<<10 // bytes, below the frame's limit
	quick        = 500 * time.Millisecond
	slow         = 2 * time.Second

	// What the core would not take yet is tried again by itself. While that much waits, nothing new is sent.
	maxPutOff   = 4 * wire.MaxBatch
	putOffFor   = 5 * time.Second
	putOffBytes = 4 << 20
)

// A Replay goes through the spool for one session of the uplink, from the oldest record that the core has not answered
// for. Its methods are for one goroutine.
//
// Invariant: every record behind the spool's mark is under way, put off, or behind after.
type Replay struct {
	k        *Keeper
	after    uint64   // read up to here
	size     int      // of the next batch
	underWay []*Batch // in the order in which they were sent
	putOff   []spool.Record
	again    time.Time // when what is put off is tried again
}

// Replay begins a replay.
func (k *Keeper) Replay() *Replay { return &Replay{k: k, after: k.Spool.Trimmed().Seq, size: minBatch} }

// Next is what to send now. nil: nothing, before Wake, an answer, or the given time (zero: none) comes.
func (r *Replay) Next(now time.Time) (b *Batch, retry time.Time, err error) {
	if len(r.underWay) >= maxUnderWay {
		return nil, time.Time{}, nil
	}
	if len(r.putOff) > 0 && !now.Before(r.again) {
		n := min(len(r.putOff), r.size)
		b = newBatch(slices.Clone(r.putOff[:n]))
		b.repeat = true
		r.putOff = slices.Delete(r.putOff, 0, n)
	} else if len(r.putOff) < maxPutOff && bytes(r.putOff) < putOffBytes {
		if b, err = r.read(); err != nil {
			return nil, time.Time{}, err
		}
	}
	if b == nil {
		if len(r.putOff) > 0 {
			retry = r.again
		}
		return nil, retry, nil
	}
	b.begun = now
	r.underWay = append(r.underWay, b)
	return b, time.Time{}, nil
}

func bytes(recs []spool.Record) (n int) {
	for i := range recs {
		n += len(recs[i].Data)
	}
	return n
}

// read takes the next records from the spool. What the disk lost is passed over: the devices still hold it, and send it again
// when no receipt comes. So are records of a kind that this build does not know: there is nobody to send them to.
func (r *Replay) read() (*Batch, error) {
	for {
		page, err := r.k.Spool.Read(r.after, r.size, maxBatchSize)
		if err != nil {
			return nil, err
		}
		if !page.Lost.Empty() {
			n := page.Lost.To - page.Lost.From + 1
			r.k.lost.Add(n)
			r.k.Log.Error("the disk lost records of the spool", "from", page.Lost.From, "to", page.Lost.To)
		}
		if len(page.Records) == 0 && page.Lost.Empty() {
			return nil, nil
		}
		r.after = page.After()
		recs := slices.DeleteFunc(page.Records, func(x spool.Record) bool { return x.Kind != KindStatement && x.Kind != KindSpan })
		if len(recs) > 0 {
			b := newBatch(recs)
			b.upto = page.Last
			return b, nil
		}
	}
}

// errAnswer is an answer that does not fit what was asked.
var errAnswer = errors.New("the core answered for another number of statements and spans")

// Answered takes the core's answer to a batch: results, or why there are none. It returns those statements that the core will
// never take.
func (r *Replay) Answered(b *Batch, results []wire.SubmitResult, failed error, now time.Time) (refused []Refused, err error) {
	r.underWay = slices.DeleteFunc(r.underWay, func(x *Batch) bool { return x == b })
	if failed == nil && len(results) != len(b.recs) {
		return nil, errAnswer
	}
	if failed != nil { // nobody took anything, so there is nobody to tell
		r.postpone(b.recs, now)
		r.size = max(minBatch, r.size/2)
		return nil, nil //nolint:nilerr // it is tried again
	}
	var late []spool.Record
	for i := range results {
		switch res := &results[i]; {
		case res.Code == wire.CodeNone:
		case res.Code.Temporary():
			late = append(late, b.recs[i])
		case b.recs[i].Kind == KindSpan:
			r.k.doubted.Add(1)
			r.k.Log.Warn("the core did not take a span of presence", "code", res.Code.String(), "detail", res.Detail)
		default:
			r.k.refused.Add(1)
			refused = append(refused, Refused{Sealed: b.recs[i].Data, Code: res.Code, Detail: res.Detail})
		}
	}
	r.postpone(late, now)
	switch took := now.Sub(b.begun); {
	case took > slow:
		r.size = max(minBatch, r.size/2)
	case took < quick && len(late) == 0:
		r.size = min(wire.MaxBatch, r.size*2)
	}
	return refused, r.trim()
}

// A Refused is a statement that the core will never take.
type Refused struct {
	Sealed []byte
	Code   wire.Code
	Detail string
}

// postpone puts records off, oldest first.
func (r *Replay) postpone(recs []spool.Record, now time.Time) {
	if len(recs) == 0 {
		return
	}
	r.putOff = append(r.putOff, recs...)
	slices.SortFunc(r.putOff, func(a, b spool.Record) int {
		switch {
		case a.Seq < b.Seq:
			return -1
		case a.Seq > b.Seq:
			return 1
		}
		return 0
	})
	r.again = now.Add(putOffFor)
}

// trim lets the spool forget what is answered for.
func (r *Replay) trim() error {
	through := r.after
	for _, b := range r.underWay {
		through = min(through, b.first-1)
	}
	if len(r.putOff) > 0 {
		through = min(through, r.putOff[0].Seq-1)
	}
	if through <= r.k.Spool.Trimmed().Seq {
		return nil
	}
	return r.k.Spool.Trim(through)
}
