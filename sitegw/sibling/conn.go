package sibling

import (
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/link"
)

// A Conn is a session with a sibling as a net.Conn. A peer that is not read is held back by the session's own flow control; here
// lie at most two pieces of wire.MaxBytes. A write that its deadline overtakes ends the session, because part of it may have gone.
// It must be closed. Close waits up to lingerTime for the sibling to have what was written.
type Conn struct {
	ls            *link.Session
	local, remote addr
	dialled       bool

	data  chan []byte   // to the one who reads
	ended chan struct{} // closed when nothing comes any more
	why   error         // of that; set before ended is closed

	begun     atomic.Bool   // the closing; no sync.Once, because who waits for that waits for a mutex
	closing   chan struct{} // closed when it begins
	closed    chan struct{} // closed when it is done
	reading   chan struct{} // has room for the one who reads and uses rest
	rest      []byte
	writing   chan struct{} // has room for the one who writes
	underway  atomic.Bool   // a piece is being written
	readUntil *deadline
	sendUntil *deadline
}

var _ net.Conn = (*Conn)(nil)

func newConn(ls *link.Session, self, name string, dialled bool) *Conn {
	c := &Conn{
		ls: ls, local: addr(self), remote: addr(name), dialled: dialled, data: make(chan []byte), ended: make(chan struct{}), closing: make(chan struct{}), closed: make(chan struct{}),
		reading: make(chan struct{}, 1), writing: make(chan struct{}, 1), readUntil: newDeadline(nil),
	}
	c.sendUntil = newDeadline(func() {
		if c.underway.Load() {
			c.ls.Close()
		}
	})
	go c.receive() // Close waits for it
	return c
}

// receive takes what comes until the sibling's half or the session ends. After Close it goes on, for nobody.
func (c *Conn) receive() {
	defer close(c.ended)
	for {
		b, err := c.piece()
		if err != nil {
			c.why = err
			return
		}
		select {
		case c.data <- b:
		case <-c.closing:
		}
	}
}

// piece waits for the next bytes.
func (c *Conn) piece() ([]byte, error) {
	t, body, err := c.ls.Recv()
	if err != nil {
		return nil, err
	}
	var m wire.Bytes
	switch {
	case t == wire.TypeError:
		e := new(wire.Error)
		if err := wire.Unmarshal(body, e); err != nil {
			return nil, err
		}
		return nil, e
	case t != wire.TypeBytes:
		err = fmt.Errorf("want bytes, got %v: %w", t, wire.ErrMalformed)
	default:
		err = wire.Unmarshal(body, &m)
		if err == nil && (len(m.Data) == 0 || len(m.Data) > wire.MaxBytes) {
			err = fmt.Errorf("a piece of %d bytes, want 1 to %d: %w", len(m.Data), wire.MaxBytes, wire.ErrMalformed)
		}
	}
	if err != nil {
		c.ls.CloseWith(wire.Refuse(wire.CodeMalformed, "%v", err))
	}
	return m.Data, err
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	if passed(c.closing) {
		return 0, net.ErrClosed
	}
	late := c.readUntil.over()
	if passed(late) {
		return 0, os.ErrDeadlineExceeded
	}
	select {
	case c.reading <- struct{}{}:
		defer func() { <-c.reading }()
	case <-late:
		return 0, os.ErrDeadlineExceeded
	case <-c.closing:
		return 0, net.ErrClosed
	}
	if len(c.rest) == 0 && len(p) > 0 {
		select {
		case c.rest = <-c.data:
		case <-c.ended:
			return 0, c.why
		case <-late:
			return 0, os.ErrDeadlineExceeded
		case <-c.closing:
			return 0, net.ErrClosed
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (n int, err error) {
	if passed(c.closing) {
		return 0, net.ErrClosed
	}
	select {
	case c.writing <- struct{}{}:
		defer func() { <-c.writing }()
	case <-c.sendUntil.over():
		return 0, os.ErrDeadlineExceeded
	case <-c.closing:
		return 0, net.ErrClosed
	}
	c.underway.Store(true)
	defer c.underway.Store(false)
	late := c.sendUntil.over()
	for n < len(p) {
		if passed(late) {
			return n, os.ErrDeadlineExceeded
		}
		k := min(len(p)-n, wire.MaxBytes)
		if err := c.ls.Send(wire.TypeBytes, wire.Bytes{Data: p[n : n+k]}); err != nil {
			if passed(late) {
				err = os.ErrDeadlineExceeded
			}
			return n, err
		}
		n += k
	}
	return n, nil
}

// CloseWrite ends this side's half of the stream: the sibling reads io.EOF when it has read what was written.
func (c *Conn) CloseWrite() error { return c.ls.EndSend() }

// Close implements net.Conn. The side that dialled waits for the sibling's half to end, the other one for the session to.
func (c *Conn) Close() error {
	if c.begun.Swap(true) {
		<-c.closed
		return nil
	}
	defer close(c.closed)
	close(c.closing)
	late := time.AfterFunc(lingerTime, c.ls.Close)
	defer late.Stop()
	over := c.ls.Context().Done()
	if c.dialled {
		over = c.ended
	}
	if c.ls.EndSend() == nil {
		<-over
	}
	c.ls.Close()
	<-c.ended
	c.readUntil.move(time.Time{})
	c.sendUntil.move(time.Time{})
	return nil
}

func passed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// An addr is one end of a Conn: the gateway's name.
type addr string

func (addr) Network() string  { return wire.ALPNSite }
func (a addr) String() string { return string(a) }

// LocalAddr implements net.Conn: this gateway's name.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn: the sibling's name.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	c.readUntil.move(t)
	c.sendUntil.move(t)
	return nil
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.readUntil.move(t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.sendUntil.move(t)
	return nil
}
