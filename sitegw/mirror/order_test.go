package mirror

import (
	"bytes"
	"testing"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
	"github.com/holdfast-edge/holdfast/wire/seal/sealtest"
)

var app = seal.Assignment{Slot: "app", Artifact: wire.Digest{7}}

// The newest order of a device counts, whoever brings an older, forged or other one, and it outlives a reboot.
func TestOrders(t *testing.T) {
	p, twin := newPlant(t), sealtest.New(t, "acme")
	first, second := p.core.Order(id, 1), p.core.Order(id, 2, app)
	entry := p.core.Entry(id, home, wire.DeviceActive, 0, key)
	if told, _ := p.Apply(&wire.Site{Entries: [][]byte{entry}, Orders: [][]byte{first}}); len(told) != 1 {
		t.Errorf("told of %v, want the device once", told)
	}
	if told, _ := p.Apply(&wire.Site{Orders: [][]byte{second}}); len(told) != 1 {
		t.Errorf("a newer order is no news: %v", told)
	}
	for name, b := range map[string][]byte{
		"older": first, "same": second, "forged": twin.Order(id, 3), "of nobody known": p.core.Order(ident.DeviceID{9}, 1), "an entry": entry,
		"other content under its number": p.core.Order(id, 2), "too long": make([]byte, maxOrder+1), "another fleet's": sealtest.New(t, "other").Order(id, 4),
	} {
		if told, _ := p.Apply(&wire.Site{Orders: [][]byte{b}}); len(told) != 0 {
			t.Errorf("%s: is news of %v", name, told)
		}
		if got, stamp := p.Order(id); !bytes.Equal(got, second) || stamp != (seal.Stamp{ClusterEpoch: 1, Number: 2}) {
			t.Errorf("%s: the order is number %d", name, stamp.Number)
		}
	}
	if s := p.Status(); s.Refused != 6 || s.Conflicts != 1 || s.Orders != 1 {
		t.Errorf("status %+v", s)
	}
	p.tell(p.core.Entry(id, home, wire.DeviceActive, 9000, key)) // another entry leaves the order alone
	for range 2 {
		p.reboot()
		if got, _ := p.Order(id); !bytes.Equal(got, second) {
			t.Fatal("the order did not outlive a reboot")
		}
	}
	p.core.Epoch = 2
	if p.Apply(&wire.Site{Orders: [][]byte{p.core.Order(id, 1)}}); p.orders[id].stamp.ClusterEpoch != 2 {
		t.Error("a core that was recovered is not believed")
	}
}

// The order of a guest is forgotten with it.
func TestOrderOfAGuest(t *testing.T) {
	p := newPlant(t)
	p.Apply(&wire.Site{Entries: [][]byte{p.core.Entry(id, abroad, wire.DeviceActive, 0, key)}, Orders: [][]byte{p.core.Order(id, 1, app)}})
	p.reboot()
	if b, _ := p.Order(id); b == nil {
		t.Fatal("a guest has no order after a reboot")
	}
	p.age(keepGuest)
	if b, _ := p.Order(id); b != nil || p.Status().Orders != 0 {
		t.Error("the order of a guest that is forgotten is kept")
	}
}

// Nobody signs the settings; they are kept, and what cannot be is refused.
func TestSettings(t *testing.T) {
	p := newPlant(t)
	limit := wire.ContentLimit{BytesPerSecond: 100_000, Window: "22:00-05:00"}
	if _, site := p.Apply(&wire.Site{Publishers: 3, Content: &limit}); !site {
		t.Error("another number of publishers is no news")
	}
	if _, site := p.Apply(&wire.Site{Content: &wire.ContentLimit{Window: "noon"}}); site || p.Status().Refused != 1 {
		t.Error("a window that is none is taken")
	}
	p.reboot()
	if p.Publishers() != 3 || p.Content() != limit {
		t.Errorf("after a reboot: set %d, %+v", p.Publishers(), p.Content())
	}
	if p.Apply(&wire.Site{Content: &wire.ContentLimit{}}); p.Content() != (wire.ContentLimit{}) || p.Publishers() != 3 {
		t.Errorf("the limit is not lifted: %+v", p.Content())
	}
}

// A sibling hands out orders with their entries.
func TestOfferedOrders(t *testing.T) {
	p, q := newPlant(t), newPlant(t)
	q.core = p.core
	q.open(q.Path)
	p.Apply(&wire.Site{Entries: [][]byte{p.core.Entry(id, home, wire.DeviceActive, 0, key)}, Orders: [][]byte{p.core.Order(id, 4, app)}})
	all := p.Newer(seal.Stamp{})
	if len(all) != 1 || all[0].Order == nil {
		t.Fatalf("hands out %+v", all)
	}
	if _, _, err := q.OfferedOrder(all[0].Order); err == nil {
		t.Error("an order without an entry is taken")
	}
	if _, _, _, err := q.Offered(all[0].Sealed, seal.Stamp{}); err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{true, false} {
		if who, fresh, err := q.OfferedOrder(all[0].Order); err != nil || fresh != want || who != id {
			t.Errorf("offer %d: %v, %v, %v", i, who, fresh, err)
		}
	}
}
