package link

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/quic-go/quic-go"
	"golang.org/x/time/rate"

	"github.com/holdfast-edge/holdfast/internal/throttle"
)

// What a listener takes on. The first numbers are for a crowd that comes back: ten thousand are through in half a minute where
// the processors keep up. Where they do not, maxUnfinished is what counts: it lets a handshake wait for no more than that many
// others, so that each that is begun is over before its timeout even where there are sixty a second, and none is begun in vain.
const (
	defaultHandshakes  = 500
	defaultUnproved    = 100
	defaultConnections = 20000
	maxUnfinished      = 512
	// maxUnprovedUnfinished are those of them from addresses that nobody proved: made-up ones never finish.
	maxUnprovedUnfinished = 64

	// A plant may have one address for all of its devices, so a source may fail often before it has to wait.
	failuresPerSecond = 1
	failuresAtOnce    = 120
)

// A door decides about connections before a handshake costs anything. What it refuses the dialler reads as busy.
type door struct {
	unproved *rate.Limiter     // beyond it, an address must be proved first
	begin    *rate.Limiter     // handshakes
	held     chan struct{}     // connections
	failures throttle.Failures // handshakes that the client let fail, by source

	unfinished       atomic.Int64
	unprovenUnderWay atomic.Int64 // of unfinished

	refused [reasons]atomic.Uint64
}

// Reasons to refuse a connection before its handshake.
const (
	byRate        = iota // more than Options.Handshakes a second
	byUnfinished         // too many are under way
	byFailures           // the source let too many fail
	byConnections        // more than Options.Connections are held
	reasons
)

// reasonNames are for metrics: by adding.
var reasonNames = [reasons]string{"rate", "unfinished", "failures", "connections"}

func newDoor(o Options) *door {
	begin, unproved, conns := o.Handshakes, o.Unproved, o.Connections
	if begin == 0 {
		begin = defaultHandshakes
	}
	if unproved == 0 {
		unproved = defaultUnproved
	}
	if conns == 0 {
		conns = defaultConnections
	}
	return &door{
		unproved: rate.NewLimiter(unproved, max(1, int(2*unproved))), begin: rate.NewLimiter(begin, max(1, int(begin))),
		held: make(chan struct{}, conns), failures: throttle.Failures{PerSecond: failuresPerSecond, Burst: failuresAtOnce},
	}
}

// prove tells whether a client has to prove its address, which costs it a round trip, and this side nothing that it keeps.
func (d *door) prove(net.Addr) bool {
	return d.unprovenUnderWay.Load() >= maxUnprovedUnfinished || !d.unproved.Allow()
}

var errBusy = errors.New("no more connections now")

// refuse counts a connection that is not taken on.
func (d *door) refuse(reason int) (context.Context, error) {
	d.refused[reason].Add(1)
	return nil, errBusy
}

// enter takes a connection on, or refuses it. ctx ends with the connection.
func (d *door) enter(ctx context.Context, from *quic.ClientInfo) (context.Context, error) {
	src := source(from.RemoteAddr)
	switch {
	case d.unfinished.Load() >= maxUnfinished:
		return d.refuse(byUnfinished)
	case !d.failures.Allowed(src):
		return d.refuse(byFailures)
	case !d.begin.Allow():
		return d.refuse(byRate)
	}
	select {
	case d.held <- struct{}{}:
	default:
		return d.refuse(byConnections)
	}
	proved := from.AddrVerified
	d.unfinished.Add(1)
	if !proved {
		d.unprovenUnderWay.Add(1)
	}
	h := &handshake{over: sync.OnceFunc(func() {
		d.unfinished.Add(-1)
		if !proved {
			d.unprovenUnderWay.Add(-1)
		}
	})}
	context.AfterFunc(ctx, func() {
		<-d.held
		h.over()
		if !h.complete.Load() && blame(context.Cause(ctx), proved) {
			d.failures.Failed(src)
		}
	})
	return context.WithValue(ctx, handshakeKey{}, h), nil
}

// A handshake is one that was begun. It lies in its connection's context.
type handshake struct {
	over     func() // it no longer counts as unfinished; more than once is once
	complete atomic.Bool
}

type handshakeKey struct{}

// completed notes that the client did its part.
func completed(c *quic.Conn) {
	if h, ok := c.Context().Value(handshakeKey{}).(*handshake); ok {
		h.complete.Store(true)
	}
}

// takenOn notes that somebody serves the connection, so that there is room for another handshake.
func takenOn(c *quic.Conn) {
	if h, ok := c.Context().Value(handshakeKey{}).(*handshake); ok {
		h.over()
	}
}

// The alerts by which this side ends the handshake of a client whose certificate it does not take (RFC 8446, section 6.2). A
// client gets so far only with what was sent to its address, so the address is its own.
const (
	alertBadCertificate      = 42 // to 49: what can be wrong with one
	alertAccessDenied        = 49
	alertCertificateRequired = 116
)

// blame tells whether the client is to blame for a handshake that was not completed, and the address is its own: it showed a
// bad certificate or none, or it went silent. It does not go silent because this side is slow: see maxUnfinished.
func blame(err error, proved bool) bool {
	var (
		idle    *quic.IdleTimeoutError
		timeout *quic.HandshakeTimeoutError
		te      *quic.TransportError
	)
	switch {
	case errors.As(err, &idle), errors.As(err, &timeout):
		return proved
	case errors.As(err, &te) && !te.Remote && te.ErrorCode.IsCryptoError():
		alert := uint64(te.ErrorCode) & 0xff
		return alert >= alertBadCertificate && alert <= alertAccessDenied || alert == alertCertificateRequired
	}
	return false
}

// source is what failures are counted by: an IPv4 address, or the 64 bits of an IPv6 address that one network has.
func source(a net.Addr) string {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return a.String()
	}
	ip := ap.Addr().Unmap().WithZone("")
	if ip.Is6() {
		if p, err := ip.Prefix(64); err == nil {
			return p.String()
		}
	}
	return ip.String()
}
