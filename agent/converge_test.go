package agent_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/agent"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

// content is a file's content of some chunks.
func content(s string) string {
	return strings.Repeat(s+strings.Repeat(".", 4096-len(s)), 3) + "end of " + s
}

var healthy = []string{"downloading", "verifying", "applying", "healthy"}

// broken lacks a file that its health check wants.
func broken(m *artifact.Manifest) { m.Health[0].Path = "gone" }

func TestConverges(t *testing.T) {
	inPlant(t, func(t *testing.T, p *plant) {
		one := p.release(1, content("one"), nil, p.publisher)
		p.run(func() {
			time.Sleep(10 * time.Second)
			if len(p.newest().Running) > 0 || p.newest().Desired != 0 {
				t.Errorf("before any order a heartbeat tells %+v", p.newest())
			}
			p.assign(one, 0)
			time.Sleep(30 * time.Second)
			p.heard(healthy...)
			if p.current() != content("one") || p.newest().Desired != 1 || len(p.newest().Running) != 32 || p.newest().Publishers != 1 {
				t.Errorf("runs %.10q, a heartbeat tells %+v", p.current(), p.newest())
			}
			time.Sleep(2 * time.Minute) // the registration follows
			if len(p.registered()) != 1 || p.registered()[0].Artifact != one || p.registered()[0].Version != "1.1" || p.registered()[0].Slot != "app" {
				t.Errorf("registered %+v", p.registered())
			}
			before := bytes.Clone(p.newest().Running)
			p.assign(p.release(2, content("two"), broken, p.publisher), 0)
			time.Sleep(2 * time.Minute)
			p.heard("downloading", "verifying", "applying", "rolled_back health")
			if p.current() != content("one") || !bytes.Equal(before, p.newest().Running) {
				t.Errorf("runs %.10q", p.current())
			}
			p.assign(wire.Digest{}, 0)
			time.Sleep(10 * time.Second)
			p.heard("removed")
			if p.current() != "" || len(p.newest().Running) > 0 {
				t.Errorf("runs %.10q", p.current())
			}
		})
	})
}

// No decision but that to fetch depends on the link: what is on the device proves itself, or goes back, while no gateway is there, and the agent tells
// of it when one is.
func TestDecidesWithoutLink(t *testing.T) {
	inPlant(t, func(t *testing.T, p *plant) {
		p.run(func() {
			p.assign(p.release(1, content("one"), nil, p.publisher), 0)
			time.Sleep(time.Minute)
			p.heard(healthy...)
			p.assign(p.release(2, content("two"), broken, p.publisher), 0)
			for p.current() != content("two") {
				time.Sleep(100 * time.Millisecond)
			}
			for i := range p.addrs {
				p.net.Cut(p.addr(i), true)
			}
			time.Sleep(5 * time.Minute)
			if p.current() != content("one") {
				t.Errorf("runs %.10q while the gateways are gone", p.current())
			}
			for i := range p.addrs {
				p.net.Cut(p.addr(i), false)
			}
			time.Sleep(5 * time.Minute)
			p.heard("downloading", "verifying", "applying", "rolled_back health")
		})
	})
}

// An agent that is stopped anywhere goes on, fetches nothing twice, and states each thing once.
func TestStoppedAnywhere(t *testing.T) {
	inPlant(t, func(t *testing.T, p *plant) {
		p.run(func() {
			p.assign(p.release(1, content("one"), nil, p.publisher), 0)
			time.Sleep(time.Minute)
		})
		p.heard(healthy...)
		two := p.release(2, content("two"), nil, p.publisher)
		p.assign(two, 0)
		for i := range 14 {
			p.run(func() { time.Sleep(time.Duration(300+250*i) * time.Millisecond) })
		}
		p.run(func() { time.Sleep(time.Minute) })
		p.heard(healthy...)
		for d, n := range p.bytes {
			if n > 1 {
				t.Errorf("chunk %s was fetched %d times", d.Short(), n)
			}
		}
		if p.current() != content("two") {
			t.Errorf("runs %.10q", p.current())
		}
	})
}

// What the WAN keeps back is fetched when it comes, and until then the old release runs.
func TestWaitsForContent(t *testing.T) {
	inPlant(t, func(t *testing.T, p *plant) {
		p.run(func() {
			p.mu.Lock()
			p.offline = true
			p.mu.Unlock()
			p.assign(p.release(1, content("one"), nil, p.publisher), 0)
			time.Sleep(10 * time.Minute)
			p.heard("downloading", "downloading content")
			p.mu.Lock()
			p.offline = false
			p.mu.Unlock()
			time.Sleep(11 * time.Minute)
			if p.current() != content("one") {
				t.Errorf("runs %.10q", p.current())
			}
		})
	})
}

// Wrong bytes cost time, and the gateway that brought them is named.
func TestWrongBytes(t *testing.T) {
	inPlant(t, func(t *testing.T, p *plant) {
		p.corrupt = 0
		p.run(func() {
			p.assign(p.release(1, content("one"), nil, p.publisher), 0)
			time.Sleep(2 * time.Minute)
			if p.current() != content("one") {
				t.Errorf("runs %.10q", p.current())
			}
		})
		named := false
		for _, s := range p.told {
			if s == "gw-b: content that is not what was asked for" {
				t.Error("the wrong gateway is named")
			}
			named = named || s == "gw-a: content that is not what was asked for"
		}
		if !named {
			t.Errorf("nobody is named: %q", p.told)
		}
	})
}

func TestRefusedOrders(t *testing.T) {
	inPlant(t, func(t *testing.T, p *plant) {
		one, two := p.release(1, content("one"), nil, p.publisher), p.release(2, content("two"), nil, p.publisher)
		p.orders = 4
		p.run(func() {
			p.assign(one, 0) // the fifth
			time.Sleep(time.Minute)
			p.heard(healthy...)
			for name, tt := range map[string]struct {
				order []byte
				want  string
			}{
				"an older one":               {p.seal(4, p.device.Device, two, 0), "an order that is old or for another device"},
				"another's":                  {p.seal(9, ident.NewDeviceID(), two, 0), "an order that is old or for another device"},
				"no order":                   {[]byte("junk"), "an order that is old or for another device"},
				"another of the same number": {p.seal(5, p.device.Device, two, 0), "alarm order_conflict"},
			} {
				p.mu.Lock()
				p.order, p.orders = tt.order, 99 // which the device never says that it has
				p.mu.Unlock()
				time.Sleep(2 * time.Minute) // with the back-off of who has left both gateways
				p.mu.Lock()
				found := false
				for _, s := range p.told {
					found = found || strings.HasSuffix(s, tt.want)
				}
				if !found || p.beat.Desired != 5 {
					t.Errorf("%s: told %q, order %d is held", name, p.told, p.beat.Desired)
				}
				p.told, p.order = nil, nil
				p.mu.Unlock()
				time.Sleep(2 * time.Minute)
				p.mu.Lock()
				p.told = nil
				p.mu.Unlock()
			}
			if p.current() != content("one") {
				t.Errorf("runs %.10q", p.current())
			}
		})
	})
}

func TestPublishers(t *testing.T) {
	inPlant(t, func(t *testing.T, p *plant) {
		other := p.newKey()
		p.run(func() {
			p.assign(p.release(1, content("one"), nil, p.publisher), 0)
			time.Sleep(time.Minute)
			p.heard(healthy...)
			p.assign(p.release(2, content("two"), nil, other), 0) // by somebody else
			time.Sleep(time.Minute)
			p.heard("downloading", "failed publisher")
			p.mu.Lock()
			p.sets[2] = p.set(2, p.fleet.Authority, p.publisher, other) // the core adds him
			p.mu.Unlock()
			time.Sleep(5 * time.Minute)
			p.heard("alarm publishers")
			p.assign(p.release(3, content("three"), nil, other), 0)
			time.Sleep(time.Minute)
			p.heard("downloading", "failed publisher")
			if p.current() != content("one") || p.newest().Publishers != 1 {
				t.Errorf("runs %.10q, trusts set %d", p.current(), p.newest().Publishers)
			}
			p.mu.Lock()
			p.sets[2] = p.set(2, p.root, other) // the operator does, and removes the one before
			p.mu.Unlock()
			p.assign(p.release(4, content("four"), nil, p.publisher), 0)
			time.Sleep(time.Minute)
			p.heard("downloading", "failed publisher")
			p.assign(p.release(5, content("five"), nil, other), 0)
			time.Sleep(time.Minute)
			p.heard(healthy...)
			if p.current() != content("five") || p.newest().Publishers != 2 {
				t.Errorf("runs %.10q, trusts set %d", p.current(), p.newest().Publishers)
			}
		})
	})
}

func TestRefusedArtifacts(t *testing.T) {
	inPlant(t, func(t *testing.T, p *plant) {
		p.run(func() {
			p.assign(p.release(9, content("nine"), nil, p.publisher), 0)
			time.Sleep(time.Minute)
			p.heard(healthy...)
			for want, d := range map[string]wire.Digest{
				"downgrade":         p.release(8, content("eight"), nil, p.publisher),
				"incompatible_arch": p.release(10, content("x"), func(m *artifact.Manifest) { m.Fits.Arch = []string{"amd64"} }, p.publisher),
				"unit_not_allowed":  p.release(10, content("x"), func(m *artifact.Manifest) { m.Unit = "sshd.service" }, p.publisher),
				"release_mismatch":  p.release(10, content("x"), func(m *artifact.Manifest) { m.Number = 11 }, p.publisher),
			} {
				p.assign(d, 0)
				time.Sleep(time.Minute)
				p.heard("downloading", "failed "+want)
			}
			if p.current() != content("nine") {
				t.Errorf("runs %.10q", p.current())
			}
		})
	})
}

func TestUnits(t *testing.T) {
	for name, tt := range map[string]struct {
		units []string
		ok    bool
	}{
		"none": {nil, true}, "some": {[]string{"app.service", "app@2.service"}, true}, "no service": {[]string{"app.timer"}, false}, "no name": {[]string{".service"}, false},
		"a path": {[]string{"../app.service"}, false}, "long": {[]string{strings.Repeat("a", 200) + ".service"}, false}, "many": {make([]string, 100), false},
	} {
		s := agent.Settings{Gateways: []string{"a:1"}, Units: tt.units}
		if err := s.Check(); (err == nil) != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
