// Package sealtest signs in tests what the core's authority signs.
package sealtest

import (
	"crypto/ed25519"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// An Authority numbers and signs facts, as the core does.
type Authority struct {
	Fleet string
	Key   ed25519.PrivateKey
	Epoch uint64 // cluster epoch
	N     uint64 // number of the newest fact

	tb      testing.TB
	LogTime time.Time // of lists; zero: a fixed one
}

// New makes the authority of a fleet.
func New(tb testing.TB, fleet string) *Authority {
	tb.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		tb.Fatal(err)
	}
	return &Authority{Fleet: fleet, Key: key, Epoch: 1, tb: tb}
}

// Public is the key to verify with.
func (a *Authority) Public() ed25519.PublicKey { return ed25519.PublicKey(a.Key[ed25519.SeedSize:]) }

// Stamp is the place of the newest fact.
func (a *Authority) Stamp() seal.Stamp { return seal.Stamp{ClusterEpoch: a.Epoch, Number: a.N} }

// Entry is the next entry of a device.
func (a *Authority) Entry(d ident.DeviceID, site string, state wire.DeviceState, intervalMS uint32, keys ...ident.KeyID) []byte {
	a.tb.Helper()
	a.N++
	return a.Seal(&seal.DeviceEntry{Device: d, Site: site, Number: a.N, State: state, Keys: keys, IntervalMS: intervalMS})
}

// Unknown says that there is no such device.
func (a *Authority) Unknown(d ident.DeviceID) []byte {
	a.tb.Helper()
	return a.Seal(&seal.DeviceEntry{Device: d})
}

// Seal signs an entry as it is, in the authority's fleet and cluster epoch.
func (a *Authority) Seal(e *seal.DeviceEntry) []byte {
	a.tb.Helper()
	e.Version, e.Fleet, e.ClusterEpoch, e.LogTimeMS = seal.DeviceEntryVersion, a.Fleet, a.Epoch, 1_795_464_001_000
	b, err := seal.SealDeviceEntry(e, a.Key)
	if err != nil {
		a.tb.Fatal(err)
	}
	return b
}

// List is the next list of a site's gateways.
func (a *Authority) List(site string, gateways ...seal.ListedGateway) []byte {
	logged := int64(1_795_464_001_000)
	if !a.LogTime.IsZero() {
		logged = a.LogTime.UnixMilli()
	}
	a.tb.Helper()
	a.N++
	b, err := seal.SealGatewayList(&seal.GatewayList{
		Version: seal.GatewayListVersion, Fleet: a.Fleet, Site: site, ClusterEpoch: a.Epoch, Number: a.N, Gateways: gateways, LogTimeMS: logged,
	}, a.Key)
	if err != nil {
		a.tb.Fatal(err)
	}
	return b
}

// Order signs a device's order of this number with these assignments.
func (a *Authority) Order(d ident.DeviceID, number uint64, assignments ...seal.Assignment) []byte {
	a.tb.Helper()
	body, err := wire.Marshal(seal.Desired{Assignments: assignments})
	if err != nil {
		a.tb.Fatal(err)
	}
	b, err := seal.SealOrder(&seal.Order{
		Version: seal.OrderVersion, Fleet: a.Fleet, Device: d, ClusterEpoch: a.Epoch, Number: number, Kind: seal.OrderDesired, Body: body, LogTimeMS: 1_795_464_001_000,
	}, a.Key)
	if err != nil {
		a.tb.Fatal(err)
	}
	return b
}
