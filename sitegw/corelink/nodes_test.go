package corelink

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
)

// A node is one core node: what it does with gateways is up to its mode.
type node struct {
	p    *plant
	name string
	addr string
	tr   *link.Transport
	ln   *link.Listener
	stop func() // ends serving

	mu       sync.Mutex
	mode     mode
	dials    []time.Time // of sessions that said hello
	sessions []*peer     // that were welcomed
}

// A mode is what a node does with a gateway that says hello.
type mode int

const (
	welcomes mode = iota
	silent        // never welcomes
	busy          // refuses, with a minute's patience
	fickle        // welcomes, and closes at once
	slow          // welcomes after more than stagger
	unsure        // cannot decide now
)

func (p *plant) addNode() *node {
	p.t.Helper()
	i := len(p.nodes) + 1
	n := &node{p: p, name: fmt.Sprint("core-", i), stop: func() {}}
	n.tr = link.NewTransport(p.net.Socket(byte(i)), nil)
	n.addr = n.tr.Addr().String()
	var err error
	n.ln, err = n.tr.Listen(p.coreEndpoint(n.name).Server(
		ident.Protocol{ALPN: wire.ALPNUplink, Roles: []ident.Role{ident.RoleGateway}}, ident.Protocol{ALPN: wire.ALPNEnroll},
	), link.Options{Limits: link.UplinkLimits})
	if err != nil {
		p.t.Fatal(err)
	}
	p.nodes = append(p.nodes, n)
	return n
}

func (n *node) close() {
	n.stop()
	if err := n.tr.Close(); err != nil {
		n.p.t.Error(err)
	}
}

// serve lets every node answer gateways.
func (p *plant) serve() (addrs []string) {
	for _, n := range p.nodes {
		addrs = append(addrs, n.addr)
		ctx, cancel := context.WithCancel(p.t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				pending, err := n.ln.Accept(ctx)
				if err != nil {
					return
				}
				if s, err := pending.Session(ctx, time.Minute); err == nil {
					n.answer(s)
				}
			}
		})
		n.stop = func() { cancel(); wg.Wait() }
	}
	return addrs
}

// answer does what the node's mode says.
func (n *node) answer(s *link.Session) {
	t, body, err := s.RecvWithin(20 * time.Second)
	if err != nil {
		n.p.t.Error(err)
		return
	}
	if t == wire.TypeFetch {
		n.fetched(s)
		return
	}
	c := n.p.greeted(s, t, body)
	n.mu.Lock()
	mode := n.mode
	n.dials = append(n.dials, time.Now())
	if mode == welcomes || mode == slow {
		n.sessions = append(n.sessions, c)
	}
	n.mu.Unlock()
	switch mode {
	case silent:
	case slow:
		time.Sleep(stagger + stagger/2)
		s.Send(wire.TypeUplinkWelcome, wire.UplinkWelcome{Capability: 1, ReportPeriodMS: wire.Millis(n.p.period)}) //nolint:errcheck // it may be over
	case busy:
		s.Refuse(wire.Refuse(wire.CodeBusy, "later").After(time.Minute))
	case unsure:
		s.Refuse(wire.Refuse(wire.CodeUnavailable, "no leader").After(time.Minute))
	case welcomes, fickle:
		c.send(wire.TypeUplinkWelcome, wire.UplinkWelcome{Capability: 1, ReportPeriodMS: wire.Millis(n.p.period)})
	}
	if mode == fickle {
		settle() // the welcome arrives
		s.CloseWith(wire.Refuse(wire.CodeInternal, "changed my mind"))
	}
}

// fetched answers the first question of a session for content with the node's name.
func (n *node) fetched(s *link.Session) {
	if err := s.Send(wire.TypeBlob, wire.Blob{Data: []byte(n.name)}); err != nil {
		n.p.t.Error(err)
	}
	s.Recv() //nolint:errcheck // until it ends
}

func (n *node) set(m mode) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mode = m
}

// hellos counts the sessions that said hello since a time.
func (n *node) hellos(since time.Time) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(slices.DeleteFunc(slices.Clone(n.dials), func(t time.Time) bool { return t.Before(since) }))
}

// newest is the newest session that the node welcomed.
func (n *node) newest() *peer {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sessions[len(n.sessions)-1]
}

// cut takes the node off the network, without a word, or brings it back.
func (n *node) cut(off bool) { n.p.net.Cut(n.tr.Addr(), off) }

// connected waits until the link has a session, at most the given time, and returns its node.
func (p *plant) connected(within time.Duration) *node {
	p.t.Helper()
	for end := time.Now().Add(within); !time.Now().After(end); tick() {
		if s := p.link.Status(); s.Connected {
			i := slices.IndexFunc(p.nodes, func(n *node) bool { return n.addr == s.Address })
			if n := p.nodes[i]; n.name != s.Node || s.Period != p.period {
				p.t.Errorf("status %+v of a session with %s", s, n.name)
			}
			return p.nodes[i]
		}
	}
	p.t.Fatalf("no session within %v", within)
	return nil
}

// lost waits until the link's session with a node is over, at most the given time.
func (p *plant) lost(n *node, within time.Duration) {
	p.t.Helper()
	for end := time.Now().Add(within); !time.Now().After(end); tick() {
		if s := p.link.Status(); s.Address != n.addr {
			return
		}
	}
	p.t.Fatalf("%s still counts as connected after %v", n.name, within)
}

func tick() { time.Sleep(10 * time.Millisecond) }

// The gateways of a node that dies without a word are on the others within a report period of 10 s, whenever it dies, and spread.
func TestDeadNode(t *testing.T) {
	to := make(map[string]int)
	for i := range 12 {
		worldOf(t, 3, func(t *testing.T, p *plant) {
			p.start(p.serve()...)
			n := p.connected(time.Second)
			time.Sleep(time.Minute + time.Duration(i)*97*time.Millisecond) // the moment within the keep-alive's period
			n.cut(true)
			died := time.Now()
			p.lost(n, 9100*time.Millisecond)
			next := p.connected(time.Until(died.Add(9600 * time.Millisecond)))
			if next == n {
				t.Errorf("on the dead %s", n.name)
			}
			to[next.name]++
			n.cut(false)
			time.Sleep(10 * time.Minute)
			if now := p.connected(0); now != next || p.link.Status().Sessions != 2 {
				t.Errorf("left %s, which works, for %s: %d sessions", next.name, now.name, p.link.Status().Sessions)
			}
		})
	}
	if len(to) < 2 {
		t.Errorf("all gateways went to %v", to)
	}
}

// A gateway that starts while nodes are dead is not held up by them, whichever it tries first.
func TestStartWithDeadNodes(t *testing.T) {
	for range 8 {
		worldOf(t, 3, func(t *testing.T, p *plant) {
			p.nodes[0].cut(true)
			p.nodes[2].cut(true)
			p.start(p.serve()...)
			if n := p.connected(2*stagger + 200*time.Millisecond); n != p.nodes[1] {
				t.Errorf("connected to %s", n.name)
			}
		})
	}
}

// A node that is stopped says so: its gateways are elsewhere at once.
func TestStoppedNode(t *testing.T) {
	for range 8 {
		worldOf(t, 3, func(t *testing.T, p *plant) {
			p.start(p.serve()...)
			n := p.connected(time.Second)
			time.Sleep(time.Minute)
			n.newest().Close()
			p.lost(n, 50*time.Millisecond)
			if next := p.connected(100 * time.Millisecond); next == n {
				t.Error("back on the node that stops, before any other")
			}
		})
	}
}

// Of the nodes that are tried beside one another one wins, and the sessions with the others end at once.
func TestOneSessionStays(t *testing.T) {
	worldOf(t, 3, func(t *testing.T, p *plant) {
		for _, n := range p.nodes {
			n.set(slow)
		}
		p.start(p.serve()...)
		won := p.connected(2 * time.Second)
		time.Sleep(time.Second)
		tried := 0
		for _, n := range p.nodes {
			if n.hellos(time.Time{}) == 0 {
				continue
			}
			tried++
			if open := n.newest().Context().Err() == nil; open != (n == won) {
				t.Errorf("the session with %s is open: %v; %s has won", n.name, open, won.name)
			}
		}
		if tried != 2 || p.link.Status().Sessions != 1 {
			t.Errorf("%d tried, %d sessions", tried, p.link.Status().Sessions)
		}
	})
}

// A node that takes a connection and never welcomes holds nobody up, and gets no more than its turn.
func TestNodeNeverWelcomes(t *testing.T) {
	for range 6 {
		worldOf(t, 3, func(t *testing.T, p *plant) {
			p.nodes[0].set(silent)
			p.nodes[1].set(silent)
			p.start(p.serve()...)
			if n := p.connected(2*stagger + 200*time.Millisecond); n != p.nodes[2] {
				t.Errorf("connected to %s", n.name)
			}
			time.Sleep(10 * time.Minute)
			for _, n := range p.nodes {
				if got := n.hellos(time.Time{}); got > 1 {
					t.Errorf("%s was tried %d times", n.name, got)
				}
			}
		})
	}
}

// A node that asks for patience gets it, while the others are tried at once.
func TestBusyNode(t *testing.T) {
	worldOf(t, 2, func(t *testing.T, p *plant) {
		p.nodes[0].set(busy)
		p.nodes[1].cut(true)
		p.start(p.serve()...)
		start := time.Now()
		time.Sleep(59 * time.Second)
		if got := p.nodes[0].hellos(start); got != 1 {
			t.Errorf("%d attempts at a node that asked for a minute", got)
		}
		p.nodes[0].set(welcomes)
		if n := p.connected(40 * time.Second); n != p.nodes[0] {
			t.Errorf("connected to %s", n.name)
		}
	})
}

// A refusal is no reason to wait: the next node is tried at once. What refused is tried again when its time is over, before
// the node whose session ended.
func TestNextAtOnce(t *testing.T) {
	for range 6 {
		worldOf(t, 3, func(t *testing.T, p *plant) {
			p.nodes[0].set(busy)
			p.nodes[1].set(busy)
			p.start(p.serve()...)
			if n := p.connected(stagger - 100*time.Millisecond); n != p.nodes[2] {
				t.Errorf("connected to %s", n.name)
			}
			p.nodes[0].set(welcomes)
			p.nodes[1].set(welcomes)
			time.Sleep(2 * time.Minute)
			p.nodes[2].newest().Close()
			p.lost(p.nodes[2], 50*time.Millisecond)
			if n := p.connected(100 * time.Millisecond); n == p.nodes[2] {
				t.Errorf("back on %s, before any other", n.name)
			}
		})
	}
}

func TestRound(t *testing.T) {
	now := time.Unix(1000, 0)
	patience := func(d time.Duration) error { return wire.Refuse(wire.CodeUnavailable, "later").After(d) }
	r := newRound()
	a, b, c := way{core: "a"}, way{core: "b"}, way{core: "c"}
	all := []way{a, b, c}
	if got := r.next(all, now); len(got) != 3 {
		t.Errorf("a new round tries %v", got)
	}
	r.last = b
	if got := r.next(all, now); len(got) != 3 || got[2] != b {
		t.Errorf("the node of the newest session is not the last of %v", got)
	}
	r.failed(a, patience(20*time.Second), now)
	r.failed(b, patience(10*time.Second), now)
	if got := r.next(all, now); !slices.Equal(got, []way{c}) {
		t.Errorf("tries %v", got)
	}
	r.failed(c, io.EOF, now)
	if got := r.next(all, now); len(got) != 0 {
		t.Errorf("a round that is over tries %v", got)
	}
	if wait := r.over(all, time.Second, now); wait != time.Second { // c asked for nothing
		t.Errorf("waits %v", wait)
	}
	if got := r.next(all, now.Add(10*time.Second)); len(got) != 2 || slices.Contains(got, a) {
		t.Errorf("after ten seconds tries %v", got)
	}
	r.failed(c, patience(time.Minute), now)
	if wait := r.over(all, time.Second, now); wait != 10*time.Second {
		t.Errorf("all asked for patience: waits %v", wait)
	}
	if wait := r.over(all, 15*time.Second, now); wait != 15*time.Second {
		t.Errorf("waits %v, less than the back-off", wait)
	}
	if wait := r.over(nil, time.Second, now.Add(time.Hour)); wait != time.Second || len(r.held) != 0 {
		t.Errorf("nobody to try: waits %v, holds %v", wait, r.held)
	}
}

// A node that welcomes and closes at once does not keep the link busy: it gets one attempt a round.
func TestFickleNodes(t *testing.T) {
	worldOf(t, 3, func(t *testing.T, p *plant) {
		for _, n := range p.nodes {
			n.set(fickle)
		}
		p.start(p.serve()...)
		time.Sleep(10 * time.Minute)
		for _, n := range p.nodes {
			// A round takes 15 s on average once the back-off is at its longest.
			if got := n.hellos(time.Time{}); got > 150 || got < 10 {
				t.Errorf("%s was tried %d times in ten minutes", n.name, got)
			}
		}
		p.nodes[1].set(welcomes)
		time.Sleep(maxBackoff + 5*time.Second)
		if n := p.connected(0); n != p.nodes[1] {
			t.Errorf("connected to %s", n.name)
		}
	})
}

// With all nodes gone the link waits longer and longer, up to a bound, and is back soon after one of them is.
func TestAllNodesGone(t *testing.T) {
	worldOf(t, 3, func(t *testing.T, p *plant) {
		p.start(p.serve()...)
		p.connected(time.Second)
		time.Sleep(time.Minute)
		packets := 0
		var mu sync.Mutex
		for _, n := range p.nodes {
			n.cut(true)
		}
		time.Sleep(time.Hour) // the back-off is at its longest
		p.net.Tap(func(_, _ net.Addr, _ []byte) {
			mu.Lock()
			defer mu.Unlock()
			packets++
		})
		if p.link.Status().Connected {
			t.Fatal("connected to nobody")
		}
		time.Sleep(time.Hour)
		p.net.Tap(nil)
		mu.Lock()
		if packets > 3*3600 || packets < 360 {
			t.Errorf("%d packets in an hour without a core", packets)
		}
		mu.Unlock()
		p.nodes[1].cut(false)
		if n := p.connected(maxBackoff + attemptTime); n != p.nodes[1] {
			t.Errorf("connected to %s", n.name)
		}
	})
}

// The list changes while the link runs: what works is kept, the new nodes take over when it ends, and a restart knows them.
func TestListChanges(t *testing.T) {
	worldOf(t, 4, func(t *testing.T, p *plant) {
		addrs := p.serve()
		p.start(addrs[0])
		first := p.connected(time.Second)
		c := first.newest()
		c.send(wire.TypeSite, wire.Site{Cores: []string{"no port"}})
		c.send(wire.TypeSite, wire.Site{Cores: addrs[1:3]})
		c.send(wire.TypeSite, wire.Site{IntervalMS: 5000}) // says nothing of the nodes
		time.Sleep(time.Minute)
		if now := p.connected(0); now != first || p.link.Status().Sessions != 1 {
			t.Errorf("left %s for %s", first.name, now.name)
		}
		if got := p.link.Cores.All(); !slices.Equal(got, []string{addrs[1], addrs[2], addrs[0]}) {
			t.Errorf("list %v", got)
		}
		first.cut(true)
		p.lost(first, 13*time.Second) // there was one node when the session began
		second := p.connected(time.Second)
		if second == first {
			t.Errorf("connected to %s", second.name)
		}
		p.stop()
		first.cut(false)
		p.start() // nothing is given by hand
		if n := p.connected(time.Second); n != p.nodes[1] && n != p.nodes[2] {
			t.Errorf("after a restart connected to %s", n.name)
		}
		// All that was told is gone: an address given by hand helps.
		for _, n := range p.nodes[:3] {
			n.cut(true)
		}
		p.start(addrs[3])
		if n := p.connected(3 * time.Second); n != p.nodes[3] {
			t.Errorf("for recovery connected to %s", n.name)
		}
	})
}

// A core that expects to hear more often than others is left sooner when it dies: the first session, which began before its
// period was known, is replaced at once.
func TestShortReportPeriod(t *testing.T) {
	worldOf(t, 2, func(t *testing.T, p *plant) {
		p.period = time.Second
		p.start(p.serve()...)
		settle()
		n := p.connected(time.Second)
		time.Sleep(time.Minute)
		died := time.Now()
		n.cut(true)
		p.lost(n, 1850*time.Millisecond)
		if next := p.connected(time.Until(died.Add(3 * time.Second))); next == n {
			t.Error("back at the dead node")
		}
		dials := 0
		for _, n := range p.nodes {
			dials += len(n.dials)
		}
		if dials != 3 {
			t.Errorf("%d sessions, want one that was replaced, its successor, and the one at the other node", dials)
		}
	})
}

// What is under way when a node dies is answered as unavailable, and said again it goes to another node; presence is told
// anew there.
func TestUnderWayAtAnotherNode(t *testing.T) {
	worldOf(t, 3, func(t *testing.T, p *plant) {
		d := ident.NewDeviceID()
		e := p.roster.Attached(d, quiet{}, []byte("attach"), 30*time.Second, 30*time.Second)
		p.start(p.serve()...)
		n := p.connected(time.Second)
		if r := recv[wire.Presence](n.newest(), wire.TypePresence); len(r.Online) != 1 {
			t.Errorf("report %+v", r)
		}
		time.Sleep(11 * time.Second)
		p.roster.Beat(e, &wire.Heartbeat{Run: 1, Number: 1, IntervalMS: 30_000})
		p.keep("s")
		n.cut(true)
		p.lost(n, 9100*time.Millisecond)
		next := p.connected(time.Second)
		c := next.newest()
		m := recv[wire.Submit](c, wire.TypeSubmit) // at once; transitions gather for a moment
		if r := recv[wire.Presence](c, wire.TypePresence); len(r.Online) != 1 || r.Online[0].Device != d {
			t.Errorf("told anew: %+v", r)
		}
		if string(m.Statements[0]) != "s" {
			t.Errorf("submitted %q", m.Statements)
		}
		c.send(wire.TypeSubmitted, wire.Submitted{ID: m.ID, Results: make([]wire.SubmitResult, 1)})
		settle()
		if p.inCustody() != 0 {
			t.Error("kept after the answer")
		}
	})
}

// Heads of the audit trail go to the witness, with the node that sent them.
func TestHeadsReachTheWitness(t *testing.T) {
	worldOf(t, 1, func(t *testing.T, p *plant) {
		p.start(p.serve()...)
		n := p.connected(time.Second)
		n.newest().send(wire.TypeSite, wire.Site{AuditHead: []byte("head")})
		n.newest().send(wire.TypeSite, wire.Site{IntervalMS: 5000})
		settle()
		p.heads.mu.Lock()
		defer p.heads.mu.Unlock()
		if !slices.Equal(p.heads.got, []string{"head " + n.addr}) {
			t.Errorf("heads %q", p.heads.got)
		}
	})
}
