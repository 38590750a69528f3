// Package link carries sessions: authenticated connections with streams of frames. Today they run over QUIC; the same
// sessions over TLS on TCP come later behind the same types.
//
// A Session has one control stream, opened by the side that dialled. Send may be called from any goroutine; Recv from one
// at a time. Every wait ends with the session, its context or a deadline.
package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"golang.org/x/time/rate"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

// Times of a session.
const (
	// DefaultKeepAlive lets a dead peer on a LAN be noticed within 12 s.
	DefaultKeepAlive = 5 * time.Second
	// idleFactor makes the idle timeout from the keep-alive. QUIC pings when half of it has passed without a packet, and counts
	// from that ping: a dead peer is noticed after at most 1.5 times the idle timeout, which is 2.4 keep-alives.
	idleFactor = 1.6
	// handshakeTimeout bounds a handshake on either side.
	handshakeTimeout = 10 * time.Second
	// sendTimeout bounds how long a peer that does not read can block a Send.
	sendTimeout = 10 * time.Second
	// serverIdle is the listener's own bound on silence: the dialler's is shorter, and the shorter holds.
	serverIdle = 5 * time.Minute
)

// Limits says how much a peer can make this side hold. The zero value is AgentLimits.
type Limits struct {
	Stream     uint64 // bytes not yet read, of one stream
	Connection uint64 // bytes not yet read, of all streams
	Streams    int64  // streams open at once that the peer opened
	Frame      int    // bytes of one frame of the control stream
}

// The limits of the two kinds of link. An agent can pin less than 512 KiB of its gateway's memory. What a window costs is not
// its size: quic-go keeps each piece that arrives behind a gap on its own, about 110 bytes for a piece of one byte, and a whole
// packet buffer for one of 128. So the window is small; a frame that is larger passes through it in pieces.
var (
	AgentLimits  = Limits{Stream: 2 << 10, Connection: 2 << 10, Streams: 1, Frame: 33 << 10}
	UplinkLimits = Limits{Stream: 4 << 20, Connection: 8 << 20, Streams: 64, Frame: wire.MaxFrame}
)

// Options of a listener or a dial.
type Options struct {
	Limits    Limits
	KeepAlive time.Duration // dial only; default DefaultKeepAlive
	// Handshakes bounds how many handshakes a second are begun; beyond it a client is refused, and reads that as CodeBusy. Listen
	// only; default 500, with bursts of one second's.
	Handshakes rate.Limit
	// Unproved bounds how many of them are begun without proof of the client's address; beyond it a client is sent a Retry. Listen
	// only; default 100 with bursts of 200.
	Unproved rate.Limit
	// Connections bounds how many connections a listener holds at once; beyond it a handshake is refused. Listen only;
	// default 20000.
	Connections int
}

// limits are those of o with the default.
func (o Options) limits() Limits {
	if o.Limits == (Limits{}) {
		return AgentLimits
	}
	return o.Limits
}

func (o Options) quic() *quic.Config {
	l := o.limits()
	return &quic.Config{
		Versions:                       []quic.Version{quic.Version1},
		HandshakeIdleTimeout:           handshakeTimeout,
		MaxIdleTimeout:                 serverIdle,
		InitialStreamReceiveWindow:     min(l.Stream, 16<<10),
		MaxStreamReceiveWindow:         l.Stream,
		InitialConnectionReceiveWindow: min(l.Connection, 32<<10),
		MaxConnectionReceiveWindow:     l.Connection,
		MaxIncomingStreams:             l.Streams,
		MaxIncomingUniStreams:          -1,
		DisablePathMTUDiscovery:        true, // frames are small, and an off-path packet-too-big then has nothing to attack
	}
}

// A Transport is one UDP socket. It dials and listens.
type Transport struct {
	tr        *quic.Transport
	accepting sync.WaitGroup // of its listener
}

// Keys of a transport that should survive restarts, so that peers of the run before are reset at once.
type Keys struct {
	Reset quic.StatelessResetKey
	Token quic.TokenGeneratorKey
}

// NewTransport makes a transport on conn, which it closes with itself. keys may be nil.
func NewTransport(conn net.PacketConn, keys *Keys) *Transport {
	tr := &quic.Transport{Conn: conn, ConnectionIDLength: 8}
	if keys != nil {
		tr.StatelessResetKey, tr.TokenGeneratorKey = &keys.Reset, &keys.Token
	}
	return &Transport{tr: tr}
}

// Close ends the transport and every session on it, without goodbye.
func (t *Transport) Close() error {
	err := t.tr.Close()
	t.accepting.Wait()
	return errors.Join(err, t.tr.Conn.Close())
}

// Addr is the local address.
func (t *Transport) Addr() net.Addr { return t.tr.Conn.LocalAddr() }

// Dial opens a session. A session is not an admission: that is the peer's welcome.
func (t *Transport) Dial(ctx context.Context, addr net.Addr, tc *tls.Config, o Options) (*Session, error) {
	qc := o.quic()
	qc.KeepAlivePeriod = o.KeepAlive
	if qc.KeepAlivePeriod <= 0 {
		qc.KeepAlivePeriod = DefaultKeepAlive
	}
	qc.MaxIdleTimeout = time.Duration(float64(qc.KeepAlivePeriod) * idleFactor)
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	c, err := t.tr.Dial(ctx, addr, tc, qc)
	if err != nil {
		return nil, fmt.Errorf("dial %v: %w", addr, asError(err))
	}
	s, err := c.OpenStream()
	if err != nil {
		c.CloseWithError(0, "") //nolint:errcheck // the session never began
		return nil, fmt.Errorf("dial %v: open control stream: %w", addr, asError(err))
	}
	return newSession(c, s, o.limits().Frame), nil
}

// A Listener accepts sessions.
type Listener struct {
	ln       *quic.Listener
	door     *door
	acceptor *acceptor
	frame    int // largest frame of a peer with an identity
}

// Listen starts accepting on t, which can listen once.
func (t *Transport) Listen(tc *tls.Config, o Options) (*Listener, error) {
	d := newDoor(o)
	t.tr.VerifySourceAddress, t.tr.ConnContext = d.prove, d.enter
	ln, err := t.tr.Listen(tc, o.quic())
	if err != nil {
		return nil, fmt.Errorf("listen on %v: %w", t.Addr(), err)
	}
	return &Listener{ln: ln, door: d, acceptor: accepting(ln, &t.accepting), frame: o.limits().Frame}, nil
}

// Accept waits for the next connection whose handshake is complete.
func (l *Listener) Accept(ctx context.Context) (*Pending, error) {
	c, err := l.acceptor.next(ctx)
	if err != nil {
		return nil, err
	}
	p := &Pending{conn: c, frame: l.frame}
	if len(c.ConnectionState().TLS.PeerCertificates) == 0 {
		p.frame = min(p.frame, AgentLimits.Frame) // a client that showed no identity gets no more than an agent on any port
	}
	return p, nil
}

// Refused tells how many connections were refused before their handshake, for each reason.
func (l *Listener) Refused(each func(reason string, n uint64)) {
	for i := range l.door.refused {
		each(reasonNames[i], l.door.refused[i].Load())
	}
}

// Close stops accepting; sessions that were accepted go on.
func (l *Listener) Close() error { return l.ln.Close() }

// A Pending connection has not opened its control stream yet.
type Pending struct {
	conn  *quic.Conn
	frame int
}

// Protocol is the ALPN name that the client chose.
func (p *Pending) Protocol() string { return p.conn.ConnectionState().TLS.NegotiatedProtocol }

// Session waits for the control stream, at most the given time, and closes the connection when it does not come.
func (p *Pending) Session(ctx context.Context, wait time.Duration) (*Session, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	s, err := p.conn.AcceptStream(ctx)
	if err != nil {
		// Busy, because that is why it comes late from whoever means well.
		p.conn.CloseWithError(quic.ApplicationErrorCode(wire.CodeBusy), "no control stream in time") //nolint:errcheck // nothing to save
		return nil, fmt.Errorf("wait for the control stream: %w", asError(err))
	}
	return newSession(p.conn, s, p.frame), nil
}

// Refuse closes the connection with a code.
func (p *Pending) Refuse(e *wire.Error) {
	p.conn.CloseWithError(quic.ApplicationErrorCode(e.Code), e.Detail) //nolint:errcheck // nothing to save
}

// A Session is an authenticated connection.
type Session struct {
	conn *quic.Conn
	ctl  *quic.Stream
	in   *wire.FrameReader

	// turn has room for the one who writes to ctl or uses what follows. It is no mutex, because it is held while a write waits
	// for the peer, and in a synctest bubble time stands still for who waits for a mutex.
	turn   chan struct{}
	out    []byte
	broken error // of the first write that failed: part of its frame may be on its way, so nothing may follow it
}

func newSession(c *quic.Conn, ctl *quic.Stream, frame int) *Session {
	return &Session{conn: c, ctl: ctl, in: wire.NewFrameReader(ctl, frame), turn: make(chan struct{}, 1)}
}

// Peer is who the other side is; ok is false for a client of a protocol without certificates.
func (s *Session) Peer(now time.Time) (ident.Peer, bool) {
	return ident.PeerOf(s.conn.ConnectionState().TLS.PeerCertificates, now)
}

// TLS is the state of the connection's handshake.
func (s *Session) TLS() tls.ConnectionState { return s.conn.ConnectionState().TLS }

// RemoteAddr is where the peer is now.
func (s *Session) RemoteAddr() net.Addr { return s.conn.RemoteAddr() }

// RTT is the smoothed round-trip time of the connection.
func (s *Session) RTT() time.Duration { return s.conn.ConnectionStats().SmoothedRTT }

// Context ends with the session.
func (s *Session) Context() context.Context { return s.conn.Context() }

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
	t, b, err := s.in.Next()
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
func (s *Session) CloseWith(e *wire.Error) {
	s.conn.CloseWithError(quic.ApplicationErrorCode(e.Code), e.Detail) //nolint:errcheck // it is over either way
}

// Refuse tells the peer why before it ends the session: as a message, which can carry a delay, and as the closing code.
func (s *Session) Refuse(e *wire.Error) {
	if s.Send(wire.TypeError, e) == nil {
		s.Finish(time.Second)
	}
	s.CloseWith(e)
}

// endWrites closes this side's half of the control stream, after the frame that is being written.
func (s *Session) endWrites() error {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	return s.ctl.Close()
}

// Finish closes this side's half of the control stream and waits, at most d, for the peer to end its own: a close would
// discard what is still on its way.
func (s *Session) Finish(d time.Duration) {
	if err := s.endWrites(); err != nil {
		return
	}
	if err := s.ctl.SetReadDeadline(time.Now().Add(d)); err != nil {
		return
	}
	for {
		if _, _, err := s.in.Next(); err != nil {
			return
		}
	}
}

// CloseSend closes this side's half of the control stream and waits, at most d, for the peer to end the session, while
// another goroutine goes on reading.
func (s *Session) CloseSend(d time.Duration) {
	if err := s.endWrites(); err != nil {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.conn.Context().Done():
	}
}

// Resolve finds the UDP address of host:port. A literal address needs no resolver.
func Resolve(ctx context.Context, hostport string) (net.Addr, error) {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return nil, fmt.Errorf("address %q is not host:port: %w", hostport, err)
	}
	n, err := net.DefaultResolver.LookupPort(ctx, "udp", port)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", hostport, err)
	}
	if ip := net.ParseIP(host); ip != nil {
		return &net.UDPAddr{IP: ip, Port: n}, nil
	}
	ips, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", hostport, err)
	}
	if len(ips) == 0 {
		return nil, fmt.Errorf("address %q has no IP address", hostport)
	}
	return &net.UDPAddr{IP: ips[0].IP, Port: n, Zone: ips[0].Zone}, nil
}
