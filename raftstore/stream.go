package raftstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// maxPeerConns bounds accepted connections that passed their handshake: what the four peers of a cluster of five may
	// have by maxConnsOf, and room for one that is being added.
	maxPeerConns = 256
	// maxHandshakes bounds accepted connections that did not pass it yet, and maxHostHandshakes those of one remote
	// address: whoever only connects and keeps silent uses up its own share, not its neighbours'.
	maxHandshakes     = 64
	maxHostHandshakes = 16
	// acceptPause is the wait after an Accept error that is not the listener's end, such as too many open files.
	acceptPause = 100 * time.Millisecond
)

// maxConnsOf bounds the accepted connections of one kind from one peer. Raft has up to six at once (heartbeat, replication,
// votes, snapshot, and a few that die); the calls are as many as a node makes at once, and some that die.
var maxConnsOf = map[byte]int{kindRaft: 8, kindCall: maxCallsOut + 8}

var (
	errStreamClosed = errors.New("cluster port is closed")
	errTarget       = errors.New("target carries no node id")
	errNotAdmitted  = errors.New("the peer does not know this node as a member")
	errOther        = errors.New("the peer is another node than the one that was dialled")
	errKind         = errors.New("unknown kind of connection")
)

// peerStream is the cluster port: plain connections of both directions, wrapped in mutual TLS, admitted when the peer is a
// member, and told apart by kind. Handshakes run beside the accept loop and under a deadline. Close ends everything and
// waits for all of it.
//
// The dialling side's first byte after the handshake says what it wants, kindRaft or kindCall; the accepting side answers
// with a byte, greetWelcome or the reason of its refusal.
type peerStream struct {
	// Immutable.
	listener  net.Listener
	advertise peerAddr
	dial      func(context.Context, string) (net.Conn, error)
	serverTLS *tls.Config
	clientTLS func(string) *tls.Config
	peerID    func(tls.ConnectionState) (string, error)
	timeout   time.Duration // of a handshake, with the bytes that follow it
	logger    *slog.Logger
	ctx       context.Context //nolint:containedctx // raft's StreamLayer passes none; this one ends with the stream
	cancel    context.CancelFunc
	wg        sync.WaitGroup // the accept loop and what serves accepted connections
	hooks     streamHooks    // set before anybody dials or is accepted

	mu         sync.Mutex
	closed     bool                   // guarded by mu
	conns      map[*peerConn]struct{} // guarded by mu: all open ones, of both directions
	accepted   int                    // guarded by mu: how many of conns were accepted; at most maxPeerConns
	opened     uint64                 // guarded by mu: how many there were ever
	handshakes map[string]int         // guarded by mu: accepted, not yet through, by remote host; no zero values
	shaking    int                    // guarded by mu: the sum of handshakes; at most maxHandshakes
}

// streamHooks is what the port asks of the store. All of them may be called from any goroutine.
type streamHooks struct {
	// greet judges a peer that connected: greetWelcome, greetUnknown or greetRemoved. It may block until ctx ends.
	greet func(ctx context.Context, peer string) byte
	// admits is whether a connection with a peer may stay; nil: every one may. It does not block.
	admits func(peer string) bool
	// serve carries a welcome connection until it ends, and closes it.
	serve map[byte]func(*peerConn)
	// removed is called when a peer says that the leader confirmed that this node is no member.
	removed func()
}

var _ raft.StreamLayer = (*peerStream)(nil)

// peerAddr is an advertised address as a net.Addr.
type peerAddr string

// Network implements net.Addr.
func (peerAddr) Network() string { return "tcp" }

// String implements net.Addr.
func (a peerAddr) String() string { return string(a) }

// newPeerStream makes a port that can dial; start makes it accept, and Close ends it.
func newPeerStream(cfg *Config) *peerStream {
	ctx, cancel := context.WithCancel(context.Background())
	return &peerStream{
		listener:   cfg.Listener,
		advertise:  peerAddr(cfg.Advertise),
		dial:       cfg.Dial,
		serverTLS:  cfg.ServerTLS,
		clientTLS:  cfg.ClientTLS,
		peerID:     cfg.PeerID,
		timeout:    cfg.HandshakeTimeout,
		logger:     cfg.Logger,
		ctx:        ctx,
		cancel:     cancel,
		conns:      make(map[*peerConn]struct{}),
		handshakes: make(map[string]int),
	}
}

// start begins to accept.
func (s *peerStream) start() { s.wg.Go(s.acceptLoop) }

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

// shake does the server's side of a new connection and serves it.
func (s *peerStream) shake(plain net.Conn, host string) {
	conn, err := s.welcome(plain)
	s.shaken(host)
	if err != nil {
		s.logger.Warn("peer refused on the cluster port", "remote", host, "error", err)
		_ = plain.Close() // the refusal is the error that counts
		return
	}
	s.hooks.serve[conn.kind](conn)
}

// welcome does the handshake and admits the peer. An error leaves plain for the caller to close.
func (s *peerStream) welcome(plain net.Conn) (*peerConn, error) {
	ctx, cancel := context.WithTimeout(s.ctx, s.timeout)
	defer cancel()
	watched := context.AfterFunc(ctx, func() { _ = plain.Close() })
	defer watched()
	conn := tls.Server(plain, s.serverTLS)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("handshake: %w", err)
	}
	peer, err := s.verified(conn)
	if err != nil {
		return nil, err
	}
	var kind [1]byte
	if _, err := io.ReadFull(conn, kind[:]); err != nil {
		return nil, fmt.Errorf("%s did not say what it wants: %w", peer, err)
	}
	if s.hooks.serve[kind[0]] == nil {
		return nil, fmt.Errorf("%s wants %d: %w", peer, kind[0], errKind)
	}
	c := &peerConn{Conn: conn, plain: plain, peer: peer, kind: kind[0], accepted: true}
	if err := s.track(c); err != nil {
		return nil, fmt.Errorf("%s: %w", peer, err)
	}
	if err := s.greet(ctx, c); err != nil {
		s.forget(c)
		return nil, err
	}
	return c, nil
}

// greet tells the peer whether it is admitted; an error says that it is not. A change of the members between the verdict and
// the greeting finds the connection, see judged.
func (s *peerStream) greet(ctx context.Context, c *peerConn) error {
	greeting := s.hooks.greet(ctx, c.peer)
	if greeting == greetWelcome && !s.judged(c) {
		greeting = greetUnknown
	}
	if _, err := c.Write([]byte{greeting}); err != nil {
		return fmt.Errorf("greet %s: %w", c.peer, err)
	}
	if greeting != greetWelcome {
		return fmt.Errorf("%s: %w", c.peer, ErrNotMember)
	}
	return nil
}

// verified returns the id that the other side's certificate is for.
func (s *peerStream) verified(c *tls.Conn) (string, error) {
	if s.peerID == nil {
		return "", fmt.Errorf("%w: PeerID is nil, so no peer is admitted", ErrConfig)
	}
	id, err := s.peerID(c.ConnectionState())
	if err != nil {
		return "", fmt.Errorf("identify the peer: %w", err)
	}
	return id, nil
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

// Accept implements net.Listener for the transport that dials; what is accepted goes another way, see serveRaft.
func (s *peerStream) Accept() (net.Conn, error) {
	<-s.ctx.Done()
	return nil, errStreamClosed
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
	return s.connect(ctx, id, addr, kindRaft)
}

// connect dials a peer and introduces itself. It ends soon after ctx or the stream does.
func (s *peerStream) connect(ctx context.Context, id, addr string, kind byte) (*peerConn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	ended := context.AfterFunc(s.ctx, cancel) //nolint:contextcheck // the port ends it as well
	defer ended()
	plain, err := s.dial(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("dial core node %s at %s: %w", id, addr, err)
	}
	c, err := s.introduce(ctx, plain, id, kind)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect to core node %s at %s: %w", id, addr, err), plain.Close())
	}
	return c, nil
}

// introduce does the client's handshake, says what is wanted, and reads the greeting.
func (s *peerStream) introduce(ctx context.Context, plain net.Conn, id string, kind byte) (*peerConn, error) {
	watched := context.AfterFunc(ctx, func() { _ = plain.Close() })
	defer watched()
	conn := tls.Client(plain, s.clientTLS(id))
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("handshake: %w", err)
	}
	if s.peerID != nil {
		peer, err := s.verified(conn)
		if err != nil {
			return nil, err
		}
		if peer != id {
			return nil, fmt.Errorf("reached %s instead: %w", peer, errOther)
		}
	}
	if _, err := conn.Write([]byte{kind}); err != nil {
		return nil, fmt.Errorf("introduce this node: %w", err)
	}
	var greeting [1]byte
	if _, err := io.ReadFull(conn, greeting[:]); err != nil {
		return nil, fmt.Errorf("wait for the greeting: %w", err)
	}
	if greeting[0] == greetRemoved && s.hooks.removed != nil {
		s.hooks.removed()
	}
	if greeting[0] != greetWelcome {
		return nil, errNotAdmitted
	}
	if !watched() {
		return nil, fmt.Errorf("wait for the greeting: %w", context.Cause(ctx))
	}
	c := &peerConn{Conn: conn, plain: plain, peer: id, open: true}
	if err := s.track(c); err != nil {
		return nil, err
	}
	// After track, so that a removal from here on finds the connection.
	if s.hooks.admits != nil && !s.hooks.admits(id) {
		s.forget(c)
		return nil, fmt.Errorf("%w: %s", ErrNotMember, id)
	}
	return c, nil
}

// Close implements net.Listener. It ends every connection of both directions and returns when the accept loop and what
// serves accepted connections are through. A second call does nothing but wait.
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
		_ = c.plain.Close() // its owner notices and closes the rest
	}
	s.wg.Wait()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close cluster port: %w", err)
	}
	return nil
}
