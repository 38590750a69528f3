package sitelink

import (
	"context"
	"sync"
	"time"

	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// due says when devices are to get a receipt: at once for what is committed after a quiet period, and then at most once in
// a period, however much they state. A signature costs as much as many commits.
type due struct {
	period time.Duration

	mu      sync.Mutex
	last    map[ident.DeviceID]time.Time // when one was sent, within the last period
	waiting map[ident.DeviceID]struct{}
}

func newDue(period time.Duration) *due {
	return &due{period: period, last: make(map[ident.DeviceID]time.Time), waiting: make(map[ident.DeviceID]struct{})}
}

// note takes devices in of which something was committed, and returns those that get their receipt now.
func (d *due) note(devices []ident.DeviceID, now time.Time) (send []ident.DeviceID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, id := range devices {
		if t, ok := d.last[id]; ok && now.Sub(t) < d.period {
			d.waiting[id] = struct{}{}
			continue
		}
		d.last[id] = now
		send = append(send, id)
	}
	return send
}

// elapsed returns the devices that waited long enough, and forgets those that nothing more came from.
func (d *due) elapsed(now time.Time) (send []ident.DeviceID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, t := range d.last {
		if now.Sub(t) < d.period {
			continue
		}
		if _, ok := d.waiting[id]; !ok {
			delete(d.last, id)
			continue
		}
		delete(d.waiting, id)
		d.last[id] = now
		send = append(send, id)
	}
	return send
}

// receiptSteps is in how many steps of a period it is looked who is due.
const receiptSteps = 4

// receipts sends those that waited for their period to be over, until ctx ends.
func (u *uplink) receipts(ctx context.Context) error {
	t := time.NewTicker(u.due.period / receiptSteps)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if err := u.sendReceipts(u.due.elapsed(time.Now())); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// sendReceipts signs and sends the devices' receipts, each for everything of the device that is committed and applied here.
func (u *uplink) sendReceipts(devices []ident.DeviceID) error {
	v := u.Registry.View()
	var m wire.Receipts
	for _, id := range devices {
		r := receiptOf(v, id)
		if r == nil {
			continue
		}
		b, err := seal.SealReceipt(r, u.Authority)
		if err != nil {
			return err
		}
		m.Items = append(m.Items, wire.DeviceReceipt{Device: id, Receipt: b})
		if len(m.Items) == wire.MaxReceipts {
			if err := u.ses.Send(wire.TypeReceipts, m); err != nil {
				return err
			}
			m.Items = nil
		}
	}
	if len(m.Items) > 0 {
		return u.ses.Send(wire.TypeReceipts, m)
	}
	return nil
}

// receiptOf is what a device's receipt says; nil: nothing of it is complete.
func receiptOf(v registry.View, id ident.DeviceID) *seal.Receipt {
	d, ok := v.Device(id)
	if !ok {
		return nil
	}
	c, ok := d.Covered()
	if !ok {
		return nil
	}
	return &seal.Receipt{
		Version: seal.ReceiptVersion, Device: id, ClusterEpoch: v.Fleet().ClusterEpoch, Epoch: c.Epoch, Seq: c.Seq, Chain: c.Chain,
		LogTimeMS: v.Time().UnixMilli(),
	}
}
