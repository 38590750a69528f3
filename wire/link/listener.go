package link

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
)

// A Listener accepts sessions.
type Listener struct {
	from  source
	door  *door
	frame int // largest frame of a peer with an identity
}

// A source hands out connections whose handshake is complete.
type source interface {
	accept(ctx context.Context) (connection, error)
	Close() error
}

// Accept waits for the next connection whose handshake is complete.
func (l *Listener) Accept(ctx context.Context) (*Pending, error) {
	c, err := l.from.accept(ctx)
	if err != nil {
		return nil, err
	}
	p := &Pending{conn: c, frame: l.frame}
	if len(c.state().PeerCertificates) == 0 {
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

// Close stops accepting. Sessions that were accepted over QUIC go on; those over TCP end.
func (l *Listener) Close() error { return l.from.Close() }

// A Pending connection has not opened its control stream yet.
type Pending struct {
	conn  connection
	frame int
}

// Protocol is the ALPN name that the client chose.
func (p *Pending) Protocol() string { return p.conn.state().NegotiatedProtocol }

// Session waits for the control stream, at most the given time, and closes the connection when it does not come.
func (p *Pending) Session(ctx context.Context, wait time.Duration) (*Session, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	s, err := p.conn.control(ctx)
	if err != nil {
		p.conn.end(wire.Refuse(wire.CodeBusy, "no control stream in time")) // that is why it comes late from whoever means well
		return nil, fmt.Errorf("wait for the control stream: %w", asError(err))
	}
	return newSession(p.conn, s, p.frame), nil
}

// Refuse closes the connection with a code.
func (p *Pending) Refuse(e *wire.Error) { p.conn.end(e) }
