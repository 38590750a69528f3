package sitelink

import (
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A copied gateway is dialled as one identity with a spool of its own at each session.
type copied struct {
	c   *core
	id  ident.ID
	dev *device
	ep  ident.Endpoint
}

func newCopied(c *core) *copied {
	c.t.Helper()
	x := &copied{c: c, id: ident.Gateway("acme", "plant-7", "gw-a"), dev: c.device("plant-7")}
	key, ep := c.endpoint(x.id)
	x.ep = ep
	c.do(&command.Enroll{Token: c.token(seal.KindGateway, "plant-7").ID, Kind: seal.KindGateway, Name: "gw-a", SPKI: spkiOf(c.t, key)})
	return x
}

func at(seq uint64, chain byte) wire.SpoolPoint {
	return wire.SpoolPoint{Seq: seq, Chain: [32]byte{chain}}
}

// hello opens a session as a run whose spool has the given ends.
func (x *copied) hello(run uint64, trimmed, last wire.SpoolPoint) *gateway {
	x.c.t.Helper()
	conn, _ := x.c.socket()
	tr := link.NewTransport(conn, nil)
	s, err := tr.Dial(x.c.t.Context(), x.c.addr, x.ep.Client(wire.ALPNUplink, ident.RoleCore, nil), link.Options{Limits: link.UplinkLimits})
	if err != nil {
		x.c.t.Fatal(err)
	}
	g := &gateway{Session: s, c: x.c, id: x.id, tr: tr}
	g.send(wire.TypeUplinkHello, wire.UplinkHello{Capability: 1, Run: run, Spool: &wire.SpoolEnds{Incarnation: [16]byte{1}, Trimmed: trimmed, Last: last}})
	return g
}

// brings submits a statement as the record that ends the spool.
func (x *copied) brings(g *gateway, upto wire.SpoolPoint) {
	x.c.t.Helper()
	m := submit(upto.Seq, x.dev.register("1"))
	m.Upto = &upto
	g.send(wire.TypeSubmit, m)
}

// logged counts the entries of the log.
func (c *core) logged() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.proposed
}

func (g *gateway) refusedAs(want wire.Code) {
	g.c.t.Helper()
	if e := recv[wire.Error](g, wire.TypeError); e.Code != want || want == wire.CodeForked && e.RetryAfter() < time.Minute {
		g.c.t.Errorf("refused with %+v, want %v", e, want)
	}
	g.hangUp()
}

// A reconnect takes no entry of the log, a record between the ends of the spool is asked for, and what contradicts is refused.
func TestCopiedGatewayIsRefused(t *testing.T) {
	world(t, func(t *testing.T, c *core) {
		x := newCopied(c)
		g := x.hello(1, at(0, 0), at(0, 0))
		recv[wire.UplinkWelcome](g, wire.TypeUplinkWelcome)
		x.brings(g, at(5, 5))
		recv[wire.Submitted](g, wire.TypeSubmitted)
		g.hangUp()

		before := c.logged()
		g = x.hello(1, at(0, 0), at(5, 5))
		recv[wire.UplinkWelcome](g, wire.TypeUplinkWelcome)
		g.hangUp()
		for _, proof := range []*wire.SpoolPoint{{Seq: 5, Chain: [32]byte{5}}, nil} { // nil: the disk lost it
			g = x.hello(1, at(3, 3), at(9, 9))
			if m := recv[wire.Prove](g, wire.TypeProve); m.Seq != 5 {
				t.Errorf("asked for %d", m.Seq)
			}
			g.send(wire.TypeProof, wire.Proof{Point: proof})
			recv[wire.UplinkWelcome](g, wire.TypeUplinkWelcome)
			g.hangUp()
		}
		if n := c.logged() - before; n != 0 {
			t.Errorf("%d entries for reconnects", n)
		}
		g = x.hello(2, at(3, 3), at(4, 4))
		recv[wire.Prove](g, wire.TypeProve)
		g.send(wire.TypeProof, wire.Proof{Spool: &wire.SpoolEnds{Incarnation: [16]byte{1}, Trimmed: at(3, 3), Last: at(4, 4)}})
		g.refusedAs(wire.CodeForked)
		g = x.hello(2, at(3, 3), at(4, 4))
		recv[wire.Prove](g, wire.TypeProve)
		g.send(wire.TypeProof, wire.Proof{}) // does not tell how far it is by now
		g.refusedAs(wire.CodeForked)
		x.hello(2, at(3, 3), at(5, 6)).refusedAs(wire.CodeForked)
		g = x.hello(2, at(3, 3), at(9, 8))
		recv[wire.Prove](g, wire.TypeProve)
		g.send(wire.TypeProof, wire.Proof{Point: &wire.SpoolPoint{Seq: 5, Chain: [32]byte{6}}})
		g.refusedAs(wire.CodeForked)
	})
}

// Of two hellos of a run the one that lost the race is looked at when what the other one's session brought is committed. It is no copy's.
func TestHelloThatWasOvertaken(t *testing.T) {
	world(t, func(t *testing.T, c *core) {
		x := newCopied(c)
		first := x.hello(1, at(0, 0), at(2, 2))
		defer first.hangUp()
		recv[wire.UplinkWelcome](first, wire.TypeUplinkWelcome)
		x.brings(first, at(5, 5))
		recv[wire.Submitted](first, wire.TypeSubmitted)
		for _, now := range []wire.SpoolEnds{
			{Incarnation: [16]byte{1}, Trimmed: at(2, 2), Last: at(6, 6)},
			{Incarnation: [16]byte{1}, Trimmed: at(5, 5), Last: at(6, 6)},
			{Incarnation: [16]byte{1}, Trimmed: at(6, 6), Last: at(6, 6)},
		} {
			second := x.hello(1, at(0, 0), at(2, 2))
			if m := recv[wire.Prove](second, wire.TypeProve); m.Seq != 5 {
				t.Errorf("asked for %d", m.Seq)
			}
			proof := wire.Proof{Spool: &now}
			if now.Trimmed.Seq <= 5 {
				proof.Point = &wire.SpoolPoint{Seq: 5, Chain: [32]byte{5}}
			}
			second.send(wire.TypeProof, proof)
			recv[wire.UplinkWelcome](second, wire.TypeUplinkWelcome)
			second.hangUp()
		}
		if g, _ := c.View().Gateway("plant-7/gw-a"); g.Forked != nil {
			t.Errorf("taken for a copy: %+v", g.Forked)
		}
	})
}

// A run that was replaced is cut off, and nothing that it had under way is applied.
func TestReplacedRunIsCutOff(t *testing.T) {
	world(t, func(t *testing.T, c *core) {
		x := newCopied(c)
		first := x.hello(1, at(0, 0), at(0, 0))
		defer first.hangUp()
		recv[wire.UplinkWelcome](first, wire.TypeUplinkWelcome)
		second := x.hello(2, at(0, 0), at(0, 0))
		defer second.hangUp()
		recv[wire.UplinkWelcome](second, wire.TypeUplinkWelcome)
		settle()
		if first.Context().Err() == nil {
			t.Error("the session of the run before goes on")
		}
		x.brings(second, at(1, 1))
		recv[wire.Submitted](second, wire.TypeSubmitted)
		g, _ := c.View().Gateway("plant-7/gw-a")
		if g.Spool == nil || g.Spool.Upto != at(1, 1) || g.Forked != nil {
			t.Errorf("record %+v", g)
		}
	})
}
