// Package mirror is what a gateway must know of its site without asking the core at every turn: which keys are active, which
// devices are refused, and how often each should beat. Today it lives in memory and is told anew with every uplink session.
package mirror

import (
	"slices"
	"sync"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

// Mirror may be used from any goroutine. Its zero value knows nothing.
type Mirror struct {
	mu       sync.Mutex
	interval time.Duration // the site's; 0: not told yet
	gateways []string
	devices  map[ident.DeviceID]Device
}

// A Device is one device as the core told it.
type Device struct {
	State    wire.DeviceState
	Keys     []ident.KeyID // active
	Interval time.Duration // 0: the site's
}

// HasKey tells whether a key is one of the device's active ones.
func (d *Device) HasKey(k ident.KeyID) bool { return slices.Contains(d.Keys, k) }

// Apply takes in what the core told. It returns the devices told.
func (m *Mirror) Apply(s *wire.Site) []ident.DeviceID {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.devices == nil || s.Full {
		m.devices = make(map[ident.DeviceID]Device)
	}
	if s.IntervalMS != 0 {
		m.interval = time.Duration(s.IntervalMS) * time.Millisecond
	}
	if len(s.Gateways) > 0 {
		m.gateways = s.Gateways
	}
	ids := make([]ident.DeviceID, 0, len(s.Devices))
	for i := range s.Devices {
		in := &s.Devices[i]
		d := Device{State: in.State, Interval: time.Duration(in.IntervalMS) * time.Millisecond}
		for _, k := range in.Keys {
			if len(k) == len(ident.KeyID{}) {
				d.Keys = append(d.Keys, ident.KeyID(k))
			}
		}
		m.devices[in.Device] = d
		ids = append(ids, in.Device)
	}
	return ids
}

// Device is what is known of a device; false: the core has not told it.
func (m *Mirror) Device(id ident.DeviceID) (Device, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, ok := m.devices[id]
	return d, ok
}

// Interval is how often a device should beat: as the core said, or, before it said anything, as the device does now.
func (m *Mirror) Interval(id ident.DeviceID, now time.Duration) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch d := m.devices[id]; {
	case d.Interval != 0:
		return d.Interval
	case m.interval != 0:
		return m.interval
	default:
		return now
	}
}

// Gateways lists the addresses of the site's gateways.
func (m *Mirror) Gateways() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.gateways
}
