// Package netsim is a network in memory, for worlds in virtual time: UDP packets with latency, loss, duplication and cuts,
// and streams between hosts. Inside a testing/synctest bubble every wait in it is durable, so hours pass in moments.
package netsim

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// Weather is what happens to packets between two hosts. The zero value is a perfect network.
type Weather struct {
	Latency   time.Duration
	Jitter    time.Duration // added to the latency, evenly drawn; packets then overtake each other
	Loss      float64       // 0 to 1
	Duplicate float64       // 0 to 1
}

// Net is one network. Hosts are IP addresses; they exist by being used.
type Net struct {
	mu      sync.Mutex
	rand    *rand.Rand
	weather Weather
	cut     map[[2]netip.Addr]bool // from, to
	off     map[netip.Addr]bool    // hosts that are unplugged
	away    map[netip.Addr]distance
	noUDP   map[netip.Addr]bool // hosts with a firewall that lets no packets through, and streams alone
	packets map[netip.AddrPort]*PacketConn
	streams map[string]*listener
	open    map[*half]struct{} // directions of open streams
	next    uint16             // port for those who do not care
	seen    func(from, to netip.AddrPort, p []byte)
}

// New makes a network whose randomness comes from seed.
func New(seed uint64, w Weather) *Net {
	return &Net{
		rand: rand.New(rand.NewPCG(seed, 1)), weather: w, cut: make(map[[2]netip.Addr]bool), off: make(map[netip.Addr]bool), noUDP: make(map[netip.Addr]bool), away: make(map[netip.Addr]distance), //nolint:gosec // a seed is the point
		packets: make(map[netip.AddrPort]*PacketConn), streams: make(map[string]*listener), open: make(map[*half]struct{}), next: 40000,
	}
}

// SetWeather changes what happens to packets from now on.
func (n *Net) SetWeather(w Weather) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.weather = w
}

// A distance is what a host adds to the latency of what it sends and is sent.
type distance struct {
	d      time.Duration
	spread float64
}

// Away puts a host at a distance: whatever it sends and is sent takes d longer, for packets give or take the fraction spread of it.
func (n *Net) Away(host netip.Addr, d time.Duration, spread float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.away[host] = distance{d, spread}
}

// steady is the latency between two hosts without what is drawn. The caller holds mu.
func (n *Net) steady(from, to netip.Addr) time.Duration {
	return n.weather.Latency + n.away[from].d + n.away[to].d
}

// latency is how long a packet takes. The caller holds mu.
func (n *Net) latency(from, to netip.Addr) time.Duration {
	d := n.steady(from, to)
	if n.weather.Jitter > 0 {
		d += time.Duration(n.rand.Int64N(int64(n.weather.Jitter)))
	}
	for _, a := range [2]distance{n.away[from], n.away[to]} {
		if a.spread > 0 {
			d += time.Duration((n.rand.Float64()*2 - 1) * a.spread * float64(a.d))
		}
	}
	return d
}

// Watch calls f with every packet that is sent. f must not keep p.
func (n *Net) Watch(f func(from, to netip.AddrPort, p []byte)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seen = f
}

// Cut stops, or lets through again, what from sends to to. One direction: call it twice for a partition.
func (n *Net) Cut(from, to netip.Addr, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[[2]netip.Addr{from, to}] = cut
	for h := range n.open {
		h.flow()
	}
}

// BlockUDP drops, or lets through again, all packets from and to a host. Streams are not concerned.
func (n *Net) BlockUDP(host netip.Addr, blocked bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.noUDP[host] = blocked
}

// Unplug takes a host off the network, as a kill of all its processes does: nothing leaves it any more, its streams break, and
// dials to it fail. Plug brings it back.
func (n *Net) Unplug(host netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.off[host] = true
	for h := range n.open {
		if h.from == host || h.to == host {
			h.broken, h.closed = true, true
			delete(n.open, h)
			h.flow()
		}
	}
}

// Plug puts a host back on the network.
func (n *Net) Plug(host netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.off, host)
}

// queue is how many packets a host holds that nobody has read; more are lost, as in a kernel.
const queue = 4096

// PacketConn is a UDP socket of a host.
type PacketConn struct {
	net   *Net
	addr  netip.AddrPort
	in    chan packet
	done  chan struct{}
	close sync.Once

	mu       sync.Mutex
	deadline time.Time
	changed  chan struct{} // closed and replaced when the deadline changes
}

type packet struct {
	from netip.AddrPort
	data []byte
}

// ListenPacket opens a socket. A port of 0 is replaced by a free one.
func (n *Net) ListenPacket(addr netip.AddrPort) (*PacketConn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if addr.Port() == 0 {
		n.next++
		addr = netip.AddrPortFrom(addr.Addr(), n.next)
	}
	if _, taken := n.packets[addr]; taken {
		return nil, fmt.Errorf("listen %v: address in use", addr)
	}
	c := &PacketConn{net: n, addr: addr, in: make(chan packet, queue), done: make(chan struct{}), changed: make(chan struct{})}
	n.packets[addr] = c
	return c, nil
}

// LocalAddr implements net.PacketConn.
func (c *PacketConn) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(c.addr) }

// WriteTo implements net.PacketConn. It never blocks.
func (c *PacketConn) WriteTo(p []byte, to net.Addr) (int, error) {
	u, ok := to.(*net.UDPAddr)
	if !ok {
		return 0, fmt.Errorf("write to %v: not a UDP address", to)
	}
	ap := u.AddrPort()
	c.net.send(c, netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), p)
	return len(p), nil
}

// send takes a packet from a socket. One that is unplugged or closed sends nowhere.
func (n *Net) send(by *PacketConn, to netip.AddrPort, p []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	from := by.addr
	if n.packets[from] != by {
		return
	}
	if n.seen != nil {
		n.seen(from, to, p)
	}
	copies := 1
	if n.weather.Duplicate > 0 && n.rand.Float64() < n.weather.Duplicate {
		copies = 2
	}
	for range copies {
		if n.off[from.Addr()] || n.off[to.Addr()] || n.noUDP[from.Addr()] || n.noUDP[to.Addr()] || n.cut[[2]netip.Addr{from.Addr(), to.Addr()}] || n.weather.Loss > 0 && n.rand.Float64() < n.weather.Loss {
			continue
		}
		delay := n.latency(from.Addr(), to.Addr())
		pk := packet{from, append([]byte(nil), p...)}
		if delay == 0 {
			n.deliver(to, pk)
			continue
		}
		time.AfterFunc(delay, func() {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.deliver(to, pk)
		})
	}
}

// deliver hands a packet to whoever listens. The caller holds mu.
func (n *Net) deliver(to netip.AddrPort, p packet) {
	if c, ok := n.packets[to]; ok {
		select {
		case c.in <- p:
		default:
		}
	}
}

// ReadFrom implements net.PacketConn.
func (c *PacketConn) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		c.mu.Lock()
		deadline, changed := c.deadline, c.changed
		c.mu.Unlock()
		var timer <-chan time.Time
		if !deadline.IsZero() {
			left := time.Until(deadline)
			if left <= 0 {
				return 0, nil, os.ErrDeadlineExceeded
			}
			t := time.NewTimer(left)
			defer t.Stop()
			timer = t.C
		}
		select {
		case p := <-c.in:
			return copy(b, p.data), net.UDPAddrFromAddrPort(p.from), nil
		case <-timer:
			return 0, nil, os.ErrDeadlineExceeded
		case <-changed:
		case <-c.done:
			return 0, nil, net.ErrClosed
		}
	}
}

// SetReadDeadline implements net.PacketConn.
func (c *PacketConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	close(c.changed)
	c.changed = make(chan struct{})
	return nil
}

// SetWriteDeadline implements net.PacketConn; writes never wait.
func (*PacketConn) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline implements net.PacketConn.
func (c *PacketConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetReadBuffer is there so that nobody warns about a small buffer.
func (*PacketConn) SetReadBuffer(int) error { return nil }

// SetWriteBuffer is there for the same reason.
func (*PacketConn) SetWriteBuffer(int) error { return nil }

// Unplug takes the socket off the network, as when its process is killed: nothing goes out or comes in any more, and the
// address is free for the next one. The holder does not notice.
func (c *PacketConn) Unplug() {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	if c.net.packets[c.addr] == c {
		delete(c.net.packets, c.addr)
	}
}

// Close implements net.PacketConn.
func (c *PacketConn) Close() error {
	c.close.Do(func() {
		c.Unplug()
		close(c.done)
	})
	return nil
}
