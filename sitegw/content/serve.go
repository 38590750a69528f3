package content

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
)

const (
	// quietTime is how long a session may ask for nothing.
	quietTime  = 30 * time.Second
	lingerTime = 2 * time.Second // for the last answer to arrive
	inMemory   = 2               // frames of a session that lie in memory
)

// A question is one of a session.
type question struct {
	wire.Fetch
	refused *wire.Error     // it is none, and the last one
	ready   <-chan struct{} // closed when it is fetched; nil: it was not fetched ahead
	hit     bool            // it was on the disk when it came in
}

// A serving is a session that asks this gateway for content.
type serving struct {
	*Site
	conn    Conn
	wanOnly bool
	allowed func() *wire.Error

	questions chan question // at most MaxFetches with the one that is answered
	ended     chan struct{} // closed when nobody answers any more
	wg        sync.WaitGroup

	// One answer is read from the disk and encoded while the one before it is sent: that is the memory of a session.
	frames chan []byte   // to be sent
	free   chan []byte   // memory of frames that were sent
	broken chan struct{} // closed when nothing is sent any more
}

// Agent serves an agent's session, of which first was the first question, until it ends or ctx does. allowed is asked before each answer
// whether the device may still have content; what it returns ends the session.
func (s *Site) Agent(ctx context.Context, conn Conn, first wire.Fetch, allowed func() *wire.Error) {
	s.serve(ctx, &serving{conn: conn, allowed: allowed}, &first)
}

// Sibling serves a session with a sibling until it ends or ctx does. A sibling gets what is on the disk or, where this gateway owns it,
// what the core has.
func (s *Site) Sibling(ctx context.Context, _ string, conn net.Conn) {
	s.serve(ctx, &serving{conn: OnStream(conn), wanOnly: true, allowed: func() *wire.Error { return nil }}, nil)
}

func (s *Site) serve(ctx context.Context, v *serving, first *wire.Fetch) {
	v.Site, v.questions, v.ended = s, make(chan question, wire.MaxFetches-1), make(chan struct{})
	v.frames, v.free, v.broken = make(chan []byte), make(chan []byte, inMemory), make(chan struct{})
	for range inMemory {
		v.free <- nil
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, v.conn.Close)
	defer v.wg.Wait()
	defer cancel()
	defer stop()
	defer v.conn.Close()
	defer close(v.ended)
	v.wg.Go(func() { v.read(ctx, first) })
	var sending sync.WaitGroup
	sending.Go(v.send)
	e := v.answer(ctx)
	close(v.frames)
	sending.Wait() // what ends the session comes behind the last answer
	switch {
	case e != nil:
		v.conn.Refuse(e)
	case ctx.Err() == nil:
		v.conn.Finish(lingerTime)
	}
}

// send sends what is encoded, until there is no more, or nobody takes it.
func (v *serving) send() {
	defer close(v.broken)
	for b := range v.frames {
		if v.conn.SendFrame(wire.TypeBlob, b) != nil {
			return
		}
		v.free <- b
	}
}

// read takes questions, and has what they ask for fetched, until the session ends. Beyond those that may be under way it waits.
func (v *serving) read(ctx context.Context, first *wire.Fetch) {
	defer close(v.questions)
	if first != nil && !v.hand(ctx, question{Fetch: *first}) {
		return
	}
	for {
		t, body, err := v.conn.Recv()
		if err != nil {
			return
		}
		var q question
		if t != wire.TypeFetch {
			q.refused = wire.Refuse(wire.CodeUnsupported, "a session for content takes a fetch, got %v", t)
		} else if err := wire.Unmarshal(body, &q.Fetch); err != nil {
			q.refused = wire.Refuse(wire.CodeMalformed, "%v", err)
		}
		if !v.hand(ctx, q) || q.refused != nil {
			return
		}
	}
}

// hand hands a question to whoever answers; false: nobody does.
func (v *serving) hand(ctx context.Context, q question) bool {
	if q.refused == nil {
		q.ready, q.hit = v.ahead(ctx, &q.Fetch, v.wanOnly, v.wg.Go)
	}
	select {
	case v.questions <- q:
		return true
	case <-v.ended:
		return false
	}
}

// answer answers in the order of the questions, and returns why the session ends; nil: the other side ended it.
func (v *serving) answer(ctx context.Context) *wire.Error {
	quiet := time.NewTimer(quietTime)
	defer quiet.Stop()
	for {
		select {
		case q, ok := <-v.questions:
			if !ok {
				return nil
			}
			if more, e := v.answerOne(ctx, &q); !more {
				return e
			}
			quiet.Reset(quietTime)
		case <-quiet.C:
			return wire.Refuse(wire.CodeUnavailable, "nothing was asked for %v", quietTime)
		case <-v.broken:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

func (v *serving) answerOne(ctx context.Context, q *question) (more bool, e *wire.Error) {
	if q.refused == nil {
		q.refused = v.allowed()
	}
	if q.refused != nil {
		q.refused.Ref = wire.TypeFetch
		return false, q.refused
	}
	if !v.waited(ctx, q) {
		return false, nil
	}
	var frame []byte
	select {
	case frame = <-v.free:
	case <-v.broken:
		return false, nil
	}
	a := v.get(ctx, &q.Fetch, v.wanOnly, q.hit)
	frame, err := wire.AppendFrame(frame[:0], wire.TypeBlob, &a.Blob)
	a.release()
	if err != nil {
		v.Log.Error("content does not encode", "kind", q.Kind.String(), "err", err)
		return false, wire.Refuse(wire.CodeInternal, "the gateway failed").After(retryAfter)
	}
	select {
	case v.frames <- frame:
		return true, nil
	case <-v.broken:
		return false, nil
	}
}

// waited waits for what is fetched ahead, at most as long as one waits for an answer; false: the session ends.
func (v *serving) waited(ctx context.Context, q *question) bool {
	if q.ready == nil {
		return true
	}
	late := time.NewTimer(answerTime)
	defer late.Stop()
	select {
	case <-q.ready:
	case <-late.C:
	case <-v.broken:
		return false
	case <-ctx.Done():
		return false
	}
	return true
}
