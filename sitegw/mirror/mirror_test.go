package mirror

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

func TestMirror(t *testing.T) {
	var m Mirror
	id, key := ident.DeviceID{1}, ident.KeyID{2}
	if _, ok := m.Device(id); ok || m.Interval(id, 7*time.Second) != 7*time.Second || m.Gateways() != nil {
		t.Error("the zero value knows something")
	}
	told := m.Apply(&wire.Site{IntervalMS: 2000, Gateways: []string{"a:1"}, Devices: []wire.SiteDevice{
		{Device: id, Keys: [][]byte{key[:], {1, 2, 3}}, State: wire.DeviceActive},
	}})
	if !slices.Equal(told, []ident.DeviceID{id}) {
		t.Errorf("told %v", told)
	}
	d, ok := m.Device(id)
	if !ok || !d.HasKey(key) || d.HasKey(ident.KeyID{1, 2, 3}) || len(d.Keys) != 1 || d.State != wire.DeviceActive {
		t.Errorf("device %+v", d)
	}
	if got := m.Interval(id, time.Hour); got != 2*time.Second {
		t.Errorf("interval %v, want the site's", got)
	}
	m.Apply(&wire.Site{Devices: []wire.SiteDevice{{Device: id, State: wire.DeviceQuarantined, IntervalMS: 5000}}}) // zero: unchanged
	if d, _ := m.Device(id); d.State != wire.DeviceQuarantined || d.HasKey(key) || m.Interval(id, time.Hour) != 5*time.Second {
		t.Errorf("device %+v", d)
	}
	if m.Interval(ident.DeviceID{9}, time.Hour) != 2*time.Second || !slices.Equal(m.Gateways(), []string{"a:1"}) {
		t.Error("what a message does not name has changed")
	}
}

func TestConcurrentUse(t *testing.T) {
	var m Mirror
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 200 {
				id := ident.DeviceID{byte(i)}
				m.Apply(&wire.Site{IntervalMS: uint32(w + 1), Gateways: []string{"g"}, Devices: []wire.SiteDevice{{Device: id}}})
				m.Interval(id, 0)
				m.Gateways()
				if _, ok := m.Device(id); !ok {
					t.Error("a device that was told is not there")
				}
			}
		})
	}
	wg.Wait()
}
