package devstate

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
	"github.com/holdfast-edge/holdfast/wire/seal/sealtest"
)

func openLists(t *testing.T, dir string, a *sealtest.Authority) *Lists {
	t.Helper()
	l, err := OpenLists(dir, "acme", a.Public(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func learn(t *testing.T, l *Lists, b []byte) *seal.GatewayList {
	t.Helper()
	list, err := l.Learn(b)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestLists(t *testing.T) {
	dir, a := t.TempDir(), sealtest.New(t, "acme")
	l := openLists(t, dir, a)
	gwA, gwB := ident.Gateway("acme", "plant-7", "gw-a"), ident.Gateway("acme", "plant-7", "gw-b")
	if l.Knows(gwA, ident.KeyID{1}) || l.Stamp("plant-7") != (seal.Stamp{}) || l.Addresses() != nil {
		t.Error("something is known before anything was told")
	}
	first := a.List("plant-7", seal.ListedGateway{Name: "gw-a", Keys: []ident.KeyID{{1}}, Listen: "a:1"}, seal.ListedGateway{Name: "gw-b", Keys: []ident.KeyID{{2}}, Listen: "b:1"})
	if list := learn(t, l, first); list == nil || len(list.Gateways) != 2 {
		t.Errorf("learned %+v", list)
	}
	other := a.List("plant-8", seal.ListedGateway{Name: "gw-a", Keys: []ident.KeyID{{3}}, Listen: "c:1"}, seal.ListedGateway{Name: "gw-c", Listen: "no port"})
	learn(t, l, other)
	for range 2 {
		if !l.Knows(gwA, ident.KeyID{1}) || l.Knows(gwB, ident.KeyID{1}) || l.Knows(gwA, ident.KeyID{3}) || !l.Knows(ident.Gateway("acme", "plant-8", "gw-a"), ident.KeyID{3}) {
			t.Error("keys are not those of the list")
		}
		if got := l.Addresses(); !slices.Equal(got, []string{"c:1", "a:1", "b:1"}) {
			t.Errorf("addresses %q", got)
		}
		l = openLists(t, dir, a)
	}
	newest := a.List("plant-7", seal.ListedGateway{Name: "gw-b", Keys: []ident.KeyID{{2}}, Listen: "b:1"}) // gw-a is gone
	learn(t, l, newest)
	for _, b := range [][]byte{first, newest} {
		if list := learn(t, l, b); list != nil {
			t.Errorf("an old list is news: %+v", list)
		}
	}
	if l.Knows(gwA, ident.KeyID{1}) || !l.Knows(gwB, ident.KeyID{2}) || l.Stamp("plant-7").Number != 3 {
		t.Error("the newest list does not hold")
	}
}

func TestForgedListsAreRefused(t *testing.T) {
	dir, a, twin := t.TempDir(), sealtest.New(t, "acme"), sealtest.New(t, "acme")
	l := openLists(t, dir, a)
	good := a.List("plant-7", seal.ListedGateway{Name: "gw-a"})
	learn(t, l, good)
	again := *a
	again.N = 0
	twin.N = 50
	for name, tt := range map[string]struct {
		b    []byte
		want error
	}{
		"another authority": {twin.List("plant-7"), seal.ErrSignature},
		"no list":           {a.Entry(ident.DeviceID{1}, "plant-7", wire.DeviceActive, 0), seal.ErrSignature},
		"junk":              {[]byte("junk"), wire.ErrMalformed},
		"the same number":   {again.List("plant-7"), ErrConflict},
	} {
		if _, err := l.Learn(tt.b); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if l.Stamp("plant-7") != (seal.Stamp{ClusterEpoch: 1, Number: 1}) {
		t.Errorf("the list is now %+v", l.Stamp("plant-7"))
	}
	// A state directory that somebody wrote to is believed no more than a gateway.
	b, err := wire.Marshal(savedLists{Sealed: [][]byte{twin.List("plant-7"), good}})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.slots.Save(b, 0o600); err != nil {
		t.Fatal(err)
	}
	if l = openLists(t, dir, a); len(l.held) != 1 || !bytes.Equal(l.held[0].sealed, good) {
		t.Errorf("%d lists are believed", len(l.held))
	}
}

func TestListsAreBounded(t *testing.T) {
	a := sealtest.New(t, "acme")
	l := openLists(t, t.TempDir(), a)
	for _, site := range []string{"s1", "s2", "s3", "s4", "s1", "s5"} {
		learn(t, l, a.List(site))
	}
	if len(l.held) != keptLists || l.Stamp("s2") != (seal.Stamp{}) || l.Stamp("s1").Number != 5 {
		t.Errorf("%d lists kept", len(l.held))
	}
}

// Lists that are damaged are told anew; whatever byte it is, nothing else is believed.
func TestDamagedLists(t *testing.T) {
	dir, a := t.TempDir(), sealtest.New(t, "acme")
	l := openLists(t, dir, a)
	learn(t, l, a.List("plant-7", seal.ListedGateway{Name: "gw-a"}))
	path := filepath.Join(dir, "gateways.a")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		b[i] ^= 0x10
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if l := openLists(t, dir, a); len(l.held) != 0 {
			t.Fatalf("byte %d is damaged, and the list is believed", i)
		}
		b[i] ^= 0x10
	}
	// One that cannot be read may be the newest: nothing is decided without it.
	if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenLists(dir, "acme", a.Public(), slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a list that cannot be read is taken for none")
	}
	if err := os.MkdirAll(filepath.Join(dir, "gateways.b", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Learn(a.List("plant-7")); err == nil || l.Stamp("plant-7").Number != 1 {
		t.Errorf("a list that cannot be stored is kept: %v", err)
	}
}
