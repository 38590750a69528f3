package link

import (
	"cmp"
	"slices"
	"time"
)

// When a gateway is left for another one that works as well. Everybody who is behind a gateway sees the same network, so without
// margins a plant's devices would go to and fro together.
const (
	nearFactor = 2                    // the other one's round trip is shorter by this factor
	nearMargin = 5 * time.Millisecond // and by this much: below it nobody notices
	betterRow  = 3                    // it is so in as many probes one after the other
	quietTime  = time.Hour            // since the device came to the gateway that it is to leave, but for a device that has just started
	// assumedRTT is what counts for a gateway that nobody measured: those of a plant are nearer, those behind a WAN are not.
	assumedRTT = 50 * time.Millisecond
)

// A route is what is known of the way to a gateway.
type route struct {
	rtt    time.Duration // smoothed; 0: not measured
	better int           // in so many probes, one after the other, it was to be preferred to the gateway in use
}

// routes are those to the gateways. They belong to the goroutine of Run, and while a session is held to the one that probes.
type routes struct {
	by   map[string]*route // by address
	due  time.Time         // of the next probe
	last string            // probed
	at   string            // the address of the newest session
	came time.Time         // there from another one; zero: it is the first
}

// to is the route to an address.
func (r *routes) to(addr string) *route {
	if r.by == nil {
		r.by = make(map[string]*route)
	}
	if r.by[addr] == nil {
		r.by[addr] = new(route)
	}
	return r.by[addr]
}

// keep forgets the routes to all but the addresses.
func (r *routes) keep(addrs []string) {
	for a := range r.by {
		if !slices.Contains(addrs, a) {
			delete(r.by, a)
		}
	}
}

// measured takes in a round trip; 0: none. Half of the smoothed one comes from the newest, so that a detour that lasts is known
// after two.
func (r *route) measured(rtt time.Duration) {
	switch {
	case rtt == 0:
	case r.rtt == 0:
		r.rtt = rtt
	default:
		r.rtt = (r.rtt + rtt) / 2
	}
}

// arrived notes where the newest session is.
func (r *routes) arrived(addr string, now time.Time) {
	if r.at == addr {
		return
	}
	if r.at != "" {
		r.came = now
	}
	r.at = addr
	for _, o := range r.by {
		o.better = 0
	}
}

// quiet tells whether the device has come to its gateway so lately that it stays.
func (r *routes) quiet(now time.Time) bool { return !r.came.IsZero() && now.Sub(r.came) < quietTime }

// A placement is how a gateway looks to a device at one moment.
type placement struct {
	home   bool          // it is of the device's own site
	uplink bool          // it says that it has an uplink
	rtt    time.Duration // 0: not known
}

// preferred tells why the gateway at p is to be preferred to the one in use at u; "": it is not.
//
// A gateway without an uplink brings no receipts, no orders and no certificates, so one of the same site that has an uplink is
// better, at whatever distance. In a plant whose WAN is cut none has one, and nobody moves; and where gateways relay for one
// another, one that is cut off alone says rightly that it has one.
func (p placement) preferred(u placement) string {
	switch {
	case p.home != u.home:
		return when(p.home, "own site")
	case p.uplink != u.uplink:
		return when(p.uplink, "uplink")
	default:
		return when(nearFactor*p.rtt < u.rtt && u.rtt-p.rtt >= nearMargin, "nearer")
	}
}

func when(yes bool, why string) string {
	if yes {
		return why
	}
	return ""
}

// isHome tells whether a site is the device's own.
func (l *Link) isHome(site string) bool { return site != "" && site == l.State.Home() }

// prefer brings the gateway that worked last to the front, "" for none, and the others into the order in which they suit: those
// of the own site first, then by round trip. Otherwise they keep their order.
func (l *Link) prefer(gw string) {
	key := func(addr string) (int, int, time.Duration) {
		rtt := assumedRTT
		if r := l.routes.by[addr]; r != nil && r.rtt != 0 {
			rtt = r.rtt
		}
		return rank(addr != gw), rank(!l.isHome(l.Lists.SiteAt(addr))), rtt
	}
	slices.SortStableFunc(l.gateways, func(a, b string) int {
		lastA, homeA, rttA := key(a)
		lastB, homeB, rttB := key(b)
		return cmp.Or(cmp.Compare(lastA, lastB), cmp.Compare(homeA, homeB), cmp.Compare(rttA, rttB))
	})
}

// putLast has a gateway tried after all others.
func (l *Link) putLast(gw string) {
	if i := slices.Index(l.gateways, gw); i >= 0 {
		l.gateways = append(slices.Delete(l.gateways, i, i+1), gw)
	}
}

// rank sorts what is not so before what is.
func rank(so bool) int {
	if so {
		return 1
	}
	return 0
}
