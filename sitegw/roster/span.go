package roster

import (
	"slices"
	"sync"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
)

// A Sink takes spans of presence that are over into custody. done is called once, from any goroutine: with nil when the span is on
// disk.
type Sink interface {
	KeepSpan(s *wire.Span, done func(error))
}

// maxOver bounds the spans that wait for custody: the spool is full, or its disk fails. Beyond it the oldest are lost.
const maxOver = 4096

// over are the spans that have ended and are not in custody yet, oldest first. Until they are, they are in the checkpoint.
type over struct {
	mu   sync.Mutex
	all  []*overSpan
	lost uint64
}

type overSpan struct {
	wire.Span
	asked bool // the sink has it
}

func (o *over) add(spans ...wire.Span) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range spans {
		if len(o.all) == maxOver {
			o.all = slices.Delete(o.all, 0, 1)
			o.lost++
		}
		o.all = append(o.all, &overSpan{Span: spans[i]})
	}
}

// offer hands the sink what it does not have. What it does not take is offered again with the next call.
func (o *over) offer(sink Sink) {
	o.mu.Lock()
	var ask []*overSpan
	for _, s := range o.all {
		if !s.asked {
			s.asked = true
			ask = append(ask, s)
		}
	}
	o.mu.Unlock()
	for _, s := range ask {
		sink.KeepSpan(&s.Span, func(err error) {
			o.mu.Lock()
			defer o.mu.Unlock()
			if err != nil {
				s.asked = false
				return
			}
			o.all = slices.DeleteFunc(o.all, func(x *overSpan) bool { return x == s })
		})
	}
}

// spans are those that wait.
func (o *over) spans() []wire.Span {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := make([]wire.Span, len(o.all))
	for i, s := range o.all {
		out[i] = s.Span
	}
	return out
}

// SpansLost counts the spans that were lost because custody took none for too long.
func (r *Roster) SpansLost() uint64 {
	r.over.mu.Lock()
	defer r.over.mu.Unlock()
	return r.over.lost
}

// steady is a moment as it was told before, unless the clock has been set since. Otherwise it would move by a millisecond now and
// then, because two clocks are never read at once, and two reports of one span would seem to be of two.
func steady(told *int64, now int64) int64 {
	const set = 1000 // ms
	if d := now - *told; d > set || d < -set {
		*told = now
	}
	return *told
}

// span is the entry's span as of now: it has not ended, or nobody saw it end. ms is the clock's. The caller holds e.mu.
func (e *Entry) span(ms func(time.Time) int64) wire.Span {
	last := ms(e.last)
	return wire.Span{
		Device: e.Device, Attach: e.attach, FromMS: steady(&e.sinceMS, ms(e.since)), LastMS: last, ToMS: last, Beats: e.beats, Missed: e.missed,
	}
}
