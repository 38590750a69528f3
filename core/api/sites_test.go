package api

import (
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// What a site or a gateway says of its devices is what the list of devices says: whoever roams, falls silent, or is of a site
// that fell silent.
func TestSitesCountTheirDevices(t *testing.T) {
	c := newCore(t)
	rng := rand.New(rand.NewPCG(1, 2))
	sites, gateways := []string{"plant-7", "plant-8", "plant-9"}, []string{"plant-7/gw-a", "plant-7/gw-b", "plant-8/gw-a"}
	for _, g := range gateways {
		c.gateway(g[:len("plant-7")], g[len("plant-7/"):])
	}
	tokens := []seal.TokenID{c.token(seal.KindDevice, sites[0]), c.token(seal.KindDevice, sites[1])} // none of the third
	c.commit(&command.SetSite{By: byAdmin, Site: sites[2]})
	var machines []*machine
	for i := range 6 {
		machines = append(machines, c.enroll(tokens[i%2]))
	}
	for step := range 120 {
		c.pass(time.Second)
		m, gw := machines[rng.IntN(len(machines))], gateways[rng.IntN(len(gateways))]
		now := c.wall().UnixMilli()
		switch rng.IntN(4) {
		case 0, 1:
			c.online(m, gw, c.wall(), uint64(step)+1)
		case 2:
			c.commit(&command.Presence{Gateway: gw, Items: []command.PresenceItem{{Device: m.id, AtMS: now, LastMS: now}}})
		case 3:
			c.commit(&command.SiteReach{Site: sites[rng.IntN(2)], Reachable: rng.IntN(2) == 0, AtMS: now})
		}
		compareCounts(t, c)
	}
}

// compareCounts holds what sites and gateways say against the list of devices.
func compareCounts(t *testing.T, c *core) {
	t.Helper()
	all, online, through := map[string]int{}, map[string]int{}, map[string]int{}
	for _, d := range ask[v1.List[v1.Device]](c, http.MethodGet, "/v1/devices", "", http.StatusOK).Items {
		all[d.Site]++
		if d.Presence == "online" {
			online[d.Site]++
			through[d.Gateway]++
		}
	}
	for _, s := range ask[v1.List[v1.Site]](c, http.MethodGet, "/v1/sites", "", http.StatusOK).Items {
		if s.Devices != all[s.Name] || s.Online != online[s.Name] {
			t.Fatalf("%s has %d devices, %d online; the list has %d and %d", s.Name, s.Devices, s.Online, all[s.Name], online[s.Name])
		}
		if one := ask[v1.Site](c, http.MethodGet, "/v1/sites/"+s.Name, "", http.StatusOK); one.Devices != s.Devices || one.Online != s.Online || one.Gateways != s.Gateways {
			t.Fatalf("alone it says %+v, in the list %+v", one, s)
		}
	}
	for _, g := range ask[v1.List[v1.Gateway]](c, http.MethodGet, "/v1/gateways", "", http.StatusOK).Items {
		if id := g.Site + "/" + g.Name; g.Devices != through[id] {
			t.Fatalf("%s has %d devices, the list has %d", id, g.Devices, through[id])
		}
	}
}
