package sitelink

import (
	"testing"

	"github.com/holdfast-edge/holdfast/wire"
)

// A node that is behind the one which let somebody in finds out before it sends him away.
func TestNodeThatIsBehind(t *testing.T) {
	world(t, func(t *testing.T, c *core) {
		c.fallBehind()
		g := c.connect("plant-7", "gw-new") // enrolled at another node
		defer g.hangUp()

		c.fallBehind()
		d := c.device("plant-7")
		g.send(wire.TypeSubmit, submit(1, d.register("1")))
		if out := recv[wire.Submitted](g, wire.TypeSubmitted); len(out.Results) != 1 || out.Results[0].Code != wire.CodeNone {
			t.Errorf("statement of a new device: %+v", out.Results)
		}

		c.fallBehind()
		e := c.device("plant-7")
		g.send(wire.TypePresence, online(e, e.attach(g.id, 1)))
		settle()
		if on, reason, _ := c.verdict(e); !on || reason != "" {
			t.Errorf("a new device that is online: online=%v, reason %q", on, reason)
		}

		c.fallBehind()
		f := c.device("plant-8")
		g.send(wire.TypeAsk, wire.Ask{Device: f.id})
		settle()
		for {
			m := recv[wire.Site](g, wire.TypeSite)
			if es := c.entries(m); len(es) == 1 && es[0].Device == f.id {
				if es[0].State != wire.DeviceActive {
					t.Errorf("asked for a new device: %+v", es[0])
				}
				return
			}
		}
	})
}
