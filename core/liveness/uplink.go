package liveness

import (
	"time"

	"github.com/holdfast-edge/holdfast/wire"
)

// A Backlog is what a gateway said that waits there for the core.
type Backlog struct {
	wire.Backlog
	At time.Time // when it said so
}

// An Uplink is what is known of a gateway's link with the core.
type Uplink struct {
	Connected bool      // it was heard recently enough for its word to stand
	Heard     time.Time // zero: not since this node started
	Opened    time.Time // start of its newest session; zero likewise
	Node      string    // the core node of that session; empty: this one
	Carrier   string    // what that session runs over; empty: not known
	Relay     string    // name of the sibling that relays that session, as the gateway says; empty: it is direct, or not known
	Backlog   *Backlog  // as told last, also while it is not connected; nil: not known. It must not be written
	Synced    time.Time // when it told last that nothing waits; zero: not known
}

// Uplink is what is known of a gateway's link now.
func (t *Tracker) Uplink(gw string, now time.Time) Uplink {
	t.mu.Lock()
	defer t.mu.Unlock()
	g, ok := t.gateways[gw]
	if !ok {
		return Uplink{}
	}
	return Uplink{
		Connected: t.fresh(g, now), Heard: g.heard, Opened: g.opened, Node: g.node, Carrier: g.carrier, Relay: g.relay, Backlog: g.backlog, Synced: g.synced,
	}
}

// Carried notes what a gateway's session runs over, and the sibling that relays it, if one does.
func (t *Tracker) Carried(gw string, session uint64, carrier, relay string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if g, ok := t.gateways[gw]; ok && g.session == session {
		g.carrier, g.relay, g.news = carrier, relay, true
	}
}

// told takes a word about the backlog, unless a newer one is known.
func (g *gateway) told(b *Backlog) {
	if g.backlog != nil && b.At.Before(g.backlog.At) {
		return
	}
	g.backlog = b
	if b.Statements == 0 {
		g.synced = b.At
	}
}
