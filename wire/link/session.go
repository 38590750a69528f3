package link

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

// A Session is an authenticated connection.
type Session struct {
	conn connection
	ctl  control
	in   *wire.FrameReader
	// reads has room for the one who reads from ctl.
	reads chan struct{}

	// turn has room for the one who writes to ctl or uses what follows. It is no mutex, because it is held while a write waits
	// for the peer, and in a synctest bubble time stands still for who waits for a mutex.
	turn   chan struct{}
	out    []byte
	broken error // of the first write that failed: part of its frame may be on its way, so nothing may follow it
}

func newSession(c connection, ctl control, frame int) *Session {
	return &Session{conn: c, ctl: ctl, in: wire.NewFrameReader(ctl, frame), reads: make(chan struct{}, 1), turn: make(chan struct{}, 1)}
}

// Peer is who the other side is; ok is false for a client of a protocol without certificates.
func (s *Session) Peer(now time.Time) (ident.Peer, bool) {
	return ident.PeerOf(s.conn.state().PeerCertificates, now)
}

// TLS is the state of the connection's handshake.
func (s *Session) TLS() tls.ConnectionState { return s.conn.state() }

// RemoteAddr is where the peer is now.
func (s *Session) RemoteAddr() net.Addr { return s.conn.remote() }

// Carrier is what the session runs over.
func (s *Session) Carrier() Carrier { return s.conn.carrier() }

// RTT is the smoothed round-trip time of the connection; 0: not measured.
func (s *Session) RTT() time.Duration { return s.conn.roundTrip() }

// Context ends with the session.
func (s *Session) Context() context.Context { return s.conn.context() }

// maxKept is the largest send buffer that a session keeps between frames.
const maxKept = 1 << 10

// Send writes one frame on the control stream. It blocks for at most sendTimeout on a peer that does not read. After an error
// of the stream the session takes no more frames: everyone who waits for his turn gets the same error at once.
func (s *Session) Send(t wire.Type, m any) error {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	if s.broken != nil {
		return s.broken
	}
	b, err := wire.AppendFrame(s.out[:0], t, m)
	if err != nil {
		return err
	}
	if cap(b) <= maxKept {
		s.out = b
	}
	return s.write(t, b)
}

// sendPiece is how much of a large frame must pass within sendTimeout: any WAN carries more.
const sendPiece = 64 << 10

// SendFrame is Send for a frame of type t that wire.AppendFrame made: whoever sends large ones one after another keeps their memory. It
// blocks for at most sendTimeout for each sendPiece.
func (s *Session) SendFrame(t wire.Type, frame []byte) error {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	if s.broken != nil {
		return s.broken
	}
	for len(frame) > 0 {
		n := len(frame)
		if n > sendPiece*5/4 { // no crumb is left for a write of its own
			n = sendPiece
		}
		if err := s.write(t, frame[:n]); err != nil {
			return err
		}
		frame = frame[n:]
	}
	return nil
}

// write writes a frame, or a piece of one. Its caller has the turn.
func (s *Session) write(t wire.Type, b []byte) error {
	if err := s.ctl.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return asError(err)
	}
	if _, err := s.ctl.Write(b); err != nil {
		s.broken = fmt.Errorf("send %v: %w", t, asError(err))
	}
	return s.broken
}

// Recv waits for the next frame of the control stream. The message is valid until the next Recv.
func (s *Session) Recv() (wire.Type, []byte, error) {
	s.reads <- struct{}{}
	t, b, err := s.in.Next()
	<-s.reads
	if err != nil {
		return 0, nil, asError(err)
	}
	return t, b, nil
}

// RecvWithin is Recv with a bound on the wait, for the steps of an opening.
func (s *Session) RecvWithin(d time.Duration) (wire.Type, []byte, error) {
	if err := s.ctl.SetReadDeadline(time.Now().Add(d)); err != nil {
		return 0, nil, asError(err)
	}
	t, b, err := s.Recv()
	if err != nil {
		return 0, nil, err
	}
	return t, b, s.ctl.SetReadDeadline(time.Time{})
}

// Close ends the session as agreed; the peer sees CodeNone. What was sent and not yet acknowledged may be lost.
func (s *Session) Close() { s.CloseWith(&wire.Error{}) }

// CloseWith ends the session with a reason that the peer's Recv returns as a *wire.Error.
func (s *Session) CloseWith(e *wire.Error) { s.conn.end(e) }

// Refuse tells the peer why before it ends the session: as a message, which can carry a delay, and as the closing code.
func (s *Session) Refuse(e *wire.Error) {
	if s.Send(wire.TypeError, e) == nil {
		s.Finish(time.Second)
	}
	s.CloseWith(e)
}

// EndSend closes this side's half of the control stream, after the frame that is being written. The peer's Recv then returns
// io.EOF.
func (s *Session) EndSend() error {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	return s.ctl.Close()
}

// Finish closes this side's half of the control stream and waits, at most d, for the peer to end its own: a close would
// discard what is still on its way. Another goroutine may be in Recv, or hold what it returned; afterwards there is nothing to receive.
func (s *Session) Finish(d time.Duration) {
	if err := s.EndSend(); err != nil {
		return
	}
	end := time.Now().Add(d)
	late := time.NewTimer(d)
	defer late.Stop()
	select {
	case s.reads <- struct{}{}: // whoever was in Recv has left it
		defer func() { <-s.reads }()
	case <-late.C:
		return
	case <-s.conn.context().Done():
		return
	}
	if s.ctl.SetReadDeadline(end) != nil {
		return
	}
	io.Copy(io.Discard, s.ctl) //nolint:errcheck // however it ends, that is the end
}

// CloseSend closes this side's half of the control stream and waits, at most d, for the peer to end the session, while
// another goroutine goes on reading.
func (s *Session) CloseSend(d time.Duration) {
	if err := s.EndSend(); err != nil {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.conn.context().Done():
	}
}
