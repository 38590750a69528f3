package mirror

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/internal/durable"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
	"github.com/holdfast-edge/holdfast/wire/seal/sealtest"
)

// A full is a mirror with one of everything, on the disk.
type full struct {
	*plant
	file   []byte
	signed map[ident.DeviceID]record // what the authority last said
	list   []byte
	order  []byte
}

var limited = wire.ContentLimit{BytesPerSecond: 1 << 20, Window: "22:00-05:00"}

func newFull(t *testing.T) *full {
	t.Helper()
	f := &full{plant: newPlant(t), signed: map[ident.DeviceID]record{}}
	f.list = f.core.List(home, seal.ListedGateway{Name: "gw-a", Keys: []ident.KeyID{{9}}})
	guest := ident.DeviceID{3}
	f.order = f.core.Order(guest, 3, app)
	f.tell(f.core.Entry(id, home, wire.DeviceActive, 0, key), f.core.Entry(ident.DeviceID{6}, home, wire.DeviceActive, 0, key))
	f.Apply(&wire.Site{
		Entries: [][]byte{f.core.Entry(ident.DeviceID{4}, home, wire.DeviceDecommissioned, 0), f.core.Entry(guest, abroad, wire.DeviceActive, 0, key)},
		Orders:  [][]byte{f.order}, Content: &limited, Publishers: 2,
		List: f.list, UptoEpoch: 1, Upto: f.core.N,
	})
	f.age(30 * time.Hour)
	f.tell(f.core.Entry(id, home, wire.DeviceDecommissioned, 0)) // behind the mark, and takes back what stands before
	d := disk{path: f.Path}
	for range 2 { // Open said to write anew; the second time appends
		if err := f.flush(&d); err != nil {
			t.Fatal(err)
		}
		f.tell(f.core.Entry(ident.DeviceID{5}, home, wire.DeviceQuarantined, 7000, key))
	}
	if err := f.flush(&d); err != nil {
		t.Fatal(err)
	}
	d.close()
	var err error
	if f.file, err = os.ReadFile(f.Path); err != nil {
		t.Fatal(err)
	}
	for d, r := range f.devices {
		f.signed[d] = *r
	}
	return f
}

// with is a mirror whose file is b.
func (f *full) with(b []byte) (*Mirror, error) {
	m := empty(f.Config)
	return m, m.load(bytes.NewReader(b))
}

// judge holds a mirror against what was signed: with a damaged file it may lack something, which it then asks the core for, and
// never says anything else. It tells whether nothing is lacking.
func (f *full) judge(m *Mirror) (complete bool) {
	f.t.Helper()
	complete = len(m.devices) == len(f.signed) && m.list.sealed != nil && len(m.orders) == 1 && m.settings == settings{2, limited}
	for d, o := range m.orders {
		if d != (ident.DeviceID{3}) || !bytes.Equal(o.sealed, f.order) {
			f.t.Fatalf("an order for %v that nobody signed", d)
		}
	}
	if m.settings != (settings{}) && m.settings != (settings{2, limited}) {
		f.t.Fatalf("settings that nobody told: %+v", m.settings)
	}
	for d, r := range m.devices {
		if r.stamp.Compare(f.signed[d].stamp) > 0 || r.stamp == f.signed[d].stamp && !bytes.Equal(r.sealed, f.signed[d].sealed) {
			f.t.Fatalf("device %v is %+v, which nobody signed", d, r.Device)
		}
	}
	if m.list.sealed != nil && !bytes.Equal(m.list.sealed, f.list) {
		f.t.Fatal("a list that nobody signed")
	}
	for d, want := range f.signed {
		r := m.devices[d]
		same := r != nil && r.stamp == want.stamp
		complete = complete && same
		if !same && !want.guest && m.known.Compare(want.stamp) >= 0 {
			f.t.Fatalf("device %v is lacking, and everything up to %+v is claimed to be known", d, m.known)
		}
	}
	return complete
}

// Each bit of the file is turned: each time the damage is seen, nothing is believed that was not signed, and what is lacking is
// asked for.
func TestEveryBitOfTheFile(t *testing.T) {
	f := newFull(t)
	if m, err := f.with(f.file); err != nil || !f.judge(m) || m.known.Number == 0 {
		t.Fatalf("the file as written is not believed: %v", err)
	}
	complete := 0
	for bit := 0; bit < 8*len(f.file); bit += bitStep {
		f.file[bit/8] ^= 1 << (bit % 8)
		m, err := f.with(f.file)
		if err == nil || !m.rewrite {
			t.Fatalf("bit %d of byte %d is turned, and nobody has seen it", bit%8, bit/8)
		}
		if f.judge(m) {
			complete++
		}
		f.file[bit/8] ^= 1 << (bit % 8)
	}
	if len(f.file) < 1250 {
		t.Errorf("%d bits turned, want 10,000", 8*len(f.file))
	}
	t.Logf("%d bits turned, none believed; nothing was lost by %d of them", 8*len(f.file)/bitStep, complete)
}

func TestCutAtEachByte(t *testing.T) {
	f := newFull(t)
	for n := 0; n < len(f.file); n += min(bitStep, 8) {
		m, _ := f.with(f.file[:n])
		f.judge(m)
	}
}

// One bad frame does not cost the others, and the file is whole again after the next write.
func TestDamagedFileIsSetAside(t *testing.T) {
	f := newFull(t)
	b := bytes.Clone(f.file)
	b[len(fileMagic)+frameHead+40] ^= 1
	if err := os.WriteFile(f.Path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f.open(f.Path)
	left := len(f.devices)
	if left < len(f.signed)-1 || f.Known() != (seal.Stamp{}) {
		t.Errorf("%d devices, known %+v", left, f.Known())
	}
	f.reboot()
	if f.rewrite || len(f.devices) != left {
		t.Error("the file is not whole after it was written anew")
	}
	if kept, err := os.ReadFile(f.Path + damagedSuffix); err != nil || !bytes.Equal(kept, b) {
		t.Errorf("the damaged file is not kept: %v", err)
	}
}

// Frames with a right checksum around something that nobody signed: whoever can write the file can do that.
func TestForgedFile(t *testing.T) {
	f, twin := newFull(t), sealtest.New(t, "acme")
	twin.N, twin.Epoch = 100, 100
	b := bytes.Clone(f.file)
	for _, fr := range []frame{
		{kindEntry, twin.Entry(id, home, wire.DeviceActive, 0, key)},
		{kindList, twin.List(home)},
		{kindMark, []byte{0xff}},
		{kindAge, []byte{1}},
		{kindEntry, nil},
		{99, []byte("of a later build")},
		{kindEntry, f.core.Seal(&seal.DeviceEntry{Device: id, Site: home, Number: 1, State: wire.DeviceActive, Keys: []ident.KeyID{key}})},
	} {
		b = fr.append(b)
	}
	m, err := f.with(b)
	if !f.judge(m) || m.known != (seal.Stamp{}) || !m.rewrite || !errors.Is(err, durable.ErrDamaged) {
		t.Errorf("a forged file is believed: %v", err)
	}
}

// A disk that fails costs nothing but the writing, and heals by itself.
func TestDiskFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not there yet")
	synctest.Test(t, func(t *testing.T) {
		p := &plant{core: sealtest.New(t, "acme"), t: t}
		p.open(filepath.Join(dir, "mirror"))
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { p.Run(ctx) })
		p.tell(p.core.Entry(id, home, wire.DeviceActive, 0, key))
		synctest.Wait()
		if !p.admits(id, key) {
			t.Error("what was told does not count because it cannot be written")
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		time.Sleep(retryWrite + time.Second)
		synctest.Wait()
		cancel()
		wg.Wait()
		if p.open(p.Path); !p.admits(id, key) {
			t.Error("not written when the disk was back")
		}
	})
}

// FuzzMirrorFile: no file makes the mirror say what nobody signed, or panic.
func FuzzMirrorFile(f *testing.F) {
	core := sealtest.New(f, "acme")
	core.Key = fuzzKey()
	whole := []byte(fileMagic)
	for _, fr := range []frame{
		{kindEntry, core.Entry(id, home, wire.DeviceDecommissioned, 0)}, {kindList, core.List(home)}, markFrame(core.Stamp()), ageFrame(id, day),
	} {
		whole = fr.append(whole)
	}
	f.Add(whole)
	f.Add([]byte(fileMagic))
	f.Add(whole[:len(whole)-3])
	f.Fuzz(func(t *testing.T, b []byte) {
		m := empty(Config{Fleet: "acme", Site: home, Authority: core.Public(), Log: discard})
		err := m.load(bytes.NewReader(b))
		if err != nil && !errors.Is(err, errTorn) && !errors.Is(err, durable.ErrDamaged) {
			t.Fatalf("%v is neither ErrDamaged nor torn", err)
		}
		for d, r := range m.devices {
			if d != id || r.State != wire.DeviceDecommissioned {
				t.Fatalf("believes %v: %+v", d, r.Device)
			}
		}
	})
}
