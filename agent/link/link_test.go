package link

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/internal/backoff"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	wirelink "github.com/holdfast-edge/holdfast/wire/link"
)

func TestAttachAndBeat(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		g := w.admit(0, 10*time.Second)
		a := g.attach
		if a.Device != w.device.Device || a.Gateway != ident.Gateway("acme", "plant-7", "gw-a").String() || a.Start != 3 || a.Session != 1 || a.Run == 0 {
			t.Errorf("attach %+v", a.Attach)
		}
		first := g.beat()
		if first.Run != a.Run || first.Number != 1 || first.Answered != 0 || first.IntervalMS != 10_000 || first.UptimeMS != 3_600_000 {
			t.Errorf("heartbeat %+v", first)
		}
		for n := range uint64(5) {
			begin := time.Now()
			h := g.beat()
			if d := time.Since(begin); d < 9*time.Second || d > 11*time.Second || h.Number != n+2 || h.Answered != n+1 {
				t.Errorf("after %v: %+v", d, h)
			}
		}
		settle()
		if i, k := w.state.Interval(); i != 10*time.Second || k != 5*time.Second {
			t.Errorf("kept %v and %v", i, k)
		}
	})
}

func TestIntervalPushed(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		g := w.admit(0, 30*time.Minute) // the attach is renewed hourly
		g.beat()
		time.Sleep(time.Minute)
		g.send(wire.TypeHeartbeatAck, wire.HeartbeatAck{IntervalMS: 2000})
		begin := time.Now()
		if h := g.beat(); h.IntervalMS != 2000 || time.Since(begin) > time.Second {
			t.Errorf("after %v: %+v", time.Since(begin), h)
		}
		g.send(wire.TypeHeartbeatAck, wire.HeartbeatAck{IntervalMS: 1}) // clamped
		settle()
		if i, _ := w.state.Interval(); i != MinInterval {
			t.Errorf("told 1 ms, uses %v", i)
		}
		g.send(wire.TypeHeartbeatAck, wire.HeartbeatAck{IntervalMS: 1 << 31})
		settle()
		if i, _ := w.state.Interval(); i != MaxInterval {
			t.Errorf("told 24 days, uses %v", i)
		}
	})
}

func TestSilentGatewayIsLeft(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		w.admit(0, time.Second)
		begin := time.Now()
		g := w.admit(1, time.Second) // not the first once more: to find it dead would take longer than a device may be offline
		if d := time.Since(begin); d > 10*time.Second {
			t.Errorf("left after %v", d)
		}
		if g.attach.Session != 2 || g.attach.Run == 0 {
			t.Errorf("attach %+v", g.attach.Attach)
		}
	})
}

func TestNextGatewayAtOnce(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		g := w.accept(0)
		begin := time.Now()
		g.send(wire.TypeError, wire.Refuse(wire.CodeBusy, "full").After(time.Minute))
		g = w.admit(1, time.Minute)
		if d := time.Since(begin); d > 2*time.Second {
			t.Errorf("after %v", d)
		}
		g.beat()
	})
}

// The first heartbeat comes at any moment of the interval that the welcome told, so that a crowd that was welcomed together does
// not beat together; those that follow keep to the interval.
func TestFirstHeartbeatIsSpread(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		const interval = 100 * time.Second
		early, late := interval, time.Duration(0)
		for range 40 {
			g := w.admit(0, interval)
			begin := time.Now()
			g.beat()
			first := time.Since(begin)
			early, late = min(early, first), max(late, first)
			begin = time.Now()
			g.beat()
			if d := time.Since(begin); d < interval*9/10 || d > interval*11/10+time.Second {
				t.Fatalf("the second heartbeat came after %v", d)
			}
			g.Close()
		}
		if early > interval/5 || late < interval*4/5 || late > interval+time.Second {
			t.Errorf("the first heartbeats came from %v to %v after the welcome", early, late)
		}
	})
}

// Whatever the gateways refuse with, the agent goes on trying, and keeps what it has.
func TestNoRefusalIsFinal(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		s := w.say()
		i := 0
		for code := wire.CodeMalformed; code <= wire.CodeInternal; code++ {
			for range 2 {
				w.accept(i % 2).Refuse(wire.Refuse(code, "no"))
				i++
			}
		}
		g := w.admit(i%2, time.Minute)
		if m := recv[wire.Statement](g, wire.TypeStatement); string(m.Sealed) != string(s.Sealed) {
			t.Error("the statement is lost")
		}
	})
}

func TestGoAwayIsFollowed(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		g := w.admit(0, time.Minute)
		g.beat()
		g.send(wire.TypeGoAway, wire.GoAway{RetryAfterMS: 2000})
		begin := time.Now()
		w.admit(0, time.Minute)
		if d := time.Since(begin); d < 2*time.Second || d > 4*time.Second {
			t.Errorf("back after %v", d)
		}
	})
}

func TestAttachIsRenewed(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		g := w.admit(0, time.Minute)
		g.send(wire.Type(60), wire.Ask{}) // of a newer gateway: skipped
		begin := time.Now()
		recv[wire.Attach](g, wire.TypeAttach)
		if d := time.Since(begin); d < 54*time.Minute || d > 66*time.Minute {
			t.Errorf("after %v", d)
		}
	})
}

func TestWaitAfter(t *testing.T) {
	for range 200 {
		b := func() *backoff.Backoff { return &backoff.Backoff{Min: minBackoff, Max: maxBackoff} }
		if d := waitAfter(errors.New("lost"), b()); d < 0 || d > minBackoff {
			t.Fatalf("a lost session: %v", d)
		}
		if d := waitAfter(wire.Refuse(wire.CodeBusy, "").After(10*time.Second), b()); d < 10*time.Second || d > 16*time.Second {
			t.Fatalf("told 10 s: %v", d)
		}
		if d := waitAfter(wire.Refuse(wire.CodeBusy, "").After(24*time.Hour), b()); d > 23*time.Minute {
			t.Fatalf("told a day: %v", d)
		}
		if d := waitAfter(wire.Refuse(wire.CodeBusy, ""), b()); d < 5*time.Second || d > 60*time.Second {
			t.Fatalf("busy: %v", d)
		}
		refused := fmt.Errorf("dial: %w: %w", wirelink.ErrClosed, wire.Refuse(wire.CodeBusy, ""))
		if d := waitAfter(refused, b()); d < 5*time.Second || d > 60*time.Second {
			t.Fatalf("refused before the handshake: %v", d)
		}
		slow := &backoff.Backoff{Min: time.Hour, Max: time.Hour}
		if d := waitAfter(wire.Refuse(wire.CodeRetired, ""), slow); d > refusedMax {
			t.Fatalf("refused for good: %v", d)
		}
	}
}
