package mirror

import (
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// What a sibling offers is taken when the authority signed it and it is newer. It never moves Known, as nobody but the core can say
// that something is all, and nothing that is wrong with it keeps Known from rising.

// Errors of what a sibling offers.
var (
	ErrForeign = errors.New("an entry of another site")
	ErrOld     = errors.New("not newer than what was asked for")
)

// A Signed is a device entry of the site as the authority signed it, with its device's order. The bytes must not be written.
type Signed struct {
	Stamp  seal.Stamp
	Sealed []byte
	Order  []byte // the device's newest order, likewise; nil: there is none
}

// Newest is the highest stamp of the site's entries; the zero stamp: there are none.
func (m *Mirror) Newest() seal.Stamp {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.newest
}

// Told is the mark of Known, for whoever does not begin a session with the core.
func (m *Mirror) Told() seal.Stamp {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.known
}

// Newer are the site's entries behind a stamp, in the order of their stamps.
func (m *Mirror) Newer(after seal.Stamp) []Signed {
	m.mu.Lock()
	var out []Signed
	for id, r := range m.devices {
		if !r.guest && r.sealed != nil && r.stamp.Compare(after) > 0 {
			out = append(out, Signed{r.stamp, r.sealed, m.orders[id].sealed})
		}
	}
	m.mu.Unlock()
	slices.SortFunc(out, func(a, b Signed) int { return a.Stamp.Compare(b.Stamp) })
	return out
}

// Offered takes a device entry that a sibling hands out, which must be of the site and behind a stamp. It returns the entry's stamp,
// whose it is, and whether it was news.
func (m *Mirror) Offered(b []byte, after seal.Stamp) (stamp seal.Stamp, id ident.DeviceID, fresh bool, err error) {
	e, err := m.open(b)
	switch {
	case err != nil:
		return stamp, id, false, err
	case e.Site != m.Site || e.Number == 0:
		return stamp, id, false, fmt.Errorf("device %v of site %.80q: %w", e.Device, e.Site, ErrForeign)
	case e.Stamp().Compare(after) <= 0:
		return stamp, id, false, fmt.Errorf("device %v, number %d: %w", e.Device, e.Number, ErrOld)
	}
	fresh, err = m.take(e, b)
	return e.Stamp(), e.Device, fresh, err
}

// OfferedList takes a gateway list that a sibling hands out, which must be newer than the one that is here, and tells whether it was
// news: another one may have come meanwhile.
func (m *Mirror) OfferedList(b []byte, after seal.Stamp) (fresh bool, err error) {
	l, err := seal.OpenGatewayList(b, m.Fleet, m.Authority)
	if err == nil && l.Stamp().Compare(after) <= 0 {
		return false, fmt.Errorf("gateway list, number %d: %w", l.Number, ErrOld)
	}
	if err != nil {
		return false, err
	}
	return m.gateways(b)
}

// open reads and verifies a sealed device entry.
func (m *Mirror) open(b []byte) (*seal.DeviceEntry, error) {
	if len(b) > maxEntry {
		return nil, fmt.Errorf("%d bytes, limit %d: %w", len(b), maxEntry, wire.ErrMalformed)
	}
	return seal.OpenDeviceEntry(b, m.Fleet, m.Authority)
}
