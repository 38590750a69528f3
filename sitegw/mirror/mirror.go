// Package mirror is what a gateway must know of its site to serve it without the core: which keys of which device are active,
// which devices are refused, how often each should beat, what each is ordered to run, and which gateways the site has.
//
// It believes only what the authority signed, when it is told and again when it is read from the disk, and an older word never
// replaces a newer one. What it is told counts at once and is written behind, so nobody waits for the disk; a power cut costs
// what the core tells again at the next session. docs/gateway-files.md describes the file.
package mirror

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// Bounds of what a mirror holds.
const (
	maxDevices = 65_536 // of the site
	maxEntry   = 2 << 10
)

// Config of a Mirror. All fields are required.
type Config struct {
	Path      string // of the file
	Fleet     string
	Site      string // the gateway's
	Authority ed25519.PublicKey
	Log       *slog.Logger
}

// Mirror may be used from any goroutine.
type Mirror struct {
	Config
	wake  chan struct{} // capacity 1: there is something to write
	noise *rate.Limiter // of the log

	mu        sync.Mutex
	interval  time.Duration // the site's; 0: not told yet
	list      list
	devices   map[ident.DeviceID]*record
	orders    map[ident.DeviceID]order // of devices
	settings  settings
	guests    int        // of the devices
	known     seal.Stamp // every entry of the site up to it is here
	newest    seal.Stamp // the highest of an entry of the site
	flawed    bool       // something told since Known was asked was not taken, so that known must not rise
	refused   uint64
	conflicts uint64  // orders of one number with different content
	pending   []frame // to be written, in this order
	rewrite   bool    // the file is to be written anew
}

// A Device is one device as the core told it.
type Device struct {
	State    wire.DeviceState
	Keys     []ident.KeyID // active
	Interval time.Duration // 0: the site's
}

// HasKey tells whether a key is one of the device's active ones.
func (d *Device) HasKey(k ident.KeyID) bool { return slices.Contains(d.Keys, k) }

// A record is a device with what proves it.
type record struct {
	Device
	stamp  seal.Stamp
	sealed []byte // as signed; nil: not worth keeping on the disk
	guest  bool   // of another site
	idle   time.Duration
}

// A list is the list of the site's gateways.
type list struct {
	*seal.GatewayList // nil: none
	stamp             seal.Stamp
	sealed            []byte // nil: none
}

// ErrConflict says that the authority signed two different things under one number, which an honest core does not.
var ErrConflict = errors.New("another content was signed under the same number")

// errFull says that there is no room for another device.
var errFull = errors.New("the mirror is full")

// Apply takes in what the core told. It returns the devices of which it said something new, and whether it said something new
// of the site as a whole.
func (m *Mirror) Apply(s *wire.Site) (devices []ident.DeviceID, site bool) {
	for _, b := range s.Entries {
		id, fresh, err := m.entry(b)
		if err != nil {
			m.refuse("device entry", err)
		} else if fresh {
			devices = append(devices, id)
		}
	}
	for _, b := range s.Orders { // behind the entries, as only known devices have orders
		id, fresh, err := m.order(b)
		if err != nil {
			m.refuse("order", err)
		} else if fresh && !slices.Contains(devices, id) {
			devices = append(devices, id)
		}
	}
	if s.Content != nil {
		if err := s.Content.Check(); err != nil {
			m.refuse("content limit", err)
			told := *s
			told.Content = nil
			s = &told
		}
	}
	site = m.soft(s)
	if len(s.List) > 0 {
		fresh, err := m.gateways(s.List)
		if err != nil {
			m.refuse("gateway list", err)
		}
		site = site || fresh
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if d := time.Duration(s.IntervalMS) * time.Millisecond; d != 0 && d != m.interval {
		m.interval, site = d, true
	}
	if upto := (seal.Stamp{ClusterEpoch: s.UptoEpoch, Number: s.Upto}); !m.flawed && upto.Compare(m.known) > 0 {
		m.known = upto
		m.write(markFrame(upto))
	}
	return devices, site
}

// refuse notes something that was not believed.
func (m *Mirror) refuse(what string, err error) {
	m.mu.Lock()
	m.refused++
	m.flawed = true
	m.mu.Unlock()
	if m.noise.Allow() {
		m.Log.Error("mirror: what was told is not believed", "what", what, "err", err)
	}
}

// entry takes a sealed device entry, if it verifies and is news.
func (m *Mirror) entry(b []byte) (id ident.DeviceID, fresh bool, err error) {
	e, err := m.open(b)
	if err != nil {
		return id, false, err
	}
	fresh, err = m.take(e, b)
	return e.Device, fresh, err
}

// take stores an entry that verifies, if it is news.
func (m *Mirror) take(e *seal.DeviceEntry, b []byte) (fresh bool, err error) {
	r := &record{
		Device: Device{State: e.State, Keys: e.Keys, Interval: time.Duration(e.IntervalMS) * time.Millisecond},
		stamp:  e.Stamp(), guest: e.Site != m.Site,
	}
	if e.Number != 0 { // that the core does not know a device may be over when it is asked next
		r.sealed = bytes.Clone(b)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	old, ok := m.devices[e.Device]
	if ok {
		switch c := r.stamp.Compare(old.stamp); {
		case c < 0, c == 0 && (e.Number == 0 || bytes.Equal(b, old.sealed)):
			return false, nil
		case c == 0:
			return false, fmt.Errorf("device %v, number %d: %w", e.Device, e.Number, ErrConflict)
		}
	} else if !r.guest && len(m.devices)-m.guests >= maxDevices {
		return false, fmt.Errorf("%d devices: %w", maxDevices, errFull)
	}
	m.put(e.Device, r)
	return true, nil
}

// put stores a record in place of any older one. The caller holds mu.
func (m *Mirror) put(id ident.DeviceID, r *record) {
	m.unlist(id)
	if r.guest {
		m.makeRoom()
		m.guests++
	} else if r.stamp.Compare(m.newest) > 0 {
		m.newest = r.stamp
	}
	m.devices[id] = r
	if r.sealed != nil {
		m.write(frame{kindEntry, r.sealed})
	}
}

// remove forgets a device. The caller holds mu.
func (m *Mirror) remove(id ident.DeviceID) {
	m.unlist(id)
	delete(m.orders, id)
}

// unlist takes a record out. The caller holds mu.
func (m *Mirror) unlist(id ident.DeviceID) {
	if r, ok := m.devices[id]; ok && r.guest {
		m.guests--
	}
	delete(m.devices, id)
}

// gateways takes a sealed gateway list, if it verifies and is news.
func (m *Mirror) gateways(b []byte) (fresh bool, err error) {
	l, err := seal.OpenGatewayList(b, m.Fleet, m.Authority)
	if err != nil {
		return false, err
	}
	if l.Site != m.Site {
		return false, fmt.Errorf("list of site %.80q, want that of %q: %w", l.Site, m.Site, seal.ErrSignature)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch c := l.Stamp().Compare(m.list.stamp); {
	case c < 0, c == 0 && bytes.Equal(b, m.list.sealed):
		return false, nil
	case c == 0:
		return false, fmt.Errorf("list of site %s, number %d: %w", l.Site, l.Number, ErrConflict)
	}
	m.list = list{l, l.Stamp(), bytes.Clone(b)}
	m.write(frame{kindList, m.list.sealed})
	return true, nil
}

// Known is up to where every entry of the site is here, for the core to go on from. A session with the core begins with it.
func (m *Mirror) Known() seal.Stamp {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.flawed = false
	return m.known
}

// Device is what is known of a device; false: the core has not told it.
func (m *Mirror) Device(id ident.DeviceID) (Device, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.devices[id]
	if !ok {
		return Device{}, false
	}
	return r.Device, true
}

// Interval is how often a device should beat: as the core said, or, where it said nothing, as the device does now. A device of
// another site has its interval from there.
func (m *Mirror) Interval(id ident.DeviceID, now time.Duration) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch r := m.devices[id]; {
	case r == nil:
		return now
	case r.Interval != 0:
		return r.Interval
	case r.guest || m.interval == 0:
		return now
	}
	return m.interval
}

// List is the list of the site's gateways as the authority signed it, and its place; nil: there is none.
func (m *Mirror) List() ([]byte, seal.Stamp) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.list.sealed, m.list.stamp
}

// Gateways are the site's gateways as the authority listed them last; none: there is no list. They must not be written.
func (m *Mirror) Gateways() []seal.ListedGateway {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.list.GatewayList == nil {
		return nil
	}
	return m.list.Gateways
}

// Drops tells whether the authority's list says that a gateway of the site has ended. issued is when its certificate was.
func (m *Mirror) Drops(name string, key ident.KeyID, issued time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.list.GatewayList != nil && m.list.Drops(name, key, issued)
}

// A Status is how much a mirror holds.
type Status struct {
	Devices int    // of the site
	Guests  int    // of other sites
	Refused uint64 // entries, lists, orders and limits that were not believed, since the start
	// Conflicts are those of the refused that were orders of a number that another order had.
	Conflicts uint64
	Orders    int
}

// Status is how much the mirror holds now.
func (m *Mirror) Status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Status{Devices: len(m.devices) - m.guests, Guests: m.guests, Refused: m.refused, Conflicts: m.conflicts, Orders: len(m.orders)}
}
