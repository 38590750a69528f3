package corelink

import (
	"context"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
)

// overTCP runs f with a link whose session runs over TCP, because UDP is blocked, and with the core's end of it.
func overTCP(t *testing.T, f func(t *testing.T, p *plant, old *peer)) {
	t.Helper()
	worldOf(t, 1, func(t *testing.T, p *plant) {
		n := p.nodes[0]
		streams, err := p.net.Listen(n.addr)
		if err != nil {
			t.Fatal(err)
		}
		ln := link.ListenConns(streams, p.coreEndpoint(n.name).Server(ident.Protocol{ALPN: wire.ALPNUplink, Roles: []ident.Role{ident.RoleGateway}}),
			link.Options{Limits: link.UplinkLimits})
		p.stream = p.net.Dial
		p.net.BlockUDP(n.tr.Addr(), true)
		p.start(n.addr)
		defer func() {
			p.stop()
			p.stop = func() {}
			if err := ln.Close(); err != nil {
				t.Error(err)
			}
		}()
		quic := p.ln
		p.ln = ln
		old := p.welcome()
		p.ln = quic
		if s := p.link.Status(); !s.Connected || s.Carrier != link.TCP {
			t.Fatalf("status %+v", s)
		}
		f(t, p, old)
	})
}

// The link goes back to QUIC. What was not answered on the older session is sent on the newer one, too; what is answered there
// is let go of, and the older one tells nothing more of the site.
func TestUplinkMovesBackToQUIC(t *testing.T) {
	overTCP(t, func(t *testing.T, p *plant, old *peer) {
		p.keep("before")
		recv[wire.Submit](old, wire.TypeSubmit)
		p.net.BlockUDP(p.nodes[0].tr.Addr(), false)
		next := p.welcomeLate()
		if s := p.link.Status(); s.Carrier != link.QUIC || s.Sessions != 2 || !p.link.Connected() {
			t.Errorf("status %+v", s)
		}
		m := recv[wire.Submit](next, wire.TypeSubmit)
		if string(m.Statements[0]) != "before" {
			t.Errorf("the new session begins with %q", m.Statements)
		}
		d := ident.NewDeviceID()
		old.send(wire.TypeSite, wire.Site{Entries: [][]byte{p.facts.Entry(d, "plant-7", wire.DeviceActive, 0)}})
		next.send(wire.TypeSubmitted, wire.Submitted{ID: m.ID, Results: make([]wire.SubmitResult, 1)})
		settle()
		if p.inCustody() != 0 {
			t.Error("kept after the answer")
		}
		if _, ok := p.mirror.Device(d); ok {
			t.Error("a session that was left told of the site")
		}
		<-old.Context().Done()
		settle()
		if !p.link.Connected() {
			t.Error("the end of the older session counts as the end of the newer one")
		}
	})
}

// welcomeLate welcomes a session for which the link may take minutes.
func (p *plant) welcomeLate() *peer {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 4*time.Minute)
	defer cancel()
	pending, err := p.ln.Accept(ctx)
	if err != nil {
		p.t.Fatal(err)
	}
	s, err := pending.Session(ctx, time.Minute)
	if err != nil {
		p.t.Fatal(err)
	}
	c := p.hello(s)
	c.send(wire.TypeUplinkWelcome, wire.UplinkWelcome{Capability: 1, ReportPeriodMS: 10_000})
	settle()
	return c
}

// A question that nobody answers keeps a session that was left, for no longer than an answer may take.
func TestLeftSessionIsClosed(t *testing.T) {
	overTCP(t, func(t *testing.T, p *plant, old *peer) {
		p.keep("unanswered")
		recv[wire.Submit](old, wire.TypeSubmit)
		p.net.BlockUDP(p.nodes[0].tr.Addr(), false)
		p.welcomeLate()
		moved := time.Now()
		for err := error(nil); err == nil; {
			_, _, err = old.Recv()
		}
		if d := time.Since(moved); d < requestTime-time.Second || d > requestTime+time.Second {
			t.Errorf("closed %v after the move, want %v", d, requestTime)
		}
	})
}
