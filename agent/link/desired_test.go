package link

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A desired is what keeps the tests' device at what is ordered: it obeys every order but "wrong".
type desired struct {
	mu         sync.Mutex
	orders     []string
	publishers []uint64
}

var errWrong = errors.New("wrong")

func (d *desired) Beat() (order uint64, running []byte, publishers uint64) { return 7, []byte{1, 2}, 3 }

func (d *desired) Order(sealed []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.orders = append(d.orders, string(sealed))
	if string(sealed) == "wrong" {
		return errWrong
	}
	return nil
}

func (d *desired) Publishers(number uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.publishers = append(d.publishers, number)
}

// What a gateway says of orders and publishers is handed on, and heartbeats tell what is held. A gateway that brings an order that is not obeyed is
// left, and named to the next one.
func TestOrdersAreHandedOn(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		g := w.admit(0, time.Minute)
		if h := g.beat(); h.Desired != 7 || string(h.Running) != "\x01\x02" || h.Publishers != 3 {
			t.Errorf("a heartbeat tells %+v", h)
		}
		g.send(wire.TypeHeartbeatAck, wire.HeartbeatAck{Order: []byte("one"), Publishers: 4})
		settle()
		if !slices.Equal(w.desired.orders, []string{"one"}) || !slices.Equal(w.desired.publishers, []uint64{4}) {
			t.Errorf("handed on: %q, %v", w.desired.orders, w.desired.publishers)
		}
		g.send(wire.TypeHeartbeatAck, wire.HeartbeatAck{Order: []byte("wrong")})
		other := w.accept(1)
		if other.attach.Doubts != g.attach.Gateway || other.attach.DoubtFor != seal.DoubtOrder {
			t.Errorf("the other gateway is told %q, %v", other.attach.Doubts, other.attach.DoubtFor)
		}
	})
}

// A doubt that comes from elsewhere is told at once: to the gateway of the session, if it is about another one; to another one, if it is about that.
func TestDoubtFromElsewhere(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		g := w.admit(0, time.Minute)
		g.beat()
		w.link.Doubt(ident.Gateway("acme", "plant-7", "gw-x"), seal.DoubtContent)
		m := recv[wire.Attach](g, wire.TypeAttach)
		a, err := seal.ParseAttach(m.Sealed)
		if err != nil || a.Doubts != "spiffe://acme/gateway/plant-7/gw-x" || a.DoubtFor != seal.DoubtContent {
			t.Errorf("attached with %+v, %v", a, err)
		}
		self, err := ident.Parse(g.attach.Gateway)
		if err != nil {
			t.Fatal(err)
		}
		w.link.Doubt(self, seal.DoubtContent)
		other := w.accept(1)
		if other.attach.Doubts != g.attach.Gateway || other.attach.DoubtFor != seal.DoubtContent {
			t.Errorf("the other gateway is told %q, %v", other.attach.Doubts, other.attach.DoubtFor)
		}
		other.welcome(nil)
		other.beat()
		if got := w.link.Sources(); got[0] != "10.0.0.2:4433" || len(got) != 2 {
			t.Errorf("content is asked for at %q", got)
		}
		other.CloseWith(wire.Refuse(wire.CodeNone, ""))
		if again := w.accept(1); again.attach.Doubts != "" {
			t.Errorf("what was said is said again: %q", again.attach.Doubts)
		}
	})
}
