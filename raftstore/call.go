package raftstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// maxCallsOut bounds the calls that this node makes to one peer at a time: ownCalls for the store and the rest for
	// the owner, so that neither holds up the other. Each has a connection of its own while it lasts.
	maxCallsOut = 32
	ownCalls    = 24

	// maxDials bounds the connections to one peer that are being made at a time; with raft's own they stay well under what
	// the peer allows one host.
	maxDials = 4

	// idleConns is how many connections to a peer are kept for later calls, and idleTime for how long.
	idleConns = 4
	idleTime  = 30 * time.Second

	// callIdle is how long an accepted connection may be silent between calls: longer than idleTime, so that the calling
	// side is the one to close it, and no call meets a connection that has just been closed.
	callIdle = 2 * idleTime

	// frameTime bounds reading or writing one frame: 4 MiB over a link of some Mbit/s.
	frameTime = 20 * time.Second
)

// caller makes calls to peers, one call a connection at a time.
type caller struct {
	// Immutable.
	connect func(ctx context.Context, id, addr string, kind byte) (*peerConn, error)
	idling  sync.WaitGroup // the goroutines that watch idle connections

	mu     sync.Mutex
	closed bool                 // guarded by mu: no more connections are kept
	peers  map[string]*callPeer // guarded by mu: by id; members only, see forget
}

// callPeer is what a caller keeps for one peer.
type callPeer struct {
	own, owner chan struct{} // slots; an element is a call under way
	dials      chan struct{} // capacity maxDials; an element is a connection that is being made
	idle       []*idleConn   // guarded by caller.mu; the youngest last
}

// idleConn is a connection that waits for a call. Its goroutine reads, so that the connection's end is noticed at once and no
// call is sent into it.
type idleConn struct {
	*peerConn
	over chan struct{} // closed when the goroutine is through, after live is set
	live bool          // the goroutine was stopped by take, and nothing was read
}

func newCaller(stream *peerStream) *caller {
	return &caller{connect: stream.connect, peers: make(map[string]*callPeer)}
}

// call asks the peer id at addr. sent says whether the peer may have received the request; if not, the error is certain.
// Errors wrap ErrUnreachable or are ctx's own.
func (c *caller) call(ctx context.Context, id, addr string, method uint8, body []byte) (a answer, sent bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, maxCallTime)
	defer cancel()
	release, err := c.slot(ctx, id, method)
	if err != nil {
		return answer{}, false, err
	}
	defer release()
	conn, err := c.conn(ctx, id, addr)
	if err != nil {
		return answer{}, false, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	a, err = exchange(ctx, conn, method, body)
	if err != nil {
		_ = conn.plain.Close() // before Close, which would wait to send its farewell
		_ = conn.Close()       // the exchange's error is the one that counts
		return answer{}, true, fmt.Errorf("%w: call %d to %s: %w", ErrUnreachable, method, id, err)
	}
	c.keep(conn)
	return a, true, nil
}

// conn returns a connection to id: one that is idle, or a new one.
func (c *caller) conn(ctx context.Context, id, addr string) (*peerConn, error) {
	if conn := c.take(id); conn != nil {
		return conn, nil
	}
	dials := c.peer(id).dials
	select {
	case dials <- struct{}{}:
		defer func() { <-dials }()
	case <-ctx.Done():
		return nil, fmt.Errorf("wait to dial %s: %w", id, context.Cause(ctx))
	}
	if conn := c.take(id); conn != nil { // another call was done with it meanwhile
		return conn, nil
	}
	return c.connect(ctx, id, addr, kindCall)
}

// slot waits until one more call to id may be made; release gives the place back.
func (c *caller) slot(ctx context.Context, id string, method uint8) (release func(), err error) {
	slots := c.peer(id).own
	if method >= FirstMethod {
		slots = c.peer(id).owner
	}
	select {
	case slots <- struct{}{}:
		return func() { <-slots }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: wait to call %s: %w", ErrUnreachable, id, context.Cause(ctx))
	}
}

func (c *caller) peer(id string) *callPeer {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.peers[id]
	if p == nil {
		p = &callPeer{own: make(chan struct{}, ownCalls), owner: make(chan struct{}, maxCallsOut-ownCalls), dials: make(chan struct{}, maxDials)}
		c.peers[id] = p
	}
	return p
}

// exchange sends one request and reads its answer, within ctx.
func exchange(ctx context.Context, conn *peerConn, method uint8, body []byte) (answer, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.plain.Close() })
	defer stop()
	req := request{method: method, patience: maxCallTime, body: body}
	if deadline, ok := ctx.Deadline(); ok {
		req.patience = time.Until(deadline)
	}
	if err := writeFrame(conn, req.encode()); err != nil {
		return answer{}, err
	}
	// The context bounds the wait for the answer, frameTime the answer once it has begun.
	a, err := decodeAnswer(&frameReader{conn: conn})
	if err != nil {
		return answer{}, fmt.Errorf("read the answer: %w", err)
	}
	if !stop() {
		return answer{}, context.Cause(ctx)
	}
	return a, conn.SetReadDeadline(time.Time{})
}

func writeFrame(conn net.Conn, frame []byte) error {
	if err := conn.SetWriteDeadline(time.Now().Add(frameTime)); err != nil {
		return fmt.Errorf("write a frame: %w", err)
	}
	if _, err := conn.Write(frame); err != nil {
		return fmt.Errorf("write a frame: %w", err)
	}
	return nil
}

// frameReader gives a frame, once it has begun, frameTime to arrive.
type frameReader struct {
	conn  net.Conn
	begun bool
}

// Read implements io.Reader.
func (f *frameReader) Read(p []byte) (int, error) {
	n, err := f.conn.Read(p)
	if n > 0 && !f.begun {
		f.begun = true
		if err == nil {
			err = f.conn.SetReadDeadline(time.Now().Add(frameTime))
		}
	}
	return n, err //nolint:wrapcheck // io.EOF must stay itself
}

// past is a deadline that has passed, whatever the clock says.
var past = time.Unix(1, 0)

// take returns a live idle connection to id, or nil.
func (c *caller) take(id string) *peerConn {
	p := c.peer(id)
	for {
		c.mu.Lock()
		if len(p.idle) == 0 {
			c.mu.Unlock()
			return nil
		}
		i := p.idle[len(p.idle)-1]
		p.idle = p.idle[:len(p.idle)-1]
		c.mu.Unlock()
		_ = i.SetReadDeadline(past) // an error would show at the next read
		<-i.over
		if i.live {
			_ = i.SetReadDeadline(time.Time{}) // as above
			return i.peerConn
		}
	}
}

// keep puts a connection aside for later calls, or closes it when there are enough.
func (c *caller) keep(conn *peerConn) {
	p := c.peer(conn.peer)
	i := &idleConn{peerConn: conn, over: make(chan struct{})}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || len(p.idle) >= idleConns {
		_ = conn.plain.Close() // no call is under way on it
		_ = conn.Close()       // as above
		return
	}
	_ = conn.SetReadDeadline(time.Now().Add(idleTime)) // an error would show at the next read
	p.idle = append(p.idle, i)
	c.idling.Go(func() { c.watch(p, i) })
}

// watch reads from an idle connection until it is taken, or is of no more use.
func (c *caller) watch(p *callPeer, i *idleConn) {
	defer close(i.over)
	n, err := i.Read(make([]byte, 1))
	c.mu.Lock()
	wasIdle := len(p.idle)
	p.idle = without(p.idle, i)
	taken := wasIdle == len(p.idle)
	c.mu.Unlock()
	var timeout net.Error
	if taken && n == 0 && errors.As(err, &timeout) && timeout.Timeout() {
		i.live = true
		return
	}
	_ = i.plain.Close() // no call is under way on it
	_ = i.Close()
}

func without(list []*idleConn, drop *idleConn) []*idleConn {
	for n, i := range list {
		if i == drop {
			return append(list[:n:n], list[n+1:]...)
		}
	}
	return list
}

// forget drops what is kept for peers that are no members.
func (c *caller) forget(admits func(string) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range c.peers {
		if !admits(id) {
			delete(c.peers, id) // the port closes the connections, and watch notices
		}
	}
}

// close keeps no more connections; the port closes those that are open.
func (c *caller) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
}

// serveCalls answers the calls that come over one accepted connection, one after the other.
func (s *Store) serveCalls(c *peerConn) {
	defer func() {
		_ = c.plain.Close() // whoever still waits learns it from the connection's end
		_ = c.Close()       // as above
	}()
	for {
		if err := c.SetReadDeadline(time.Now().Add(callIdle)); err != nil {
			return
		}
		req, err := decodeRequest(&frameReader{conn: c})
		if err != nil {
			if !errors.Is(err, io.EOF) && s.ctx.Err() == nil {
				s.logger.Debug("peer call connection ends", "peer", c.peer, "error", err)
			}
			return
		}
		ctx, cancel := context.WithTimeout(s.ctx, req.patience)
		a := s.handle(ctx, c.peer, &req)
		cancel()
		if err := writeFrame(c, a.encode()); err != nil {
			s.logger.Debug("answer to a peer call", "peer", c.peer, "method", req.method, "error", err)
			return
		}
	}
}

// handle answers one call.
func (s *Store) handle(ctx context.Context, from string, req *request) answer {
	var (
		body []byte
		err  error
	)
	switch {
	case req.method < FirstMethod:
		body, err = s.handleOwn(ctx, from, req)
	case s.handler == nil:
		err = errNoHandler
	default:
		body, err = s.handler(ctx, from, req.method, req.body)
	}
	if err == nil && len(body) > MaxCallBody {
		err = fmt.Errorf("%w: an answer of %d bytes, at most %d are allowed", ErrTooLarge, len(body), MaxCallBody)
	}
	if err == nil {
		return answer{status: statusOK, body: body}
	}
	if hint, ok := errors.AsType[*NotLeaderError](err); ok {
		return answer{status: statusNotLeader, body: []byte(joinTarget(raft.ServerID(hint.LeaderID), raft.ServerAddress(hint.LeaderAddr)))}
	}
	text := err.Error()
	return answer{status: statusError, body: []byte(strings.ToValidUTF8(text[:min(len(text), maxErrorText)], ""))}
}

var errNoHandler = errors.New("this node answers no calls of its owner")

// result turns an answer into what the caller is told.
func (a *answer) result(node string, method uint8) ([]byte, error) {
	switch a.status {
	case statusOK:
		return a.body, nil
	case statusNotLeader:
		id, addr, _ := splitTarget(raft.ServerAddress(a.body))
		return nil, &NotLeaderError{LeaderID: id, LeaderAddr: addr}
	default:
		return nil, &RemoteError{Node: node, Method: method, Text: string(a.body)}
	}
}

// Call asks the member node, which may be this one, and returns what its owner's Handler answered to method (FirstMethod or
// above) and body (at most MaxCallBody bytes). It ends with ctx, and after a minute in any case. The errors are:
//
//   - *RemoteError: the handler answered with an error, whose text this is;
//   - *NotLeaderError: the handler answered with one;
//   - ErrUnreachable: node is not a member, or there was no answer; the call may have been handled or not;
//   - ErrTooLarge, ErrConfig (the method is not the owner's), ErrClosed.
//
// Calls may overtake each other. At most 8 calls to one node are under way at a time; others wait.
func (s *Store) Call(ctx context.Context, node string, method uint8, body []byte) ([]byte, error) {
	if method < FirstMethod {
		return nil, fmt.Errorf("%w: method %d is the store's own", ErrConfig, method)
	}
	return s.ask(ctx, node, method, body)
}

// ask is Call for any method.
func (s *Store) ask(ctx context.Context, node string, method uint8, body []byte) ([]byte, error) {
	a, _, err := s.callMember(ctx, node, method, body)
	if err != nil {
		return nil, err
	}
	return a.result(node, method)
}

// callMember makes a call to a member. sent says whether the member may have received it.
func (s *Store) callMember(ctx context.Context, node string, method uint8, body []byte) (a answer, sent bool, err error) {
	if len(body) > MaxCallBody {
		return answer{}, false, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrTooLarge, len(body), MaxCallBody)
	}
	if err := s.running(); err != nil {
		return answer{}, false, err
	}
	if node == s.id {
		return s.handle(ctx, node, &request{method: method, body: body}), true, nil
	}
	m, ok := s.member(node)
	if !ok {
		return answer{}, false, fmt.Errorf("%w: %w: %q", ErrUnreachable, ErrNotMember, node)
	}
	return s.calls.call(ctx, node, string(m.Address), method, body)
}
