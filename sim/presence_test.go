package sim

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/liveness"
)

// timeline reads a device's presence in small pages.
func (p *plant) timeline(i int) (out []v1.PresenceItem) {
	p.t.Helper()
	for cursor := ""; ; {
		var l v1.List[v1.PresenceItem]
		p.must(p.Call(p.ctx, &l, http.MethodGet, fmt.Sprintf("/v1/devices/%s/presence?limit=3&cursor=%s", p.devices[i].ID, cursor), nil))
		out = append(out, l.Items...)
		if cursor = l.NextCursor; cursor == "" {
			return out
		}
	}
}

func text(items []v1.PresenceItem, began time.Time) string {
	var b strings.Builder
	for _, it := range items {
		fmt.Fprintf(&b, "\n\t%v at %s for %d beats %s from %v", it.State, it.Gateway, it.Beats, it.Reason, it.From.Sub(began))
	}
	return b.String()
}

// at is what a timeline says of a moment.
func at(items []v1.PresenceItem, t time.Time) v1.PresenceItem {
	for _, it := range items {
		if !it.From.After(t) && (it.To == nil || it.To.After(t)) {
			return it
		}
	}
	return v1.PresenceItem{}
}

// TestTimelineAfterAnOutage cuts a site with two gateways off for hours. One device stays, one is switched off and on several times,
// one moves to the other gateway and back, and a gateway is killed. When the WAN is back the timeline says so, and of no
// heartbeat that was answered nothing is known.
func TestTimelineAfterAnOutage(t *testing.T) {
	t.Parallel()
	const interval = 10 * time.Second
	inPlant(t, 3, interval, func(p *plant) {
		other, err := p.EnrollGateway(p.ctx, "gw-b", "plant-7")
		p.must(err)
		run, err := other.Start(p.ctx)
		p.must(err)
		p.all = append(p.all, run)
		p.sleep(10 * time.Minute) // the agents are told of it
		began := time.Now()
		kills := []int{0, 0, 0} // of the device, or of a gateway that it was with
		p.wan(p.gw, false)
		p.wan(other, false)
		p.sleep(30 * time.Minute)

		type moment struct {
			device int
			at     time.Time
			state  string
			where  string // gateway; "": whichever
		}
		var want []moment
		for range 3 {
			p.agents[1].Kill()
			kills[1]++
			p.sleep(10 * time.Minute)
			want = append(want, moment{1, time.Now(), "offline", ""})
			p.agents[1] = p.startAgent(p.devices[1])
			p.sleep(10 * time.Minute)
			want = append(want, moment{1, time.Now(), "online", ""})
		}
		apart := func(g *Gateway, cut bool) {
			p.Net.Cut(p.devices[2].Host, g.Addr.Addr(), cut)
			p.Net.Cut(g.Addr.Addr(), p.devices[2].Host, cut)
		}
		for range 2 {
			apart(p.gw, true)
			p.sleep(20 * time.Minute)
			want = append(want, moment{2, time.Now(), "online", "plant-7/gw-b"})
			apart(p.gw, false)
			apart(other, true)
			p.sleep(20 * time.Minute)
			want = append(want, moment{2, time.Now(), "online", "plant-7/gw-a"})
			apart(other, false)
			kills[2] += 2
		}
		p.gateway.Kill()
		p.sleep(10 * time.Minute)
		for i := range kills {
			kills[i]++
			want = append(want, moment{i, time.Now(), "online", "plant-7/gw-b"})
		}
		p.gateway, err = p.gw.Start(p.ctx)
		p.must(err)
		p.all = append(p.all, p.gateway)
		p.sleep(30 * time.Minute)
		p.want(0, "offline", liveness.ReasonSiteUnreachable)
		p.wan(p.gw, true)
		p.wan(other, true)
		p.sleep(3 * time.Minute)
		p.want(0, "online", "")
		back := time.Now()
		for i, a := range p.agents {
			a.Kill()
			kills[i]++
		}
		p.sleep(3 * time.Minute)

		for i, a := range p.devices {
			items := p.timeline(i)
			var beats uint64
			for j, it := range items {
				beats += it.Beats
				if j > 0 && !it.From.Equal(*items[j-1].To) {
					t.Errorf("device %d: a hole: %s", i, text(items, began))
				}
			}
			if n := a.Answered(); beats < n || beats > n+uint64(kills[i]) {
				t.Errorf("device %d: %d heartbeats in the timeline, %d were answered: %s", i, beats, n, text(items, began))
			}
			for _, m := range want { // not the last heartbeats before a gateway was killed: nobody vouches for what came after them
				if got := at(items, m.at.Add(-2*interval)); m.device == i && (got.State != m.state || m.where != "" && got.Gateway != m.where) {
					t.Errorf("device %d is %s at %s after %v, want %s at %s: %s", i, got.State, got.Gateway, m.at.Sub(began), m.state, m.where, text(items, began))
				}
			}
		}
		var off time.Duration // of the device that stayed: it was looking for the other gateway
		for _, it := range p.timeline(0) {
			if it.To != nil && it.State == "offline" && it.From.Before(back) {
				off += it.To.Sub(it.From)
			}
		}
		if off > 2*time.Minute {
			t.Errorf("the device that stayed was offline for %v: %s", off, text(p.timeline(0), began))
		}
	})
}
