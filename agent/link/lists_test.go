package link

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
	"github.com/holdfast-edge/holdfast/wire/seal/sealtest"
)

// listed is a gateway as a list has it.
func (w *world) listed(i int, keys ...ident.KeyID) seal.ListedGateway {
	return seal.ListedGateway{Name: "gw-" + string(rune('a'+i)), Keys: keys, Listen: fmt.Sprintf("10.0.0.%d:4433", i+1)}
}

// A gateway with an expired certificate is taken if its key is on the newest list that the authority signed, and not before.
func TestExpiredGatewayIsTakenByTheList(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		g := w.admit(0, time.Hour)
		if m := g.attachMessage; m.ListEpoch != 0 || m.List != 0 {
			t.Errorf("claims the list %+v", m)
		}
		g.send(wire.TypeHeartbeatAck, wire.HeartbeatAck{List: sealtest.New(t, "acme").List("plant-7", w.listed(0, w.keys[0]))}) // forged
		g.send(wire.TypeHeartbeatAck, wire.HeartbeatAck{List: w.facts.List("plant-7", w.listed(0, w.keys[0]))})
		settle()
		if got := w.lists.Stamp("plant-7"); got != w.facts.Stamp() {
			t.Fatalf("holds the list %+v", got)
		}
		w.ahead.Store(int64(ident.LeafLifetime + time.Hour))
		g.Close()
		g = w.admit(0, time.Hour) // gw-b, whose key is not listed, is not taken
		if m := g.attachMessage; m.ListEpoch != 1 || m.List != w.facts.N {
			t.Errorf("claims the list %+v", m)
		}
		// A device that is in with an expired certificate of its own has it renewed first.
		began := time.Now()
		recv[wire.Renew](g, wire.TypeRenew)
		if took := time.Since(began); took > 2*time.Minute {
			t.Errorf("asks for a certificate after %v", took)
		}
	})
}

// A gateway that the newest list lacks is left at once and refused from then on; one that is younger than the list is taken.
func TestDroppedGatewayIsLeft(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		g := w.admit(0, time.Hour)
		w.facts.LogTime = time.Now().Add(-ident.BackDate - time.Hour) // before the certificates were issued
		g.send(wire.TypeHeartbeatAck, wire.HeartbeatAck{List: w.facts.List("plant-7", w.listed(1, w.keys[1]))})
		settle()
		if g.Context().Err() != nil {
			t.Fatal("left a gateway that is younger than the list")
		}
		w.facts.LogTime = time.Now()
		g.send(wire.TypeHeartbeatAck, wire.HeartbeatAck{List: w.facts.List("plant-7", w.listed(1, w.keys[1]))})
		began := time.Now()
		g = w.admit(1, time.Hour)
		if d := time.Since(began); d > time.Second {
			t.Errorf("left after %v", d)
		}
		g.Close()
		w.admit(1, time.Hour)
	})
}

func TestOrderOfGateways(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		w.admit(0, time.Hour)
		l := &Link{Config: Config{Lists: w.lists, Gateways: []string{"old:1", "b:1"}}}
		want := func(want ...string) {
			t.Helper()
			if l.refresh(); !slices.Equal(l.gateways, want) {
				t.Errorf("tries %q, want %q", l.gateways, want)
			}
		}
		want("old:1", "b:1")
		learn := func(addrs ...string) {
			t.Helper()
			var gws []seal.ListedGateway
			for _, a := range addrs {
				gws = append(gws, seal.ListedGateway{Name: "gw", Listen: a})
			}
			if _, err := w.lists.Learn(w.facts.List("plant-7", gws...)); err != nil {
				t.Fatal(err)
			}
		}
		learn("a:1", "b:1")
		want("old:1", "b:1", "a:1")         // who is tried already keeps his place
		l.gateways = []string{"a:1", "x:1"} // x is listed no longer
		want("a:1", "b:1", "old:1")         // what was given by hand stays to fall back on
		l.gateways = nil                    // as after a restart
		want("b:1", "a:1", "old:1")         // listed and given by hand comes first
		learn()                             // a site that lost its gateways
		want("b:1", "old:1")                //
	})
}
