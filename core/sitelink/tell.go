package sitelink

import (
	"context"
	"crypto"
	"errors"
	"time"

	"github.com/holdfast-edge/holdfast/core/enroll"
	"github.com/holdfast-edge/holdfast/core/events"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// sitePage is how many devices one Site message carries.
const sitePage = 1000

// tell keeps the gateway's picture of its site true: first the whole list, then every change as it is committed.
func (u *uplink) tell(ctx context.Context) error {
	if err := u.tellAll(); err != nil {
		return err
	}
	for {
		e, err := u.sub.Next(ctx)
		if errors.Is(err, events.ErrLagged) {
			u.sub = u.Events.Subscribe(^uint64(0))
			if err := u.tellAll(); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if err := u.tellChange(&e); err != nil {
			return err
		}
	}
}

func (u *uplink) tellAll() error {
	v := u.Registry.View()
	m := u.site(v)
	m.Full = true
	var err error
	if m.AuditHead, err = SealHead(v, u.Authority); err != nil {
		return err
	}
	v.Devices(ident.DeviceID{}, func(d *registry.Device) bool {
		if d.Site != u.peer.ID.Site {
			return true
		}
		m.Devices = append(m.Devices, siteDevice(d))
		if len(m.Devices) == sitePage {
			err = u.ses.Send(wire.TypeSite, m)
			m = wire.Site{Version: v.Index()}
		}
		return err == nil
	})
	if err != nil {
		return err
	}
	return u.ses.Send(wire.TypeSite, m)
}

func (u *uplink) site(v registry.View) wire.Site {
	return wire.Site{
		Version: v.Index(), IntervalMS: wire.Millis(v.SiteInterval(u.peer.ID.Site)), Gateways: enroll.SiteGateways(v, u.peer.ID.Site),
		Cores: enroll.Uplinks(v),
	}
}

// tellChange passes on an event that changes what the gateway must know. A device of another site that is attached here is
// told by its id as well.
func (u *uplink) tellChange(e *registry.Event) error {
	v := u.Registry.View()
	switch e.Type {
	case registry.EventSiteChanged, registry.EventGatewayEnrolled:
		if rec, ok := v.Gateway(u.gw); ok {
			if _, active := rec.ActiveKey(u.peer.Key); !active {
				refusal := wire.Refuse(wire.CodeRetired, "another key was enrolled for gateway %s", u.gw)
				u.ses.CloseWith(refusal)
				return refusal
			}
		}
		if e.Site == u.peer.ID.Site {
			return u.ses.Send(wire.TypeSite, u.site(v))
		}
	case registry.EventNodeJoined, registry.EventNodeChanged, registry.EventNodeRemoved, registry.EventNodeRecovered:
		return u.ses.Send(wire.TypeSite, wire.Site{Version: v.Index(), Cores: enroll.Uplinks(v)})
	case registry.EventDeviceEnrolled, registry.EventDeviceChanged, registry.EventDeviceQuarantined, registry.EventDeviceReleased:
		id, err := ident.ParseDeviceID(e.Device)
		if err != nil {
			return nil //nolint:nilerr // our own event names the id; there is nobody to tell
		}
		d, ok := v.Device(id)
		if ok && (d.Site == u.peer.ID.Site || d.Presence.Gateway == u.gw) {
			return u.ses.Send(wire.TypeSite, wire.Site{Version: v.Index(), Devices: []wire.SiteDevice{siteDevice(d)}})
		}
	}
	return nil
}

// witnessEvery is how often a gateway is told how far the audit trail has come.
const witnessEvery = time.Minute

// witness gives the gateway the head of the audit trail, signed, whenever it has moved: held outside of the core, it shows
// whether the core's own keepers rewrote what came before.
func (u *uplink) witness(ctx context.Context) error {
	t := time.NewTicker(witnessEvery)
	defer t.Stop()
	var told registry.Mark // what went with the whole list goes once more: a witness takes what it has
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		v := u.Registry.View()
		if m := v.Audit(); m != told {
			head, err := SealHead(v, u.Authority)
			if err != nil {
				return err
			}
			if err := u.ses.Send(wire.TypeSite, wire.Site{Version: v.Index(), AuditHead: head}); err != nil {
				return err
			}
			told = m
		}
	}
}

// SealHead signs how far the audit trail has come in a view.
func SealHead(v registry.View, authority crypto.Signer) ([]byte, error) {
	m, f := v.Audit(), v.Fleet()
	return seal.SealAuditHead(&seal.AuditHead{
		Version: seal.AuditHeadVersion, Fleet: f.Name, ClusterEpoch: f.ClusterEpoch, Seq: m.Count, Hash: m.Head, LogTimeMS: v.Time().UnixMilli(),
	}, authority)
}

// ask answers a gateway that meets a device its site's list does not have.
func (u *uplink) ask(ctx context.Context, m *wire.Ask) error {
	v := u.Registry.View()
	if _, ok := v.Device(m.Device); !ok {
		var err error
		if v, err = u.fresh(ctx); err != nil {
			return nil //nolint:nilerr // no answer is true that could be given now; the gateway asks again
		}
	}
	out := wire.SiteDevice{Device: m.Device}
	if d, ok := v.Device(m.Device); ok {
		out = siteDevice(d)
		if out.IntervalMS == 0 {
			out.IntervalMS = wire.Millis(v.Interval(d)) // its own site's, which the gateway does not know
		}
	}
	return u.ses.Send(wire.TypeSite, wire.Site{Version: v.Index(), Devices: []wire.SiteDevice{out}})
}

func siteDevice(d *registry.Device) wire.SiteDevice {
	out := wire.SiteDevice{Device: d.ID, IntervalMS: d.IntervalMS, State: d.State}
	for _, k := range d.Keys {
		if k.State == registry.KeyActive {
			out.Keys = append(out.Keys, k.ID[:])
		}
	}
	return out
}
