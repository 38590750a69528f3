package corelink

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
)

// relays are siblings: each refuses, or leads to the first core node.
type relays struct {
	p  *plant
	at string // where that node takes streams that no cut concerns

	mu    sync.Mutex
	all   []string // in order
	down  map[string]bool
	asked []string
	open  []net.Conn
}

func (r *relays) names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all)
}

func (r *relays) dial(ctx context.Context, sibling string) (net.Conn, error) {
	r.mu.Lock()
	r.asked = append(r.asked, sibling)
	down := r.down[sibling]
	r.mu.Unlock()
	if down {
		return nil, wire.Refuse(wire.CodeUnavailable, "no uplink here").After(5 * time.Second)
	}
	c, err := r.p.net.Dial(ctx, r.at)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open = append(r.open, c)
	return c, nil
}

// set makes siblings refuse, and the others not.
func (r *relays) set(down ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = make(map[string]bool)
	for _, name := range down {
		r.down[name] = true
	}
}

// asks are the siblings that were asked since the last call.
func (r *relays) asks() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer func() { r.asked = nil }()
	return r.asked
}

// relayed runs f with core nodes that answer as they are told, and with two siblings. The link is not started.
func relayed(t *testing.T, nodes int, f func(t *testing.T, p *plant, addrs []string)) {
	t.Helper()
	worldOf(t, nodes, func(t *testing.T, p *plant) {
		p.relays = &relays{p: p, at: "10.0.0.60:7444", all: []string{"gw-c", "gw-b"}}
		streams, err := p.net.Listen(p.relays.at)
		if err != nil {
			t.Fatal(err)
		}
		n := p.nodes[0]
		ln := link.ListenConns(streams, p.coreEndpoint(n.name).Server(ident.Protocol{ALPN: wire.ALPNUplink, Roles: []ident.Role{ident.RoleGateway}}),
			link.Options{Limits: link.UplinkLimits})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				pending, err := ln.Accept(ctx)
				if err != nil {
					return
				}
				if s, err := pending.Session(ctx, time.Minute); err == nil {
					n.answer(s)
				}
			}
		})
		defer func() {
			p.stop()
			p.stop = func() {}
			cancel()
			if err := ln.Close(); err != nil {
				t.Error(err)
			}
			wg.Wait()
		}()
		f(t, p, p.serve())
	})
}

// via waits until the uplink goes through a sibling, "": none, and returns how long that took.
func (p *plant) via(sibling string, within time.Duration) time.Duration {
	p.t.Helper()
	begun := time.Now()
	for {
		s := p.link.Status()
		if s.Connected && s.Relay == sibling {
			if core, ok := p.link.Direct(); ok != (sibling == "") || core != s.Address || (core == "") == ok {
				p.t.Errorf("direct %q, %v, status %+v", core, ok, s)
			}
			return time.Since(begun)
		}
		if time.Since(begun) > within {
			p.t.Fatalf("after %v: status %+v, want it through %q", within, s, sibling)
		}
		tick()
	}
}

// A black hole in front of all core nodes costs no more than relayAfter. What is asked goes up through the sibling; when the nodes
// answer again, the link is direct within a minute, and the relayed session is closed.
func TestRelayInABlackHole(t *testing.T) {
	relayed(t, 3, func(t *testing.T, p *plant, addrs []string) {
		p.relays.set("gw-c")
		for _, n := range p.nodes {
			n.cut(true)
		}
		p.start(addrs...)
		if took := p.via("gw-b", 10*time.Second); took < relayAfter || took > relayAfter+2*time.Second {
			t.Errorf("through a sibling after %v", took)
		}
		if got := p.relays.asks(); !slices.Equal(got, []string{"gw-c", "gw-b"}) {
			t.Errorf("asked %q", got)
		}
		if got := p.nodes[0].newest().hello.Via; got != "gw-b" {
			t.Errorf("the hello names %q", got)
		}
		old := p.nodes[0].newest()
		p.keep("through a sibling")
		if m := recv[wire.Submit](old, wire.TypeSubmit); string(m.Statements[0]) != "through a sibling" {
			t.Errorf("submitted %q", m.Statements)
		}
		go func() {
			for err := error(nil); err == nil; { // a core that does not read is dead
				_, _, err = old.Recv()
			}
		}()
		time.Sleep(10 * time.Minute)
		if s := p.link.Status(); s.Relay != "gw-b" || s.Sessions != 1 {
			t.Errorf("it does not stay: %+v", s)
		}
		if got := p.relays.asks(); len(got) != 0 {
			t.Errorf("a link that is relayed asked %q", got)
		}
		for _, n := range p.nodes {
			n.cut(false)
		}
		p.via("", time.Minute+time.Second)
		moved := time.Now()
		<-old.Context().Done()
		if took := time.Since(moved); took > requestTime+time.Second {
			t.Errorf("the relayed session ends %v after the move", took)
		}
		for _, n := range p.nodes {
			if len(n.sessions) > 0 && n.newest() != old && n.newest().hello.Via != "" {
				t.Errorf("a direct session's hello names %q", n.newest().hello.Via)
			}
		}
	})
}

// A core that gives its gateways up sooner is reached sooner.
func TestRelayWithAShortPeriod(t *testing.T) {
	relayed(t, 1, func(t *testing.T, p *plant, addrs []string) {
		p.period = 2 * time.Second
		p.start(addrs...)
		p.via("", time.Second)
		p.nodes[0].cut(true)
		for p.link.Connected() {
			tick()
		}
		if took := p.via("gw-c", 3*time.Second); took > time.Second {
			t.Errorf("through a sibling after %v", took)
		}
	})
}

// Nodes that fail at once make no delay, and one that has decided about the gateway is believed: a relay would hear the same.
func TestRelayAfterFailures(t *testing.T) {
	relayed(t, 2, func(t *testing.T, p *plant, addrs []string) {
		for _, n := range p.nodes {
			n.set(busy)
		}
		p.start(addrs...)
		time.Sleep(5 * time.Minute)
		if got := p.relays.asks(); len(got) != 0 {
			t.Errorf("a gateway that the core refuses asked %q", got)
		}
		p.nodes[1].set(unsure)
		p.nodes[0].set(unsure)
		p.start(addrs...)
		time.Sleep(time.Second)
		if got := p.relays.asks(); !slices.Equal(got, []string{"gw-c", "gw-b"}) {
			t.Errorf("a second after the nodes could not decide it has asked %q", got)
		}
	})
}

// Where no sibling has an uplink either, both go on being tried at the back-off, and the first way that works is taken.
func TestNoWayAtAll(t *testing.T) {
	relayed(t, 1, func(t *testing.T, p *plant, addrs []string) {
		p.relays.set("gw-b", "gw-c")
		p.nodes[0].cut(true)
		p.start(addrs...)
		time.Sleep(time.Hour)
		p.relays.asks()
		time.Sleep(time.Hour)
		if n := len(p.relays.asks()); n < 2*60 || n > 2*3600/10 {
			t.Errorf("asked %d times in an hour", n)
		}
		p.nodes[0].cut(false)
		p.via("", maxBackoff+attemptTime)
		p.nodes[0].cut(true)
		time.Sleep(time.Minute)
		p.relays.set("gw-c")
		p.via("gw-b", maxBackoff+attemptTime)
	})
}

// When a relay ends, the direct ways come first and then the other siblings.
func TestRelayEnds(t *testing.T) {
	relayed(t, 1, func(t *testing.T, p *plant, addrs []string) {
		p.nodes[0].cut(true)
		p.start(addrs...)
		p.via("gw-c", 10*time.Second)
		time.Sleep(time.Minute)
		p.relays.asks()
		p.relays.open[0].Close()
		time.Sleep(time.Second)
		if took := p.via("gw-b", 10*time.Second); took > relayAfter+time.Second {
			t.Errorf("through the other sibling after %v", took)
		}
		if got := strings.Join(p.relays.asks(), " "); got != "gw-b" {
			t.Errorf("asked %q", got)
		}
	})
}
