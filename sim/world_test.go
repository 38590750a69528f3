package sim

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/sim/netsim"
	"github.com/holdfast-edge/holdfast/wire"
)

// A plant is a world with one gateway and some agents, all running.
type plant struct {
	*World
	t       *testing.T
	ctx     context.Context //nolint:containedctx // of the one test that it serves
	gw      *Gateway
	gateway *Process
	devices []*Agent
	agents  []*Process
	all     []*Process
	rogue   bool // the test has a gateway that lies
}

// inPlant runs f in a bubble with a plant of n agents at the given heartbeat interval, and stops everything after it.
func inPlant(t *testing.T, n int, interval time.Duration, f func(p *plant)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 100000*time.Hour)
		defer cancel()
		p := &plant{World: New(dir, netsim.New(1, netsim.Weather{Latency: 5 * time.Millisecond})), t: t, ctx: ctx}
		defer p.close()
		p.must(p.Init(ctx))
		core, err := p.StartCore(ctx)
		p.must(err)
		p.all = append(p.all, core)
		p.setInterval(interval)
		p.gw, err = p.EnrollGateway(ctx, "gw-a", "plant-7")
		p.must(err)
		p.gateway, err = p.gw.Start(ctx)
		p.must(err)
		p.all = append(p.all, p.gateway)
		p.sleep(time.Second)
		token, err := p.Token(ctx, "device", "plant-7", max(n, 1))
		p.must(err)
		for i := range n {
			a := p.NewAgent(fmt.Sprintf("agent-%d", i+1), p.gw)
			p.must(a.Enroll(ctx, token))
			p.devices = append(p.devices, a)
			p.agents = append(p.agents, p.startAgent(a))
		}
		p.sleep(2 * time.Second)
		f(p)
		if !p.rogue && p.Core(1).Running() {
			p.must(p.blameless(ctx))
		}
	})
}

// blameless is an error when the core named a gateway for what it said: whatever befalls a world, an honest gateway says nothing that
// cannot be.
func (w *World) blameless(ctx context.Context) error {
	for cursor := ""; ; {
		var l v1.List[v1.AuditRecord]
		if err := w.Call(ctx, &l, http.MethodGet, "/v1/audit?limit=1000&cursor="+cursor, nil); err != nil {
			return err
		}
		for _, r := range l.Items {
			if r.Action == "gateway.doubt" {
				return fmt.Errorf("%s: %v: %w", r.Target, r.Detail, errBlamed)
			}
		}
		if cursor = l.NextCursor; cursor == "" {
			return nil
		}
	}
}

var errBlamed = errors.New("an honest gateway was named")

func (p *plant) startAgent(a *Agent) *Process {
	p.t.Helper()
	x, err := a.Start(p.ctx)
	p.must(err)
	p.all = append(p.all, x)
	return x
}

func (p *plant) close() {
	for i, v := range slices.Backward(p.all) {
		if err := v.Stop(); err != nil {
			p.t.Errorf("process %d: %v", i, err)
		}
	}
	p.Linger()
}

func (p *plant) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// sleep lets virtual time pass.
func (p *plant) sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (p *plant) setInterval(d time.Duration) {
	p.t.Helper()
	p.must(p.Call(p.ctx, nil, http.MethodPut, "/v1/sites/plant-7", v1.SetSite{HeartbeatInterval: d.String()}))
}

func (p *plant) device(i int) (d v1.Device) {
	p.t.Helper()
	p.must(p.Call(p.ctx, &d, http.MethodGet, "/v1/devices/"+p.devices[i].ID, nil))
	return d
}

func (p *plant) want(i int, presence, reason string) v1.Device {
	p.t.Helper()
	d := p.device(i)
	if d.Presence != presence || d.PresenceReason != reason {
		p.t.Fatalf("device %d is %s/%q at %v, want %s/%q (last heartbeat %v)", i, d.Presence, d.PresenceReason, time.Now(), presence, reason, d.LastHeartbeatAt)
	}
	return d
}

func (p *plant) history(i int) []v1.HistoryItem {
	p.t.Helper()
	var l v1.List[v1.HistoryItem]
	p.must(p.Call(p.ctx, &l, http.MethodGet, "/v1/devices/"+p.devices[i].ID+"/history?limit=1000", nil))
	return l.Items
}

func TestDevicesComeOnlineAndStay(t *testing.T) {
	t.Parallel()
	inPlant(t, 5, 30*time.Second, func(p *plant) {
		for i := range p.devices {
			d := p.want(i, "online", "")
			if d.RegisteredAt == nil || *d.Profile.Arch != "arm64" || d.Site != "plant-7" || d.Tags["site"] != "plant-7" {
				t.Errorf("device %d: %+v", i, d)
			}
		}
		for range 5 * 60 {
			p.sleep(time.Minute)
			for i := range p.devices {
				d := p.want(i, "online", "")
				if age := time.Since(*d.LastHeartbeatAt); age > 45*time.Second {
					t.Fatalf("device %d: last heartbeat shown is %v old", i, age)
				}
			}
		}
		for i := range p.devices {
			if h := p.history(i); len(h) != 1 {
				t.Errorf("device %d registered %d times", i, len(h))
			}
		}
	})
}

// TestKilledDeviceIsOfflineInTime holds the offline rule at several intervals: not before 3, not after 4, counted from the
// last heartbeat.
func TestKilledDeviceIsOfflineInTime(t *testing.T) {
	t.Parallel()
	for _, interval := range []time.Duration{time.Second, 2 * time.Second, 30 * time.Second, 5 * time.Minute} {
		t.Run(interval.String(), func(t *testing.T) {
			t.Parallel()
			inPlant(t, 2, interval, func(p *plant) {
				p.sleep(3*interval + interval/3)
				p.agents[0].Kill()
				killed := time.Now()
				for p.device(0).Presence == "online" {
					if time.Since(killed) > 5*interval {
						t.Fatal("still online after 5 intervals")
					}
					p.sleep(50 * time.Millisecond)
				}
				d := p.want(0, "offline", "heartbeat_missed")
				if silent := time.Since(*d.LastHeartbeatAt); silent < 3*interval || silent > 4*interval {
					t.Errorf("offline %v after the last heartbeat, want 3 to 4 × %v", silent, interval)
				}
				p.want(1, "online", "")
				p.agents[0] = p.startAgent(p.devices[0])
				p.sleep(time.Second)
				p.want(0, "online", "")
				if h := p.history(0); len(h) != 2 || h[1].Seq != 2 {
					t.Errorf("history after a restart: %+v", h)
				}
			})
		})
	}
}

// TestChangedIntervalMakesNobodyOffline changes the interval up and down, live, with an uplink and a device link that lose
// packets.
func TestChangedIntervalMakesNobodyOffline(t *testing.T) {
	t.Parallel()
	inPlant(t, 4, 2*time.Second, func(p *plant) {
		p.Net.SetWeather(netsim.Weather{Latency: 20 * time.Millisecond, Jitter: 30 * time.Millisecond, Loss: 0.05})
		for _, interval := range []time.Duration{time.Minute, 2 * time.Second, time.Hour, 5 * time.Second, time.Second, 10 * time.Minute, 2 * time.Second} {
			p.setInterval(interval)
			p.sleep(time.Second)
			end := time.Now().Add(5 * interval)
			for time.Now().Before(end) {
				for i := range p.devices {
					d := p.want(i, "online", "")
					if d.HeartbeatIntervalS != interval.Seconds() {
						t.Fatalf("interval shown is %v s, want %v", d.HeartbeatIntervalS, interval)
					}
				}
				p.sleep(interval / 3)
			}
		}
		// It is in force: a device that is killed now is offline by the new interval.
		p.agents[0].Kill()
		p.sleep(9 * time.Second)
		p.want(0, "offline", "heartbeat_missed")
	})
}

func TestKilledGatewayMakesTheSiteUnreachable(t *testing.T) {
	t.Parallel()
	inPlant(t, 3, 2*time.Second, func(p *plant) {
		p.gateway.Kill()
		p.sleep(2 * p.ReportPeriod)
		for i := range p.devices {
			p.want(i, "online", "")
		}
		p.sleep(2 * p.ReportPeriod)
		for i := range p.devices {
			p.want(i, "offline", "site_unreachable")
		}
		g, err := p.gw.Start(p.ctx)
		p.must(err)
		p.all = append(p.all, g)
		p.sleep(40 * time.Second) // the back-off of agents that were refused for a while
		for i := range p.devices {
			p.want(i, "online", "")
			if h := p.history(i); len(h) != 1 {
				t.Errorf("device %d registered %d times: the agent did not restart", i, len(h))
			}
		}
	})
}

// TestRestartedCoreGivesNoVerdictBeforeItsGrace restarts the core under living devices: none may be shown offline, then or
// later.
func TestRestartedCoreGivesNoVerdictBeforeItsGrace(t *testing.T) {
	t.Parallel()
	inPlant(t, 3, 2*time.Second, func(p *plant) {
		for range 3 {
			p.Core(1).Process().Kill()
			core, err := p.StartCore(p.ctx)
			p.must(err)
			p.all = append(p.all, core)
			for range 80 {
				for i := range p.devices {
					if d := p.device(i); d.Presence != "online" {
						t.Fatalf("device %d is %s/%s after a restart of the core", i, d.Presence, d.PresenceReason)
					}
				}
				p.sleep(time.Second)
			}
			for i := range p.devices {
				p.want(i, "online", "")
			}
		}
	})
}

// TestRegistrationsSurviveEverything restarts an agent 20 times, with gateway and core killed and restarted in between, also
// while the agent starts: one record, 21 registrations, in order.
func TestRegistrationsSurviveEverything(t *testing.T) {
	t.Parallel()
	inPlant(t, 1, 2*time.Second, func(p *plant) {
		kernel := "6.12.0"
		p.devices[0].Profile = func() wire.Profile {
			m := smallMachine()
			m.Kernel = wire.Known(kernel)
			return m
		}
		for i := range 20 {
			p.agents[0].Kill()
			switch i % 4 {
			case 1:
				p.gateway.Kill()
			case 3:
				p.Core(1).Process().Kill()
			}
			if i == 10 {
				kernel = "6.12.1"
				p.devices[0].Tags = map[string]string{"line": "4"}
			}
			p.agents[0] = p.startAgent(p.devices[0])
			p.sleep(time.Duration(i) * 100 * time.Millisecond)
			switch i % 4 {
			case 1:
				g, err := p.gw.Start(p.ctx)
				p.must(err)
				p.gateway, p.all = g, append(p.all, g)
			case 3:
				c, err := p.StartCore(p.ctx)
				p.must(err)
				p.all = append(p.all, c)
			}
			p.sleep(time.Second)
		}
		p.sleep(2 * time.Minute)
		p.want(0, "online", "")
		h := p.history(0)
		if len(h) != 21 {
			t.Fatalf("%d registrations, want 21", len(h))
		}
		for i, item := range h {
			if item.Seq != uint64(i+1) || item.Epoch != 1 || item.Type != "register" || item.Gateway != "plant-7/gw-a" {
				t.Errorf("registration %d: %+v", i, item)
			}
		}
		changed := map[string]string{}
		for _, c := range h[11].Changed {
			changed[c.Fact] = c.From + " → " + c.To
		}
		if changed["profile.kernel"] != "6.12.0 → 6.12.1" || changed["tags.line"] != " → 4" || len(changed) != 2 {
			t.Errorf("changed facts: %v", changed)
		}
		var l v1.List[v1.Device]
		p.must(p.Call(p.ctx, &l, http.MethodGet, "/v1/devices", nil))
		if len(l.Items) != 1 {
			t.Errorf("%d records, want 1", len(l.Items))
		}
	})
}

// TestUplinkCutAndBack cuts the gateway from the core for a while: devices go on, and the core knows no more than it is told.
func TestUplinkCutAndBack(t *testing.T) {
	t.Parallel()
	inPlant(t, 2, 2*time.Second, func(p *plant) {
		core := p.Core(1).Host
		p.Net.Cut(p.gw.Addr.Addr(), core, true)
		p.Net.Cut(core, p.gw.Addr.Addr(), true)
		p.sleep(5 * time.Minute)
		p.want(0, "offline", "site_unreachable")
		p.agents[1].Kill()
		p.sleep(time.Minute)
		p.Net.Cut(p.gw.Addr.Addr(), core, false)
		p.Net.Cut(core, p.gw.Addr.Addr(), false)
		p.sleep(2 * time.Minute)
		d := p.want(0, "online", "")
		if since := time.Since(*d.PresenceSince); since < 8*time.Minute {
			t.Errorf("online since %v ago: the cut of the uplink broke a span that went on", since)
		}
		p.want(1, "offline", "heartbeat_missed")
	})
}
