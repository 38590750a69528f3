package sim

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/sim/linear"
	"github.com/holdfast-edge/holdfast/sim/netsim"
)

// A fault is a kind of thing that befalls the core.
type fault int

// The faults.
const (
	faultKill      fault = iota // a node is killed, and starts again after a while
	faultPause                  // a node reaches no other, and none reaches it
	faultPartition              // one node does not reach one other
	faultDeaf                   // a node only sends, or only hears
	faultTransfer               // another node is made to lead
	faultSnapshot               // a node writes a snapshot, and the log is cut behind it
	faultSkew                   // the clock of a node jumps
	faultWeather                // a gateway and an agent work over links that lose, double and reorder packets
	faults                      // how many there are by default

	// faultRemove removes a node for good; it joins anew with an empty directory. It comes with HOLDFAST_FAULTS=all alone: in the
	// middle of other faults a removal is still answered with a fault of the node now and then, and the removed node may take
	// longer to notice than the test allows.
	faultRemove = faults
)

func (f fault) String() string {
	return [...]string{"kill", "pause", "partition", "deaf", "transfer", "snapshot", "skew", "weather", "remove"}[f]
}

// enabled chooses the faults of a seed: a random part of all, so that they also come without one another, and one of them by
// turns, so that each comes in any row of as many seeds as there are faults.
func enabled(seed uint64, r *rand.Rand) map[fault]bool {
	kinds := faults
	if os.Getenv("HOLDFAST_FAULTS") == "all" {
		kinds++
	}
	on := map[fault]bool{fault(seed % uint64(kinds)): true}
	for f := range kinds {
		share := 0.5
		if f == faultRemove || f == faultWeather { // they take the most time
			share = 0.15
		}
		if r.Float64() < share {
			on[f] = true
		}
	}
	return on
}

// pause lets time pass, unless the storm ends before: then it returns false.
func (c *chaos) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.storm.Done():
		return false
	}
}

// between is a random duration.
func between(r *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(r.Int64N(int64(most-least)))
}

func (c *chaos) hit(f fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fired[f]++
}

// blow is the storm: one fault after the other, which may last into one another.
func (c *chaos) blow(r *rand.Rand, on map[fault]bool, calm netsim.Weather) {
	var kinds []fault
	for f := range faults {
		if on[f] {
			kinds = append(kinds, f)
		}
	}
	end := time.Now().Add(stormTime)
	for i := 0; ; i++ {
		time.Sleep(between(r, 200*time.Millisecond, 1200*time.Millisecond))
		left := time.Until(end)
		if left <= 0 {
			return
		}
		f := kinds[r.IntN(len(kinds))]
		if i < len(kinds) {
			f = kinds[i] // each at least once, the rarest being last in the list
		}
		c.strike(f, rand.New(rand.NewPCG(c.seed, 1000+uint64(i))), calm)
	}
}

// strike begins one fault, which ends by itself, with the storm at the latest.
func (c *chaos) strike(f fault, r *rand.Rand, calm netsim.Weather) {
	p, q := c.nodes[r.IntN(chaosNodes)], c.nodes[r.IntN(chaosNodes)]
	d := between(r, 300*time.Millisecond, 4*time.Second)
	k := &client{chaos: c, n: 100 + int(f), r: r, seen: map[linear.Key]uint64{}}
	c.faults.Go(func() {
		switch f {
		case faultKill:
			c.kill(p, d)
		case faultPause:
			c.hit(f)
			c.cut(p, true, true, d)
		case faultPartition:
			if p != q {
				c.hit(f)
				c.cutOff([][2]int{{p.N, q.N}}, d)
			}
		case faultDeaf:
			c.hit(f)
			sends := r.IntN(2) == 0
			c.cut(p, !sends, sends, d)
		case faultTransfer:
			if k.ok(change{method: http.MethodPost, path: "/v1/cluster/transfer-leadership", body: v1.TransferLeadership{To: q.Name}}, p) {
				c.hit(f)
			}
		case faultSnapshot:
			if k.ok(change{method: http.MethodPost, path: "/v1/cluster/snapshot"}, p) {
				c.hit(f)
			}
		case faultSkew:
			c.hit(f)
			p.skew.Store(int64(between(r, -2*time.Minute, 2*time.Minute)))
		case faultWeather:
			c.hit(f)
			c.Net.SetWeather(netsim.Weather{Latency: calm.Latency, Jitter: 40 * time.Millisecond, Loss: 0.3, Duplicate: 0.1})
			c.pause(d)
			c.Net.SetWeather(calm)
		case faultRemove:
			k.remove(p, q)
		}
	})
}

// ok asks for something that may not be possible at the moment, and tells whether it was done.
func (k *client) ok(c change, p *place) bool {
	a := k.ask(p, c, 5*time.Second)
	return a != nil && a.Code < http.StatusMultipleChoices
}

// kill ends a node without warning and starts it again after d.
func (c *chaos) kill(p *place, d time.Duration) {
	if !p.busy.CompareAndSwap(false, true) {
		return
	}
	defer p.busy.Store(false)
	c.ended(p)
	c.hit(faultKill)
	p.Process().Kill()
	c.pause(d)
	c.boot(p)
	if err := p.Serving(c.ctx); err != nil {
		c.t.Errorf("%s does not start again: %v", p.Name, err)
	}
}

// ended reports a node that ended though nobody made it.
func (c *chaos) ended(p *place) {
	if !p.Running() {
		c.t.Errorf("%s ended by itself: %v", p.Name, p.Process().Err())
	}
}

// cut cuts a node from all others, in one direction or both.
func (c *chaos) cut(p *place, out, in bool, d time.Duration) {
	var cuts [][2]int
	for _, q := range c.nodes {
		if q != p && out {
			cuts = append(cuts, [2]int{p.N, q.N})
		}
		if q != p && in {
			cuts = append(cuts, [2]int{q.N, p.N})
		}
	}
	c.cutOff(cuts, d)
}

// cutOff cuts links, each from one node to another, for d. A link that several faults cut is whole when the last one ends.
func (c *chaos) cutOff(links [][2]int, d time.Duration) {
	change := func(by int) {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, l := range links {
			c.cuts[l] += by
			c.Net.Cut(c.nodes[l[0]-1].Host, c.nodes[l[1]-1].Host, c.cuts[l] > 0)
		}
	}
	change(1)
	c.pause(d)
	change(-1)
}

// remove ends a node's membership and has it join again with an empty directory. by is asked for it.
func (k *client) remove(p, by *place) {
	if p == by || !p.busy.CompareAndSwap(false, true) {
		return
	}
	defer p.busy.Store(false)
	n := k.names.Add(1)
	op := linear.Op{Client: k.n, Key: linear.Key{Kind: linear.KindOther, Name: p.Name}, Act: linear.Write, Start: k.hist.Begin()}
	c := change{method: http.MethodDelete, path: "/v1/cluster/nodes/" + p.Name, once: fmt.Sprintf("remove-%d", n)}
	k.removing = c.path
	k.change(&op, c, 30)
	k.hist.Add(op)
	if op.Outcome != linear.Done {
		if op.Outcome == linear.Unknown {
			k.t.Errorf("nobody can tell whether %s was removed", p.Name)
		}
		return
	}
	k.hit(faultRemove)
	select {
	case <-p.Process().Done():
	case <-time.After(30 * time.Second):
		k.t.Errorf("%s was removed half a minute ago and goes on", p.Name)
		return
	}
	if err := os.RemoveAll(p.Dir()); err != nil {
		k.t.Error(err)
	}
	g := &grant{
		key: linear.Key{Kind: linear.KindGrant, Name: fmt.Sprintf("token/%d", n)}, list: "/v1/tokens",
		body: v1.CreateToken{Kind: "core"}, once: fmt.Sprintf("make-%d", n),
	}
	if !k.makeGrant(g, 60) {
		k.t.Errorf("no token for %s to join again", p.Name)
		return
	}
	k.join(p, g.bearer)
}

// join makes an empty directory a node again.
func (k *client) join(p *place, token string) {
	for try := 0; ; try++ {
		through := k.nodes[(p.N+try)%chaosNodes]
		if through == p {
			continue
		}
		err := p.JoinWith(k.ctx, through.CoreNode, token)
		if err == nil {
			break
		}
		if try > 60 {
			k.t.Errorf("%s does not join again: %v", p.Name, err)
			return
		}
		time.Sleep(time.Second)
	}
	k.boot(p)
}
