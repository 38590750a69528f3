// Package linktest is a network of packets and streams in memory for tests of sessions. Used in a testing/synctest bubble it runs in virtual
// time; everything in it must then be made in the bubble.
package linktest

import (
	"net"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go/testutils/simnet"
)

// Latency is how long a packet takes, one way.
const Latency = 10 * time.Millisecond

// A Net carries packets between its sockets.
type Net struct {
	t       testing.TB
	mu      sync.Mutex
	nodes   map[string]simnet.PacketReceiver
	dark    map[string]bool
	deaf    map[string]bool
	noUDP   map[string]bool
	streams map[string]*listener
	tap     func(from, to net.Addr, data []byte)
	lose    func(from, to net.Addr) bool
}

// New makes a network without sockets.
func New(tb testing.TB) *Net {
	return &Net{t: tb, nodes: make(map[string]simnet.PacketReceiver), dark: make(map[string]bool), deaf: make(map[string]bool), noUDP: make(map[string]bool), streams: make(map[string]*listener)}
}

// Socket opens a socket at 10.0.0.host:4433, which the test closes when it ends. A second one at the same address gets the
// packets from then on, and the first one none.
func (n *Net) Socket(host byte) net.PacketConn {
	c := simnet.NewSimConn(&net.UDPAddr{IP: net.IPv4(10, 0, 0, host), Port: 4433}, n)
	n.t.Cleanup(func() {
		if err := c.Close(); err != nil {
			n.t.Errorf("close the socket of host %d: %v", host, err)
		}
	})
	return c
}

// AddNode implements simnet.Router.
func (n *Net) AddNode(addr net.Addr, r simnet.PacketReceiver) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nodes[addr.String()] = r
}

// SendPacket implements simnet.Router.
func (n *Net) SendPacket(p simnet.Packet) error {
	n.mu.Lock()
	r, lost, tap := n.nodes[p.To.String()], n.dark[p.To.String()] || n.dark[p.From.String()] || n.deaf[p.To.String()] || n.noUDP[p.To.String()] || n.noUDP[p.From.String()], n.tap
	lose := n.lose
	n.mu.Unlock()
	if tap != nil {
		tap(p.From, p.To, p.Data)
	}
	if r != nil && !lost && (lose == nil || !lose(p.From, p.To)) {
		time.AfterFunc(Latency, func() { r.RecvPacket(p) })
	}
	return nil
}

// Cut loses every packet from and to addr, and holds up the streams to it, until it is called again with false.
func (n *Net) Cut(addr net.Addr, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dark[addr.String()] = cut
}

// Deaf loses every packet to addr, and none from it.
func (n *Net) Deaf(addr net.Addr, deaf bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.deaf[addr.String()] = deaf
}

// BlockUDP loses every packet from and to addr until it is called again with false, and lets streams through.
func (n *Net) BlockUDP(addr net.Addr, blocked bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.noUDP[addr.String()] = blocked
}

// Tap shows every packet that is sent, also one that is then lost, to f. f must not keep data.
func (n *Net) Tap(f func(from, to net.Addr, data []byte)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tap = f
}

// Lose loses the packets for which f says so.
func (n *Net) Lose(f func(from, to net.Addr) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lose = f
}
