// Package link carries sessions: authenticated connections with frames. They run over QUIC or, where UDP is blocked, over TLS
// 1.3 on any net.Conn, behind the same types and with the same meaning; docs/protocol.md describes both.
//
// A Session has one control stream, opened by the side that dialled. Send may be called from any goroutine; Recv from one
// at a time. Every wait ends with the session, its context or a deadline.
//
// On a net.Conn the control stream is cut into records (see record.go), between which keep-alives and the closing travel. No
// multiplexer lies below it: a session has one stream today, and hashicorp/yamux would let every peer pin at least 256 KiB for
// each stream that it opens, could not carry a closing code nor the dialler's keep-alive, and takes one more goroutine. Unknown
// kinds of records are skipped, so that a multiplexer for bulk streams can become a kind of its own: the control stream then
// never waits behind content.
package link

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/time/rate"

	"github.com/holdfast-edge/holdfast/wire"
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
	Stream     uint64 // bytes not yet read, of one stream over QUIC
	Connection uint64 // bytes not yet read, of all streams over QUIC
	Initial    uint64 // of both, what a peer may send at once before its speed is known; 0: what fits a quiet session
	Streams    int64  // streams open at once that the peer opened over QUIC
	Frame      int    // bytes of one frame of the control stream
	Socket     int    // bytes that the system may hold for a TCP connection, each way; 0: as it sees fit
}

// The limits of the kinds of link. An agent can pin less than 512 KiB of its gateway's memory. What a window costs is not
// its size: quic-go keeps each piece that arrives behind a gap on its own, about 110 bytes for a piece of one byte, and a whole
// packet buffer for one of 128. So the window is small; a frame that is larger passes through it in pieces. Over TCP, Linux
// takes twice the Socket, each way; beside it lie a TLS record, a record of the link and a frame.
var (
	AgentLimits  = Limits{Stream: 2 << 10, Connection: 2 << 10, Streams: 1, Frame: 33 << 10, Socket: 64 << 10}
	UplinkLimits = Limits{Stream: 4 << 20, Connection: 8 << 20, Streams: 64, Frame: wire.MaxFrame}
	// SiblingLimits are for the gateway that dials another one, which has the limits of its port: AgentLimits.
	SiblingLimits = Limits{Stream: 128 << 10, Connection: 128 << 10, Streams: 1, Frame: 33 << 10, Socket: 128 << 10}
	// ContentLimits are for whoever dials a session for content: one blob is read while the next ones arrive.
	ContentLimits = Limits{Stream: 512 << 10, Connection: 512 << 10, Initial: 512 << 10, Streams: 1, Frame: wire.TypeBlob.Limit(), Socket: 512 << 10}
)

// Options of a listener or a dial.
type Options struct {
	Limits    Limits
	KeepAlive time.Duration // dial only; default DefaultKeepAlive
	// Handshakes bounds how many handshakes a second are begun; beyond it a client is refused, and reads that as CodeBusy, or,
	// over TCP, is hung up on. Listen only; default 500, with bursts of one second's.
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

func (o Options) keepAlive() time.Duration {
	if o.KeepAlive <= 0 {
		return DefaultKeepAlive
	}
	return o.KeepAlive
}

// A Carrier is what sessions run over.
type Carrier int

// The carriers.
const (
	QUIC Carrier = iota
	TCP          // TLS 1.3 on a net.Conn: TCP, or what a relay splices
)

// Carriers are all there are.
func Carriers() []Carrier { return []Carrier{QUIC, TCP} }

// String is the carrier's name in logs and metrics.
func (c Carrier) String() string {
	switch c {
	case QUIC:
		return "quic"
	case TCP:
		return "tcp"
	}
	return fmt.Sprintf("carrier_%d", int(c))
}

// A connection is what a session needs of what carries it.
type connection interface {
	carrier() Carrier
	state() tls.ConnectionState
	remote() net.Addr
	roundTrip() time.Duration
	context() context.Context
	// control waits for the control stream, which the peer opens.
	control(ctx context.Context) (control, error)
	// end closes the connection with a reason for the peer. It does not wait for the peer.
	end(e *wire.Error)
}

// A control is a control stream. Close ends this side's half of it.
type control interface {
	io.ReadWriteCloser
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
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
