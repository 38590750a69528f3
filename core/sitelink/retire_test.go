package sitelink

import (
	"testing"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A session ends when its gateway is revoked, and none is opened: each time the gateway is shown the list that says so.
func TestRevokedGatewayIsCutOff(t *testing.T) {
	world(t, func(t *testing.T, c *core) {
		id := ident.Gateway("acme", "plant-7", "gw-a")
		key, ep := c.endpoint(id)
		c.do(&command.Enroll{Token: c.token(seal.KindGateway, "plant-7").ID, Kind: seal.KindGateway, Name: "gw-a", SPKI: spkiOf(t, key)})
		g := c.dialAs(id, key, ep)
		recv[wire.UplinkWelcome](g, wire.TypeUplinkWelcome)
		recv[wire.Site](g, wire.TypeSite)
		other := c.connect("plant-7", "gw-b")
		defer other.hangUp()
		c.list(recv[wire.Site](g, wire.TypeSite)) // with the other one
		c.do(&command.RevokeGateway{Gateway: "plant-7/gw-a", Reason: "stolen"})
		gone := func(g *gateway) {
			t.Helper()
			defer g.hangUp()
			kid := ident.KeyIDOfSPKI(spkiOf(t, g.key))
			s := recv[wire.Site](g, wire.TypeSite)
			if l := c.list(s); l.Has("gw-a", kid) || len(l.Gateways) != 1 || l.Gateways[0].Name != "gw-b" {
				t.Errorf("list %+v", l)
			}
			if e := recv[wire.Error](g, wire.TypeError); e.Code != wire.CodeRetired || e.Ref != 0 || e.ID != 0 {
				t.Errorf("told %+v", e)
			}
			if _, _, err := g.Recv(); err == nil {
				t.Error("the session goes on")
			}
		}
		gone(g)
		gone(c.dialAs(id, key, ep))
		if l := c.list(recv[wire.Site](other, wire.TypeSite)); len(l.Gateways) != 1 {
			t.Errorf("the other one is told %+v", l)
		}
	})
}
