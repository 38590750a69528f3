package mirror

import (
	"time"

	"github.com/holdfast-edge/holdfast/wire/ident"
)

// Devices of other sites that came here are kept for a while after they were last seen, so that they come back in during an
// outage. The while is counted in the gateway's own running time: a clock that is wrong after a boot must not make it forget.
const (
	keepGuest = 7 * 24 * time.Hour
	maxGuests = 4096
	// ageEvery is how often guests grow older; one that is here is seen again about as often, with its hourly attach.
	ageEvery = time.Hour
	day      = 24 * time.Hour // in which ages are written
)

// Seen notes that a device is attached here.
func (m *Mirror) Seen(id ident.DeviceID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.devices[id]
	if !ok || !r.guest {
		return
	}
	if r.idle >= day {
		m.write(ageFrame(id, 0))
	}
	r.idle = 0
}

// age lets time pass for guests, and forgets those that were away for too long.
func (m *Mirror) age(passed time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, r := range m.devices {
		if !r.guest {
			continue
		}
		before := r.idle / day
		if r.idle += passed; r.idle/day != before && r.sealed != nil {
			m.write(ageFrame(id, r.idle))
		}
		if r.idle >= keepGuest {
			m.remove(id)
		}
	}
}

// aged restores a guest's age. The caller holds mu, or is alone.
func (m *Mirror) aged(id ident.DeviceID, idle time.Duration) {
	r, ok := m.devices[id]
	switch {
	case !ok || !r.guest:
	case idle >= keepGuest:
		m.remove(id)
	default:
		r.idle = idle
	}
}

// makeRoom forgets the guest that was away for the longest when there is no room for another one. The caller holds mu.
func (m *Mirror) makeRoom() {
	if m.guests < maxGuests {
		return
	}
	var oldest ident.DeviceID
	longest := time.Duration(-1)
	for id, r := range m.devices {
		if r.guest && r.idle > longest {
			oldest, longest = id, r.idle
		}
	}
	m.remove(oldest)
}
