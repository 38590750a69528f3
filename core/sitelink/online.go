package sitelink

import (
	"context"
	"errors"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/liveness"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

// A toldOnline is a report that a device is online, with the device's own word for it.
type toldOnline struct {
	*wire.DeviceOnline
	item command.PresenceItem
	// Of an attach that is told again: the sign of life that the gateway claims, by this node's clock. Zero: it is told for the first time.
	heard time.Time
	// Of one that is told for the first time: what a gateway had claimed before.
	claim liveness.Claim
}

// prove finds those reports of devices online that the devices' signatures prove, in a report that came at a moment and is held to the
// latest time that is taken.
func (u *uplink) prove(ctx context.Context, p *wire.Presence, came time.Time, limit int64) ([]toldOnline, error) {
	told := make([]toldOnline, 0, len(p.Online))
	heard := make([]time.Time, len(p.Online)) // before a wrong clock is corrected
	for i := range p.Online {
		heard[i] = came.Add(-age(p.TimeMS, p.Online[i].LastMS))
	}
	v := u.Registry.View()
	u.sane(v, p, limit)
	caughtUp := false
	for i := range p.Online {
		o := &p.Online[i]
		it, err := u.online(v, o)
		if errors.Is(err, errUnknown) && !caughtUp {
			if v, err = u.fresh(ctx); err != nil {
				return nil, err
			}
			caughtUp = true
			it, err = u.online(v, o)
		}
		if err != nil {
			u.Log.Warn("presence not taken", "gateway", u.gw, "device", o.Device.String(), "err", err)
			if _, known := v.Device(o.Device); !known || !errors.Is(err, errUnknown) { // its key may have been superseded just now
				u.doubt(doubtAttach, err.Error(), o.Device)
			}
			continue
		}
		t := toldOnline{DeviceOnline: o, item: it, heard: heard[i]}
		if d, ok := v.Device(o.Device); !ok || d.Attach == nil || d.Attach.Newer(it.Attach) {
			t.heard = time.Time{}
			t.claim = u.Tracker.Claimed(o.Device) // before it is committed: what a session made later claims cannot be in it yet
		}
		told = append(told, t)
	}
	return told, nil
}

// maxSilentMS is as much of a device's silence as is looked at.
const maxSilentMS = uint64(24 * time.Hour / time.Millisecond)

// track lets the tracker know of a report that is committed, and names whoever it shows to have lied. It returns whether the device is here.
func (u *uplink) track(v registry.View, o *toldOnline, came time.Time) bool {
	attached := u.attached(v, o.Device)
	if !current(v, u.gw, &o.item) {
		if o.heard.Sub(attached) > liveness.LieSlack {
			u.lie(&liveness.Lie{Device: o.Device, Gateway: u.gw, Reason: liveness.LieElsewhere})
		}
		return false
	}
	silent := time.Duration(min(o.item.Attach.SilentMS, maxSilentMS)) * time.Millisecond
	u.lie(o.claim.Silent(o.Device, silent, came))
	u.lie(u.Tracker.Online(u.gw, u.session, o.DeviceOnline, attached, o.heard))
	return true
}

// attached is when a device's newest attach came to the core, by this node's clock.
func (u *uplink) attached(v registry.View, id ident.DeviceID) time.Time {
	now := time.Now()
	d, ok := v.Device(id)
	if !ok || d.Attach == nil || d.Attach.AtMS == 0 {
		return now
	}
	return now.Add(-max(0, u.Wall().Sub(time.UnixMilli(d.Attach.AtMS))))
}
