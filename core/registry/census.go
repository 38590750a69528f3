package registry

import (
	"cmp"
	"strings"
)

// A Count is how many devices belong to a site, in all or online through one gateway.
type Count struct {
	Site    string
	Online  bool
	Gateway string // site/name; empty unless Online
	Devices int    // at least 1
}

type countKey struct {
	site    string
	online  bool
	gateway string
}

func (c *Count) key() countKey { return countKey{c.Site, c.Online, c.Gateway} }

func countAt(k countKey) *Count { return &Count{Site: k.site, Online: k.online, Gateway: k.gateway} }

// compareCounts orders by site; what a site has in all comes before what it has online.
func compareCounts(a, b countKey) int {
	if a.online != b.online && a.site == b.site {
		if b.online {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(a.site, b.site), cmp.Compare(a.gateway, b.gateway))
}

// putDevice puts a record in place of the one before, and keeps the counts.
func (s *State) putDevice(d *Device) {
	var was Device // of no site, never connected
	if old := s.view.devices.put(d); old != nil {
		was = *old
	}
	if was.Site != d.Site {
		s.count(countKey{site: was.Site}, -1)
		s.count(countKey{site: d.Site}, 1)
	}
	if before, after := was.onlineKey(), d.onlineKey(); before != after {
		s.count(before, -1)
		s.count(after, 1)
	}
}

// onlineKey is under which count a device is online; zero: it is not.
func (d *Device) onlineKey() countKey {
	if !d.Presence.Online || d.Presence.SinceMS == 0 {
		return countKey{}
	}
	return countKey{d.Site, true, d.Presence.Gateway}
}

// count moves a count. No device belongs to the zero key.
func (s *State) count(k countKey, by int) {
	if k == (countKey{}) {
		return
	}
	n := *countAt(k)
	if old, ok := s.view.counts.get(k); ok {
		n = *old
	}
	if n.Devices += by; n.Devices == 0 {
		s.view.counts.delete(k)
		return
	}
	s.view.counts.put(&n)
}

// SilentSince is since when, in Unix milliseconds, all gateways of a gateway's site are silent; 0: it is heard. Of a silent site
// no device shows online, whatever its record says.
func (v View) SilentSince(gateway string) int64 {
	name, _, _ := strings.Cut(gateway, "/")
	if s, ok := v.sites.get(name); ok {
		return s.UnreachableMS
	}
	return 0
}

// Counts visits the counts of all sites that have devices, in order of site.
func (v View) Counts(f func(*Count) bool) { v.counts.all(f) }

// SiteCounts visits the counts of one site.
func (v View) SiteCounts(site string, f func(*Count) bool) {
	if c, ok := v.counts.get(countKey{site: site}); ok && !f(c) {
		return
	}
	v.counts.after(countKey{site: site}, func(c *Count) bool { return c.Site == site && f(c) })
}
