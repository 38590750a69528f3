package sitelink

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
)

// A gateway is named once in a while for one thing, with how often; also when it comes back, and when it could not be committed at once.
func TestNamedOnceInAWhile(t *testing.T) {
	world(t, func(t *testing.T, c *core) {
		d := c.device("plant-7")
		g := c.connect("plant-7", "gw-a")
		lie := func() {
			g.send(wire.TypePresence, online(d, nil))
			settle()
		}
		before := c.proposed
		c.mu.Lock()
		c.err = errors.New("no quorum")
		c.mu.Unlock()
		lie()
		c.mu.Lock()
		c.err = nil
		c.mu.Unlock()
		for range 5 {
			lie()
		}
		g.hangUp()
		g = c.dial("plant-7", "gw-a", true)
		defer g.hangUp()
		lie()
		if got := c.proposed - before; got != 3 { // a token, an enrollment, and one doubt
			t.Errorf("%d commands", got)
		}
		time.Sleep(doubtAgain)
		lie()
		if got := c.proposed - before; got != 4 {
			t.Errorf("%d commands after a while", got)
		}
		g.send(wire.TypePresence, wire.Presence{LeastMS: math.MaxUint32})
		settle()
		if got := c.proposed - before; got != 5 {
			t.Errorf("%d commands: it is named for each thing", got)
		}
	})
}

// A device that was never online before is online, whatever its gateway's clock says.
func TestOnlineSinceTheBeginning(t *testing.T) {
	world(t, func(t *testing.T, c *core) {
		d := c.device("plant-7")
		g := c.connect("plant-7", "gw-a")
		defer g.hangUp()
		p := online(d, d.attach(g.id, 1))
		p.Online[0].SinceMS = math.MinInt64
		g.send(wire.TypePresence, p)
		settle()
		if on, reason, _ := c.verdict(d); !on || reason != "" {
			t.Errorf("online=%v, reason %q", on, reason)
		}
	})
}
