package mirror

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// maxOrder bounds a sealed order, in bytes: one with MaxSlots assignments has half of it.
const maxOrder = 4 << 10

// errStranger says that an order is for a device that the mirror has no entry of. The core tells both in one message.
var errStranger = errors.New("no entry of the device is known")

// An order is the newest one of a device.
type order struct {
	stamp  seal.Stamp
	sealed []byte
}

// order takes a sealed order, if it verifies and is news. Only the devices of the mirror have one, which bounds them.
func (m *Mirror) order(b []byte) (id ident.DeviceID, fresh bool, err error) {
	if len(b) > maxOrder {
		return id, false, fmt.Errorf("order of %d bytes, limit %d: %w", len(b), maxOrder, wire.ErrMalformed)
	}
	o, err := seal.OpenOrder(b, m.Fleet, m.Authority)
	if err != nil {
		return id, false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.devices[o.Device]
	if !ok || r.sealed == nil {
		return o.Device, false, fmt.Errorf("order %d for device %v: %w", o.Number, o.Device, errStranger)
	}
	old := m.orders[o.Device]
	switch c := o.Stamp().Compare(old.stamp); {
	case c < 0, c == 0 && bytes.Equal(b, old.sealed):
		return o.Device, false, nil
	case c == 0:
		m.conflicts++
		return o.Device, false, fmt.Errorf("order %d for device %v: %w", o.Number, o.Device, ErrConflict)
	}
	m.orders[o.Device] = order{o.Stamp(), bytes.Clone(b)}
	m.write(frame{kindOrder, m.orders[o.Device].sealed})
	return o.Device, true, nil
}

// Order is a device's newest order as the authority signed it, and its place; nil: there is none.
func (m *Mirror) Order(id ident.DeviceID) ([]byte, seal.Stamp) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o := m.orders[id]
	return o.sealed, o.stamp
}

// OfferedOrder takes an order that a sibling hands out, which must be for a device of the site that is known, and tells whether it was
// news. One that is not newer is no fault: a device's entry changes also without its order.
func (m *Mirror) OfferedOrder(b []byte) (id ident.DeviceID, fresh bool, err error) { return m.order(b) }

// settings are what the core says of the site and nobody signs: they steer, and prove nothing.
type settings struct {
	Publishers uint64            `cbor:"1,keyasint,omitempty"` // number of the newest set of publishers; 0: none was told
	Content    wire.ContentLimit `cbor:"2,keyasint"`
}

// soft takes the settings that the core told, and tells whether the number of publishers is another one.
func (m *Mirror) soft(s *wire.Site) (publishers bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := m.settings
	if s.Publishers != 0 {
		next.Publishers = s.Publishers
	}
	if s.Content != nil {
		next.Content = *s.Content
	}
	if next == m.settings {
		return false
	}
	publishers = next.Publishers != m.settings.Publishers
	m.settings = next
	m.write(settingsFrame(next))
	return publishers
}

// Publishers is the number of the newest set of publishers, as the core told it last; 0: it told none.
func (m *Mirror) Publishers() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.settings.Publishers
}

// Content is what the site's gateways are to hold to over the WAN, as the core told it last.
func (m *Mirror) Content() wire.ContentLimit {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.settings.Content
}

func settingsFrame(s settings) frame { return frame{kindSettings, encoded(s)} }
