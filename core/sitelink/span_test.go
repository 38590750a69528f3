package sitelink

import (
	"errors"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
)

// Spans are committed for whoever proves that the device was there, and answered for behind the statements.
func TestSubmitSpans(t *testing.T) {
	world(t, func(t *testing.T, c *core) {
		g, rogue := c.connect("plant-7", "gw-a"), c.connect("plant-8", "gw-r")
		defer g.hangUp()
		defer rogue.hangUp()
		d, other := c.device("plant-7"), c.device("plant-7")
		now := time.Now().UnixMilli()
		span := func(attach []byte) wire.Span {
			return wire.Span{Device: d.id, Attach: attach, FromMS: now - 9000, LastMS: now - 4000, ToMS: now - 1000, Beats: 5, Missed: 1}
		}
		flipped := append([]byte(nil), d.attach(g.id, 2)...)
		flipped[len(flipped)-1] ^= 1
		m := submit(1, d.register("1"), []byte("junk"))
		m.Spans = []wire.Span{
			span(d.attach(g.id, 1)), span(d.attach(rogue.id, 1)), span(flipped), span(other.attach(g.id, 1)), span(nil), span(d.attach(g.id, 1)),
		}
		g.send(wire.TypeSubmit, m)
		out := recv[wire.Submitted](g, wire.TypeSubmitted)
		want := []wire.Code{0, wire.CodeMalformed, 0, wire.CodeMalformed, wire.CodeMalformed, wire.CodeMalformed, wire.CodeMalformed, 0}
		if len(out.Results) != len(want) {
			t.Fatalf("answer %+v", out)
		}
		for i, r := range out.Results {
			if r.Code != want[i] {
				t.Errorf("result %d: code %v, want %v: %s", i, r.Code, want[i], r.Detail)
			}
		}
		rogue.send(wire.TypeSubmit, wire.Submit{ID: 2, Spans: []wire.Span{span(d.attach(g.id, 1))}})
		if out := recv[wire.Submitted](rogue, wire.TypeSubmitted); out.Results[0].Code != wire.CodeMalformed {
			t.Errorf("an attach to another gateway: %+v", out.Results)
		}
		if p := d.record().Presence; p.SinceMS != 0 {
			t.Errorf("presence %+v", p)
		}
		c.mu.Lock()
		c.err = errors.New("no quorum")
		c.mu.Unlock()
		g.send(wire.TypeSubmit, wire.Submit{ID: 3, Spans: m.Spans[:1]})
		if e := recv[wire.Error](g, wire.TypeError); e.Code != wire.CodeUnavailable || e.ID != 3 {
			t.Errorf("not committed: %+v", e)
		}
		c.mu.Lock()
		c.err = nil
		c.mu.Unlock()
		g.send(wire.TypeSubmit, wire.Submit{ID: 4, Spans: make([]wire.Span, wire.MaxBatch+1)})
		if e := recv[wire.Error](g, wire.TypeError); e.Code != wire.CodeMalformed || e.ID != 4 {
			t.Errorf("too many: %+v", e)
		}
	})
}
