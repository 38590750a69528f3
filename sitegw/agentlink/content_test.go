package agentlink

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
)

// echoes answers each fetch with its digest, as long as that is allowed.
type echoes struct{}

func (echoes) Serve(ctx context.Context, ls *link.Session, f wire.Fetch, allowed func() *wire.Error) {
	stop := context.AfterFunc(ctx, ls.Close)
	defer stop()
	for {
		if e := allowed(); e != nil {
			ls.Refuse(e)
			return
		}
		if ls.Send(wire.TypeBlob, wire.Blob{Data: f.Digest[:]}) != nil {
			return
		}
		_, body, err := ls.Recv()
		if f = (wire.Fetch{}); err != nil || wire.Unmarshal(body, &f) != nil {
			return
		}
	}
}

// fetch opens a session for content.
func (a *agent) fetch() *agent {
	a.p.t.Helper()
	s, err := a.tr.Dial(a.p.t.Context(), a.p.addr, a.ep.Client(wire.ALPNAgent, ident.RoleGateway, nil), link.Options{Limits: link.ContentLimits})
	if err != nil {
		a.p.t.Fatal(err)
	}
	a.Session = s
	a.send(wire.TypeFetch, wire.Fetch{Kind: wire.ContentChunk, Digest: wire.Digest{1}})
	return a
}

// A device gets content while it is active, beside its session and without one, and is counted for none of it.
func TestContent(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		p.srv.Content = echoes{}
		a := p.agent().known(wire.DeviceActive, 0).fetch()
		defer a.hangUp()
		if b := recv[wire.Blob](a, wire.TypeBlob); len(b.Data) != 32 || p.srv.Downloads() != 1 || p.srv.Sessions() != 0 || p.roster.Online() != 0 {
			t.Errorf("%d bytes, %d downloads, %d sessions", len(b.Data), p.srv.Downloads(), p.srv.Sessions())
		}
		a.known(wire.DeviceQuarantined, 0)
		a.send(wire.TypeFetch, wire.Fetch{Kind: wire.ContentChunk, Digest: wire.Digest{2}})
		a.refused(wire.CodeQuarantined)
		settle()
		if p.srv.Downloads() != 0 {
			t.Error("a download that has ended counts")
		}
		for state, want := range map[wire.DeviceState]wire.Code{
			wire.DeviceQuarantined: wire.CodeQuarantined, wire.DeviceDecommissioned: wire.CodeRetired, wire.DeviceUnknown: wire.CodeUnknownKey,
		} {
			b := p.agent()
			if state != wire.DeviceUnknown {
				b.known(state, 0)
			} else {
				p.tell(&wire.Site{Entries: [][]byte{p.core.Unknown(b.id)}})
			}
			b.fetch().refused(want)
			b.hangUp()
		}
		b := p.agent().fetch() // the core has not told of it yet
		b.refused(wire.CodeUnavailable)
		if b.hangUp(); len(p.up.asked) != 2 {
			t.Errorf("the core was asked about %d devices", len(p.up.asked))
		}
	})
}

// The downloads of a device, and those of all, are bounded. The stop ends them.
func TestDownloadsAreBounded(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		p.srv.Content = echoes{}
		var all []*agent
		for p.srv.Downloads() < maxDownloads {
			a := p.agent().known(wire.DeviceActive, 0)
			for range maxOfDevice {
				b := *a
				b.fetch()
				recv[wire.Blob](&b, wire.TypeBlob)
				all = append(all, &b)
			}
			if len(all) == maxOfDevice {
				b := *a
				b.fetch().refused(wire.CodeBusy)
			}
			defer a.hangUp()
		}
		a := p.agent().known(wire.DeviceActive, 0).fetch()
		defer a.hangUp()
		a.refused(wire.CodeBusy)
		start := time.Now()
		p.stop()
		if d := time.Since(start); d > 2*drainTime || p.srv.Downloads() != 0 {
			t.Errorf("stopped after %v with %d downloads", d, p.srv.Downloads())
		}
		if _, _, err := all[0].RecvWithin(time.Second); !errors.Is(err, link.ErrClosed) && !errors.Is(err, &wire.Error{}) {
			t.Errorf("a download goes on after the stop: %v", err)
		}
	})
}
