package sim

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"
)

// company notes which siblings a gateway's log says are there.
type company struct {
	slog.Handler

	mu    sync.Mutex
	there map[string]bool
}

func newCompany() *company { return &company{Handler: slog.DiscardHandler, there: map[string]bool{}} }

func (*company) Enabled(context.Context, slog.Level) bool { return true }
func (c *company) WithAttrs([]slog.Attr) slog.Handler     { return c }
func (c *company) WithGroup(string) slog.Handler          { return c }

// Handle implements slog.Handler.
func (c *company) Handle(_ context.Context, r slog.Record) error {
	there := r.Message == "sibling is there"
	if !there && r.Message != "sibling is gone" {
		return nil
	}
	r.Attrs(func(at slog.Attr) bool {
		if at.Key == "gateway" {
			c.mu.Lock()
			c.there[at.Value.String()] = there
			c.mu.Unlock()
		}
		return true
	})
	return nil
}

func (c *company) has(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.there[name]
}

// startAs runs a gateway with a log of its own.
func (p *plant) startAs(g *Gateway, log slog.Handler) *Process {
	p.t.Helper()
	before := p.Log
	p.Log = slog.New(log)
	defer func() { p.Log = before }()
	run, err := g.Start(p.ctx)
	p.must(err)
	p.all = append(p.all, run)
	return run
}

// TestGatewaysOfASiteFindOneAnother has two gateways meet: under the key that the core told, again after one was killed, and without
// the core, after both were off.
func TestGatewaysOfASiteFindOneAnother(t *testing.T) {
	t.Parallel()
	inPlant(t, 0, 10*time.Second, func(p *plant) {
		p.gateway.Kill()
		b, err := p.EnrollGateway(p.ctx, "gw-b", "plant-7")
		p.must(err)
		logA, logB := newCompany(), newCompany()
		runA, runB := p.startAs(p.gw, logA), p.startAs(b, logB)
		p.sleep(30 * time.Second)
		if !logA.has("gw-b") || !logB.has("gw-a") {
			t.Fatalf("gw-a has gw-b: %v, gw-b has gw-a: %v", logA.has("gw-b"), logB.has("gw-a"))
		}
		runB.Kill()
		p.sleep(30 * time.Second)
		if logA.has("gw-b") {
			t.Error("a killed gateway is there")
		}
		runB = p.startAs(b, logB)
		p.sleep(time.Minute)
		if !logA.has("gw-b") {
			t.Error("a gateway that was restarted is not there")
		}
		start := time.Now()
		p.must(runB.Stop())
		took := time.Since(start)
		t.Logf("the stop took %v", took)
		p.sleep(3 * time.Second)
		if took > 5*time.Second || logA.has("gw-b") {
			t.Errorf("a gateway that took %v to stop is there: %v", took, logA.has("gw-b"))
		}
		p.coreOff()
		runA.Kill()
		logA, logB = newCompany(), newCompany()
		p.startAs(p.gw, logA)
		p.startAs(b, logB)
		p.sleep(time.Minute)
		if !logA.has("gw-b") || !logB.has("gw-a") {
			t.Errorf("without the core, gw-a has gw-b: %v, gw-b has gw-a: %v", logA.has("gw-b"), logB.has("gw-a"))
		}
	})
}

// TestASiblingTellsOfADevice has a device enroll while one gateway of its site is off, and the core go away before that one is back.
// Once the certificates have expired, that gateway admits the device by its signed entry alone, and has it from its sibling.
func TestASiblingTellsOfADevice(t *testing.T) {
	t.Parallel()
	inPlant(t, 1, 10*time.Second, func(p *plant) {
		b, err := p.EnrollGateway(p.ctx, "gw-b", "plant-7")
		p.must(err)
		run, err := b.Start(p.ctx)
		p.must(err)
		p.all = append(p.all, run)
		p.sleep(time.Minute)
		run.Kill()
		token, err := p.Token(p.ctx, "device", "plant-7", 1)
		p.must(err)
		late := p.NewAgent("late", p.gw, b)
		p.must(late.Enroll(p.ctx, token))
		p.devices = append(p.devices, late)
		device := p.startAgent(late)
		p.sleep(time.Minute)
		p.want(1, "online", "")
		device.Kill()
		p.powerOff()
		p.coreOff()
		p.sleep(95 * 24 * time.Hour)
		seen := newAdmissions()
		p.Log = slog.New(seen)
		p.gateway, err = p.gw.Start(p.ctx)
		p.must(err)
		p.all = append(p.all, p.gateway)
		run, err = b.Start(p.ctx)
		p.must(err)
		p.all = append(p.all, run)
		p.sleep(time.Minute)
		p.gateway.Kill()
		p.startAgent(late)
		p.sleep(5 * time.Minute)
		if got := seen.at("plant-7/gw-b"); got != 1 {
			t.Fatalf("admitted %d times, want once and for good", got)
		}
		p.coreOn()
		p.sleep(5 * time.Minute)
		if d := p.want(1, "online", ""); d.Gateway != "plant-7/gw-b" {
			t.Errorf("the device is at %s", d.Gateway)
		}
	})
}
