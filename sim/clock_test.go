package sim

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// TestEverythingOffFor400Days switches the whole fleet off until every certificate but the CAs' has expired.
func TestEverythingOffFor400Days(t *testing.T) {
	t.Parallel()
	inPlant(t, 2, 5*time.Second, func(p *plant) {
		for _, v := range slices.Backward(p.all) {
			p.must(v.Stop())
		}
		p.all = nil
		p.sleep(400 * 24 * time.Hour)
		core, err := p.StartCore(p.ctx)
		p.must(err)
		gateway, err := p.gw.Start(p.ctx)
		p.must(err)
		p.all = append(p.all, core, gateway)
		for _, a := range p.devices {
			p.startAgent(a)
		}
		p.sleep(3 * time.Minute) // a device that is in with an expired certificate does not wait for its turn to renew
		for i := range p.devices {
			d := p.want(i, "online", "")
			if len(p.history(i)) != 2 {
				t.Errorf("device %d: %d registrations, want 2", i, len(p.history(i)))
			}
			if left := time.Until(d.Keys[0].ExpiresAt); left < 80*24*time.Hour || len(d.Keys) != 1 {
				t.Errorf("device %d: %d keys, certificate expires in %v, want one key and 90 days", i, len(d.Keys), left)
			}
		}
	})
}

// TestWrongClocks gives a device a clock that starts in 1970, jumps ten years ahead, and comes back: it keeps its session and
// its identity, and what it states is marked.
func TestWrongClocks(t *testing.T) {
	t.Parallel()
	inPlant(t, 0, 5*time.Second, func(p *plant) {
		token, err := p.Token(p.ctx, "device", "plant-7", 1)
		p.must(err)
		var offset atomic.Int64 // seconds
		a := p.NewAgent("clockless", p.gw)
		a.Wall = func() time.Time { return time.Now().Add(time.Duration(offset.Load()) * time.Second) }
		const year = 365 * 24 * 3600
		offset.Store(-30 * year)
		p.must(a.Enroll(p.ctx, token))
		p.devices = append(p.devices, a)
		for i, years := range []int64{-30, 10, 0, -30, 99} {
			offset.Store(years * year)
			x := p.startAgent(a)
			p.sleep(20 * time.Second)
			d := p.want(0, "online", "")
			if d.State != "active" || len(d.Keys) != 1 {
				t.Errorf("with a clock %d years off the device is %s with %d keys", years, d.State, len(d.Keys))
			}
			h := p.history(0)
			if len(h) != i+1 {
				t.Fatalf("with a clock %d years off: %d registrations, want %d", years, len(h), i+1)
			}
			if years < 0 && h[i].ClockState != "floored" || years >= 0 && h[i].ClockState != "synced" {
				t.Errorf("with a clock %d years off the statement says %s", years, h[i].ClockState)
			}
			if gap := h[i].CommittedAt.Sub(*h[i].GatewayTime); gap < -time.Minute || gap > time.Minute {
				t.Errorf("gateway time %v, committed %v", h[i].GatewayTime, h[i].CommittedAt)
			}
			offset.Store(0)
			p.sleep(time.Minute)
			p.want(0, "online", "")
			p.must(x.Stop())
		}
	})
}
