package mesh

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"golang.org/x/time/rate"

	"github.com/holdfast-edge/holdfast/wire"
)

// What one sibling can make this gateway do. An honest one sends a few packets a second when much changes, and a stream a minute.
const (
	packetsPerSecond = 30
	packetsAtOnce    = 60
	streamsPerSecond = 0.2
	streamsAtOnce    = 5
	packetsWaiting   = 64
)

var (
	errNameless = errors.New("the mesh sends by name alone")
	errUnlisted = errors.New("not on the list of the site's gateways")
)

// A transport carries what the library sends over sessions with siblings, and goes by their names: where it sends to is decided by
// the name alone, and whom something is from by the certificate.
type transport struct {
	self   string
	dialer func(ctx context.Context, name string, p wire.Purpose) (net.Conn, error)
	listed func(name string) bool
	sieve  *sieve
	refuse func(from string, err error) // notes what was sieved

	packets chan *memberlist.Packet // capacity packetsWaiting; never closed, as the library reads on
	streams chan net.Conn           // without a buffer; never closed

	ctx     context.Context //nolint:containedctx // the library's calls have none; ends with Shutdown
	stop    context.CancelFunc
	dropped *atomic.Uint64

	mu       sync.Mutex
	closed   bool
	couriers map[string]*courier
	limits   map[string]*limits
	incoming map[string]int // connections over which packets of a sibling come in
	wg       sync.WaitGroup // what Shutdown waits for
}

// limits are what a sibling has left.
type limits struct{ packets, streams *rate.Limiter }

func newTransport(t *transport) *transport {
	t.packets, t.streams = make(chan *memberlist.Packet, packetsWaiting), make(chan net.Conn)
	t.couriers, t.limits, t.incoming = make(map[string]*courier), make(map[string]*limits), make(map[string]int)
	t.ctx, t.stop = context.WithCancel(context.Background())
	return t
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

// FinalAdvertiseAddr implements memberlist.Transport.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return ipOf(t.self), addrPort, nil
}

// WriteTo implements memberlist.Transport.
func (t *transport) WriteTo([]byte, string) (time.Time, error) { return time.Time{}, errNameless }

// DialTimeout implements memberlist.Transport.
func (t *transport) DialTimeout(string, time.Duration) (net.Conn, error) { return nil, errNameless }

// PacketCh implements memberlist.Transport.
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh implements memberlist.Transport.
func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

// WriteToAddress implements memberlist.NodeAwareTransport. It does not block, and what is for a gateway that is not listed is lost
// as on any network: an error would keep the library from noticing that it is gone.
func (t *transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	if len(b) <= maxPacket && t.listed(a.Name) {
		if c := t.courier(a.Name); c != nil {
			c.offer(b)
			return time.Now(), nil
		}
	}
	t.dropped.Add(1)
	return time.Now(), nil
}

// courier is the one for a sibling; nil: the mesh stops.
func (t *transport) courier(name string) *courier {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	if c, ok := t.couriers[name]; ok {
		return c
	}
	ctx, cancel := context.WithCancel(t.ctx)
	c := &courier{
		dial:  func(ctx context.Context) (net.Conn, error) { return t.dialer(ctx, name, wire.PurposePackets) },
		queue: make(chan []byte, courierQueue), dropped: t.dropped, drop: cancel,
	}
	t.couriers[name] = c
	t.wg.Go(func() { c.run(ctx) })
	return c
}

// DialAddressTimeout implements memberlist.NodeAwareTransport.
func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	if !t.listed(a.Name) {
		return nil, errUnlisted
	}
	ctx, cancel := context.WithTimeout(t.ctx, timeout)
	defer cancel()
	conn, err := t.dialer(ctx, a.Name, wire.PurposeGossip)
	if err != nil {
		return nil, err
	}
	s := newStream(conn, t.sieve, false, func(err error) { t.refuse(a.Name, err) })
	if !t.guard(s) {
		return nil, errors.Join(net.ErrClosed, s.Close())
	}
	return s, nil
}

// guard closes a stream with the mesh, and lets the mesh's end wait for it. false: the mesh stops.
func (t *transport) guard(s *stream) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.wg.Go(func() {
		select {
		case <-s.over:
		case <-t.ctx.Done():
			s.Close() //nolint:errcheck // it was given up
		}
	})
	return true
}

// greet sees to it that there is a connection with a sibling, whatever is said of it: that it stands is better evidence.
func (t *transport) greet(name string) {
	if c := t.courier(name); c != nil && !t.connected(name) {
		c.offer(nil)
	}
}

// limitsOf are the limits of a sibling.
func (t *transport) limitsOf(name string) *limits {
	t.mu.Lock()
	defer t.mu.Unlock()
	l, ok := t.limits[name]
	if !ok {
		l = &limits{rate.NewLimiter(packetsPerSecond, packetsAtOnce), rate.NewLimiter(streamsPerSecond, streamsAtOnce)}
		t.limits[name] = l
	}
	return l
}

// enter notes work for a sibling's connection; leave takes that back. false: the mesh stops.
func (t *transport) enter(from string, n int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.incoming[from] += n
	t.wg.Add(1)
	return true
}

func (t *transport) leave(from string, n int) {
	t.mu.Lock()
	t.incoming[from] -= n
	t.mu.Unlock()
	t.wg.Done()
}

// serveStream gives a sibling's stream to the library and returns when that is done with it.
func (t *transport) serveStream(ctx context.Context, from string, conn net.Conn) {
	if !t.listed(from) || !t.enter(from, 0) {
		return
	}
	defer t.leave(from, 0)
	if !t.limitsOf(from).streams.Allow() {
		t.dropped.Add(1)
		return
	}
	s := newStream(conn, t.sieve, true, func(err error) { t.refuse(from, err) })
	defer s.Close() //nolint:errcheck // what was to be said was said
	select {
	case t.streams <- s:
	case <-ctx.Done():
		return
	case <-t.ctx.Done():
		return
	}
	select {
	case <-s.over:
	case <-ctx.Done():
	case <-t.ctx.Done():
	}
}

// servePackets gives a sibling's packets to the library until the connection ends.
func (t *transport) servePackets(ctx context.Context, from string, conn net.Conn) {
	if !t.listed(from) || !t.enter(from, 1) {
		return
	}
	defer t.leave(from, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	unhook := context.AfterFunc(t.ctx, cancel) //nolint:contextcheck // it ends with the mesh, too
	defer unhook()
	unblock := context.AfterFunc(ctx, func() { conn.Close() }) //nolint:errcheck // it was given up
	defer unblock()
	limit := t.limitsOf(from).packets
	var head [2]byte
	for {
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			return
		}
		n := binary.BigEndian.Uint16(head[:])
		if n > maxPacket || limit.Wait(ctx) != nil { // who sends more is held back, not heard
			return
		}
		if n == 0 { // a greeting
			continue
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(conn, b); err != nil {
			return
		}
		if err := t.sieve.packet(from, b); err != nil {
			t.refuse(from, err)
			continue
		}
		select {
		case t.packets <- &memberlist.Packet{Buf: b, From: nodeAddr(from), Timestamp: time.Now()}:
		default:
			t.dropped.Add(1)
		}
	}
}

// connected tells whether packets go to a sibling, or come from it, at present.
func (t *transport) connected(name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.couriers[name]
	return t.incoming[name] > 0 || c != nil && c.up.Load()
}

// prune lets go of what is kept for gateways that are no longer listed.
func (t *transport) prune() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, c := range t.couriers {
		if !t.listed(name) {
			c.drop()
			delete(t.couriers, name)
		}
	}
	for name := range t.limits {
		if !t.listed(name) {
			delete(t.limits, name)
		}
	}
}

// Shutdown implements memberlist.Transport: it ends every connection and waits for that.
func (t *transport) Shutdown() error {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.stop()
	t.wg.Wait()
	return nil
}
