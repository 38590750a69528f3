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

	"github.com/holdfast-edge/holdfast/wire"
)

func (o Options) quic() *quic.Config {
	l := o.limits()
	return &quic.Config{
		Versions:                       []quic.Version{quic.Version1},
		HandshakeIdleTimeout:           handshakeTimeout,
		MaxIdleTimeout:                 serverIdle,
		InitialStreamReceiveWindow:     min(l.Stream, max(l.Initial, 16<<10)),
		MaxStreamReceiveWindow:         l.Stream,
		InitialConnectionReceiveWindow: min(l.Connection, max(l.Initial, 32<<10)),
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
	return t.dial(ctx, addr, Target{TLS: tc, Options: o}, new(hearing))
}

// dial is Dial with h to hear the peer's first packet.
func (t *Transport) dial(ctx context.Context, addr net.Addr, to Target, h *hearing) (*Session, error) {
	o := to.Options
	qc := o.quic()
	qc.Tracer = h.trace
	qc.KeepAlivePeriod = o.keepAlive()
	qc.MaxIdleTimeout = time.Duration(float64(qc.KeepAlivePeriod) * idleFactor)
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	c, err := t.tr.Dial(ctx, addr, to.TLS, qc)
	if err != nil {
		return nil, fmt.Errorf("dial %v: %w", addr, asError(err))
	}
	s, err := c.OpenStream()
	if err != nil {
		c.CloseWithError(0, "") //nolint:errcheck // the session never began
		return nil, fmt.Errorf("dial %v: open control stream: %w", addr, asError(err))
	}
	return newSession(quicConn{c}, s, o.limits().Frame), nil
}

// Listen starts accepting on t, which can listen once.
func (t *Transport) Listen(tc *tls.Config, o Options) (*Listener, error) {
	d := newDoor(o)
	t.tr.VerifySourceAddress, t.tr.ConnContext = d.prove, d.enter
	ln, err := t.tr.Listen(tc, o.quic())
	if err != nil {
		return nil, fmt.Errorf("listen on %v: %w", t.Addr(), err)
	}
	return &Listener{from: quicListener{ln, accepting(ln, &t.accepting)}, door: d, frame: o.limits().Frame}, nil
}

// quicListener is a QUIC listener as a source.
type quicListener struct {
	*quic.Listener
	acceptor *acceptor
}

func (l quicListener) accept(ctx context.Context) (connection, error) {
	c, err := l.acceptor.next(ctx)
	if err != nil {
		return nil, err
	}
	return quicConn{c}, nil
}

// quicConn is a QUIC connection under a session.
type quicConn struct{ c *quic.Conn }

func (quicConn) carrier() Carrier             { return QUIC }
func (q quicConn) state() tls.ConnectionState { return q.c.ConnectionState().TLS }
func (q quicConn) remote() net.Addr           { return q.c.RemoteAddr() }
func (q quicConn) context() context.Context   { return q.c.Context() }

func (q quicConn) roundTrip() time.Duration {
	st := q.c.ConnectionStats()
	if st.MinRTT == 0 {
		return 0 // the library shows what it assumes
	}
	return st.SmoothedRTT
}

func (q quicConn) control(ctx context.Context) (control, error) {
	s, err := q.c.AcceptStream(ctx)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (q quicConn) end(e *wire.Error) {
	q.c.CloseWithError(quic.ApplicationErrorCode(e.Code), e.Detail) //nolint:errcheck // it is over either way
}
