package content

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
)

// A Conn is a session for content: link.Session is one.
type Conn interface {
	Recv() (wire.Type, []byte, error)
	SendFrame(t wire.Type, frame []byte) error
	// Refuse tells the other side why the session ends, and ends it.
	Refuse(e *wire.Error)
	Finish(d time.Duration) // ends this side's half, and waits for the other one's
	Close()
}

// streamConn is a session with a sibling, with frames in its bytes.
type streamConn struct {
	c  net.Conn
	in *wire.FrameReader
}

// OnStream makes a session for content of a stream of bytes.
func OnStream(c net.Conn) Conn { return &streamConn{c, wire.NewFrameReader(c, wire.TypeBlob.Limit())} }

func (s *streamConn) Recv() (wire.Type, []byte, error) { return s.in.Next() }

// streamTime is how long a sibling that does not read can block a frame.
const streamTime = time.Minute

func (s *streamConn) SendFrame(_ wire.Type, frame []byte) error {
	if err := s.c.SetWriteDeadline(time.Now().Add(streamTime)); err != nil {
		return err
	}
	_, err := s.c.Write(frame)
	return err
}

func (s *streamConn) Refuse(e *wire.Error) {
	if b, err := wire.AppendFrame(nil, wire.TypeError, e); err == nil {
		s.SendFrame(wire.TypeError, b) //nolint:errcheck // it ends
	}
	s.Close()
}

// Finish leaves the waiting to Close, which does it.
func (s *streamConn) Finish(time.Duration) {}

func (s *streamConn) Close() { s.c.Close() } //nolint:errcheck // it is over

// Times of a session that this gateway dialled.
const (
	idleTime  = 30 * time.Second // without a question, before it is closed
	stuckTime = 2 * time.Minute  // without an answer to one: the other side hangs
)

// errPipe says that a session ended before it answered.
var errPipe = errors.New("the session for content ended")

// A pipe asks on one session, several questions ahead, which are answered in their order.
type pipe struct {
	conn  Conn
	late  *time.Timer
	slots chan struct{} // has an item for each question under way
	turn  chan struct{} // has room for the one who sends
	ended chan struct{} // closed when nothing is answered any more

	mu      sync.Mutex
	waiting []chan *wire.Blob // each with room for one, in the order of the questions
	why     error             // of the end; nil: it has not ended
}

// newPipe asks on conn. begin runs the reading, and waits for its end.
func newPipe(conn Conn, begin func(func())) *pipe {
	p := &pipe{conn: conn, slots: make(chan struct{}, wire.MaxFetches), turn: make(chan struct{}, 1), ended: make(chan struct{})}
	p.late = time.AfterFunc(idleTime, conn.Close)
	begin(p.read)
	return p
}

// alive tells whether it can be asked.
func (p *pipe) alive() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// ask asks, and waits for the answer. After ctx the answer is passed over when it comes. The error is errPipe, or the other side's.
func (p *pipe) ask(ctx context.Context, f *wire.Fetch) (*wire.Blob, error) {
	select {
	case p.slots <- struct{}{}:
	case <-p.ended:
		return nil, p.reason()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	got, err := p.send(f)
	if err != nil {
		return nil, err
	}
	select {
	case b := <-got:
		return b, nil
	case <-p.ended:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case b := <-got: // the last answer, and then the end
		return b, nil
	default:
		return nil, p.reason()
	}
}

// send sends a question. Who sends first is answered first.
func (p *pipe) send(f *wire.Fetch) (<-chan *wire.Blob, error) {
	b, err := wire.AppendFrame(nil, wire.TypeFetch, f)
	if err != nil {
		return nil, err
	}
	p.turn <- struct{}{}
	defer func() { <-p.turn }()
	got := make(chan *wire.Blob, 1)
	p.mu.Lock()
	if p.why != nil {
		p.mu.Unlock()
		return nil, p.reason()
	}
	p.waiting = append(p.waiting, got)
	p.late.Reset(stuckTime)
	p.mu.Unlock()
	if err := p.conn.SendFrame(wire.TypeFetch, b); err != nil {
		p.conn.Close()
		<-p.ended
		return nil, p.reason()
	}
	return got, nil
}

func (p *pipe) reason() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return fmt.Errorf("%w: %w", errPipe, p.why)
}

// read takes answers until the session ends.
func (p *pipe) read() {
	err := p.answers()
	p.conn.Close()
	p.late.Stop()
	p.mu.Lock()
	p.why = err
	p.mu.Unlock()
	close(p.ended)
}

func (p *pipe) answers() error {
	for {
		t, body, err := p.conn.Recv()
		if err != nil {
			return err
		}
		switch t {
		case wire.TypeBlob:
		case wire.TypeError:
			e := new(wire.Error)
			if err := wire.Unmarshal(body, e); err != nil {
				return err
			}
			return e
		default:
			return fmt.Errorf("want a blob, got %v: %w", t, wire.ErrMalformed)
		}
		b := new(wire.Blob)
		if err := wire.Unmarshal(body, b); err != nil {
			return err
		}
		p.mu.Lock()
		if len(p.waiting) == 0 {
			p.mu.Unlock()
			return fmt.Errorf("a blob that nobody asked for: %w", wire.ErrMalformed)
		}
		got := p.waiting[0]
		p.waiting = p.waiting[1:]
		if len(p.waiting) > 0 {
			p.late.Reset(stuckTime)
		} else {
			p.late.Reset(idleTime)
		}
		p.mu.Unlock()
		got <- b
		<-p.slots
	}
}
