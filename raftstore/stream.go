package raftstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// maxPeerConns bounds accepted connections that passed their handshake. A node of a cluster of five has four peers
	// with up to six connections each (heartbeat, replication, votes, snapshot, and a few that die).
	maxPeerConns = 64
	// maxHandshakes bounds accepted connections that did not pass it yet, and maxHostHandshakes those of one remote
	// address: whoever only connects and keeps silent uses up its own share, not its neighbours'.
	maxHandshakes     = 64
	maxHostHandshakes = 8
	// acceptPause is the wait after an Accept error that is not the listener's end, such as too many open files.
	acceptPause = 100 * time.Millisecond
)

var (
	errStreamClosed = errors.New("cluster port is closed")
	errTarget       = errors.New("target carries no node id")
)

// peerStream carries raft's connections: plain ones from outside, wrapped in mutual TLS. Handshakes run beside the
// accept loop and under a deadline. Close ends everything and waits for all of it.
type peerStream struct {
	// Immutable.
	listener  net.Listener
	advertise peerAddr
	dial      func(context.Context, string) (net.Conn, error)
	serverTLS *tls.Config
	clientTLS func(string) *tls.Config
	timeout   time.Duration // of a handshake
	logger    *slog.Logger
	ready     chan net.Conn   // unbuffered: raft's accept loop does nothing but take
	ctx       context.Context //nolint:containedctx // raft's StreamLayer passes none; this one ends with the stream
	cancel    context.CancelFunc
	wg        sync.WaitGroup // the accept loop, handshakes, and raft's handlers of accepted connections

	mu         sync.Mutex
	closed     bool                   // guarded by mu
	conns      map[*peerConn]struct{} // guarded by mu: all open ones, of both directions
	accepted   int                    // guarded by mu: how many of conns were accepted; at most maxPeerConns
	handshakes map[string]int         // guarded by mu: accepted, not yet through, by remote host; no zero values
	shaking    int                    // guarded by mu: the sum of handshakes; at most maxHandshakes
}

var _ raft.StreamLayer = (*peerStream)(nil)

// peerAddr is an advertised address as a net.Addr.
type peerAddr string

// Network implements net.Addr.
func (peerAddr) Network() string { return "tcp" }

// String implements net.Addr.
func (a peerAddr) String() string { return string(a) }

// newPeerStream starts accepting; Close stops it.
func newPeerStream(cfg *Config) *peerStream {
	ctx, cancel := context.WithCancel(context.Background())
	s := &peerStream{
		listener:   cfg.Listener,
		advertise:  peerAddr(cfg.Advertise),
		dial:       cfg.Dial,
		serverTLS:  cfg.ServerTLS,
		clientTLS:  cfg.ClientTLS,
		timeout:    cfg.HandshakeTimeout,
		logger:     cfg.Logger,
		ready:      make(chan net.Conn),
		ctx:        ctx,
		cancel:     cancel,
		conns:      make(map[*peerConn]struct{}),
		handshakes: make(map[string]int),
	}
	s.wg.Go(s.acceptLoop)
	return s
}

func (s *peerStream) acceptLoop() {
	for {
		conn, err := s.listener.Accept()
		switch {
		case err == nil:
			s.admit(conn)
		case s.ctx.Err() != nil:
			return
		case errors.Is(err, net.ErrClosed):
			s.logger.Error("cluster port was closed from outside, peers cannot reach this node", "error", err)
			return
		default:
			s.logger.Warn("accept on the cluster port", "error", err)
			if !pause(s.ctx, acceptPause) {
				return
			}
		}
	}
}

// pause waits for d and says whether ctx lasted that long.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// admit starts the handshake of an accepted connection, or closes the connection when too many are under way.
func (s *peerStream) admit(plain net.Conn) {
	host := remoteHost(plain)
	s.mu.Lock()
	ok := !s.closed && s.shaking < maxHandshakes && s.handshakes[host] < maxHostHandshakes
	if ok {
		s.shaking++
		s.handshakes[host]++
	}
	s.mu.Unlock()
	if !ok {
		s.logger.Warn("too many unfinished handshakes on the cluster port", "remote", host)
		_ = plain.Close() // nothing was sent on it, so there is nothing to lose
		return
	}
	s.wg.Go(func() { s.shake(plain, host) })
}

func remoteHost(c net.Conn) string {
	addr := c.RemoteAddr().String()
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return host
}

// shake does the server's handshake and hands the connection to raft.
func (s *peerStream) shake(plain net.Conn, host string) {
	conn := tls.Server(plain, s.serverTLS)
	ctx, cancel := context.WithTimeout(s.ctx, s.timeout)
	err := conn.HandshakeContext(ctx)
	cancel()
	s.shaken(host)
	if err != nil {
		s.logger.Warn("peer refused on the cluster port", "remote", host, "error", err)
		_ = plain.Close() // the handshake's error is the one that counts
		return
	}
	tracked, err := s.track(conn, true)
	if err != nil {
		s.logger.Warn("peer connection refused", "remote", host, "error", err)
		_ = plain.Close() // as above
		return
	}
	select {
	case s.ready <- tracked:
	case <-s.ctx.Done():
		_ = tracked.Close() // the stream is closing; raft never saw the connection
	}
}

// shaken gives back a handshake's place.
func (s *peerStream) shaken(host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shaking--
	if s.handshakes[host]--; s.handshakes[host] == 0 {
		delete(s.handshakes, host)
	}
}

// Accept implements net.Listener for raft's transport.
func (s *peerStream) Accept() (net.Conn, error) {
	select {
	case c := <-s.ready:
		return c, nil
	case <-s.ctx.Done():
		return nil, errStreamClosed
	}
}

// Addr implements net.Listener: the address that peers know.
func (s *peerStream) Addr() net.Addr { return s.advertise }

// Dial implements raft.StreamLayer. target is what idTransport made.
func (s *peerStream) Dial(target raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	id, addr, ok := splitTarget(target)
	if !ok {
		return nil, fmt.Errorf("dial %q: %w", target, errTarget)
	}
	if timeout <= 0 || timeout > s.timeout {
		timeout = s.timeout
	}
	ctx, cancel := context.WithTimeout(s.ctx, timeout)
	defer cancel()
	plain, err := s.dial(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("dial core node %s at %s: %w", id, addr, err)
	}
	conn := tls.Client(plain, s.clientTLS(id))
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("handshake with core node %s at %s: %w", id, addr, err), plain.Close())
	}
	tracked, err := s.track(conn, false)
	if err != nil {
		return nil, errors.Join(err, plain.Close())
	}
	return tracked, nil
}

// Close implements net.Listener. It ends every connection of both directions and returns when the accept loop, the
// handshakes and raft's handlers of accepted connections are through. A second call does nothing but wait.
func (s *peerStream) Close() error {
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	open := make([]*peerConn, 0, len(s.conns))
	for c := range s.conns {
		open = append(open, c)
	}
	s.mu.Unlock()
	var err error
	if first {
		s.cancel()
		err = s.listener.Close()
	}
	for _, c := range open {
		_ = c.plain.Close() // raft's own Close of the connection follows, and reports to nobody
	}
	s.wg.Wait()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close cluster port: %w", err)
	}
	return nil
}
