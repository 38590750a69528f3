// Package facts makes what the authority signs about devices and sites out of the registry. The same record gives the same
// bytes on every node, so none are stored. It is pure but for the signer.
package facts

import (
	"crypto"

	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// Entry signs what gateways must know of a device. The fleet has been made.
func Entry(v registry.View, d *registry.Device, authority crypto.Signer) ([]byte, error) {
	f := v.Fleet()
	return seal.SealDeviceEntry(&seal.DeviceEntry{
		Version: seal.DeviceEntryVersion, Fleet: f.Name, Device: d.ID, Site: d.Site, ClusterEpoch: f.ClusterEpoch, Number: d.Entry.Number,
		State: d.State, Keys: registry.ActiveKeys(d.Keys), IntervalMS: d.IntervalMS, LogTimeMS: d.Entry.LoggedMS,
	}, authority)
}

// Order signs what a device is to run. It is nil for a device that nothing was ever assigned to.
func Order(v registry.View, d *registry.Device, authority crypto.Signer) ([]byte, error) {
	if d.Desired == nil {
		return nil, nil
	}
	body, err := wire.Marshal(d.Desired.Sealed())
	if err != nil {
		return nil, err
	}
	f := v.Fleet()
	return seal.SealOrder(&seal.Order{
		Version: seal.OrderVersion, Fleet: f.Name, Device: d.ID, Keys: registry.ActiveKeys(d.Keys), ClusterEpoch: f.ClusterEpoch,
		Number: d.Desired.Number, Kind: seal.OrderDesired, Body: body, LogTimeMS: d.Desired.LoggedMS,
	}, authority)
}

// Unknown signs that there is no such device. It is older than every entry of the same cluster epoch, so it unmakes none.
func Unknown(v registry.View, id ident.DeviceID, authority crypto.Signer) ([]byte, error) {
	f := v.Fleet()
	return seal.SealDeviceEntry(&seal.DeviceEntry{
		Version: seal.DeviceEntryVersion, Fleet: f.Name, Device: id, ClusterEpoch: f.ClusterEpoch, State: wire.DeviceUnknown,
		LogTimeMS: v.Time().UnixMilli(),
	}, authority)
}

// List signs which gateways a site has, of more than seal.MaxListed the first in order of name. It is nil for a site that never
// had one.
func List(v registry.View, site string, authority crypto.Signer) ([]byte, error) {
	s, ok := v.Site(site)
	if !ok || s.List.Number == 0 {
		return nil, nil
	}
	f := v.Fleet()
	l := &seal.GatewayList{
		Version: seal.GatewayListVersion, Fleet: f.Name, Site: site, ClusterEpoch: f.ClusterEpoch, Number: s.List.Number, LogTimeMS: s.List.LoggedMS,
	}
	v.Gateways(func(g *registry.Gateway) bool {
		if keys := registry.ActiveKeys(g.Keys); g.Site == site && len(keys) > 0 && len(l.Gateways) < seal.MaxListed {
			l.Gateways = append(l.Gateways, seal.ListedGateway{Name: g.Name, Keys: keys, Listen: g.Listen})
		}
		return true
	})
	return seal.SealGatewayList(l, authority)
}
