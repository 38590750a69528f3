package sim

import (
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/wire"
)

// A pair is a plant with two gateways, gw-a and gw-b, with devices at each that state something all the time.
type pair struct {
	*plant
	gws      [2]*Gateway
	runs     [2]*Process
	homes    []string // of each device: the gateway that it is with
	journals []*logbook
	stating  atomic.Bool
}

// inPair runs f with n devices at each of two gateways.
func inPair(t *testing.T, n int, interval time.Duration, f func(p *pair)) {
	t.Helper()
	inPlant(t, 0, interval, func(base *plant) {
		p := &pair{plant: base}
		b, err := p.EnrollGateway(p.ctx, "gw-b", "plant-7")
		p.must(err)
		p.gws = [2]*Gateway{p.gw, b}
		p.runs[0] = p.gateway
		p.startGateway(1)
		p.sleep(time.Second)
		token, err := p.Token(p.ctx, "device", "plant-7", 2*n)
		p.must(err)
		p.stating.Store(true)
		for i := range 2 * n {
			p.addDevice(fmt.Sprintf("agent-%d", i+1), p.gws[i%2])
			p.must(p.devices[i].Enroll(p.ctx, token))
			p.agents = append(p.agents, p.startAgent(p.devices[i]))
		}
		p.sleep(time.Minute)
		f(p)
	})
}

func (p *pair) startGateway(i int) {
	p.t.Helper()
	run, err := p.gws[i].Start(p.ctx)
	p.must(err)
	p.runs[i], p.all = run, append(p.all, run)
}

func (p *pair) addDevice(name string, home *Gateway) {
	a := p.NewAgent(name, home)
	j := newLogbook(a.Dir())
	looks := 0
	a.Log, a.Facts = slog.New(j), 10*time.Second
	a.Profile = func() wire.Profile { // of one goroutine at a time
		m := smallMachine()
		if p.stating.Load() {
			looks++
		}
		m.Kernel = wire.Known(fmt.Sprintf("6.12.%d", looks))
		return m
	}
	p.devices, p.journals, p.homes = append(p.devices, a), append(p.journals, j), append(p.homes, "plant-7/"+home.Name)
}

// uplink is what the core says of a gateway's uplink; nil: it is not connected.
func (p *pair) uplink(i int) *v1.Uplink {
	p.t.Helper()
	var l v1.List[v1.Gateway]
	p.must(p.Call(p.ctx, &l, http.MethodGet, "/v1/gateways", nil))
	for _, g := range l.Items {
		if g.Name == p.gws[i].Name {
			return g.Uplink
		}
	}
	p.t.Fatalf("no gateway %s", p.gws[i].Name)
	return nil
}

// relayed tells through whom a gateway reaches the core: "": nobody.
func (p *pair) relayed(i int) string {
	if u := p.uplink(i); u != nil {
		return u.Relay
	}
	return ""
}

// steady lets time pass in which no device may be shown offline or leave its gateway.
func (p *pair) steady(d time.Duration) {
	p.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); p.sleep(2 * time.Second) {
		p.allThere()
	}
}

func (p *pair) allThere() {
	p.t.Helper()
	for i := range p.devices {
		if d := p.device(i); d.Presence != "online" || d.Gateway != p.homes[i] {
			p.t.Fatalf("device %d is %s/%s at %s at %v (last heartbeat %v)", i, d.Presence, d.PresenceReason, d.Gateway, time.Now(), d.LastHeartbeatAt)
		}
	}
}

// until waits, with everybody there, until a gateway's uplink goes through whom it should, and returns how long that took.
func (p *pair) until(i int, via string, limit time.Duration) time.Duration {
	p.t.Helper()
	begun := time.Now()
	for p.uplink(i) == nil || p.relayed(i) != via {
		if time.Since(begun) > limit {
			p.t.Fatalf("%s goes through %q after %v, want %q", p.gws[i].Name, p.relayed(i), limit, via)
		}
		p.steady(time.Second)
	}
	return time.Since(begun)
}

// judge stops everything and holds what the core has against the journals of the devices.
func (p *pair) judge(least int) {
	p.t.Helper()
	p.stating.Store(false)
	p.sleep(2 * time.Minute)
	v, ok := p.Core(1).View()
	if !ok {
		p.t.Fatal("the core does not serve")
	}
	p.coreOff()
	for i, a := range p.devices {
		if n := len(p.journals[i].all()); n < least {
			p.t.Errorf("%s stated %d times, want %d", a.Name, n, least)
		}
		d, ok := v.Device(deviceID(p.t, a))
		if !ok {
			p.t.Fatalf("no device %s", a.ID)
		}
		if err := p.journals[i].compare(p.t, p.Core(1), a, d.Sequence()); err != nil {
			p.t.Errorf("%s: %v", a.Name, err)
		}
	}
}

// TestSiblingRelays cuts the WAN of one of two gateways: the devices of both stay online, and what they state is committed and
// receipted, through the sibling. When the WAN is back the uplink is direct again.
func TestSiblingRelays(t *testing.T) {
	t.Parallel()
	inPair(t, 2, 10*time.Second, func(p *pair) {
		for range 2 {
			p.wan(p.gws[0], false)
			cut := time.Now()
			took := p.until(0, "gw-b", 20*time.Second)
			p.steady(4 * time.Minute)
			for i := range p.devices {
				if h := p.history(i); time.Since(*h[len(h)-1].DeviceTime) > 15*time.Second {
					t.Errorf("device %d: the newest statement is %v old", i, time.Since(*h[len(h)-1].DeviceTime))
				}
			}
			p.wan(p.gws[0], true)
			back := p.until(0, "", 90*time.Second)
			p.steady(time.Minute)
			t.Logf("cut at %v: relayed after %v; direct %v after the WAN was back", cut, took, back)
		}
		for i := range p.devices {
			if got := p.timeline(i); len(got) > 2 {
				t.Errorf("device %d: %+v", i, got)
			}
		}
		p.judge(50)
	})
}

// TestRelayFails has everything that a relayed uplink leans on fail under it: the relaying gateway dies, both lose their WAN and one
// has it back, the relaying one loses its own WAN and relays through the other. Once nobody has an uplink the site is unreachable; as soon
// as one has, everybody is there.
func TestRelayFails(t *testing.T) {
	t.Parallel()
	inPair(t, 1, 10*time.Second, func(p *pair) {
		p.wan(p.gws[0], false)
		p.until(0, "gw-b", 20*time.Second)

		p.runs[1].Kill() // its device goes nowhere: it knows gw-a by the list alone, and that one by then has no uplink
		p.sleep(5 * time.Second)
		p.startGateway(1)
		p.waitFor(0, "gw-b", time.Minute)
		p.sleep(30 * time.Second)
		p.homes = p.home() // who fell out of gw-b may have gone to gw-a
		p.steady(time.Minute)

		p.wan(p.gws[1], false) // now both are cut off
		p.sleep(2 * time.Minute)
		for i := range p.devices {
			p.want(i, "offline", "site_unreachable")
		}
		p.wan(p.gws[0], true) // the one that was relayed is the one that can relay
		p.waitFor(0, "", time.Minute)
		p.waitFor(1, "gw-a", time.Minute)
		p.sleep(30 * time.Second)
		p.steady(time.Minute)

		p.wan(p.gws[0], false) // the one that relays loses its WAN, and the other one has its own back a moment later
		p.sleep(10 * time.Second)
		p.wan(p.gws[1], true)
		p.waitFor(1, "", 90*time.Second)
		p.waitFor(0, "gw-b", 90*time.Second)
		p.sleep(30 * time.Second)
		p.steady(time.Minute)
		p.wan(p.gws[0], true)
		p.until(0, "", 90*time.Second)
		p.judge(30)
	})
}

// waitFor is until without a look at the devices.
func (p *pair) waitFor(i int, via string, limit time.Duration) {
	p.t.Helper()
	for begun := time.Now(); p.uplink(i) == nil || p.relayed(i) != via; p.sleep(time.Second) {
		if time.Since(begun) > limit {
			p.t.Fatalf("%s: uplink %+v after %v, want it through %q", p.gws[i].Name, p.uplink(i), limit, via)
		}
	}
}

// home is where the devices are now.
func (p *pair) home() []string {
	p.t.Helper()
	var out []string
	for i := range p.devices {
		out = append(out, p.device(i).Gateway)
	}
	return out
}
