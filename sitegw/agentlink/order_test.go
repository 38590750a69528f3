package agentlink

import (
	"bytes"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
)

// holding sends a heartbeat that says what the agent holds, and returns the answer.
func (a *agent) holding(n, desired, publishers uint64) *wire.HeartbeatAck {
	a.p.t.Helper()
	a.send(wire.TypeHeartbeat, wire.Heartbeat{Run: 1, Number: n, Answered: n - 1, IntervalMS: 30_000, Desired: desired, Publishers: publishers})
	return recv[wire.HeartbeatAck](a, wire.TypeHeartbeatAck)
}

// An order goes out as soon as it is there, and again with a heartbeat that lacks it, but not each second.
func TestOrders(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		a := p.agent().known(wire.DeviceActive, 0).connect()
		defer a.hangUp()
		if ack := a.holding(1, 0, 0); ack.Order != nil || ack.Publishers != 0 {
			t.Errorf("ordered something before there was an order: %+v", ack)
		}
		one, two := p.core.Order(a.id, 1), p.core.Order(a.id, 2)
		p.tell(&wire.Site{Orders: [][]byte{one}})
		if ack := recv[wire.HeartbeatAck](a, wire.TypeHeartbeatAck); !bytes.Equal(ack.Order, one) || ack.Number != 0 || !ack.Uplink {
			t.Errorf("pushed %+v", ack)
		}
		if ack := a.holding(2, 0, 0); ack.Order != nil {
			t.Error("sent again while it may be under way")
		}
		time.Sleep(orderAgain)
		if ack := a.holding(3, 0, 0); !bytes.Equal(ack.Order, one) {
			t.Error("not sent again to an agent that does not have it")
		}
		if ack := a.holding(4, 1, 0); ack.Order != nil {
			t.Error("sent to an agent that has it")
		}
		p.tell(&wire.Site{Publishers: 3})
		if ack := recv[wire.HeartbeatAck](a, wire.TypeHeartbeatAck); ack.Publishers != 3 || ack.Order != nil {
			t.Errorf("pushed %+v", ack)
		}
		if ack := a.holding(5, 1, 3); ack.Publishers != 0 {
			t.Errorf("told of %d, which the agent has", ack.Publishers)
		}
		b := p.agent().known(wire.DeviceQuarantined, 0).connect()
		defer b.hangUp()
		p.tell(&wire.Site{Orders: [][]byte{p.core.Order(b.id, 1), two}})
		if ack := recv[wire.HeartbeatAck](a, wire.TypeHeartbeatAck); !bytes.Equal(ack.Order, two) {
			t.Errorf("pushed %+v", ack)
		}
		if ack := b.holding(1, 0, 0); ack.Order != nil || ack.Publishers != 0 {
			t.Error("a quarantined device is ordered something")
		}
		b.known(wire.DeviceActive, 0)
		if ack := recv[wire.HeartbeatAck](b, wire.TypeHeartbeatAck); ack.Order == nil || ack.Publishers != 3 {
			t.Errorf("a released device is told %+v", ack)
		}
	})
}
