package link

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/holdfast-edge/holdfast/internal/backoff"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	wirelink "github.com/holdfast-edge/holdfast/wire/link"
)

// How often an attached agent probes one of the other gateways. A probe costs a handshake. A fleet that is told a long interval
// is a large one: with a probe for every probeBeats heartbeats at the most, probes are to a gateway what a thirtieth of the
// heartbeats that it takes is. Ten thousand agents at the interval of 100 s that they are told make 3.3 handshakes a second.
const (
	probeEvery  = 15 * time.Minute
	probeJitter = 0.5 // of it, either way
	probeBeats  = 30
	// The first one of a session comes when a crowd that came together has its sessions.
	firstProbeMin = 2 * time.Minute
	firstProbeMax = 10 * time.Minute
)

func firstProbe() time.Duration {
	return firstProbeMin + rand.N(firstProbeMax-firstProbeMin) //nolint:gosec // spreading load needs no secrecy
}

// untilProbe is the wait between two probes of an agent that beats at an interval.
func untilProbe(interval time.Duration) time.Duration {
	return backoff.Jitter(max(probeEvery, probeBeats*interval), probeJitter)
}

// A use is the session that is held while others are probed.
type use struct {
	s    *session
	addr string
	home bool // its gateway is of the device's own site
}

// look probes other gateways while a session is held, until ctx ends. When one of them is to be preferred it opens a session there
// and returns it, with the address and the reason.
func (l *Link) look(ctx context.Context, u use) (next *session, addr, why string) {
	if time.Until(l.routes.due) < firstProbeMin || l.caught(u) && time.Until(l.routes.due) > firstProbeMax {
		l.routes.due = time.Now().Add(firstProbe())
	}
	for backoff.Sleep(ctx, time.Until(l.routes.due)) {
		interval, _ := l.State.Interval()
		l.routes.due = time.Now().Add(untilProbe(interval))
		if l.caught(u) {
			l.routes.due = time.Now().Add(firstProbe())
		}
		addr := l.toProbe(u.addr)
		if addr == "" {
			continue
		}
		here, there, why := l.probe(ctx, u, addr)
		r := l.routes.to(addr)
		if why == "" {
			r.better = 0
			continue
		}
		if r.better++; why != whyCaught && (r.better < betterRow || l.routes.quiet(time.Now())) {
			continue
		}
		r.better = 0
		next, err := wirelink.Open(ctx, l.dialer, l.target(addr), l.greet)
		if err != nil {
			l.Log.Info("a gateway that is to be preferred does not admit this device", "to", addr, "why", why, "err", err)
			continue
		}
		l.Log.Info("goes to another gateway", "from", u.addr, "to", addr, "why", why, "rtt_here", here.String(), "rtt_there", there.String())
		return next, addr, why
	}
	return nil, "", ""
}

// toProbe is whom to probe next: the one that was to be preferred the last time, or the next in turn; "" if there is none.
func (l *Link) toProbe(at string) string {
	all := l.known()
	l.routes.keep(all)
	for addr, r := range l.routes.by {
		if addr != at && r.better > 0 {
			return addr
		}
	}
	from := slices.Index(all, l.routes.last) + 1
	for i := range all {
		if addr := all[(from+i)%len(all)]; addr != at {
			l.routes.last = addr
			return addr
		}
	}
	return ""
}

// probe asks the gateway at addr, and says why it is to be preferred to the one in use; "" when it is not, or does not answer.
// here and there are the round trips.
func (l *Link) probe(ctx context.Context, u use, addr string) (here, there time.Duration, why string) {
	a, err := wirelink.Open(ctx, l.dialer, l.target(addr), l.ask)
	if err != nil {
		l.Log.Info("gateway not probed", "gateway", addr, "err", err)
		return 0, 0, ""
	}
	here, there = u.s.roundTrip(), a.rtt
	l.routes.to(u.addr).measured(here)
	l.routes.to(addr).measured(there)
	claims := u.s.claims.Load()
	l.Log.Debug("gateway probed", "gateway", a.gateway.String(), "rtt", there.String(), "uplink", a.Uplink, "rtt_here", here.String())
	if len(a.List) > 0 {
		l.Log.Info("another gateway has a newer list of gateways", "gateway", a.gateway.String())
		select {
		case u.s.in <- frame{wire.TypeHeartbeatAck, &wire.HeartbeatAck{Uplink: claims, List: a.List}}: // as if it had come on the session
		case <-ctx.Done():
			return 0, 0, ""
		}
	}
	if l.caught(u) {
		return here, there, whyCaught
	}
	p := placement{home: l.isHome(a.gateway.Site), uplink: a.Uplink, rtt: there}
	return here, there, p.preferred(placement{home: u.home, uplink: claims, rtt: here})
}

// whyCaught is why any gateway that answers is preferred to one that was caught in a lie: nobody else can be told of it.
const whyCaught = "doubted"

// caught tells whether there is something against the gateway in use that only the gateway itself was told.
func (l *Link) caught(u use) bool {
	d := l.doubts.Load()
	if d == nil {
		return false
	}
	peer, ok := u.s.link.Peer(l.Wall())
	return ok && peer.ID.String() == d.gateway
}

// An answer is what a probe brought.
type answer struct {
	*wire.Probed
	gateway ident.ID
	rtt     time.Duration
}

// ask probes on a session that was just opened, and ends it.
func (l *Link) ask(ls *wirelink.Session) (*answer, error) {
	peer, ok := ls.Peer(l.Wall())
	if !ok {
		return nil, fmt.Errorf("the gateway shows no identity: %w", ident.ErrUntrusted)
	}
	list := l.Lists.Stamp(peer.ID.Site)
	begin := time.Now()
	if err := ls.Send(wire.TypeProbe, wire.Probe{Capability: wire.Capability, ListEpoch: list.ClusterEpoch, List: list.Number}); err != nil {
		return nil, err
	}
	out := new(wire.Probed)
	if err := opened(ls, wire.TypeProbed, out); err != nil {
		return nil, err
	}
	// Both the handshake's round trips and this one have the peer's work in them; the shorter one has less.
	rtt := time.Since(begin)
	if r := ls.RTT(); r > 0 {
		rtt = min(rtt, r)
	}
	ls.Close()
	return &answer{out, peer.ID, rtt}, nil
}
