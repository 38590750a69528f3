package sim

import (
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/registry"
)

// copyOf is another machine with a copy of the gateway's disk. The gateway does not run.
func (p *plant) copyOf(g *Gateway, name string) *Gateway {
	p.t.Helper()
	c := &Gateway{w: p.World, Name: name, Addr: netip.AddrPortFrom(p.host(), 7450)}
	p.must(os.CopyFS(c.Dir(), os.DirFS(g.Dir())))
	return c
}

func (p *plant) gatewayNow(name string) (out v1.Gateway) {
	p.t.Helper()
	p.must(p.Call(p.ctx, &out, http.MethodGet, "/v1/gateways/plant-7/"+name, nil))
	return out
}

// enrollAgain revokes the gateway that runs as x, and enrolls its machine anew, with nothing of the old disk.
func (p *plant) enrollAgain(g *Gateway, x *Process) {
	p.t.Helper()
	p.revoke(g)
	x.Kill()
	p.must(os.RemoveAll(g.Dir()))
	token, err := p.Token(p.ctx, "gateway", "plant-7", 1)
	p.must(err)
	p.must(g.enroll(p.ctx, token))
	p.gateway, err = g.Start(p.ctx)
	p.must(err)
	p.all = append(p.all, p.gateway)
}

// TestRestoredGateway puts the disk of a gateway back to what it was an hour ago. The core refuses and reports it, the plant goes on, its
// devices keep what they state, and once the machine is enrolled anew all of it is there.
func TestRestoredGateway(t *testing.T) {
	t.Parallel()
	twoGateways(t, 2, func(p *plant, sibling *Gateway, books []*logbook) {
		p.Net.Unplug(sibling.Addr.Addr()) // nobody else could take over
		p.sleep(time.Minute)
		p.gateway.Kill()
		backup := p.copyOf(p.gw, "backup")
		run, err := p.gw.Start(p.ctx)
		p.must(err)
		p.sleep(time.Minute)
		if g := p.gatewayNow("gw-a"); g.Forked != nil || !g.Connected {
			t.Fatalf("restarted it is %+v", g)
		}
		run.Kill()
		p.must(os.RemoveAll(p.gw.Dir()))
		p.must(os.CopyFS(p.gw.Dir(), os.DirFS(backup.Dir())))
		for range 3 { // however often it is restarted
			run, err = p.gw.Start(p.ctx)
			p.must(err)
			p.sleep(2 * time.Minute)
			if g := p.gatewayNow("gw-a"); g.Forked == nil || !strings.Contains(g.Forked.Reason, "older copy") && !strings.Contains(g.Forked.Reason, "another way") || g.Uplink != nil {
				t.Fatalf("the restored gateway is %+v, %+v", g, g.Forked)
			}
			for i, b := range books {
				if b.mu.Lock(); b.at != "spiffe://sim/gateway/plant-7/gw-a" {
					t.Errorf("device %d is at %s", i, b.at)
				}
				b.mu.Unlock()
			}
			run.Kill()
		}
		if said := p.events("gateway.forked"); strings.Count(said, `"gateway":"plant-7/gw-a"`) != 1 {
			t.Errorf("told: %s", said)
		}
		before := len(p.history(0))
		p.enrollAgain(p.gw, run)
		p.Net.Plug(sibling.Addr.Addr())
		p.sleep(time.Minute)
		if got := len(p.history(0)); got <= before {
			t.Errorf("the core has %d statements, as before", got)
		}
		if g := p.gatewayNow("gw-a"); g.Forked != nil || !g.Connected || g.State != "active" {
			t.Errorf("enrolled anew it is %+v", g)
		}
	})
}

// TestTwoOfAGateway runs a gateway and a copy of it at once. One of them is refused for good within a minute, and reported; when the
// machine that is to be the gateway is enrolled anew, nothing is lost.
func TestTwoOfAGateway(t *testing.T) {
	t.Parallel()
	twoGateways(t, 2, func(p *plant, _ *Gateway, _ []*logbook) {
		p.gateway.Kill()
		c := p.copyOf(p.gw, "copy")
		a, err := p.gw.Start(p.ctx)
		p.must(err)
		b, err := c.Start(p.ctx)
		p.must(err)
		p.all = append(p.all, b)
		p.sleep(time.Minute)
		g := p.gatewayNow("gw-a")
		if g.Forked == nil || g.Uplink == nil {
			t.Fatalf("after a minute it is %+v", g)
		}
		if said := p.events("gateway.forked"); strings.Count(said, `"gateway":"plant-7/gw-a"`) != 1 {
			t.Errorf("told: %s", said)
		}
		record := func() *registry.Gateway {
			v, _ := p.Core(1).View()
			rec, _ := v.Gateway("plant-7/gw-a")
			return rec
		}
		before := record()
		p.sleep(20 * time.Minute)
		if now := p.gatewayNow("gw-a"); now.Uplink == nil || now.Uplink.Since != g.Uplink.Since || *now.Forked != *g.Forked {
			t.Errorf("later %+v, %+v; before %+v, %+v", now.Uplink, now.Forked, g.Uplink, g.Forked)
		}
		if now := record(); !slices.Equal(now.Runs, before.Runs) || *now.Forked != *before.Forked {
			t.Errorf("they go on replacing each other: %+v, then %+v", before, now)
		}
		p.enrollAgain(p.gw, a)
		p.sleep(6 * time.Minute)
		p.ended(b) // it was refused, or cut off, and then told
	})
}
