package link

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"golang.org/x/time/rate"

	"github.com/holdfast-edge/holdfast/internal/throttle"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

// What a listener takes on. The rate is for a crowd that comes back: ten thousand are through in half a minute where the
// processors keep up. Where they do not, the bound on unfinished handshakes is what counts. It moves, so that each handshake that
// is begun is over before its timeout, and none is begun in vain: work that ends in a timeout comes again.
const (
	defaultHandshakes  = 500
	defaultUnproved    = 100
	defaultConnections = 20000

	maxUnfinished = 512 // what comes in the first second
	minUnfinished = 128
	// slowHandshake makes the bound smaller. It is below tcpAfter: who has heard nothing for longer dials TCP beside QUIC, which is
	// a second handshake for the same session, at the worst of times.
	slowHandshake = tcpAfter * 3 / 4
	// maxUnprovedUnfinished are those from addresses that nobody proved: made-up ones never finish.
	maxUnprovedUnfinished = 64
	// maxSourceUnfinished are those of one source: a plant may have one address for all of its devices, and an attacker has it too.
	maxSourceUnfinished = maxUnfinished / 2

	// For the same reason a source may fail often before it has to wait.
	failuresPerSecond = 1
	failuresAtOnce    = 120
)

// A door decides about connections before a handshake costs anything. What it refuses the dialler reads as busy.
type door struct {
	unproved *rate.Limiter     // beyond it, an address must be proved first
	begin    *rate.Limiter     // handshakes
	held     chan struct{}     // connections
	failures throttle.Failures // handshakes with certificates that are not taken, by source

	refused [reasons]atomic.Uint64

	mu         sync.Mutex
	room       int            // how many handshakes may be unfinished, minUnfinished to maxUnfinished
	unfinished int            // handshakes
	made       int            // of them, those from addresses that nobody proved
	by         map[string]int // of them, by source; none is 0
	turned     turnedAway
}

// Reasons to refuse a connection before its handshake.
const (
	byRate        = iota // more than Options.Handshakes a second
	byUnfinished         // too many are under way, of all or of the source
	byFailures           // the source showed too many bad certificates
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
		room: maxUnfinished, by: make(map[string]int),
	}
}

// prove tells whether a client has to prove its address, which costs it a round trip, and this side nothing that it keeps. One
// that will be refused is spared the trip.
func (d *door) prove(from net.Addr) bool {
	d.mu.Lock()
	full, made := d.unfinished >= d.room || d.turned.has(from.String(), time.Now()), d.made
	d.mu.Unlock()
	if full || made < maxUnprovedUnfinished && d.unproved.Allow() {
		return false
	}
	giveTurn()
	return true
}

// giveTurn lets the library send what it answers to those whom it does not let in. It does so from queues of four and eight, and
// drops what finds them full; who is not told goes on knocking, until this side does nothing but drop.
func giveTurn() { runtime.Gosched() }

var errBusy = errors.New("no more connections now")

// refuse counts a connection that is not taken on.
func (d *door) refuse(from net.Addr, reason int) (*handshake, error) {
	giveTurn()
	d.refused[reason].Add(1)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.turned.add(from.String(), time.Now())
	return nil, errBusy
}

// turnedAway remembers for a moment whom the door refused. A client's first word takes more than one packet: without this the
// second one would begin a handshake that never ends, when there was no room for the first. And as not every refusal is sent, who
// did not hear the first is told again.
type turnedAway struct {
	now, before map[string]struct{} // address and port
	since       time.Time           // of now
}

const (
	turnedAwayTime = 2 * time.Second // at the least, and twice that at the most; an agent stays away for longer
	maxTurnedAway  = 8192            // of each half
)

func (t *turnedAway) add(who string, at time.Time) {
	t.turn(at)
	if len(t.now) < maxTurnedAway {
		t.now[who] = struct{}{}
	}
}

// has tells whether somebody was refused a moment ago.
func (t *turnedAway) has(who string, at time.Time) bool {
	t.turn(at)
	_, now := t.now[who]
	_, before := t.before[who]
	return now || before
}

// turn forgets what is old.
func (t *turnedAway) turn(at time.Time) {
	if d := at.Sub(t.since); d >= turnedAwayTime || t.now == nil {
		t.before, t.now, t.since = t.now, make(map[string]struct{}), at
		if d >= 2*turnedAwayTime {
			t.before = nil
		}
	}
}

// enter takes a QUIC connection on, or refuses it. ctx ends with the connection.
func (d *door) enter(ctx context.Context, from *quic.ClientInfo) (context.Context, error) {
	if d.wasRefused(from.RemoteAddr, time.Now()) {
		giveTurn()
		return nil, errBusy
	}
	h, err := d.admit(from.RemoteAddr, from.AddrVerified)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { h.left(context.Cause(ctx)) })
	return context.WithValue(ctx, handshakeKey{}, h), nil
}

// admit begins a handshake, or says that there is no room for it. Whoever gets one tells it when the connection has left.
func (d *door) admit(from net.Addr, proved bool) (*handshake, error) {
	h := &handshake{door: d, source: sourceOf(from), proved: proved, begun: time.Now()}
	switch {
	case !d.failures.Allowed(h.source):
		return d.refuse(from, byFailures)
	case !d.start(h):
		return d.refuse(from, byUnfinished)
	case !d.begin.Allow():
		h.over()
		return d.refuse(from, byRate)
	}
	select {
	case d.held <- struct{}{}:
		return h, nil
	default:
		h.over()
		return d.refuse(from, byConnections)
	}
}

// wasRefused tells whether a client was refused a moment ago.
func (d *door) wasRefused(from net.Addr, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.turned.has(from.String(), now)
}

// start counts a handshake as unfinished, if there is room for it.
func (d *door) start(h *handshake) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.unfinished >= d.room || d.by[h.source] >= maxSourceUnfinished || !h.proved && d.made >= maxUnprovedUnfinished {
		return false
	}
	d.unfinished++
	d.by[h.source]++
	if !h.proved {
		d.made++
	}
	return true
}

// resize moves the bound on unfinished handshakes.
func (d *door) resize(by int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.room = min(max(d.room+by, minUnfinished), maxUnfinished)
}

// A handshake is one that was begun. It lies in its connection's context.
type handshake struct {
	door   *door
	source string
	proved bool
	begun  time.Time

	complete atomic.Bool
	ended    atomic.Bool // it no longer counts as unfinished
}

type handshakeKey struct{}

// over ends its counting as unfinished.
func (h *handshake) over() {
	if h.ended.Swap(true) {
		return
	}
	d := h.door
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unfinished--
	if d.by[h.source]--; d.by[h.source] == 0 {
		delete(d.by, h.source)
	}
	if !h.proved {
		d.made--
	}
}

// handshakeOf is a QUIC connection's; nil: of one that this side dialled.
func handshakeOf(c *quic.Conn) *handshake {
	h, _ := c.Context().Value(handshakeKey{}).(*handshake)
	return h
}

// completed notes that the client did its part.
func (h *handshake) completed() {
	h.complete.Store(true)
	if time.Since(h.begun) > slowHandshake {
		h.door.resize(-2)
	} else {
		h.door.resize(1)
	}
}

// left notes the end of a connection, which says something about its client only when the handshake is not complete.
func (h *handshake) left(err error) {
	<-h.door.held
	h.over()
	switch {
	case h.complete.Load():
	case isBadCertificate(err):
		h.door.failures.Failed(h.source)
	case h.proved && isTimeout(err):
		h.door.resize(-4)
	}
}

// isTimeout tells whether the other side went silent, or was given up because this side is too slow: nobody can tell which.
func isTimeout(err error) bool {
	var (
		idle    *quic.IdleTimeoutError
		timeout *quic.HandshakeTimeoutError
	)
	return errors.As(err, &idle) || errors.As(err, &timeout) || errors.Is(err, context.DeadlineExceeded)
}

// The alerts by which this side ends the handshake of a client whose certificate it does not take (RFC 8446, section 6.2). A
// client gets so far only with what was sent to its address, so the address is its own.
const (
	alertBadCertificate      = 42 // to 49: what can be wrong with one
	alertAccessDenied        = 49
	alertCertificateRequired = 116
)

func isBadCertificate(err error) bool {
	if errors.Is(err, ident.ErrUntrusted) { // over TCP, as this side found it
		return true
	}
	te, ok := errors.AsType[*quic.TransportError](err)
	if !ok || te.Remote || !te.ErrorCode.IsCryptoError() {
		return false
	}
	alert := uint64(te.ErrorCode) & 0xff
	return alert >= alertBadCertificate && alert <= alertAccessDenied || alert == alertCertificateRequired
}

// sourceOf is what is counted by: an IPv4 address, or the 64 bits of an IPv6 address that one network has.
func sourceOf(a net.Addr) string {
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
