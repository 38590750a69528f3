package sim

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/sim/netsim"
)

// A mishap is a kind of thing that befalls a plant and its core.
type mishap int

// The mishaps.
const (
	mishapLeader      mishap = iota // another core node is made to lead
	mishapWAN                       // one gateway and the core do not reach each other
	mishapBlackout                  // no gateway and the core do
	mishapDeaf                      // one direction between a gateway and the core is gone, or between a device and its gateways
	mishapWeather                   // all links lose, double and reorder packets
	mishapKillGateway               // a gateway is killed, and starts again after a while
	mishapKillAgent                 // an agent is
	mishapKillCore                  // a core node is
	mishapParted                    // a device does not reach one of its gateways
	mishapFailover                  // a device was admitted by another gateway than before: what some of the others lead to
	mishaps                         // how many there are
)

func (m mishap) String() string {
	return [...]string{
		"leader change", "WAN cut", "WAN cut of both", "one-way loss", "loss, duplicates and reordering", "kill of a gateway", "kill of an agent",
		"kill of a core node", "device cut from a gateway", "failover",
	}[m]
}

// kinds chooses the mishaps of a seed: a random part, and one of them by turns.
func (c *conserve) kinds(r *rand.Rand) (on []mishap) {
	for m := range mishapFailover {
		switch {
		case m == mishapLeader && c.cores == 1:
		case m == mishapLeader, m == mishap(c.seed%uint64(mishapFailover)), r.Float64() < 0.5:
			on = append(on, m)
		}
	}
	if len(on) == 0 {
		on = append(on, mishapWAN)
	}
	return on
}

// blow is the schedule of faults: one after the other, which may last into one another.
func (c *conserve) blow(r *rand.Rand, calm netsim.Weather) {
	on := c.kinds(r)
	end := time.Now().Add(outageTime)
	for i := 0; ; i++ {
		wait := between(r, 500*time.Millisecond, 6*time.Second)
		if wait >= time.Until(end) {
			time.Sleep(time.Until(end))
			return
		}
		time.Sleep(wait)
		m := on[r.IntN(len(on))]
		if i < len(on) {
			m = on[i]
		}
		c.strike(m, rand.New(rand.NewPCG(c.seed, 1000+uint64(i))), calm)
	}
}

// strike begins one mishap, which ends by itself, with the schedule at the latest.
func (c *conserve) strike(m mishap, r *rand.Rand, calm netsim.Weather) {
	g, d, n := c.gateways[r.IntN(siteGateways)], c.devices[r.IntN(siteDevices)], c.nodes[r.IntN(c.cores)]
	to := c.Core(1 + r.IntN(c.cores))
	last := between(r, time.Second, 25*time.Second)
	short := between(r, 200*time.Millisecond, 8*time.Second)
	device, inward := r.IntN(2) == 0, r.IntN(2) == 0
	c.faults.Go(func() {
		switch m {
		case mishapLeader:
			ctx, cancel := context.WithTimeout(c.ctx, 5*time.Second)
			defer cancel()
			if c.Call(ctx, nil, http.MethodPost, "/v1/cluster/transfer-leadership", v1.TransferLeadership{To: to.Name}) == nil {
				c.hit(m)
			}
		case mishapWAN:
			c.hit(m)
			c.cut(both(pairs([]*machine{g}, c.nodes)), last)
		case mishapBlackout:
			c.hit(m)
			c.cut(both(pairs(c.gateways, c.nodes)), last)
		case mishapDeaf:
			c.hit(m)
			links := pairs([]*machine{g}, c.nodes)
			if device {
				links = pairs([]*machine{d}, c.gateways)
			}
			if inward {
				links = turned(links)
			}
			c.cut(links, last)
		case mishapWeather:
			c.hit(m)
			c.Net.SetWeather(netsim.Weather{Latency: calm.Latency, Jitter: 40 * time.Millisecond, Loss: 0.2, Duplicate: 0.2})
			c.pause(last)
			c.Net.SetWeather(calm)
		case mishapKillGateway:
			c.kill(m, g, short)
		case mishapKillAgent:
			c.kill(m, d, short)
		case mishapKillCore:
			c.kill(m, n, short)
		case mishapParted:
			c.hit(m)
			c.cut(both(pairs([]*machine{d}, []*machine{g})), last)
		}
	})
}

func (c *conserve) hit(m mishap) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fired[m] = true
}

// pause lets time pass, unless the faults end before.
func (c *conserve) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-c.storm.Done():
	}
}

// kill ends a process without warning and starts it again after d.
func (c *conserve) kill(why mishap, m *machine, d time.Duration) {
	if !m.busy.CompareAndSwap(false, true) {
		return
	}
	defer m.busy.Store(false)
	select {
	case <-m.proc.Done():
		c.t.Errorf("before a %v: the process ended by itself: %v", why, m.proc.Err())
	default:
	}
	c.hit(why)
	m.proc.Kill()
	c.pause(d)
	p, err := m.start(c.ctx)
	if err != nil {
		c.t.Errorf("after a %v: it does not start again: %v", why, err)
		return
	}
	m.proc = p
}

// pairs are the links from each of some machines to each of others.
func pairs(from, to []*machine) (links [][2]netip.Addr) {
	for _, a := range from {
		for _, b := range to {
			links = append(links, [2]netip.Addr{a.host, b.host})
		}
	}
	return links
}

// turned are the links in the other direction.
func turned(links [][2]netip.Addr) (out [][2]netip.Addr) {
	for _, l := range links {
		out = append(out, [2]netip.Addr{l[1], l[0]})
	}
	return out
}

// both are the links in both directions.
func both(links [][2]netip.Addr) [][2]netip.Addr { return append(links, turned(links)...) }

// cut cuts links for d. One that several faults cut is whole when the last one ends.
func (c *conserve) cut(links [][2]netip.Addr, d time.Duration) {
	change := func(by int) {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, l := range links {
			c.cuts[l] += by
			c.Net.Cut(l[0], l[1], c.cuts[l] > 0)
		}
	}
	change(1)
	c.pause(d)
	change(-1)
}
