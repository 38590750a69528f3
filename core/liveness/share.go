package liveness

import (
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

// A GatewayState is what one core node tells the others of a gateway that is connected to it. It goes between nodes of one
// core, as CBOR. Times that are compared with this node's own clock travel as ages, because nodes' clocks differ.
type GatewayState struct {
	Name     string        `cbor:"1,keyasint"` // site/name
	Session  uint64        `cbor:"2,keyasint"`
	OpenedMS uint64        `cbor:"3,keyasint"` // ago
	HeardMS  uint64        `cbor:"4,keyasint"` // ago
	Devices  []DeviceState `cbor:"5,keyasint,omitempty"`
	LeastMS  uint32        `cbor:"6,keyasint,omitempty"` // least heartbeat interval that it tells anybody; 0: none
	Carrier  string        `cbor:"7,keyasint,omitempty"`
	Backlog  *wire.Backlog `cbor:"8,keyasint,omitempty"`  // as it told last; nil: not known
	ToldMS   uint64        `cbor:"9,keyasint,omitempty"`  // ago, when it told Backlog
	Synced   bool          `cbor:"10,keyasint,omitempty"` // SyncedMS is known
	SyncedMS uint64        `cbor:"11,keyasint,omitempty"` // ago, when it told last that nothing waits
	Relay    string        `cbor:"12,keyasint,omitempty"` // name of the sibling that relays its session; "": none
}

// A DeviceState is what the gateway last said of a device.
type DeviceState struct {
	Device     ident.DeviceID `cbor:"1,keyasint"`
	Online     bool           `cbor:"2,keyasint,omitempty"`
	LastMS     int64          `cbor:"3,keyasint"` // last heartbeat, Unix ms
	AttachedMS uint64         `cbor:"4,keyasint"` // ago
	IntervalMS uint32         `cbor:"5,keyasint,omitempty"`
	Claimed    bool           `cbor:"6,keyasint,omitempty"` // ClaimedMS is known
	ClaimedMS  uint64         `cbor:"7,keyasint,omitempty"` // ago, the newest sign of life that the gateway claimed
}

// maxShared is how many devices one GatewayState carries. A gateway with more makes several.
const maxShared = 2048

// Export is what the other nodes have not been told of the gateways that are connected here. A gateway of which anything
// changed is told whole, and each changes within a report period: what got lost on the way mends itself.
func (t *Tracker) Export(now time.Time) []GatewayState {
	t.mu.Lock()
	defer t.mu.Unlock()
	of := make(map[string][]DeviceState)
	for name, g := range t.gateways {
		if g.node == "" && g.news {
			of[name] = nil
			g.news = false
		}
	}
	if len(of) == 0 {
		return nil
	}
	for id, d := range t.devices {
		if list, ok := of[d.gateway]; ok {
			s := DeviceState{
				Device: id, Online: d.online, LastMS: d.last.UnixMilli(), AttachedMS: ago(now, d.attached), IntervalMS: uint32(d.interval.Milliseconds()), //nolint:gosec // G115: at most an hour
			}
			if !d.claimed.IsZero() {
				s.Claimed, s.ClaimedMS = true, ago(now, d.claimed)
			}
			of[d.gateway] = append(list, s)
		}
	}
	var out []GatewayState
	for name, devices := range of {
		g := t.gateways[name]
		for {
			n := min(len(devices), maxShared)
			s := GatewayState{
				Name: name, Session: g.session, OpenedMS: ago(now, g.opened), HeardMS: ago(now, g.heard), Devices: devices[:n],
				LeastMS: uint32(g.least.Milliseconds()), //nolint:gosec // G115: it came as one
				Carrier: g.carrier, Relay: g.relay,
			}
			if g.backlog != nil {
				s.Backlog, s.ToldMS = &g.backlog.Backlog, ago(now, g.backlog.At)
			}
			if !g.synced.IsZero() {
				s.Synced, s.SyncedMS = true, ago(now, g.synced)
			}
			out = append(out, s)
			if devices = devices[n:]; len(devices) == 0 {
				break
			}
		}
	}
	return out
}

func ago(now, at time.Time) uint64 { return uint64(max(0, now.Sub(at).Milliseconds())) }

// since is the time so many milliseconds ago, as far as a clock can go back.
func since(now time.Time, ms uint64) time.Time {
	return now.Add(-time.Duration(min(ms, uint64(maxAge/time.Millisecond))) * time.Millisecond)
}

// maxAge bounds the ages that a node believes: all that is older is equally over.
const maxAge = 365 * 24 * time.Hour

// Import takes what another core node tells of a gateway that is connected to it. Of two nodes that tell of one gateway, the
// one with the newer session is right, unless that has ended or fallen silent. limit bounds how far ahead of this node's clock a
// heartbeat may be.
func (t *Tracker) Import(node string, s *GatewayState, now, limit time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	opened, heard := since(now, s.OpenedMS), since(now, s.HeardMS)
	g, ok := t.gateways[s.Name]
	switch {
	case ok && g.session == s.Session:
		if g.node == "" {
			return // it is connected here: nobody knows better
		}
	case ok && t.stands(g, opened, heard, now):
		return
	default:
		g = &gateway{session: s.Session, node: node, heard: heard, opened: opened}
		t.open(s.Name, g, now)
	}
	g.least = time.Duration(s.LeastMS) * time.Millisecond
	g.carrier, g.relay = s.Carrier, s.Relay
	if s.Backlog != nil {
		g.told(&Backlog{Backlog: *s.Backlog, At: since(now, s.ToldMS)})
	}
	if at := since(now, s.SyncedMS); s.Synced && at.After(g.synced) {
		g.synced = at
	}
	if heard.After(g.heard) {
		if !t.fresh(g, now) {
			t.revive(s.Name, now)
		}
		g.heard = heard
	}
	for i := range s.Devices {
		t.importDevice(s.Name, &s.Devices[i], now, limit)
	}
}

// stands tells whether a session stands against another one that a node tells of. Their times came over the network as ages:
// of two sessions that began close to one another, as when a gateway tried two nodes, they do not tell the newer one. The one
// that goes on is then the one that is heard, and one that is connected here is not given up for a guess.
func (t *Tracker) stands(g *gateway, opened, heard, now time.Time) bool {
	switch {
	case g.closed || !t.fresh(g, now):
		return false
	case g.node == "":
		return !opened.After(g.opened.Add(peerSlack))
	default:
		return !opened.After(g.opened) && !heard.After(g.heard.Add(t.period))
	}
}

// peerSlack is how wrong an age may be that another node told: the time that a call takes, at the most.
const peerSlack = 3 * time.Second

func (t *Tracker) importDevice(gw string, s *DeviceState, now, limit time.Time) {
	attached := since(now, s.AttachedMS)
	d, known := t.devices[s.Device]
	if !known {
		d = t.device(s.Device)
	}
	if known && d.gateway != gw && !attached.After(d.attached) {
		return // it attached elsewhere since
	}
	if d.gateway != gw {
		d.claimed = time.Time{} // another one's claim
	}
	d.gateway, d.online, d.attached = gw, s.Online, attached
	d.interval = time.Duration(s.IntervalMS) * time.Millisecond
	if s.Claimed {
		d.claimed = later(d.claimed, since(now, s.ClaimedMS))
	}
	if at := time.UnixMilli(s.LastMS); !at.After(limit) {
		d.beat(at)
	}
}
