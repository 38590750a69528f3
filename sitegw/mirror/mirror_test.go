package mirror

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
	"github.com/holdfast-edge/holdfast/wire/seal/sealtest"
)

const home, abroad = "plant-7", "plant-8"

// A plant is a mirror and the core that tells it.
type plant struct {
	*Mirror
	core *sealtest.Authority
	t    *testing.T
}

func newPlant(t *testing.T) *plant {
	t.Helper()
	p := &plant{core: sealtest.New(t, "acme"), t: t}
	p.open(filepath.Join(t.TempDir(), "mirror"))
	return p
}

func (p *plant) open(path string) {
	p.Mirror = Open(Config{Path: path, Fleet: "acme", Site: home, Authority: p.core.Public(), Log: discard})
}

// reboot writes what there is to write, as a clean stop does, and opens the mirror anew.
func (p *plant) reboot() {
	p.t.Helper()
	d := disk{path: p.Path}
	if err := p.flush(&d); err != nil {
		p.t.Fatal(err)
	}
	d.close()
	p.open(p.Path)
}

// tell has the mirror told entries.
func (p *plant) tell(entries ...[]byte) []ident.DeviceID {
	ids, _ := p.Apply(&wire.Site{Entries: entries})
	return ids
}

// admits is whether the key of a device would be admitted.
func (p *plant) admits(id ident.DeviceID, k ident.KeyID) bool {
	d, ok := p.Device(id)
	return ok && (d.State == wire.DeviceActive || d.State == wire.DeviceQuarantined) && d.HasKey(k)
}

var (
	id, key = ident.DeviceID{1}, ident.KeyID{2}
	discard = slog.New(slog.DiscardHandler)
)

// fuzzKey is an authority's key that is the same in each process of a fuzzer.
func fuzzKey() ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
}

func TestMirror(t *testing.T) {
	p := newPlant(t)
	if _, ok := p.Device(id); ok || p.Interval(id, 7*time.Second) != 7*time.Second || p.Known() != (seal.Stamp{}) {
		t.Error("an empty mirror knows something")
	}
	if b, _ := p.List(); b != nil {
		t.Errorf("an empty mirror has the list %x", b)
	}
	list := p.core.List(home, seal.ListedGateway{Name: "gw-a", Keys: []ident.KeyID{{9}}, Listen: "a:1"})
	told, site := p.Apply(&wire.Site{IntervalMS: 2000, List: list, Entries: [][]byte{p.core.Entry(id, home, wire.DeviceActive, 0, key)}, UptoEpoch: 1, Upto: 2})
	if !slices.Equal(told, []ident.DeviceID{id}) || !site || p.Known() != p.core.Stamp() {
		t.Errorf("told %v, site %v, known %+v", told, site, p.Known())
	}
	d, ok := p.Device(id)
	if !ok || !d.HasKey(key) || len(d.Keys) != 1 || d.State != wire.DeviceActive || p.Interval(id, time.Hour) != 2*time.Second {
		t.Errorf("device %+v", d)
	}
	if b, stamp := p.List(); !bytes.Equal(b, list) || stamp != (seal.Stamp{ClusterEpoch: 1, Number: 1}) {
		t.Errorf("list %x at %+v", b, stamp)
	}
	if all := p.Gateways(); len(all) != 1 || all[0].Name != "gw-a" || all[0].Listen != "a:1" {
		t.Errorf("gateways %+v", all)
	}
	if told, site := p.Apply(&wire.Site{IntervalMS: 2000, List: list}); len(told) != 0 || site {
		t.Errorf("what is no news was told of %v, %v", told, site)
	}
	p.tell(p.core.Entry(id, home, wire.DeviceQuarantined, 5000, key))
	if d, _ := p.Device(id); d.State != wire.DeviceQuarantined || p.Interval(id, time.Hour) != 5*time.Second {
		t.Errorf("device %+v", d)
	}
	if p.Interval(ident.DeviceID{9}, time.Hour) != time.Hour {
		t.Error("a device that may be of another site is told this site's interval")
	}
}

// Whatever a gateway or a core node that went bad serves: what the authority did not sign, or signed before something newer,
// admits nobody.
func TestStaleAndForgedEntries(t *testing.T) {
	p, twin := newPlant(t), sealtest.New(t, "acme")
	active := p.core.Entry(id, home, wire.DeviceActive, 0, key)
	other := p.core.Entry(ident.DeviceID{7}, home, wire.DeviceActive, 0, key)
	denied := p.core.Entry(id, home, wire.DeviceDecommissioned, 0)
	p.tell(active)
	p.tell(denied)
	twin.N, twin.Epoch = 100, 100
	flipped := bytes.Clone(active)
	flipped[len(flipped)/2] ^= 1
	list := p.core.List(home)
	for name, b := range map[string][]byte{
		"older": active, "forged": twin.Entry(id, home, wire.DeviceActive, 0, key), "flipped": flipped, "a list": list, "nothing": nil,
		"too long": make([]byte, maxEntry+1), "unknown": p.core.Unknown(id), "of another device": other,
		"another content under the number of the newest": p.core.Seal(&seal.DeviceEntry{
			Device: id, Site: home, Number: 3, State: wire.DeviceActive, Keys: []ident.KeyID{key},
		}),
	} {
		p.tell(b)
		if d, ok := p.Device(id); !ok || d.State != wire.DeviceDecommissioned || p.admits(id, key) {
			t.Errorf("%s: the device is %+v", name, d)
		}
	}
	if got := p.Status().Refused; got != 6 {
		t.Errorf("%d refused, want 6", got)
	}
	p.reboot()
	if p.tell(active); p.admits(id, key) {
		t.Error("re-admitted by an old entry after a reboot")
	}
	p.core.Epoch = 2 // a core that was recovered counts on
	if p.tell(p.core.Entry(id, home, wire.DeviceActive, 0, key)); !p.admits(id, key) {
		t.Error("a newer word is not believed")
	}
}

func TestListsOfOthersAreNotTaken(t *testing.T) {
	p, twin := newPlant(t), sealtest.New(t, "acme")
	first := p.core.List(home)
	second := p.core.List(home)
	if _, site := p.Apply(&wire.Site{List: second}); !site {
		t.Fatal("the list is no news")
	}
	twin.N = 10
	conflicting := &sealtest.Authority{}
	*conflicting = *p.core
	conflicting.N = 1
	for name, b := range map[string][]byte{
		"older": first, "forged": twin.List(home), "of another site": p.core.List(abroad), "an entry": p.core.Entry(id, home, wire.DeviceActive, 0),
		"under the same number": conflicting.List(home, seal.ListedGateway{Name: "x"}),
	} {
		if _, site := p.Apply(&wire.Site{List: b}); site {
			t.Errorf("%s is news", name)
		}
	}
	if b, _ := p.List(); !bytes.Equal(b, second) || p.Status().Refused != 4 {
		t.Errorf("list %x, %d refused", b, p.Status().Refused)
	}
}

// A core that tells something which is not believed is asked for everything again.
func TestFlawedTellingIsNotTheEnd(t *testing.T) {
	p := newPlant(t)
	p.Apply(&wire.Site{Entries: [][]byte{{1}}})
	p.Apply(&wire.Site{UptoEpoch: 1, Upto: 9})
	if got := p.Known(); got != (seal.Stamp{}) {
		t.Errorf("known up to %+v", got)
	}
	p.Apply(&wire.Site{UptoEpoch: 1, Upto: 9})
	p.Apply(&wire.Site{UptoEpoch: 1, Upto: 5}) // by a node that is behind
	if got := p.Known(); got != (seal.Stamp{ClusterEpoch: 1, Number: 9}) {
		t.Errorf("known up to %+v", got)
	}
}

func TestRebootRemembers(t *testing.T) {
	p := newPlant(t)
	list := p.core.List(home, seal.ListedGateway{Name: "gw-a"})
	entries := [][]byte{p.core.Entry(id, home, wire.DeviceActive, 4000, key), p.core.Entry(ident.DeviceID{3}, home, wire.DeviceDecommissioned, 0)}
	p.Apply(&wire.Site{Entries: entries, List: list, UptoEpoch: 1, Upto: p.core.N})
	p.tell(p.core.Entry(ident.DeviceID{4}, abroad, wire.DeviceActive, 0, key), p.core.Unknown(ident.DeviceID{5}))
	known := p.Known()
	for range 3 {
		p.reboot()
		d, _ := p.Device(ident.DeviceID{3})
		if b, _ := p.List(); !p.admits(id, key) || d.State != wire.DeviceDecommissioned || !bytes.Equal(b, list) || p.Known() != known {
			t.Fatalf("after a reboot: %+v, list %x, known %+v", d, b, p.Known())
		}
		if p.Interval(id, time.Hour) != 4*time.Second || !p.admits(ident.DeviceID{4}, key) {
			t.Error("interval or guest forgotten")
		}
		if _, ok := p.Device(ident.DeviceID{5}); ok {
			t.Error("that a device is unknown outlived a reboot")
		}
		if got := p.Status(); got.Devices != 2 || got.Guests != 1 {
			t.Errorf("holds %+v", got)
		}
	}
}

// A guest is kept for seven days of the gateway's running time after it was last seen, whatever the clock says meanwhile.
func TestGuestsAreKeptForAWhile(t *testing.T) {
	p := newPlant(t)
	p.tell(p.core.Entry(id, abroad, wire.DeviceActive, 0, key))
	if p.Interval(id, 9*time.Second) != 9*time.Second {
		t.Error("a guest is told this site's interval")
	}
	days := func(n int) {
		t.Helper()
		for range n {
			for range 24 {
				p.age(time.Hour)
			}
			p.reboot()
		}
	}
	days(6)
	p.Seen(id)
	days(6)
	if !p.admits(id, key) {
		t.Fatal("forgotten before its time")
	}
	days(1)
	if _, ok := p.Device(id); ok {
		t.Error("not forgotten after seven days")
	}
	p.tell(p.core.Entry(ident.DeviceID{8}, home, wire.DeviceActive, 0, key))
	if days(20); !p.admits(ident.DeviceID{8}, key) {
		t.Error("a device of the site is forgotten")
	}
}

func TestGuestsAreBounded(t *testing.T) {
	p := newPlant(t)
	p.tell(p.core.Entry(id, home, wire.DeviceActive, 0, key))
	guest := func(n int) ident.DeviceID { return ident.DeviceID{2, byte(n >> 8), byte(n)} }
	p.mu.Lock()
	for n := range maxGuests {
		p.put(guest(n), &record{guest: true, idle: time.Duration(n) * time.Second})
	}
	p.mu.Unlock()
	p.tell(p.core.Entry(guest(maxGuests), abroad, wire.DeviceActive, 0, key))
	if _, ok := p.Device(guest(maxGuests - 1)); ok || !p.admits(id, key) || !p.admits(guest(maxGuests), key) || p.Status().Guests != maxGuests {
		t.Errorf("holds %+v", p.Status())
	}
	p.tell(p.core.Entry(guest(3), home, wire.DeviceActive, 0, key)) // it moved here
	if got := p.Status(); got.Guests != maxGuests-1 || got.Devices != 2 {
		t.Errorf("holds %+v", got)
	}
}

// Run writes behind, and outgrown files are written anew.
func TestRunKeepsTheFile(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		p := &plant{core: sealtest.New(t, "acme"), t: t}
		p.open(filepath.Join(dir, "mirror"))
		run := func(f func()) {
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() { p.Run(ctx) })
			f()
			cancel()
			wg.Wait()
			p.open(p.Path)
		}
		run(func() {
			for i := range 6000 {
				p.tell(p.core.Entry(id, home, wire.DeviceActive, uint32(i+1), key))
				if i%1000 == 0 {
					synctest.Wait()
				}
			}
		})
		info, err := os.Stat(p.Path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > slack || p.Interval(id, 0) != 6000*time.Millisecond {
			t.Errorf("%d bytes, interval %v", info.Size(), p.Interval(id, 0))
		}
		run(func() {
			p.tell(p.core.Entry(id, abroad, wire.DeviceActive, 0, key))
			time.Sleep(keepGuest + 2*time.Hour)
		})
		if _, ok := p.Device(id); ok {
			t.Error("a guest that never comes is kept")
		}
	})
}

func TestConcurrentUse(t *testing.T) {
	p := newPlant(t)
	var entries [][]byte
	for i := range 50 {
		entries = append(entries, p.core.Entry(ident.DeviceID{byte(i + 1)}, home, wire.DeviceActive, 0))
	}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i, b := range entries {
				p.Apply(&wire.Site{IntervalMS: uint32(w + 1), Entries: [][]byte{b}})
				p.Interval(id, 0)
				p.List()
				p.Seen(id)
				if _, ok := p.Device(ident.DeviceID{byte(i + 1)}); !ok {
					t.Error("a device that was told is not there")
				}
			}
		})
	}
	wg.Wait()
}
