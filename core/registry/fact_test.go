package registry

import (
	"fmt"
	"testing"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// says is what the device's entry and its order say, but for their numbers and times.
func says(d *Device) string {
	said := fmt.Sprint(d.Site, d.State, ActiveKeys(d.Keys), d.IntervalMS)
	if d.Desired != nil {
		said += fmt.Sprint(d.Desired.Sealed())
	}
	return said
}

// listed is what the list of a site's gateways says.
func listed(v View, site string) (out string) {
	v.Gateways(func(g *Gateway) bool {
		if g.Site == site {
			out += fmt.Sprint(g.Name, g.Listen, ActiveKeys(g.Keys))
		}
		return true
	})
	return out
}

// A fact number moves when, and only when, what is said changes, and never back.
type factCheck struct {
	said    map[string]string
	numbers map[string]uint64
}

func newFactCheck() *factCheck {
	return &factCheck{said: map[string]string{}, numbers: map[string]uint64{}}
}

func (c *factCheck) one(t tester, name, says string, number, newest uint64) {
	t.Helper()
	before, known := c.said[name]
	switch old := c.numbers[name]; {
	case number > newest || number == 0:
		t.Fatalf("%s has number %d, the newest is %d", name, number, newest)
	case known && (says == before) != (number == old), number < old:
		t.Fatalf("%s says %s under number %d, and said %s under %d", name, says, number, before, old)
	}
	for other, n := range c.numbers {
		if other != name && n == number {
			t.Fatalf("%s and %s share number %d", name, other, number)
		}
	}
	c.said[name], c.numbers[name] = says, number
}

func (c *factCheck) all(t tester, v View) {
	t.Helper()
	v.devices.all(func(d *Device) bool {
		c.one(t, d.ID.String(), says(d), d.Entry.Number, v.Facts())
		return true
	})
	v.Sites(func(s *Site) bool {
		if l := listed(v, s.Name); l != "" {
			c.one(t, s.Name, l, s.List.Number, v.Facts())
		}
		return true
	})
}

func TestFactsAreNumbered(t *testing.T) {
	l := newLog(t)
	check := newFactCheck()
	ok := func(c command.Command, grows uint64) {
		t.Helper()
		before := l.state.View().Facts()
		l.ok(c)
		if got := l.state.View().Facts() - before; got != grows {
			t.Errorf("%T made %d facts, want %d", c, got, grows)
		}
		check.all(t, l.state.View())
	}
	ok(token(1, 3), 0)
	m, gw := newMachine(t), newMachine(t)
	ok(m.enroll(1), 1)
	ok(m.enroll(1), 0) // the answer was lost
	ok(gatewayToken(2, "plant-7"), 0)
	ok(gw.enrollGateway(2, "gw-a"), 1)
	ok(&command.SetInterval{Device: m.id, IntervalMS: 2000}, 1)
	ok(&command.SetInterval{Device: m.id, IntervalMS: 2000}, 0)
	ok(&command.SetTags{Device: m.id, Set: map[string]string{"a": "b"}}, 0)
	ok(&command.SetSite{Site: "plant-7", IntervalMS: 1000}, 0)
	ok(m.submit(m.register(seal.Register{AgentVersion: "1"})), 0)
	ok(m.online(gwA, start, m.attach(1, 1, 1)), 0)
	ok(m.online(gwA, start, m.attach(1, 2, 1)), 1) // the same start by another run: a clone
	if l.record(m).State != wire.DeviceQuarantined {
		t.Fatal("no quarantine")
	}
	ok(&command.Release{Device: m.id}, 1)
	ok(newMachine(t).enrollGateway(2, "gw-a"), 1) // another key
	if s, _ := l.state.View().Site("plant-7"); s.List.LoggedMS != start.UnixMilli() {
		t.Errorf("list of %+v", s)
	}
	s := restore(t, l.snapshot())
	check.all(t, s.View())
	if s.View().Facts() != l.state.View().Facts() {
		t.Errorf("restored with %d facts, want %d", s.View().Facts(), l.state.View().Facts())
	}
}
