package sim

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/sim/netsim"
)

// A region is a plant whose gateways are at distances.
type region struct {
	*plant
	gws      []*Gateway
	procs    []*Process
	journals []*journal // of the agents
}

// inRegion runs f with gateways of plant-7 at the given round trips from everybody. Nobody is enrolled yet.
func inRegion(t *testing.T, rtts []time.Duration, f func(r *region)) {
	t.Helper()
	inPlant(t, 0, 30*time.Second, func(p *plant) {
		p.Net.SetWeather(netsim.Weather{Latency: 50 * time.Microsecond})
		r := &region{plant: p, gws: []*Gateway{p.gw}, procs: []*Process{p.gateway}}
		for i := range rtts[1:] {
			r.addGateway(fmt.Sprintf("gw-%c", 'b'+i), "plant-7")
		}
		for i, rtt := range rtts {
			r.away(i, rtt, 0)
		}
		p.sleep(time.Minute)
		f(r)
	})
}

func (r *region) addGateway(name, site string) {
	r.t.Helper()
	g, err := r.EnrollGateway(r.ctx, name, site)
	r.must(err)
	r.gws, r.procs = append(r.gws, g), append(r.procs, nil)
	r.start(len(r.gws) - 1)
}

func (r *region) start(i int) {
	r.t.Helper()
	x, err := r.gws[i].Start(r.ctx)
	r.must(err)
	r.procs[i], r.all = x, append(r.all, x)
}

func (r *region) away(i int, rtt time.Duration, spread float64) {
	r.Net.Away(r.gws[i].Addr.Addr(), rtt/2, spread)
}

// addAgents enrolls and starts devices of plant-7 that know all gateways by hand, and try them in the given order.
func (r *region) addAgents(n int, order ...int) {
	r.t.Helper()
	token, err := r.Token(r.ctx, "device", "plant-7", n)
	r.must(err)
	var gws []*Gateway
	for _, i := range order {
		gws = append(gws, r.gws[i])
	}
	for range n {
		j := new(journal)
		a := r.NewAgent(fmt.Sprintf("agent-%d", len(r.devices)+1), gws...)
		a.Log = slog.New(slog.NewTextHandler(j, nil))
		r.must(a.Enroll(r.ctx, token))
		r.devices, r.journals = append(r.devices, a), append(r.journals, j)
		r.agents = append(r.agents, r.startAgent(a))
	}
	r.sleep(10 * time.Second)
}

// count is how many lines of all agents have the text.
func (r *region) count(text string) int {
	n := 0
	for _, j := range r.journals {
		j.mu.Lock()
		for _, l := range j.lines {
			if strings.Contains(l, text) {
				n++
			}
		}
		j.mu.Unlock()
	}
	return n
}

// moves counts how often a device went to another gateway though it had a session.
func (r *region) moves() int { return r.count(`msg="goes to another gateway"`) }

// allAt wants all devices to be online at a gateway, by the core's word.
func (r *region) allAt(i int, after string) {
	r.t.Helper()
	for k := range r.devices {
		if d := r.want(k, "online", ""); !strings.HasSuffix(d.Gateway, r.gws[i].Name) {
			r.t.Errorf("%s: device %d is at %s, want %s", after, k, d.Gateway, r.gws[i].Name)
		}
	}
}

// quietly lets time pass in which nobody moves and nobody is shown offline.
func (r *region) quietly(d time.Duration, why string) {
	r.t.Helper()
	before := r.moves()
	for range int(d / (10 * time.Minute)) {
		r.sleep(10 * time.Minute)
		for k := range r.devices {
			r.want(k, "online", "")
		}
	}
	if n := r.moves() - before; n != 0 {
		r.t.Errorf("%s: %d moves", why, n)
	}
}

// Devices settle on the nearest gateway, whatever they began with, stay while latencies vary, leave it when it becomes far, and
// come back. When it dies they go to the nearest of the others at once.
func TestNearestGateway(t *testing.T) {
	const ms = time.Millisecond
	inRegion(t, []time.Duration{4 * ms, 15 * ms, 80 * ms}, func(r *region) {
		const n = nearDevices
		r.addAgents(n, 2, 1, 0)
		r.allAt(2, "at first")
		r.sleep(4 * time.Hour)
		r.allAt(0, "settled")
		if m := r.moves(); m < n || m > 2*n {
			t.Errorf("%d moves of %d devices until they settled", m, n)
		}
		for i, rtt := range []time.Duration{4 * ms, 15 * ms, 80 * ms} {
			r.away(i, rtt, 0.3)
		}
		r.quietly(3*time.Hour, "latencies vary")
		r.away(0, 20*ms, 0.3)
		r.quietly(3*time.Hour, "another one is a little nearer")

		before := r.moves()
		r.away(0, 40*ms, 0.3) // ten times as far
		r.sleep(4 * time.Hour)
		r.allAt(1, "the nearest is far")
		r.away(0, 4*ms, 0.3)
		r.sleep(4 * time.Hour)
		r.allAt(0, "the nearest is near again")
		if m := r.moves() - before; m != 2*n {
			t.Errorf("%d moves of %d devices to and fro", m, n)
		}

		before = r.moves()
		r.procs[0].Kill()
		r.sleep(time.Minute)
		r.allAt(1, "the nearest is dead") // not the one at 80 ms
		r.start(0)
		r.sleep(5 * time.Hour)
		r.allAt(0, "the nearest is back")
		if m := r.moves() - before; m != n {
			t.Errorf("%d moves of %d devices after a gateway came back", m, n)
		}
	})
}

// A gateway of the device's own site is preferred to a nearer one of another site.
func TestOwnSiteIsPreferred(t *testing.T) {
	const ms = time.Millisecond
	inRegion(t, []time.Duration{60 * ms}, func(r *region) {
		r.addGateway("gw-z", "plant-8")
		r.away(1, 2*ms, 0)
		r.addAgents(3, 0, 1)
		r.quietly(2*time.Hour, "at home")
		r.allAt(0, "at home")
		r.procs[0].Kill()
		r.sleep(time.Minute)
		r.allAt(1, "the own gateway is dead")
		r.start(0)
		r.sleep(4 * time.Hour)
		r.allAt(0, "the own gateway is back")
	})
}

// Gateways that come and go, and uplinks that do, keep nobody in motion.
func TestNobodyFlaps(t *testing.T) {
	const ms, n, hours = time.Millisecond, 3, 6
	inRegion(t, []time.Duration{4 * ms, 20 * ms, 23 * ms}, func(r *region) {
		r.addAgents(n, 1, 2, 0)
		core := r.Core(1).Host
		for h := range hours {
			for range 3 { // the nearest is up for ten minutes of twenty; of the others one, then the other, has no uplink
				r.sleep(10 * time.Minute)
				r.procs[0].Kill()
				host := r.gws[1+h%2].Addr.Addr()
				r.Net.Cut(host, core, true)
				r.sleep(10 * time.Minute)
				r.Net.Cut(host, core, false)
				r.start(0)
			}
		}
		sessions, moves := r.count("msg=attached"), r.moves()
		t.Logf("%d devices in %d hours: %d sessions, of which %d by choice", n, hours, sessions, moves)
		if moves > n*hours/2 || sessions > n+n*hours {
			t.Errorf("%d devices in %d hours: %d sessions, of which %d by choice", n, hours, sessions, moves)
		}
	})
}
