package devstate

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
	"github.com/holdfast-edge/holdfast/wire/seal/sealtest"
)

// order seals an order of the authority for a device, with one slot that is to run the artifact b.
func order(t *testing.T, a *sealtest.Authority, s Signer, number uint64, b byte, change func(*seal.Order)) []byte {
	t.Helper()
	body, err := wire.Marshal(seal.Desired{Assignments: []seal.Assignment{{Slot: "app", Artifact: wire.Digest{b}}}})
	if err != nil {
		t.Fatal(err)
	}
	o := &seal.Order{
		Version: seal.OrderVersion, Fleet: a.Fleet, Device: s.Device, Keys: []ident.KeyID{{1}, s.KeyID}, ClusterEpoch: a.Epoch, Number: number, Kind: seal.OrderDesired,
		Body: body, LogTimeMS: 1_795_464_001_000,
	}
	if change != nil {
		change(o)
	}
	sealed, err := seal.SealOrder(o, a.Key)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

func openOrders(t *testing.T, dir string, s Signer, a *sealtest.Authority) *Orders {
	t.Helper()
	return OpenOrders(open(t, dir, s), a.Fleet, a.Public(), slog.New(slog.DiscardHandler))
}

func TestOrders(t *testing.T) {
	dir, s, a := t.TempDir(), newSigner(t), sealtest.New(t, "acme")
	other := sealtest.New(t, "acme")
	held := order(t, a, s, 5, 1, nil)
	later := order(t, a, s, 3, 2, func(o *seal.Order) { o.ClusterEpoch = 2 })
	o := openOrders(t, dir, s, a)
	if o.Held() != nil {
		t.Error("an order is held before one came")
	}
	forged := bytes.Clone(held)
	forged[len(forged)-1] ^= 1
	tests := []struct {
		name   string
		sealed []byte
		want   error // nil: obeyed, or no news
		holds  byte  // what the order held then wants
	}{
		{"the first", held, nil, 1},
		{"again", held, nil, 1},
		{"no order", []byte("junk"), wire.ErrMalformed, 1},
		{"a flipped bit", forged, seal.ErrSignature, 1},
		{"by another authority", order(t, other, s, 9, 2, nil), seal.ErrSignature, 1},
		{"of another fleet", order(t, a, s, 9, 2, func(o *seal.Order) { o.Fleet = "other" }), seal.ErrSignature, 1},
		{"for another device", order(t, a, s, 9, 2, func(o *seal.Order) { o.Device = ident.NewDeviceID() }), ErrForeignOrder, 1},
		{"for another key", order(t, a, s, 9, 2, func(o *seal.Order) { o.Keys = []ident.KeyID{{1}} }), ErrForeignOrder, 1},
		{"an older one", order(t, a, s, 4, 2, nil), ErrOldOrder, 1},
		{"the same number, another content", order(t, a, s, 5, 2, nil), ErrOrderConflict, 1},
		{"of a kind to come", order(t, a, s, 9, 2, func(o *seal.Order) { o.Kind = 99 }), ErrUnknownOrder, 1},
		{"a newer one", order(t, a, s, 6, 2, nil), nil, 2},
		{"of a later cluster epoch", later, nil, 2},
		{"of an earlier cluster epoch", order(t, a, s, 9, 3, nil), ErrOldOrder, 2},
	}
	for _, tt := range tests {
		if _, err := o.Obey(tt.sealed); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
		o = openOrders(t, dir, s, a) // whatever it is, it is on the disk
		d, err := o.Held().Desired()
		if err != nil || d.Assignments[0].Artifact != (wire.Digest{tt.holds}) {
			t.Fatalf("%s: held is %+v, %v", tt.name, d, err)
		}
	}
	if a := o.st.Attach(); a.Order != 3 || a.ClusterEpoch != 2 {
		t.Errorf("the attach says order %d of cluster epoch %d", a.Order, a.ClusterEpoch)
	}
	if n, err := o.Obey(later); n != nil || err != nil {
		t.Errorf("what is held is news: %v, %v", n, err)
	}
}

// An order that no longer verifies, because the authority has another key, is not obeyed; an older one does not come in its place, and the
// same one, signed anew, does.
func TestOrderUnderAnotherAuthority(t *testing.T) {
	dir, s, a, next := t.TempDir(), newSigner(t), sealtest.New(t, "acme"), sealtest.New(t, "acme")
	if _, err := openOrders(t, dir, s, a).Obey(order(t, a, s, 5, 1, nil)); err != nil {
		t.Fatal(err)
	}
	o := openOrders(t, dir, s, next)
	if o.Held() != nil {
		t.Error("held without a signature that verifies")
	}
	if _, err := o.Obey(order(t, next, s, 4, 2, nil)); !errors.Is(err, ErrOldOrder) {
		t.Errorf("an older one: %v", err)
	}
	if n, err := o.Obey(order(t, next, s, 5, 1, nil)); n == nil || err != nil {
		t.Errorf("the same one: %v, %v", n, err)
	}
}

// What could not be stored is not obeyed.
func TestOrderNotStored(t *testing.T) {
	dir, s, a := t.TempDir(), newSigner(t), sealtest.New(t, "acme")
	o := openOrders(t, dir, s, a)
	for _, name := range []string{"state.a", "state.b"} {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(dir, name, "x"), 0o700); err != nil { // no rename takes its place
			t.Fatal(err)
		}
	}
	if n, err := o.Obey(order(t, a, s, 1, 1, nil)); err == nil || n != nil || o.Held() != nil {
		t.Errorf("obeyed %v, %v; held %v", n, err, o.Held())
	}
}

// Said finds the newest status of a slot in the outbox and, once it has left it, in the state.
func TestSaid(t *testing.T) {
	dir, s := t.TempDir(), newSigner(t)
	st := open(t, dir, s)
	status := func(slot string) *seal.SealedStatement {
		t.Helper()
		body, err := wire.Marshal(seal.Status{Slot: slot, State: seal.SlotHealthy})
		if err != nil {
			t.Fatal(err)
		}
		out, err := st.State(seal.Statement{Type: seal.StatementStatus, Body: body})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	want := func(slot string, seq uint64) {
		t.Helper()
		for _, o := range []*State{st, open(t, dir, s)} {
			if epoch, got := o.Said(slot); got != seq || (seq > 0) != (epoch == 1) {
				t.Errorf("slot %s: said in epoch %d, seq %d, want %d", slot, epoch, got, seq)
			}
		}
	}
	want("a", 0)
	status("a")
	say(t, st, "something else")
	second := status("b")
	want("a", 1)
	if err := st.Receipted(receipt(second)); err != nil {
		t.Fatal(err)
	}
	want("a", 1)
	want("b", 3)
	third := status("a")
	want("a", 4)
	if err := st.Receipted(receipt(third)); err != nil {
		t.Fatal(err)
	}
	want("a", 4)
	want("b", 3)
	want("c", 0)
}
