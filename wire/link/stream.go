package link

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
)

// Times of the end of a session on a stream.
const (
	closeTime  = 200 * time.Millisecond // for the last words to be handed to the system, which takes them at once unless it is full
	lingerTime = time.Second            // of a listener's side, for the peer to hang up: if this side did, unread bytes would reset what it said last
)

// A streamConn is a session's connection over TLS on a net.Conn. One goroutine reads and hands over what is for the control
// stream, without a buffer: while nobody takes it, the peer is not read. One keeps the connection alive and closes it. On the
// side that dialled, end waits for both; on the other one it waits for the last words to be said, and the listener for the rest.
type streamConn struct {
	tls     *tls.Conn
	raw     *meter
	dialled bool
	release func() // called when everything is over

	ctx    context.Context //nolint:containedctx // it is the session's own
	cancel context.CancelCauseFunc

	turn  chan struct{} // has room for the one who writes, and uses what follows
	out   []byte
	hello []byte // to be sent before anything else; nil: sent, or not ours to send
	over  bool   // this side's half of the control stream

	data    chan []byte   // to whoever reads the control stream; closed at the end of the peer's half
	taken   chan struct{} // from him
	opened  chan struct{} // closed when the peer has said hello
	kick    chan struct{} // capacity 1: there is something to do for keep
	said    chan struct{} // closed when the last words are said
	drained chan struct{} // closed when the reading is over
	done    chan struct{} // closed when everything is

	rest    []byte    // handed over and not read; owned by the one who reads the control stream
	readBy  time.Time // his deadline; zero: none
	writeBy time.Time // of the control stream's writer

	mu        sync.Mutex
	keepAlive time.Duration // 0: not known yet
	handing   bool          // a piece waits to be taken, so that the peer's silence means nothing
	sent      time.Time     // when anything was sent last
	pinged    time.Time
	ping      uint64 // number of the newest
	pong      []byte // to be sent; nil: none
	rtt       time.Duration
}

var (
	_ connection = (*streamConn)(nil)
	_ control    = (*streamConn)(nil)
)

// newStreamConn makes a connection whose handshake is complete and which ends with ctx. It is not started.
func newStreamConn(ctx context.Context, c *tls.Conn, raw *meter, release func()) *streamConn {
	s := &streamConn{
		tls: c, raw: raw, release: release, turn: make(chan struct{}, 1), data: make(chan []byte), taken: make(chan struct{}), opened: make(chan struct{}),
		kick: make(chan struct{}, 1), said: make(chan struct{}), drained: make(chan struct{}), done: make(chan struct{}), sent: time.Now(),
	}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	return s
}

// dial makes this the side that dialled, which has a keep-alive to say.
func (s *streamConn) dial(keepAlive, rtt time.Duration) *streamConn {
	s.dialled, s.hello, s.keepAlive, s.rtt = true, appendHello(nil, keepAlive), keepAlive, rtt
	close(s.opened)
	return s
}

func (s *streamConn) start() *streamConn {
	// Whoever is writing when the session ends is in the way of the last words.
	context.AfterFunc(s.ctx, func() { s.tls.SetWriteDeadline(time.Now().Add(closeTime)) }) //nolint:errcheck // a connection that is gone blocks nobody
	go s.read()
	go s.keep()
	return s
}

func (*streamConn) carrier() Carrier             { return TCP }
func (s *streamConn) state() tls.ConnectionState { return s.tls.ConnectionState() }
func (s *streamConn) remote() net.Addr           { return s.tls.RemoteAddr() }
func (s *streamConn) context() context.Context   { return s.ctx }

func (s *streamConn) roundTrip() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rtt
}

func (s *streamConn) control(ctx context.Context) (control, error) {
	select {
	case <-s.opened:
		return s, nil
	case <-s.ctx.Done():
		return nil, context.Cause(s.ctx) //nolint:contextcheck // it is the session's end that is told
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// An ending is this side's own closing.
type ending struct{ reason *wire.Error }

func (e *ending) Error() string {
	if e.reason.Code == wire.CodeNone {
		return ErrClosed.Error() + ": closed"
	}
	return ErrClosed.Error() + ": closed here: " + e.reason.Detail
}

func (*ending) Unwrap() error { return ErrClosed }

func (s *streamConn) end(e *wire.Error) {
	s.cancel(&ending{e})
	if s.dialled {
		<-s.done
		return
	}
	<-s.said
}

// lost ends the session because of what the connection says.
func (s *streamConn) lost(err error) error {
	err = fmt.Errorf("%w: %w", ErrClosed, err)
	s.cancel(err)
	return err
}

// read takes records until the session ends, and then what still comes until the peer hangs up.
func (s *streamConn) read() {
	defer close(s.drained)
	s.cancel(s.records())
	io.Copy(io.Discard, s.tls) //nolint:errcheck // keep bounds it, and nothing of it matters
}

// records takes records until the session ends, and returns why it does.
func (s *streamConn) records() error {
	var small [256]byte // what a connection at rest reads into
	for ended := false; ; {
		kind, body, err := s.record(small[:])
		if err != nil {
			return err
		}
		if !s.dialled && !s.heardHello() && kind != recordHello && kind != recordClose {
			return &ending{malformedRecord("kind %d before a hello", kind)}
		}
		switch kind {
		case recordHello:
			err = s.helloed(body)
		case recordData:
			if ended || len(body) == 0 {
				return &ending{malformedRecord("data of %d bytes, after the end: %v", len(body), ended)}
			}
			err = s.hand(body)
		case recordEnd:
			if !ended {
				ended = true
				close(s.data)
			}
		case recordPing:
			err = s.pingedBy(body)
		case recordPong:
			s.ponged(body)
		case recordClose:
			return parseClose(body)
		}
		if err != nil {
			return err
		}
	}
}

// record reads one record. Its body is in small, if it fits.
func (s *streamConn) record(small []byte) (kind byte, body []byte, err error) {
	var head [recordHead]byte
	if _, err := io.ReadFull(s.tls, head[:]); err != nil {
		return 0, nil, fmt.Errorf("%w: %w", ErrClosed, err)
	}
	n := int(binary.BigEndian.Uint16(head[1:]))
	switch {
	case n > maxRecord:
		return 0, nil, &ending{malformedRecord("%d bytes, limit %d", n, maxRecord)}
	case n > len(small):
		body = make([]byte, n)
	default:
		body = small[:n]
	}
	if _, err := io.ReadFull(s.tls, body); err != nil {
		return 0, nil, fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return head[0], body, nil
}

// heardHello tells whether the peer has said hello. A dialler needs none.
func (s *streamConn) heardHello() bool {
	select {
	case <-s.opened:
		return true
	default:
		return false
	}
}

func (s *streamConn) helloed(body []byte) error {
	keepAlive, err := parseHello(body)
	if err != nil || s.heardHello() {
		return &ending{malformedRecord("a hello of %d bytes, or a second one", len(body))}
	}
	s.mu.Lock()
	s.keepAlive = keepAlive
	s.mu.Unlock()
	close(s.opened)
	s.wake()
	return nil
}

// hand gives a piece to whoever reads the control stream, and waits until it is taken.
func (s *streamConn) hand(body []byte) error {
	s.setHanding(true)
	defer s.setHanding(false)
	select {
	case s.data <- body:
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
	select {
	case <-s.taken:
		return nil
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
}

func (s *streamConn) setHanding(v bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handing = v
	s.raw.mark() // the silence, if it is one, begins when the peer is read again
}

func (s *streamConn) pingedBy(body []byte) error {
	if len(body) != pingSize {
		return &ending{malformedRecord("a ping of %d bytes", len(body))}
	}
	s.mu.Lock()
	s.pong = append(s.pong[:0], body...)
	s.mu.Unlock()
	s.wake()
	return nil
}

// ponged takes the round trip of the newest ping.
func (s *streamConn) ponged(body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(body) != pingSize || s.ping == 0 || binary.BigEndian.Uint64(body) != s.ping {
		return
	}
	took := time.Since(s.pinged)
	if s.rtt == 0 {
		s.rtt = took
	}
	s.rtt += (took - s.rtt) / 8 // smoothed as TCP and QUIC do it
}

func (s *streamConn) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// keep answers pings, pings, and ends the session when the peer is dead; when it has ended, however that came, it closes.
func (s *streamConn) keep() {
	defer s.release()
	defer close(s.done)
	t := time.NewTimer(0)
	defer t.Stop()
	for s.ctx.Err() == nil {
		select {
		case <-t.C:
		case <-s.kick:
		case <-s.ctx.Done():
			continue
		}
		if wait, known := s.tend(time.Now()); known {
			t.Reset(wait)
		}
	}
	s.close()
}

// errSilent is a peer of which nothing is heard.
var errSilent = errors.New("nothing was heard of the peer")

// tend does what is due, and tells how long nothing else is. Until the keep-alive is known, nothing is ever due.
func (s *streamConn) tend(now time.Time) (wait time.Duration, known bool) {
	s.mu.Lock()
	if s.keepAlive == 0 {
		s.mu.Unlock()
		return 0, false
	}
	silence, every := scale(s.keepAlive, silentFactor), scale(s.keepAlive, pingFactor)
	heard := s.raw.heard()
	if s.handing {
		heard = now
	}
	if now.Sub(heard) >= silence {
		s.mu.Unlock()
		s.lost(errSilent) //nolint:errcheck // it is the reason that everybody gets
		return 0, false
	}
	var records []byte
	if s.pong != nil {
		records = appendRecord(nil, recordPong, s.pong)
		s.pong = nil
	}
	if now.Sub(earlier(s.sent, heard)) >= every && now.Sub(s.pinged) >= every {
		s.ping++
		s.pinged = now
		records = appendRecord(records, recordPing, binary.BigEndian.AppendUint64(nil, s.ping))
	}
	quiet := earlier(s.sent, heard)
	if records != nil {
		quiet = earlier(now, heard)
	}
	if quiet.Before(s.pinged) {
		quiet = s.pinged
	}
	wait = min(quiet.Add(every).Sub(now), heard.Add(silence).Sub(now))
	s.mu.Unlock()
	if records != nil {
		s.send(records, now.Add(sendTimeout)) //nolint:errcheck // it ends the session
	}
	return wait, true
}

func scale(d time.Duration, by float64) time.Duration { return time.Duration(float64(d) * by) }

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// close says the last words, if they are this side's to say, waits a moment for the peer to hang up, and hangs up.
func (s *streamConn) close() {
	if own, ok := errors.AsType[*ending](context.Cause(s.ctx)); ok {
		s.turn <- struct{}{} // soon free, and not given back
		if _, err := s.tls.Write(appendRecord(nil, recordClose, closeRecord(own.reason))); err == nil {
			s.tls.CloseWrite() //nolint:errcheck // a peer that reads nothing hears nothing
		}
		if !s.dialled {
			close(s.said)
			s.raw.SetReadDeadline(time.Now().Add(lingerTime)) //nolint:errcheck // a connection that is gone reads no more
			<-s.drained
		}
	} else if !s.dialled {
		close(s.said)
	}
	s.raw.Close() //nolint:errcheck // nothing is left to be lost
	<-s.drained
}

// Read reads the control stream.
func (s *streamConn) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		var late <-chan time.Time
		if !s.readBy.IsZero() {
			t := time.NewTimer(time.Until(s.readBy))
			defer t.Stop()
			late = t.C
		}
		select {
		case b, ok := <-s.data:
			if !ok {
				return 0, io.EOF
			}
			s.rest = b
		case <-late:
			return 0, os.ErrDeadlineExceeded
		case <-s.ctx.Done():
			return 0, context.Cause(s.ctx)
		}
	}
	n := copy(p, s.rest)
	if s.rest = s.rest[n:]; len(s.rest) == 0 {
		select {
		case s.taken <- struct{}{}:
		case <-s.ctx.Done():
		}
	}
	return n, nil
}

// Write writes to the control stream.
func (s *streamConn) Write(p []byte) (n int, err error) {
	for len(p) > 0 && err == nil {
		k := min(len(p), maxRecord)
		if err = s.write(recordData, p[:k], s.writeBy); err == nil {
			n, p = n+k, p[k:]
		}
	}
	return n, err
}

// Close ends this side's half of the control stream.
func (s *streamConn) Close() error { return s.write(recordEnd, nil, time.Now().Add(sendTimeout)) }

// SetReadDeadline is for the next Read of the control stream.
func (s *streamConn) SetReadDeadline(t time.Time) error {
	s.readBy = t
	return nil
}

// SetWriteDeadline is for the next Write of the control stream.
func (s *streamConn) SetWriteDeadline(t time.Time) error {
	s.writeBy = t
	return nil
}

// errOver is a write after the end of this side's half.
var errOver = fmt.Errorf("%w: this side has ended its half of the control stream", ErrClosed)

// write sends one record of the control stream.
func (s *streamConn) write(kind byte, body []byte, by time.Time) error {
	if err := s.begin(); err != nil {
		return err
	}
	defer func() { <-s.turn }()
	if s.over {
		if kind == recordEnd {
			return nil
		}
		return errOver
	}
	s.over = kind == recordEnd
	s.out = append(s.out[:0], s.hello...)
	s.hello = nil
	s.out = appendRecord(s.out, kind, body)
	err := s.flush(s.out, by)
	if cap(s.out) > maxKept {
		s.out = nil
	}
	return err
}

// send sends records that are none of the control stream's. Before the hello there is nothing to say: the one who dialled and
// has not sent anything has no session yet.
func (s *streamConn) send(records []byte, by time.Time) error {
	if err := s.begin(); err != nil {
		return err
	}
	defer func() { <-s.turn }()
	if s.hello != nil {
		return nil
	}
	return s.flush(records, by)
}

// begin takes the turn.
func (s *streamConn) begin() error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
}

// flush writes to the connection. An error ends the session: part of a TLS record may be on its way. The caller has the turn.
func (s *streamConn) flush(b []byte, by time.Time) error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	if err := s.tls.SetWriteDeadline(by); err != nil {
		return s.lost(err)
	}
	if s.ctx.Err() != nil { // and the deadline of the end may have been overwritten
		s.tls.SetWriteDeadline(time.Now().Add(closeTime)) //nolint:errcheck // as at the start
		return context.Cause(s.ctx)
	}
	if _, err := s.tls.Write(b); err != nil {
		if s.ctx.Err() != nil {
			return context.Cause(s.ctx)
		}
		return s.lost(err)
	}
	s.mu.Lock()
	s.sent = time.Now()
	s.mu.Unlock()
	return nil
}
