package sim

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// admissions counts, by gateway, how often agents were admitted: what a plant that is cut off can show nobody else.
type admissions struct {
	slog.Handler

	mu sync.Mutex
	by map[string]int // SPIFFE id
}

func newAdmissions() *admissions {
	return &admissions{Handler: slog.DiscardHandler, by: map[string]int{}}
}

func (*admissions) Enabled(context.Context, slog.Level) bool { return true }
func (a *admissions) WithAttrs([]slog.Attr) slog.Handler     { return a }
func (a *admissions) WithGroup(string) slog.Handler          { return a }

// Handle implements slog.Handler.
func (a *admissions) Handle(_ context.Context, r slog.Record) error {
	if r.Message != "attached" {
		return nil
	}
	r.Attrs(func(at slog.Attr) bool {
		if at.Key == "gateway" {
			a.mu.Lock()
			a.by[at.Value.String()]++
			a.mu.Unlock()
		}
		return true
	})
	return nil
}

func (a *admissions) at(gateway string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.by["spiffe://sim/gateway/"+gateway]
}

// wan cuts a gateway from the core, or joins them again.
func (p *plant) wan(g *Gateway, up bool) {
	core := p.Core(1).Host
	p.Net.Cut(g.Addr.Addr(), core, !up)
	p.Net.Cut(core, g.Addr.Addr(), !up)
}

// powerOff stops the gateway and all devices without a word; powerOn boots them.
func (p *plant) powerOff() {
	for _, a := range p.agents {
		a.Kill()
	}
	p.gateway.Kill()
}

func (p *plant) powerOn() {
	p.t.Helper()
	g, err := p.gw.Start(p.ctx)
	p.must(err)
	p.gateway, p.all = g, append(p.all, g)
	for i, a := range p.devices {
		p.agents[i] = p.startAgent(a)
	}
}

// coreOff stops the core for a time in which nobody reaches it anyway; coreOn starts it again. Months of a core at work take
// minutes to simulate.
func (p *plant) coreOff() { p.Core(1).Process().Kill() }

func (p *plant) coreOn() {
	p.t.Helper()
	c, err := p.StartCore(p.ctx)
	p.must(err)
	p.all = append(p.all, c)
}

// TestPlantRebootsInAnOutage has the power of a plant fail while its WAN is down: gateway and devices are back without the core,
// and the core sees them as soon as the WAN is.
func TestPlantRebootsInAnOutage(t *testing.T) {
	t.Parallel()
	inPlant(t, 5, 5*time.Second, func(p *plant) {
		seen := newAdmissions()
		p.Log = slog.New(seen)
		p.wan(p.gw, false)
		p.sleep(time.Hour)
		for n := range 3 {
			p.powerOff()
			p.sleep(10 * time.Minute)
			p.powerOn()
			p.sleep(time.Minute)
			if got := seen.at("plant-7/gw-a"); got != (n+1)*len(p.devices) {
				t.Fatalf("%d admissions after boot %d, want %d: not everybody was admitted, or not for good", got, n+1, (n+1)*len(p.devices))
			}
		}
		p.want(0, "offline", "site_unreachable")
		p.wan(p.gw, true)
		p.sleep(45 * time.Second) // the gateway's back-off
		for i := range p.devices {
			if d := p.want(i, "online", ""); time.Since(*d.LastHeartbeatAt) > 20*time.Second {
				t.Errorf("device %d: last heartbeat %v ago", i, time.Since(*d.LastHeartbeatAt))
			}
		}
		p.sleep(2 * time.Minute)
		for i := range p.devices {
			if h := p.history(i); len(h) != 4 {
				t.Errorf("device %d: %d registrations, want 4", i, len(h))
			}
		}
	})
}

// TestPlantWithoutCoreFor100Days cuts a plant off for longer than any certificate of its lives. It is looked at on some of the
// days, each time after a boot: the devices are served, with expired certificates on both sides, and renew as soon as they can.
func TestPlantWithoutCoreFor100Days(t *testing.T) {
	t.Parallel()
	inPlant(t, 3, 10*time.Second, func(p *plant) {
		seen := newAdmissions()
		p.Log = slog.New(seen)
		p.coreOff()
		cut := time.Now()
		for n, day := range []int{1, 45, 89, 91, 100} {
			p.powerOff()
			p.sleep(time.Until(cut.AddDate(0, 0, day)))
			p.powerOn()
			p.sleep(30 * time.Minute) // with heartbeats that are answered: an agent leaves a gateway that does not
			if got, want := seen.at("plant-7/gw-a"), (n+1)*len(p.devices); got != want {
				t.Fatalf("%d admissions by day %d, want %d", got, day, want)
			}
		}
		p.coreOn()
		for i := range p.devices {
			if left := time.Until(p.device(i).Keys[0].ExpiresAt); left > 0 {
				t.Fatalf("device %d: a certificate for another %v", i, left)
			}
		}
		p.sleep(5 * time.Minute)
		for i := range p.devices {
			d := p.want(i, "online", "")
			if left := time.Until(d.Keys[0].ExpiresAt); left < 89*24*time.Hour || len(d.Keys) != 1 || d.State != "active" {
				t.Errorf("device %d is %s, has %d keys and a certificate for %v", i, d.State, len(d.Keys), left)
			}
			if h := p.history(i); len(h) != 6 {
				t.Errorf("device %d: %d registrations, want 6", i, len(h))
			}
		}
	})
}

// TestWrongClocksInAnOutage boots a device in 1970, 2000 and 2099 while the plant is cut off: it is served each time, keeps its
// identity, and everything that it stated arrives.
func TestWrongClocksInAnOutage(t *testing.T) {
	t.Parallel()
	inPlant(t, 1, 10*time.Second, func(p *plant) {
		seen := newAdmissions()
		p.Log = slog.New(seen)
		var offset atomic.Int64 // seconds
		p.devices[0].Wall = func() time.Time { return time.Now().Add(time.Duration(offset.Load()) * time.Second) }
		p.wan(p.gw, false)
		for n, year := range []int{1970, 2000, 2099, 1970} {
			p.powerOff()
			offset.Store(int64(time.Until(time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)) / time.Second))
			p.powerOn()
			p.sleep(20 * time.Minute)
			if got := seen.at("plant-7/gw-a"); got != n+1 {
				t.Fatalf("%d admissions after a boot in %d, want %d", got, year, n+1)
			}
		}
		p.wan(p.gw, true)
		p.sleep(3 * time.Minute)
		d := p.want(0, "online", "")
		if d.State != "active" || len(d.Keys) != 1 || len(p.history(0)) != 5 {
			t.Errorf("the device is %s, has %d keys and stated %d registrations, want 5", d.State, len(d.Keys), len(p.history(0)))
		}
	})
}

// TestRoamingDeviceComesBackInAnOutage moves a device to another site. That gateway is told its signed entry, and admits it by
// that after an outage in which both certificates expired and both were off.
func TestRoamingDeviceComesBackInAnOutage(t *testing.T) {
	t.Parallel()
	inPlant(t, 0, 10*time.Second, func(p *plant) {
		away, err := p.EnrollGateway(p.ctx, "gw-b", "plant-8")
		p.must(err)
		run, err := away.Start(p.ctx)
		p.must(err)
		p.all = append(p.all, run)
		token, err := p.Token(p.ctx, "device", "plant-7", 1)
		p.must(err)
		a := p.NewAgent("rover", p.gw, away)
		p.must(a.Enroll(p.ctx, token))
		p.devices = append(p.devices, a)
		seen := newAdmissions()
		p.Log = slog.New(seen)
		rover := p.startAgent(a)
		p.sleep(time.Minute)
		p.want(0, "online", "")
		p.Net.Cut(a.Host, p.gw.Addr.Addr(), true)
		p.Net.Cut(p.gw.Addr.Addr(), a.Host, true)
		p.sleep(2 * time.Minute)
		if d := p.want(0, "online", ""); d.Gateway != "plant-8/gw-b" || d.Site != "plant-7" {
			t.Fatalf("the device is of %s at %s", d.Site, d.Gateway)
		}
		p.wan(away, false)
		p.sleep(time.Minute)
		rover.Kill()
		run.Kill()
		p.coreOff()
		p.gateway.Kill()
		p.sleep(95 * 24 * time.Hour)
		before := seen.at("plant-8/gw-b")
		if run, err = away.Start(p.ctx); err != nil {
			t.Fatal(err)
		}
		p.all = append(p.all, run)
		p.startAgent(a)
		p.sleep(5 * time.Minute)
		if got := seen.at("plant-8/gw-b") - before; got != 1 {
			t.Fatalf("admitted %d times during the outage, want once and for good", got)
		}
		p.wan(away, true)
		p.coreOn()
		p.sleep(5 * time.Minute)
		d := p.want(0, "online", "")
		if d.Gateway != "plant-8/gw-b" || time.Until(d.Keys[0].ExpiresAt) < 89*24*time.Hour {
			t.Errorf("the device is at %s, with a certificate until %v", d.Gateway, d.Keys[0].ExpiresAt)
		}
	})
}
