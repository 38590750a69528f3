package api

import (
	"cmp"
	"slices"

	"github.com/holdfast-edge/holdfast/core/liveness"
	"github.com/holdfast-edge/holdfast/core/registry"
)

// What is known of a device comes in two ways. Live, gateways report transitions: what was reported is without gaps, but during an
// outage nothing is, and of what happened in it only the newest. And kept: the spans that a gateway had on its disk, which come when
// they can, with what it counted. They are the gateway's word about that time. The timeline is put together from both when it is read.
//
// Each stretch claims time, and where several do, the highest rank counts; of equals the one that began last, because a device goes
// to another gateway and does not come from two.
const (
	rankOffline = iota // live, or after a verdict that a kept span ends with
	rankSilent         // the end of a kept span, after its last heartbeat: the device may be elsewhere already
	rankLive           // online, live
	rankKept           // a kept span up to its last heartbeat
)

type claim struct {
	stretch
	rank   int
	origin int // which of the stretches it is of
}

// kept is a span from a gateway's disk.
func kept(sp *registry.Span) stretch {
	s := closed(sp)
	s.word, s.last = s.to, sp.LastMS
	return s
}

// verdict tells whether a kept span ended because the device fell silent, and not because the gateway stopped.
func (s *stretch) verdict() bool { return s.last < s.to }

// distinct puts kept spans in order of time, each once: of one that came twice, what was known last.
func distinct(facts []stretch) []stretch {
	slices.SortFunc(facts, func(a, b stretch) int {
		return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.gateway, b.gateway), cmp.Compare(b.to, a.to), cmp.Compare(b.beats, a.beats))
	})
	return slices.CompactFunc(facts, func(a, b stretch) bool { return a.from == b.from && a.gateway == b.gateway })
}

// corrected is the timeline, without the outages of sites, in order of time. live are without gaps.
func corrected(live, facts []stretch) []stretch {
	facts = distinct(facts)
	byGateway := make(map[string][]stretch)
	for _, f := range facts {
		byGateway[f.gateway] = append(byGateway[f.gateway], f)
	}
	origins := slices.Concat(facts, live)
	var claims []claim
	for i, s := range origins {
		switch {
		case i < len(facts):
			body, rest := s, s
			body.to, rest.from = s.last, s.last
			claims = append(claims, claim{body, rankKept, i}, claim{rest, rankSilent, i})
		case s.online:
			parts := s.give(byGateway[s.gateway], i)
			if len(parts) != 1 || parts[0].from != s.from || parts[0].to != s.to { // what it counted is of one of the kept spans
				origins[i].beats, origins[i].missed, origins[i].counted = 0, 0, false
			}
			claims = append(claims, parts...)
		default:
			claims = append(claims, claim{s, rankOffline, i})
		}
	}
	return sweep(claims, origins)
}

// give is what is left of a live stretch online when its gateway's own spans come in its place. After one that ended with a verdict
// the device was offline until the next, although nobody could report it, unless the stretch goes on: then the newest report
// says more than the newest span that came.
func (s stretch) give(facts []stretch, origin int) (out []claim) {
	at := s.from
	var prev *stretch
	part := func(to int64) {
		if at >= to {
			return
		}
		c := claim{s, rankLive, origin}
		c.from, c.to = at, to
		switch {
		case prev == nil || to == forever:
		case prev.verdict():
			c.online, c.reason, c.rank = false, liveness.ReasonHeartbeatMissed, rankOffline
		default:
			c.word = prev.last // a gateway that stopped vouches for nothing more
		}
		out = append(out, c)
	}
	begin := sortedFrom(facts, s.from)
	for i := begin; i < len(facts) && facts[i].from < s.to; i++ {
		if f := &facts[i]; f.to > s.from || f.from == s.from {
			part(f.from)
			at, prev = max(at, f.to), f
		}
	}
	part(s.to)
	return out
}

// sortedFrom is the first of a gateway's spans, which do not overlap, that may reach beyond a time.
func sortedFrom(facts []stretch, from int64) int {
	i, _ := slices.BinarySearchFunc(facts, from, func(f stretch, t int64) int { return cmp.Compare(f.from, t) })
	return max(i-1, 0)
}

// sweep gives each moment to the claim that counts for it. Every origin's counts show once, where it shows first; one that does not
// show at all and counted something is a moment. Where nobody claims anything between two stretches the device was not seen.
func sweep(claims []claim, origins []stretch) []stretch {
	claims = slices.DeleteFunc(claims, func(c claim) bool { return c.from >= c.to })
	slices.SortFunc(claims, func(a, b claim) int { return cmp.Compare(a.from, b.from) })
	var times []int64
	for i := range claims {
		times = append(times, claims[i].from, claims[i].to)
	}
	slices.Sort(times)
	times = slices.Compact(times)
	var out []claim
	var active []claim
	shown := make([]bool, len(origins))
	for i, next := 0, 0; i+1 < len(times); i++ {
		from, to := times[i], times[i+1]
		active = slices.DeleteFunc(active, func(c claim) bool { return c.to <= from })
		for ; next < len(claims) && claims[next].from <= from; next++ {
			active = append(active, claims[next])
		}
		var c claim
		if len(active) > 0 {
			c = slices.MaxFunc(active, func(a, b claim) int { return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.from, b.from)) })
		} else {
			c = claim{stretch{gateway: out[len(out)-1].gateway, reason: liveness.ReasonHeartbeatMissed, from: from}, rankOffline, -1}
		}
		if n := len(out); n > 0 && out[n-1].joins(&c) {
			out[n-1].to = to
			continue
		}
		c.from, c.to, c.beats, c.missed, c.counted = from, to, 0, 0, false
		if c.origin >= 0 && !shown[c.origin] {
			o := &origins[c.origin]
			c.beats, c.missed, c.counted, shown[c.origin] = o.beats, o.missed, o.counted, true
		}
		out = append(out, c)
	}
	all := make([]stretch, 0, len(out))
	for i := range out {
		all = append(all, out[i].stretch)
	}
	all = append(all, hidden(out, origins, shown)...)
	slices.SortStableFunc(all, func(a, b stretch) int { return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to)) })
	return all
}

// hidden are the stretches that counted something and do not show: moments, at the beginning of what hides them, so that none lies
// within a stretch, or apart.
func hidden(out []claim, origins []stretch, shown []bool) (moments []stretch) {
	for i, s := range origins {
		if shown[i] || s.beats == 0 && s.missed == 0 {
			continue
		}
		for j := range out {
			if j == 0 || out[j].from <= origins[i].from {
				s.from = out[j].from
			}
		}
		s.to = s.from
		moments = append(moments, s)
	}
	return moments
}

// joins tells whether c, which follows at once, is more of the same.
func (c *claim) joins(next *claim) bool {
	if c.online || next.online {
		return c.online == next.online && c.origin == next.origin && c.word == next.word
	}
	return c.gateway == next.gateway && c.reason == next.reason && !c.counted
}
