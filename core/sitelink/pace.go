package sitelink

import (
	"context"
	"sync"
	"time"

	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/internal/pace"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

// A pacer holds the fleet's heartbeats at a target: the least interval for all devices, which every gateway is told. It goes by
// the committed presence, so all nodes come to the same result, and a node that restarts or takes over begins with it.
type pacer struct {
	mu      sync.Mutex
	state   pace.State
	changed chan struct{} // closed when state.Least changes, and then replaced
}

func newPacer() *pacer { return &pacer{changed: make(chan struct{})} }

// now is the pace in force, and a channel that is closed when it is no longer.
func (p *pacer) now() (time.Duration, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state.Least, p.changed
}

// measure moves the pace by what the fleet's devices that are online are asked for.
func (p *pacer) measure(v registry.View, target float64, now time.Time) {
	crowd := make(pace.Crowd)
	v.Devices(ident.DeviceID{}, func(d *registry.Device) bool {
		if d.Presence.Online {
			crowd[v.Interval(d)]++
		}
		return true
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.state.Least
	if p.state = p.state.Next(pace.Input{Crowd: crowd, Target: target, Now: now}); p.state.Least != before {
		close(p.changed)
		p.changed = make(chan struct{})
	}
}

// keepPace measures once per report period until ctx ends.
func (s *Server) keepPace(ctx context.Context) {
	t := time.NewTicker(s.Tracker.Period())
	defer t.Stop()
	for {
		before, _ := s.pacer.now()
		s.pacer.measure(s.Registry.View(), float64(s.TargetBeats), time.Now())
		if least, _ := s.pacer.now(); least != before {
			s.Log.Info("the least heartbeat interval of the fleet changed", "from", before.String(), "to", least.String(), "target_beats", s.TargetBeats)
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// leastMS is the pace as a Site message carries it.
func (p *pacer) leastMS() uint32 {
	least, _ := p.now()
	return wire.Millis(max(least, time.Second))
}

// pace tells the gateway the fleet's pace whenever it changes, first when changed is closed. What goes before that is in the
// list of the site.
func (u *uplink) pace(ctx context.Context, changed <-chan struct{}) error {
	for {
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
		_, changed = u.pacer.now()
		if err := u.ses.Send(wire.TypeSite, wire.Site{Version: u.Registry.View().Index(), LeastMS: u.pacer.leastMS()}); err != nil {
			return err
		}
	}
}
