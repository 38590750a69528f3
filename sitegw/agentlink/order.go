package agentlink

import (
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// orderAgain is how long an order that was sent is given to arrive, be verified and be kept, before a heartbeat without it has it sent
// again.
const orderAgain = time.Minute

// orders is what a session's agent has of orders and publishers, and what was sent to it.
type orders struct {
	desired    uint64     // number of the order that it says it holds
	publishers uint64     // number of the set that it says it holds
	sent       seal.Stamp // the newest order that was sent
	sentAt     time.Time
	hinted     uint64 // the number of publishers that was told last
	hintedAt   time.Time
}

// holds notes what the agent says that it holds.
func (s *session) holds(h *wire.Heartbeat) {
	s.ordersMu.Lock()
	defer s.ordersMu.Unlock()
	s.orders.desired, s.orders.publishers = h.Desired, h.Publishers
}

// ordered adds to ack what the agent lacks and was not sent lately, and tells whether there is any. Nothing is ordered of a device that is
// not active.
func (s *session) ordered(ack *wire.HeartbeatAck) bool {
	if d, known := s.Mirror.Device(s.peer.ID.Device); !known || d.State != wire.DeviceActive {
		return false
	}
	sealed, stamp := s.Mirror.Order(s.peer.ID.Device)
	publishers := s.Mirror.Publishers()
	s.ordersMu.Lock()
	defer s.ordersMu.Unlock()
	o, now := &s.orders, time.Now()
	if stamp.Number > o.desired && (stamp.Compare(o.sent) > 0 || now.Sub(o.sentAt) >= orderAgain) {
		ack.Order, o.sent, o.sentAt = sealed, stamp, now
	}
	if publishers > o.publishers && (publishers != o.hinted || now.Sub(o.hintedAt) >= orderAgain) {
		ack.Publishers, o.hinted, o.hintedAt = publishers, publishers, now
	}
	return ack.Order != nil || ack.Publishers != 0
}

// tellOrder sends what the agent lacks at once.
func (s *session) tellOrder() {
	var ack wire.HeartbeatAck
	if !s.ordered(&ack) {
		return
	}
	ack.Uplink = s.Uplink.Connected()
	if err := s.link.Send(wire.TypeHeartbeatAck, ack); err != nil {
		s.broken()
	}
}
