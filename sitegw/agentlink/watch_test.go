package agentlink

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
)

// counted is what a counter by code has, without what is zero.
func counted(b *ByCode) string {
	var out []string
	b.Each(func(code string, n uint64) {
		if n > 0 {
			out = append(out, fmt.Sprint(code, " ", n))
		}
	})
	return fmt.Sprint(out)
}

func TestByCode(t *testing.T) {
	var b ByCode
	for _, c := range []wire.Code{wire.CodeNone, wire.CodeInternal, wire.CodeInternal, wire.CodeInternal + 1, math.MaxUint32} {
		b.Add(c)
	}
	if got := counted(&b); got != "[none 1 internal 2 other 2]" || b.Count(wire.CodeInternal) != 2 || b.Count(math.MaxUint32) != 2 {
		t.Errorf("counted %s", got)
	}
}

func TestCounters(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		c := p.srv.Counters()
		a := p.agent().known(wire.DeviceActive, 0).connect()
		defer a.hangUp()
		for n := range uint64(3) {
			a.beat(n + 1)
			recv[wire.HeartbeatAck](a, wire.TypeHeartbeatAck)
		}
		a.send(wire.TypeStatement, wire.Statement{}) // refused here
		if e := recv[wire.Error](a, wire.TypeError); e.Code != wire.CodeMalformed {
			t.Errorf("refused with %v", e.Code)
		}
		for range 2 {
			st := a.statement()
			a.state(st)
			a.inCustody(st)
		}
		stranger := p.agent().known(wire.DeviceDecommissioned, 0).dial(nil)
		stranger.refused(wire.CodeRetired)
		stranger.hangUp()
		if n := c.Heartbeats.Load(); n != 3 {
			t.Errorf("%d heartbeats", n)
		}
		if got := counted(&c.Statements); got != "[none 2 malformed 1]" {
			t.Errorf("statements %s", got)
		}
		if got := counted(&c.AgentsRefused); got != "[retired 1]" {
			t.Errorf("agents refused %s", got)
		}
	})
}

// A session that is admitted just after everybody was told goodbye is told so too: nobody would end it.
func TestAdmittedDuringTheStop(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		p.srv.goodbye()
		a := p.agent().known(wire.DeviceActive, 0).connect()
		defer a.hangUp()
		if g := recv[wire.GoAway](a, wire.TypeGoAway); g.RetryAfterMS != wire.Millis(goAwayAfter) {
			t.Errorf("goodbye %+v", g)
		}
		start := time.Now()
		p.stop() // the agent does not close
		if d := time.Since(start); d > 2*drainTime || p.srv.Sessions() != 0 {
			t.Errorf("stopped after %v with %d sessions", d, p.srv.Sessions())
		}
	})
}

// The accept loop answers while the server serves, however many sessions are opening, and not before or after.
func TestPing(t *testing.T) {
	ping := func(p *plant) error {
		ctx, cancel := context.WithTimeout(p.t.Context(), time.Second)
		defer cancel()
		return p.srv.Ping(ctx)
	}
	world(t, func(t *testing.T, p *plant) {
		settle()
		if err := ping(p); err != nil {
			t.Error(err)
		}
		a := p.agent().known(wire.DeviceActive, 0).connect()
		defer a.hangUp()
		if err := ping(p); err != nil {
			t.Errorf("with a session: %v", err)
		}
		p.stop()
		if err := ping(p); !errors.Is(err, ErrStuck) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after the end: %v", err)
		}
	})
}
