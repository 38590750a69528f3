package sim

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/sitegw"
	"github.com/holdfast-edge/holdfast/wire"
)

// twoGateways runs f with a plant that has two gateways, and devices at the first one that state something every five seconds. It
// compares at the end what the core has with the devices' journals.
func twoGateways(t *testing.T, n int, f func(p *plant, sibling *Gateway, books []*logbook)) {
	inPlant(t, 0, 2*time.Second, func(p *plant) {
		sibling, err := p.EnrollGateway(p.ctx, "gw-b", "plant-7")
		p.must(err)
		run, err := sibling.Start(p.ctx)
		p.must(err)
		p.all = append(p.all, run)
		token, err := p.Token(p.ctx, "device", "plant-7", n)
		p.must(err)
		var books []*logbook
		var kernel atomic.Int64
		var still atomic.Bool
		for i := range n {
			a := p.NewAgent(fmt.Sprintf("agent-%d", i+1), p.gw)
			p.must(a.Enroll(p.ctx, token))
			a.Profile = func() wire.Profile {
				m := smallMachine()
				if !still.Load() {
					kernel.Add(1)
				}
				m.Kernel = wire.Known(fmt.Sprintf("6.12.%d", kernel.Load()))
				return m
			}
			books = append(books, newLogbook(a.Dir()))
			a.Log, a.Facts = slog.New(books[i]), 5*time.Second
			p.devices = append(p.devices, a)
			p.agents = append(p.agents, p.startAgent(a))
		}
		p.sleep(5 * time.Second)
		f(p, sibling, books)
		still.Store(true)
		p.sleep(2 * p.ReportPeriod)
		v, _ := p.Core(1).View()
		p.coreOff()
		for i, b := range books {
			d, _ := v.Device(deviceID(t, p.devices[i]))
			if err := b.compare(t, p.Core(1), p.devices[i], d.Sequence()); err != nil {
				t.Errorf("device %d: %v", i, err)
			}
		}
	})
}

func (p *plant) revoke(g *Gateway) (out v1.Gateway) {
	p.t.Helper()
	p.must(p.Call(p.ctx, &out, http.MethodPost, "/v1/gateways/plant-7/"+g.Name+"/revoke", v1.RevokeGateway{Reason: "stolen"}))
	return out
}

// ended waits for a gateway to stop by itself, and forgets it.
func (p *plant) ended(gw *Process) {
	p.t.Helper()
	select {
	case <-gw.Done():
	default:
		p.t.Fatal("the revoked gateway goes on")
	}
	if !errors.Is(gw.Err(), sitegw.ErrRetired) {
		p.t.Errorf("it ended with %v", gw.Err())
	}
	p.forget(gw)
}

// forget leaves a process alone that has ended.
func (p *plant) forget(gone *Process) {
	for i, x := range p.all {
		if x == gone {
			p.all = append(p.all[:i], p.all[i+1:]...)
			return
		}
	}
}

// TestRevokedGateway revokes a gateway with devices on it: it stops for good, they are online at the other one within seconds, and
// nothing is lost. Under a new key its name is as good as new, also on the same machine.
func TestRevokedGateway(t *testing.T) {
	t.Parallel()
	twoGateways(t, 4, func(p *plant, _ *Gateway, _ []*logbook) {
		for i := range p.devices {
			if d := p.want(i, "online", ""); d.Gateway != "plant-7/gw-a" {
				t.Fatalf("device %d is at %s", i, d.Gateway)
			}
		}
		if g := p.revoke(p.gw); g.State != "revoked" || g.Connected || g.RevokedAt == nil || g.RevokedBy == "" || g.Reason != "stolen" || g.Keys[0].State != "retired" {
			t.Errorf("revoked: %+v", g)
		}
		p.sleep(5 * time.Second)
		p.ended(p.gateway)
		for i := range p.devices {
			if d := p.want(i, "online", ""); d.Gateway != "plant-7/gw-b" {
				t.Errorf("device %d is at %s", i, d.Gateway)
			}
		}
		if said := p.events("gateway.revoked"); strings.Count(said, "plant-7/gw-a") != 1 {
			t.Errorf("told: %q", said)
		}
		// Started again it finds out before it serves anybody for long.
		again, err := p.gw.Start(p.ctx)
		p.must(err)
		p.sleep(time.Second)
		p.ended(again)

		p.must(os.RemoveAll(p.gw.Dir()))
		token, err := p.Token(p.ctx, "gateway", "plant-7", 1)
		p.must(err)
		p.must(p.gw.enroll(p.ctx, token))
		fresh, err := p.gw.Start(p.ctx)
		p.must(err)
		p.all = append(p.all, fresh)
		moved := p.NewAgent("late", p.gw)
		token, err = p.Token(p.ctx, "device", "plant-7", 1)
		p.must(err)
		p.must(moved.Enroll(p.ctx, token))
		p.startAgent(moved)
		p.devices = append(p.devices, moved)
		p.sleep(5 * time.Second)
		if d := p.want(len(p.devices)-1, "online", ""); d.Gateway != "plant-7/gw-a" {
			t.Errorf("the late device is at %s", d.Gateway)
		}
		p.devices = p.devices[:len(p.devices)-1]
	})
}

// TestRevokedGatewayInAnOutage revokes a gateway that does not hear of it: it goes on serving those who do not know either. Who has
// the newer list refuses it, also where it lies, and once it hears of it, it stops and nothing is lost.
func TestRevokedGatewayInAnOutage(t *testing.T) {
	t.Parallel()
	twoGateways(t, 2, func(p *plant, sibling *Gateway, books []*logbook) {
		p.wan(p.gw, false)
		p.revoke(p.gw)
		// The second device was at the sibling in the meantime, and has the newer list.
		p.agents[1].Kill()
		p.devices[1].Gateways = []string{sibling.Addr.String()}
		p.agents[1] = p.startAgent(p.devices[1])
		p.sleep(30 * time.Second)
		if books[0].at != "spiffe://sim/gateway/plant-7/gw-a" || books[1].at != "spiffe://sim/gateway/plant-7/gw-b" {
			t.Fatalf("the devices are at %s and %s", books[0].at, books[1].at)
		}
		// Its gateway is gone: it goes without one before it goes to the other.
		p.Net.Unplug(sibling.Addr.Addr())
		p.devices[1].Gateways = []string{p.gw.Addr.String(), sibling.Addr.String()}
		p.agents[1].Kill()
		p.agents[1] = p.startAgent(p.devices[1])
		p.sleep(2 * time.Minute)
		if books[1].at != "spiffe://sim/gateway/plant-7/gw-b" || books[1].moves != 1 {
			t.Errorf("the second device is at %s after %d moves", books[1].at, books[1].moves)
		}
		p.gateway.Kill()
		h := newHoarder(p, nil) // in its place, with its key
		p.sleep(time.Minute)
		if h.mu.Lock(); h.taken == 0 {
			t.Error("the first device is not there: it cannot know better")
		}
		before := h.taken
		h.mu.Unlock()
		p.agents[0].Kill()
		p.agents[1].Kill()
		p.agents[1] = p.startAgent(p.devices[1])
		p.sleep(time.Minute)
		if h.mu.Lock(); h.taken != before {
			t.Errorf("a device that knows better gave it %d statements", h.taken-before)
		}
		h.mu.Unlock()
		h.close()
		p.agents[0] = p.startAgent(p.devices[0])
		p.Net.Plug(sibling.Addr.Addr())

		p.wan(p.gw, true)
		g, err := p.gw.Start(p.ctx)
		p.must(err)
		p.sleep(time.Minute)
		p.ended(g)
		for i := range p.devices {
			if d := p.want(i, "online", ""); d.Gateway != "plant-7/gw-b" {
				t.Errorf("device %d is at %s", i, d.Gateway)
			}
		}
	})
}
