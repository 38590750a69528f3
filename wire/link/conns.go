package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast-edge/holdfast/internal/backoff"
)

// errProtocol is a server that chose none of the client's protocols.
var errProtocol = errors.New("the server speaks none of this client's protocols")

// DialConn opens a session over TLS on conn, which is the session's from then on, also when there is an error. A session is
// not an admission: that is the peer's welcome.
func DialConn(ctx context.Context, conn net.Conn, tc *tls.Config, o Options) (*Session, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	raw := newMeter(conn)
	raw.free.Store(true) // this side chose whom it talks to
	err := bound(conn, o.limits().Socket)
	c := tls.Client(raw, tc)
	began := time.Now()
	if err == nil {
		err = c.HandshakeContext(ctx)
	}
	if err == nil && len(tc.NextProtos) > 0 && c.ConnectionState().NegotiatedProtocol == "" {
		err = errProtocol
	}
	if err != nil {
		conn.Close() //nolint:errcheck // the session never began
		return nil, fmt.Errorf("dial %v: %w: %w", conn.RemoteAddr(), ErrClosed, err)
	}
	s := newStreamConn(context.Background(), c, raw, func() {}).dial(o.keepAlive(), time.Since(began)).start() //nolint:contextcheck // ctx is of the dial
	return newSession(s, s, o.limits().Frame), nil
}

// ListenConns starts accepting sessions over TLS on what ln accepts: TCP, or what a relay hands over. Unlike with QUIC, whose
// transport ends them, the sessions end with the listener, without goodbye.
func ListenConns(ln net.Listener, tc *tls.Config, o Options) *Listener {
	l := &connListener{
		ln: ln, tc: tc, o: o, door: newDoor(o), ready: make(chan shaken), failed: make(chan struct{}),
	}
	l.ctx, l.cancel = context.WithCancelCause(context.Background())
	l.wg.Go(l.run)
	return &Listener{from: l, door: l.door, frame: o.limits().Frame}
}

// A connListener accepts connections and shakes hands, each in a goroutine of its own.
type connListener struct {
	ln   net.Listener
	tc   *tls.Config
	o    Options
	door *door

	ctx    context.Context //nolint:containedctx // of everything that it began, which Close ends
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
	ready  chan shaken
	failed chan struct{} // closed when nothing is accepted any more
	err    error         // why; set before failed is closed
}

// acceptPause is how long a listener waits when the system has no room for another connection.
const acceptPause = 100 * time.Millisecond

// run accepts until the listener is closed or fails.
func (l *connListener) run() {
	defer close(l.failed)
	for {
		conn, err := l.ln.Accept()
		switch {
		case err == nil:
		case passing(err):
			if !backoff.Sleep(l.ctx, acceptPause) {
				l.err = net.ErrClosed
				return
			}
			continue
		default:
			l.err = fmt.Errorf("accept on %v: %w", l.ln.Addr(), err)
			return
		}
		h, err := l.door.admit(conn.RemoteAddr(), true) // of TCP, which proved the address
		if err != nil {
			conn.Close() //nolint:errcheck // it never began
			continue
		}
		l.wg.Go(func() { l.shake(conn, h) })
	}
}

// passing tells whether an error of an Accept concerns one connection, or heals when others end.
func passing(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// A shaken connection has its handshake behind it.
type shaken struct {
	*streamConn
	h *handshake
}

// shake does the handshake and hands the connection on.
func (l *connListener) shake(conn net.Conn, h *handshake) {
	ctx, cancel := context.WithTimeout(l.ctx, handshakeTimeout)
	defer cancel()
	raw := newMeter(conn)
	c := tls.Server(raw, l.tc)
	err := bound(conn, l.o.limits().Socket)
	if err == nil {
		err = c.HandshakeContext(ctx)
	}
	if err != nil {
		conn.Close() //nolint:errcheck // it never began
		h.left(err)
		return
	}
	raw.free.Store(true)
	h.completed()
	l.wg.Add(1)
	s := newStreamConn(l.ctx, c, raw, func() { h.left(nil); l.wg.Done() }).start()
	select {
	case l.ready <- shaken{s, h}:
	case <-s.ctx.Done():
	}
}

func (l *connListener) accept(ctx context.Context) (connection, error) {
	select {
	case s := <-l.ready:
		s.h.over()
		return s.streamConn, nil
	case <-l.failed:
		return nil, l.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Close stops accepting, ends the handshakes and sessions, and waits for them.
func (l *connListener) Close() error {
	l.cancel(fmt.Errorf("%w: the listener is closed", ErrClosed))
	err := l.ln.Close()
	l.wg.Wait()
	return err
}
