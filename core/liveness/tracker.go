// Package liveness holds what the core knows of who is alive, and which the log does not: when each gateway was last
// heard, and each device's last heartbeat. It is soft: a node starts without it. Each node tracks the gateways that are
// connected to it and tells the others (Export, Import), so that any of them can answer, and lead; a new leader gives no
// verdict before a grace has passed.
package liveness

import (
	"sync"
	"time"

	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

// Silent is how many report periods, or heartbeat intervals, without a word make the verdict.
const Silent = 3

// unverifiedAfter is how old a device's newest attach may be before its gateway's word about it shows as unverified.
// Devices send theirs again every hour.
const unverifiedAfter = 2 * time.Hour

// The reasons of a presence, as the API writes them.
const (
	ReasonNone            = ""
	ReasonHeartbeatMissed = "heartbeat_missed"
	ReasonSiteUnreachable = "site_unreachable"
	ReasonNeverConnected  = "never_connected"
	ReasonRecovering      = "recovering"
	ReasonUnverified      = "unverified"
)

// A Verdict is the presence of a device at one moment.
type Verdict struct {
	Online bool
	Reason string
	Since  time.Time // start of the state; zero: never connected
	Last   time.Time // last heartbeat; zero: none known
	// Least is the least heartbeat interval that its gateway tells anybody; 0: none, or not known.
	Least time.Duration
}

// Tracker is the soft state. Its methods may be called from any goroutine. Silence is measured on the monotonic clock.
type Tracker struct {
	period time.Duration

	mu       sync.Mutex
	leading  time.Time // since when this node leads; zero: it does not
	gateways map[string]*gateway
	devices  map[ident.DeviceID]*device
	back     map[string]time.Time // by site: when it was heard again after a silence, or for the first time
}

type gateway struct {
	session uint64
	node    string // the core node that it is connected to; empty: this one
	heard   time.Time
	opened  time.Time // start of the uplink session
	slots   map[uint32]ident.DeviceID
	slotOf  map[ident.DeviceID]uint32 // the inverse: a device has one slot
	news    bool                      // connected here, and something of it has not been exported yet
	closed  bool                      // it was connected here, and that session is over
	least   time.Duration             // see Verdict
	carrier string                    // what the session runs over, as the API writes it; empty: not known
	relay   string                    // the sibling that relays it; empty: none, or not known
	backlog *Backlog                  // as told last, in this session or an earlier one; nil: never
	synced  time.Time                 // when it told last that nothing waits; zero: not known
}

type device struct {
	gateway  string
	online   bool // in the word of the gateway's present uplink session
	last     time.Time
	claimed  time.Time // the newest sign of life that a gateway claimed, by this node's clock; zero: none
	attached time.Time // when its newest attach came to the core, which is not when it was told again
	interval time.Duration
}

// New tracks with the given report period.
func New(period time.Duration) *Tracker {
	return &Tracker{
		period: period, gateways: make(map[string]*gateway), devices: make(map[ident.DeviceID]*device), back: make(map[string]time.Time),
	}
}

// Period is the report period.
func (t *Tracker) Period() time.Duration { return t.period }

// Lead starts or ends this node's leadership. A leader gives no verdict before its grace is over, because it cannot know what
// it was not told while there was none.
func (t *Tracker) Lead(leading bool, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.leading = time.Time{}
	if leading {
		t.leading = now
	}
}

// Opened starts an uplink session of a gateway: what it said in an earlier one no longer counts.
func (t *Tracker) Opened(gw string, session uint64, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open(gw, &gateway{session: session, heard: now, opened: now, slots: make(map[uint32]ident.DeviceID), slotOf: make(map[ident.DeviceID]uint32), news: true}, now)
}

func (t *Tracker) open(name string, g *gateway, now time.Time) {
	t.revive(name, now)
	if old, ok := t.gateways[name]; ok { // until it tells its own
		if g.least == 0 {
			g.least = old.least
		}
		g.backlog, g.synced = old.backlog, old.synced
	}
	t.gateways[name] = g
	for _, d := range t.devices {
		if d.gateway == name {
			d.online = false
		}
	}
}

// Closed notes the end of a gateway's session: nobody is told of it any more, and what another node tells counts at once.
func (t *Tracker) Closed(gw string, session uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if g, ok := t.gateways[gw]; ok && g.session == session {
		g.closed, g.news = true, false
	}
}

// Heard notes a sign of life of a gateway's session.
func (t *Tracker) Heard(gw string, session uint64, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if g, ok := t.gateways[gw]; ok && g.session == session {
		if !t.fresh(g, now) {
			t.revive(gw, now)
		}
		g.heard, g.news = now, true
	}
}

// fresh tells whether a gateway was heard recently enough for its word to stand.
func (t *Tracker) fresh(g *gateway, now time.Time) bool { return now.Sub(g.heard) < Silent*t.period }

// revive notes the end of a site's silence. Its gateways do not all come back in the same moment, so the devices of each are
// given their time from here.
func (t *Tracker) revive(gw string, now time.Time) {
	site := siteOf(gw)
	for name, g := range t.gateways {
		if siteOf(name) == site && t.fresh(g, now) {
			return
		}
	}
	t.back[site] = now
}

// Online notes a device that its gateway told online, with a verified attach that came to the core at the given time. When the attach is
// told again, heard is the newest sign of life that the gateway claims, by this node's clock; zero: it is told for the first time, and
// settles what was claimed before it. It returns a claim that cannot be.
func (t *Tracker) Online(gw string, session uint64, o *wire.DeviceOnline, attached, heard time.Time) (lie *Lie) {
	t.mu.Lock()
	defer t.mu.Unlock()
	g, ok := t.gateways[gw]
	if !ok || g.session != session {
		return nil
	}
	if old, ok := g.slotOf[o.Device]; ok && g.slots[old] == o.Device {
		delete(g.slots, old)
	}
	if old, ok := g.slots[o.Slot]; ok {
		delete(g.slotOf, old)
	}
	g.slots[o.Slot], g.slotOf[o.Device] = o.Device, o.Slot
	d := t.device(o.Device)
	if d.gateway != gw || heard.IsZero() {
		d.claimed = time.Time{}
	}
	d.gateway, d.online, d.attached, d.claimed = gw, true, attached, later(d.claimed, heard)
	d.interval = time.Duration(o.IntervalMS) * time.Millisecond
	d.beat(time.UnixMilli(o.LastMS))
	if reason := d.contradicts(gw, heard); reason != "" {
		return &Lie{Device: o.Device, Gateway: gw, Reason: reason}
	}
	return nil
}

// Offline notes a device that its gateway told offline.
func (t *Tracker) Offline(gw string, session uint64, o *wire.DeviceOffline) {
	t.mu.Lock()
	defer t.mu.Unlock()
	g, ok := t.gateways[gw]
	if !ok || g.session != session {
		return
	}
	if d, ok := t.devices[o.Device]; ok && d.gateway == gw {
		d.online = false
		d.beat(time.UnixMilli(o.LastMS))
	}
}

// Digest takes the beats of a report period. limit bounds how far ahead of this node's clock a gateway may claim a beat. It returns a
// claim that cannot be, if there is one.
func (t *Tracker) Digest(gw string, session uint64, p *wire.Presence, now, limit time.Time) (lie *Lie) {
	t.mu.Lock()
	defer t.mu.Unlock()
	g, ok := t.gateways[gw]
	if !ok || g.session != session {
		return nil
	}
	if p.Digest {
		g.least = time.Duration(p.LeastMS) * time.Millisecond
	}
	if p.Backlog != nil {
		g.told(&Backlog{Backlog: *p.Backlog, At: now})
	}
	for slot, age := range p.Beats.All() {
		id := g.slots[slot]
		d, ok := t.devices[id]
		if !ok {
			continue
		}
		if reason := d.contradicts(gw, now.Add(-age)); reason != "" && lie == nil {
			lie = &Lie{Device: id, Gateway: gw, Reason: reason}
		}
		if d.gateway != gw {
			continue
		}
		d.claimed = later(d.claimed, now.Add(-age))
		if at := time.UnixMilli(p.TimeMS).Add(-age); !at.After(limit) {
			d.beat(at)
		}
	}
	for _, in := range p.Told {
		if d, ok := t.devices[g.slots[in.Slot]]; ok && d.gateway == gw {
			d.interval = time.Duration(in.IntervalMS) * time.Millisecond
		}
	}
	return lie
}

func (t *Tracker) device(id ident.DeviceID) *device {
	d, ok := t.devices[id]
	if !ok {
		d = new(device)
		t.devices[id] = d
	}
	return d
}

// beat moves the last heartbeat forward, never back.
func (d *device) beat(at time.Time) {
	if at.After(d.last) {
		d.last = at
	}
}

// Verdict is the presence of a device now, from its record and what is known here.
func (t *Tracker) Verdict(v registry.View, d *registry.Device, now time.Time) Verdict {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := &d.Presence
	if p.SinceMS == 0 {
		return Verdict{Reason: ReasonNeverConnected}
	}
	out := Verdict{Online: p.Online, Since: time.UnixMilli(p.SinceMS).UTC(), Last: time.UnixMilli(p.LastMS).UTC()}
	if g, ok := t.gateways[p.Gateway]; ok {
		out.Least = g.least
	}
	soft := t.devices[d.ID]
	if soft != nil && soft.gateway == p.Gateway && soft.last.After(out.Last) {
		out.Last = soft.last.UTC()
	}
	if !p.Online {
		out.Reason = ReasonHeartbeatMissed
		return out
	}
	if ms := v.SilentSince(p.Gateway); ms != 0 {
		out.Online, out.Reason, out.Since = false, ReasonSiteUnreachable, time.UnixMilli(ms).UTC()
		return out
	}
	switch {
	case soft == nil || !soft.online || soft.gateway != p.Gateway:
		out.Reason = ReasonRecovering // its gateway has not vouched for it since the uplink or the leader began anew
	case now.Sub(soft.attached) > unverifiedAfter:
		out.Reason = ReasonUnverified
	}
	return out
}

// siteOf is the site in a gateway's site/name.
func siteOf(gw string) string {
	for i := range gw {
		if gw[i] == '/' {
			return gw[:i]
		}
	}
	return gw
}

// LastHeard is when a gateway was last heard, and whether that is recent enough for its word to stand.
func (t *Tracker) LastHeard(gw string, now time.Time) (at time.Time, connected bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	g, ok := t.gateways[gw]
	if !ok {
		return time.Time{}, false
	}
	return g.heard, t.fresh(g, now)
}

// An Expiry is a device that nobody vouches for any more, though its site is heard.
type Expiry struct {
	Device  ident.DeviceID
	Gateway string
	Last    time.Time
}

// Survey is what the leader should commit now: sites that fell silent or came back, and devices that are offline although
// no gateway said so, because the one that would say it restarted or fell silent. Nothing before the grace is over.
func (t *Tracker) Survey(v registry.View, now time.Time) (sites map[string]bool, expired []Expiry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.leading.IsZero() {
		return nil, nil
	}
	reach := t.reach(v, now)
	sites = make(map[string]bool)
	v.Sites(func(s *registry.Site) bool {
		up, known := reach[s.Name]
		if known && up != (s.UnreachableMS == 0) && (up || now.Sub(t.leading) > t.grace()) {
			sites[s.Name] = up
		}
		return true
	})
	if now.Sub(t.leading) <= t.grace() {
		return sites, nil
	}
	v.Devices(ident.DeviceID{}, func(d *registry.Device) bool {
		if e, ok := t.expired(v, d, reach, now); ok {
			expired = append(expired, e)
		}
		return true
	})
	return sites, expired
}

// grace is how long a new leader waits for gateways and devices to come back before any verdict.
func (t *Tracker) grace() time.Duration { return Silent * t.period }

// reach tells for each site with gateways whether one of them is heard.
func (t *Tracker) reach(v registry.View, now time.Time) map[string]bool {
	reach := make(map[string]bool)
	v.Gateways(func(g *registry.Gateway) bool {
		soft, ok := t.gateways[g.ID()]
		reach[g.Site] = reach[g.Site] || ok && t.fresh(soft, now)
		return true
	})
	return reach
}

// expired tells whether a device that the log has online is vouched for by nobody, for long enough.
func (t *Tracker) expired(v registry.View, d *registry.Device, reach map[string]bool, now time.Time) (Expiry, bool) {
	p := &d.Presence
	if !p.Online || !reach[siteOf(p.Gateway)] {
		return Expiry{}, false
	}
	soft := t.devices[d.ID]
	last := time.UnixMilli(p.LastMS)
	if soft != nil && soft.gateway == p.Gateway && soft.last.After(last) {
		last = soft.last
	}
	interval := time.Duration(p.IntervalMS) * time.Millisecond
	if soft != nil {
		interval = max(interval, soft.interval)
	}
	interval = max(interval, v.Interval(d))
	// What the log has is told here a moment later: by the other nodes, or by the session that has just committed it.
	since := later(later(t.leading, t.back[siteOf(p.Gateway)]), time.UnixMilli(p.ToldMS))
	g, ok := t.gateways[p.Gateway]
	switch {
	case ok && t.fresh(g, now):
		if soft != nil && soft.online {
			return Expiry{}, false // vouched for
		}
		since = later(since, g.opened)
	case ok:
		since = later(since, g.heard)
	}
	if now.Sub(since) < Silent*interval || now.Sub(since) < Silent*t.period {
		return Expiry{}, false
	}
	return Expiry{Device: d.ID, Gateway: p.Gateway, Last: last}, true
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// SiteHeard is when any gateway of the site was last heard; now, if none ever was.
func (t *Tracker) SiteHeard(site string, now time.Time) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	var at time.Time
	for name, g := range t.gateways {
		if siteOf(name) == site {
			at = later(at, g.heard)
		}
	}
	if at.IsZero() {
		return now
	}
	return at
}
