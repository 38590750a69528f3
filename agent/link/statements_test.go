package link

import (
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// several makes n statements.
func (w *world) several(n int) (all []*seal.SealedStatement) {
	for range n {
		all = append(all, w.say())
	}
	return all
}

// next waits for statements, in order.
func (g *gateway) next(want ...*seal.SealedStatement) {
	g.w.t.Helper()
	for i, s := range want {
		if m := recv[wire.Statement](g, wire.TypeStatement); string(m.Sealed) != string(s.Sealed) {
			got, err := seal.ParseStatement(m.Sealed)
			g.w.t.Fatalf("statement %d of %d is seq %d (%v), want %d", i+1, len(want), got.Seq, err, s.Seq)
		}
	}
}

// idle makes sure that nothing but heartbeats comes for a while. The gateway says whether it has an uplink.
func (g *gateway) idle(d time.Duration, uplink bool) {
	g.w.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		t, body, err := g.RecvWithin(time.Until(end))
		if err != nil {
			return
		}
		if t != wire.TypeHeartbeat {
			g.w.t.Fatalf("got %v", t)
		}
		var h wire.Heartbeat
		if err := wire.Unmarshal(body, &h); err != nil {
			g.w.t.Fatal(err)
		}
		g.send(wire.TypeHeartbeatAck, wire.HeartbeatAck{Number: h.Number, Uplink: uplink})
	}
}

func custodyOf(s *seal.SealedStatement) wire.Custody { return wire.Custody{Epoch: s.Epoch, Seq: s.Seq} }

func TestStatementsUnderWay(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		all := w.several(wire.MaxUnkept + 6)
		g := w.admit(0, time.Minute)
		g.next(all[:wire.MaxUnkept]...)
		g.idle(keptWithin/2, true) // no more without custody
		g.send(wire.TypeCustody, custodyOf(all[2]))
		g.next(all[wire.MaxUnkept : wire.MaxUnkept+3]...)
		begin := time.Now()
		g.next(all[3]) // neither kept nor refused: again, from there
		if d := time.Since(begin); d != keptWithin {
			t.Errorf("sent again after %v", d)
		}
		g.next(all[4 : wire.MaxUnkept+3]...)
		refusal := wire.Refuse(wire.CodeHold, "no room").After(40 * time.Second)
		refusal.Ref = wire.TypeStatement
		begin = time.Now()
		g.send(wire.TypeError, refusal)
		g.next(all[3])
		if d := time.Since(begin); d < 40*time.Second || d > 41*time.Second {
			t.Errorf("refused for 40 s, sent again after %v", d)
		}
		g.next(all[4 : wire.MaxUnkept+3]...)
		g.send(wire.TypeCustody, custodyOf(all[wire.MaxUnkept+2]))
		g.next(all[wire.MaxUnkept+3:]...)
		if w.state.Oldest().Seq != 1 {
			t.Fatal("custody let go of a statement")
		}
		forged := w.receipt(all[3])
		forged[len(forged)-1] ^= 1
		g.send(wire.TypeHeartbeatAck, wire.HeartbeatAck{Receipt: forged})
		settle()
		if w.state.Oldest().Seq != 1 {
			t.Fatal("a forged receipt was believed")
		}
		g.send(wire.TypeHeartbeatAck, wire.HeartbeatAck{Receipt: w.receipt(all[len(all)-1])})
		settle()
		if w.state.Oldest() != nil {
			t.Error("held after its receipt")
		}
		g.next(w.say()) // a new one goes out at once
	})
}

// What the gateway has from before is not sent again, if it is the same.
func TestKeptFromBefore(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		all := w.several(4)
		g := w.accept(0)
		g.welcome(&wire.Kept{Epoch: all[1].Epoch, Seq: all[1].Seq, Chain: all[1].Chain[:]})
		g.next(all[2:]...)
		g.CloseWith(wire.Refuse(wire.CodeNone, ""))
		g = w.accept(0)
		g.welcome(&wire.Kept{Epoch: all[1].Epoch, Seq: all[1].Seq, Chain: all[2].Chain[:]}) // another past
		g.next(all...)
	})
}

// A gateway that takes statements, says that it has an uplink, and brings no receipt, is left for another one, which is told.
func TestWithheldReceipts(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		one := w.say()
		g := w.accept(0)
		g.welcome(nil)
		g.next(one)
		g.send(wire.TypeCustody, custodyOf(one))
		g.idle(5*time.Minute, false) // without an uplink nothing is owed
		begin := time.Now()
		g.send(wire.TypeHeartbeatAck, wire.HeartbeatAck{Uplink: true})
		other := w.accept(1)
		if d := time.Since(begin); d < doubtAfter*period || d > doubtAfter*period+5*time.Second {
			t.Errorf("left after %v", d)
		}
		if want := g.attach.Gateway; other.attach.Doubts != want {
			t.Errorf("the other gateway is told %q, want %q", other.attach.Doubts, want)
		}
		other.welcome(nil)
		other.next(one)
		other.send(wire.TypeHeartbeatAck, wire.HeartbeatAck{Uplink: true, Receipt: w.receipt(one)})
		other.idle(10*time.Minute, true)
		if w.state.Oldest() != nil {
			t.Error("held after its receipt")
		}
	})
}

// An old receipt, genuine and shown again and again, does not put the doubt off.
func TestOldReceiptPaysNoDebt(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		one := w.say()
		g := w.accept(0)
		g.welcome(nil)
		g.next(one)
		old := wire.HeartbeatAck{Uplink: true, Receipt: w.receipt(one)}
		g.send(wire.TypeCustody, custodyOf(one))
		g.send(wire.TypeHeartbeatAck, old)
		settle()
		two := w.say()
		g.next(two)
		g.send(wire.TypeCustody, custodyOf(two))
		begin := time.Now()
		for range doubtAfter {
			g.send(wire.TypeHeartbeatAck, old)
			g.idle(period*9/10, true)
		}
		other := w.accept(1)
		if d := time.Since(begin); d < doubtAfter*period || d > doubtAfter*period+5*time.Second || other.attach.Doubts != g.attach.Gateway {
			t.Errorf("left after %v, the other gateway is told %q", d, other.attach.Doubts)
		}
	})
}

// What the core will never take gets no receipt from anybody: no gateway is to blame.
func TestRefusedByTheCore(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		one := w.say()
		g := w.accept(0)
		g.welcome(nil)
		g.next(one)
		g.send(wire.TypeCustody, custodyOf(one))
		g.send(wire.TypeHeartbeatAck, wire.HeartbeatAck{Uplink: true})
		refusal := wire.Refuse(wire.CodeConflict, "stated with other content")
		refusal.Ref = wire.TypeStatement
		g.send(wire.TypeError, refusal)
		g.idle(refusedMax-time.Minute, true)
		if w.state.Oldest() == nil {
			t.Error("a refusal let go of a statement")
		}
	})
}
