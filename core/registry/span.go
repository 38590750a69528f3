package registry

import (
	"unique"

	"github.com/holdfast-edge/holdfast/core/command"
)

// spans puts what a gateway had on its disk into the devices' histories. It changes no record: where a device is now is told by
// reports. Result: []bool, one per item: false: there is no such device. An error: nothing of it was taken, see marked.
//
// A gateway's clock may be wrong, so no time is after now, and none is before the one that it must follow. That a record never
// speaks of a time behind its own lets readers stop early.
func (a *applier) spans(c *command.Spans) any {
	if a.revoked(c.Gateway) {
		return ErrRevoked
	}
	if err := a.marked(c.Mark); err != nil {
		return err
	}
	out := make([]bool, len(c.Items))
	gateway := unique.Make(c.Gateway).Value()
	for i := range c.Items {
		it := &c.Items[i]
		if _, out[i] = a.view.devices.get(it.Device); !out[i] {
			continue
		}
		s := Span{Online: true, FromMS: min(it.FromMS, a.ms), Gateway: gateway, Beats: it.Beats, Missed: it.Missed, Counted: true, Kept: true}
		s.LastMS = min(max(it.LastMS, s.FromMS), a.ms)
		s.ToMS = min(max(it.ToMS, s.LastMS), a.ms)
		a.record(DeviceStream(it.Device), KindSpan, s)
	}
	return out
}
