package raftstore

import (
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Raft's transport does not tell from whom a message came, only what the message says of itself. So each accepted
// connection gets a transport of its own, and what comes out of it is compared with the verified id of the peer.

// oneConn is the stream layer of such a transport: it accepts one connection.
type oneConn struct {
	conn    *peerConn
	given   chan *oneConn // capacity 1: the connection, until it is accepted
	closed  chan struct{} // closed when the connection is over
	close   sync.Once
	handled chan struct{} // closed when raft's handler has let go of the connection
	letGo   sync.Once
}

// serveRaft carries the raft messages of one accepted connection to raft until either side ends it.
func (t *idTransport) serveRaft(c *peerConn) {
	layer := &oneConn{conn: c, given: make(chan *oneConn, 1), closed: make(chan struct{}), handled: make(chan struct{})}
	layer.given <- layer
	in := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream:                  layer,
		Timeout:                 rpcTimeout,
		Logger:                  newRaftLogger(t.logger),
		MsgpackUseNewTimeFormat: true,
	})
	in.SetHeartbeatHandler(func(rpc raft.RPC) {
		if t.vouched(c, rpc) {
			t.heartbeat(rpc)
		}
	})
	t.relay(c, in, layer.handled)
	_ = layer.Close() // reports to nobody
	_ = in.Close()    // as above; it ends the handler and the accept loop
	<-layer.handled
}

// relay passes on messages until the connection is over.
func (t *idTransport) relay(c *peerConn, in *raft.NetworkTransport, over <-chan struct{}) {
	for {
		select {
		case rpc := <-in.Consumer():
			if !t.vouched(c, rpc) {
				return
			}
			if rpc.Reader != nil {
				rpc.Reader = &pacedReader{r: rpc.Reader, conn: c}
			}
			if !t.pass(rpc, over) {
				return
			}
		case <-over:
			return
		case <-t.stream.ctx.Done():
			return
		}
	}
}

// pass gives raft one message. When it brought entries, the store hears of it after the peer has its answer.
func (t *idTransport) pass(rpc raft.RPC, over <-chan struct{}) bool {
	if req, ok := rpc.Command.(*raft.AppendEntriesRequest); !ok || len(req.Entries) == 0 {
		return t.deliver(rpc, over)
	}
	back, answered := rpc.RespChan, make(chan raft.RPCResponse, 1)
	rpc.RespChan = answered
	if !t.deliver(rpc, over) {
		return false
	}
	select {
	case resp := <-answered:
		back <- resp // it has room for the one answer
		t.appended(over)
		return true
	case <-over:
		return false
	case <-t.stream.ctx.Done():
		return false
	}
}

// deliver gives raft a message; false: the connection or the port ended before raft took it.
func (t *idTransport) deliver(rpc raft.RPC, over <-chan struct{}) bool {
	select {
	case t.consume <- rpc:
		return true
	case <-over:
		return false
	case <-t.stream.ctx.Done():
		return false
	}
}

// vouched says whether a message speaks for the peer that sent it; otherwise it answers it and the connection ends. A node
// that knows of no members answers no question for its vote: it may be a voter that lost its memory, and vote twice.
func (t *idTransport) vouched(c *peerConn, rpc raft.RPC) bool {
	refuse := func(err error) bool {
		t.logger.Warn("raft message refused", "peer", c.peer, "error", err)
		rpc.Respond(nil, err)
		_ = c.plain.Close() // the handler notices
		return false
	}
	command, ok := rpc.Command.(raft.WithRPCHeader)
	if !ok {
		return refuse(fmt.Errorf("%T: %w", rpc.Command, ErrNotMember))
	}
	if id := string(command.GetRPCHeader().ID); id != c.peer {
		return refuse(fmt.Errorf("%s speaks as %q: %w", c.peer, id, ErrNotMember))
	}
	switch rpc.Command.(type) {
	case *raft.RequestVoteRequest, *raft.RequestPreVoteRequest, *raft.TimeoutNowRequest:
		if !t.mayVote() {
			return refuse(fmt.Errorf("this node has no configuration yet, so it has no vote: %w", ErrNotMember))
		}
	}
	return true
}

// pacedReader reads a snapshot from a connection. Raft reads it on its main goroutine, which a leader that falls silent in
// the middle must not hold up for as long as TCP takes to notice.
type pacedReader struct {
	r    io.Reader
	conn net.Conn
}

// Read implements io.Reader.
func (p *pacedReader) Read(b []byte) (int, error) {
	if err := p.conn.SetReadDeadline(time.Now().Add(rpcTimeout)); err != nil {
		return 0, fmt.Errorf("read the leader's snapshot: %w", err)
	}
	n, err := p.r.Read(b)
	_ = p.conn.SetReadDeadline(time.Time{}) // an error would show at the next read
	return n, err                           //nolint:wrapcheck // io.EOF must stay itself
}

// Accept implements net.Listener.
func (o *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-o.given:
		return &handledConn{peerConn: c.conn, layer: c}, nil
	case <-o.closed:
		return nil, errStreamClosed
	}
}

// Addr implements net.Listener.
func (o *oneConn) Addr() net.Addr { return o.conn.LocalAddr() }

// Close implements net.Listener.
func (o *oneConn) Close() error {
	o.close.Do(func() {
		close(o.closed)
		_ = o.conn.plain.Close() // the handler notices and closes the rest
		select {
		case <-o.given: // nobody took it, so nobody will close it
			_ = o.conn.Close() // the plain connection is closed already
			o.letGo.Do(func() { close(o.handled) })
		default:
		}
	})
	return nil
}

// Dial implements raft.StreamLayer; such a transport never dials.
func (o *oneConn) Dial(raft.ServerAddress, time.Duration) (net.Conn, error) {
	return nil, errStreamClosed
}

// handledConn tells when raft's handler, which closes it last of all, is through.
type handledConn struct {
	*peerConn
	layer *oneConn
}

// Close implements net.Conn.
func (h *handledConn) Close() error {
	err := h.peerConn.Close()
	h.layer.letGo.Do(func() { close(h.layer.handled) })
	return err
}
