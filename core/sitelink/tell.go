package sitelink

import (
	"context"
	"crypto"
	"errors"
	"time"

	"github.com/holdfast-edge/holdfast/core/enroll"
	"github.com/holdfast-edge/holdfast/core/events"
	"github.com/holdfast-edge/holdfast/core/facts"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// Bounds of one Site message: devices, and bytes of their entries and orders, which keep it below the limit of a frame.
const (
	sitePage  = 1000
	siteBytes = wire.MaxFrame / 2
)

// tell keeps the gateway's picture of its site true: first what it lacks, then every change as it is committed.
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

// tellAll tells the entries that are newer than what the gateway holds, and at the end up to where it now holds all.
func (u *uplink) tellAll() error {
	v := u.Registry.View()
	// Either may have come before the subscription, or be among what was missed.
	if err := u.admittedStill(v); err != nil {
		return err
	}
	if err := u.replaced(v); err != nil {
		return err
	}
	m, err := u.site(v)
	if err != nil {
		return err
	}
	if m.AuditHead, err = SealHead(v, u.Authority); err != nil {
		return err
	}
	upto := seal.Stamp{ClusterEpoch: v.Fleet().ClusterEpoch, Number: v.Facts()}
	known := u.known.Number
	if u.known.ClusterEpoch != upto.ClusterEpoch { // every stamp is newer than what it has
		known = 0
	}
	size := 0
	v.Devices(ident.DeviceID{}, func(d *registry.Device) bool {
		if d.Site != u.peer.ID.Site && d.Presence.Gateway != u.gw || d.Entry.Number <= known {
			return true
		}
		var n int
		if n, err = u.addEntry(v, d, &m); err != nil {
			return false
		}
		if size += n; len(m.Entries) == sitePage || size >= siteBytes {
			err = u.ses.Send(wire.TypeSite, m)
			m, size = wire.Site{Version: v.Index()}, 0
		}
		return err == nil
	})
	if err != nil {
		return err
	}
	m.UptoEpoch, m.Upto = upto.ClusterEpoch, upto.Number
	if upto.Compare(u.known) > 0 { // this node may be behind the one that the gateway was at
		u.known = upto
	}
	return u.ses.Send(wire.TypeSite, m)
}

// site is what the gateway is told of the site as a whole. The caller has looked that its key has not ended: the site's key may have
// been changed to shut it out.
func (u *uplink) site(v registry.View) (wire.Site, error) {
	list, err := facts.List(v, u.peer.ID.Site, u.Authority)
	m := wire.Site{
		Version: v.Index(), IntervalMS: wire.Millis(v.SiteInterval(u.peer.ID.Site)), List: list, Cores: enroll.Uplinks(v), LeastMS: u.pacer.leastMS(),
		Publishers: v.NewestPublishers(), Content: new(wire.ContentLimit),
	}
	if s, ok := v.Site(u.peer.ID.Site); ok {
		if s.Content != nil {
			m.Content = s.Content
		}
		key := u.SiteKey(s.Name, s.KeyGeneration)
		m.SiteKey = &key
	}
	return m, err
}

// tellEntries tells the entries of a few devices, with their orders.
func (u *uplink) tellEntries(v registry.View, devices ...*registry.Device) error {
	m := wire.Site{Version: v.Index()}
	for _, d := range devices {
		if _, err := u.addEntry(v, d, &m); err != nil {
			return err
		}
	}
	return u.ses.Send(wire.TypeSite, m)
}

// addEntry puts a device's entry into a message, and beside it the order, if there is one. It returns how many bytes came to it.
func (u *uplink) addEntry(v registry.View, d *registry.Device, m *wire.Site) (int, error) {
	entry, err := facts.Entry(v, d, u.Authority)
	if err != nil {
		return 0, err
	}
	order, err := facts.Order(v, d, u.Authority)
	if err != nil {
		return 0, err
	}
	m.Entries = append(m.Entries, entry)
	if order != nil {
		m.Orders = append(m.Orders, order)
	}
	return len(entry) + len(order), nil
}

// tellChange passes on an event that changes what the gateway must know. A device of another site that is attached here is
// told by its id as well.
func (u *uplink) tellChange(e *registry.Event) error {
	v := u.Registry.View()
	switch e.Type {
	case registry.EventGatewayStarted:
		return u.replaced(v)
	case registry.EventSiteChanged, registry.EventGatewayEnrolled, registry.EventGatewayRevoked:
		if err := u.admittedStill(v); err != nil {
			return err
		}
		if e.Site == u.peer.ID.Site {
			m, err := u.site(v)
			if err != nil {
				return err
			}
			return u.ses.Send(wire.TypeSite, m)
		}
	case registry.EventPublishersChanged:
		return u.ses.Send(wire.TypeSite, wire.Site{Version: v.Index(), Publishers: v.NewestPublishers()})
	case registry.EventNodeJoined, registry.EventNodeChanged, registry.EventNodeRemoved, registry.EventNodeRecovered:
		return u.ses.Send(wire.TypeSite, wire.Site{Version: v.Index(), Cores: enroll.Uplinks(v)})
	case registry.EventDeviceEnrolled, registry.EventDeviceChanged, registry.EventDeviceQuarantined, registry.EventDeviceReleased,
		registry.EventDeviceAssigned:
		id, err := ident.ParseDeviceID(e.Device)
		if err != nil {
			return nil //nolint:nilerr // our own event names the id; there is nobody to tell
		}
		d, ok := v.Device(id)
		if ok && (d.Site == u.peer.ID.Site || d.Presence.Gateway == u.gw) {
			return u.tellEntries(v, d)
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

// ask answers a gateway that meets a device of which it has no entry.
func (u *uplink) ask(ctx context.Context, m *wire.Ask) error {
	v := u.Registry.View()
	if _, ok := v.Device(m.Device); !ok {
		var err error
		if v, err = u.fresh(ctx); err != nil {
			return nil //nolint:nilerr // no answer is true that could be given now; the gateway asks again
		}
	}
	if d, ok := v.Device(m.Device); ok {
		return u.tellEntries(v, d)
	}
	b, err := facts.Unknown(v, m.Device, u.Authority)
	if err != nil {
		return err
	}
	return u.ses.Send(wire.TypeSite, wire.Site{Version: v.Index(), Entries: [][]byte{b}})
}
