package seal

import (
	"cmp"
	"crypto"
	"crypto/ed25519"
	"fmt"
	"slices"
	"time"

	"github.com/veraison/go-cose"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

// A Stamp orders what the core says about one subject: the higher one is the newer. The number grows with every change, and
// a core that was recovered begins another cluster epoch.
type Stamp struct {
	ClusterEpoch uint64
	Number       uint64
}

// Compare is negative when s is older than o, 0 when they are the same, and positive when s is newer.
func (s Stamp) Compare(o Stamp) int {
	return cmp.Or(cmp.Compare(s.ClusterEpoch, o.ClusterEpoch), cmp.Compare(s.Number, o.Number))
}

// A DeviceEntry is the authority's word about what a gateway must know of a device to serve it without the core.
type DeviceEntry struct {
	Version      uint8            `cbor:"1,keyasint"`
	Fleet        string           `cbor:"2,keyasint"`
	Device       ident.DeviceID   `cbor:"3,keyasint"`
	Site         string           `cbor:"4,keyasint,omitempty"` // home site; "": the core does not know the device
	ClusterEpoch uint64           `cbor:"5,keyasint"`
	Number       uint64           `cbor:"6,keyasint,omitempty"` // grows with every change of the entry; 0: the core does not know the device
	State        wire.DeviceState `cbor:"7,keyasint"`
	Keys         []ident.KeyID    `cbor:"8,keyasint,omitempty"` // that are active
	IntervalMS   uint32           `cbor:"9,keyasint,omitempty"` // heartbeat interval; 0: the site's
	LogTimeMS    int64            `cbor:"10,keyasint"`          // log time of the change, Unix ms
}

// DeviceEntryVersion is the schema version of device entries that this build writes.
const DeviceEntryVersion = 1

// Stamp is the entry's place among those of its device.
func (e *DeviceEntry) Stamp() Stamp { return Stamp{e.ClusterEpoch, e.Number} }

// SealDeviceEntry signs e with the authority's key: the same entry always has the same bytes.
func SealDeviceEntry(e *DeviceEntry, key crypto.Signer) ([]byte, error) {
	return sealFact(domainDeviceEntry, e, key)
}

// OpenDeviceEntry verifies a device entry of a fleet by the authority's key and reads it.
func OpenDeviceEntry(b []byte, fleet string, pub ed25519.PublicKey) (*DeviceEntry, error) {
	e := new(DeviceEntry)
	if err := openFact(domainDeviceEntry, b, pub, e); err != nil {
		return nil, err
	}
	if e.Fleet != fleet || e.Device.IsZero() {
		return nil, fmt.Errorf("%s: for device %v of fleet %.80q, want one of %q: %w", domainDeviceEntry, e.Device, e.Fleet, fleet, ErrSignature)
	}
	return e, nil
}

// A GatewayList is the authority's word about which gateways a site has, and by which keys they are known. An agent takes a
// gateway whose certificate has expired for it.
type GatewayList struct {
	Version      uint8           `cbor:"1,keyasint"`
	Fleet        string          `cbor:"2,keyasint"`
	Site         string          `cbor:"3,keyasint"`
	ClusterEpoch uint64          `cbor:"4,keyasint"`
	Number       uint64          `cbor:"5,keyasint"` // grows with every change of the site's list
	Gateways     []ListedGateway `cbor:"6,keyasint"` // in order of name, at most MaxListed
	LogTimeMS    int64           `cbor:"7,keyasint"` // log time of the change, Unix ms; raises a device's time floor
}

// A ListedGateway is one gateway of a list.
type ListedGateway struct {
	Name   string        `cbor:"1,keyasint"`
	Keys   []ident.KeyID `cbor:"2,keyasint"`           // that are active
	Listen string        `cbor:"3,keyasint,omitempty"` // host:port where agents reach it
}

// GatewayListVersion is the schema version of gateway lists that this build writes.
const GatewayListVersion = 1

// MaxListed bounds the gateways of a list, so that it fits into a sealed message.
const MaxListed = 32

// Stamp is the list's place among those of its site.
func (l *GatewayList) Stamp() Stamp { return Stamp{l.ClusterEpoch, l.Number} }

// LogTime is the core's log time of the list's newest change.
func (l *GatewayList) LogTime() time.Time { return time.UnixMilli(l.LogTimeMS).UTC() }

// Drops tells whether the list says that a gateway of its site has ended: it lacks the gateway's key, and the key's certificate was
// issued before the list was made. A list that is full says nothing of those that it lacks.
func (l *GatewayList) Drops(name string, key ident.KeyID, issued time.Time) bool {
	return len(l.Gateways) < MaxListed && !l.Has(name, key) && !issued.After(l.LogTime())
}

// Has tells whether the list has a gateway with the key.
func (l *GatewayList) Has(name string, key ident.KeyID) bool {
	return slices.ContainsFunc(l.Gateways, func(g ListedGateway) bool { return g.Name == name && slices.Contains(g.Keys, key) })
}

// SealGatewayList signs l with the authority's key: the same list always has the same bytes.
func SealGatewayList(l *GatewayList, key crypto.Signer) ([]byte, error) {
	return sealFact(domainGatewayList, l, key)
}

// OpenGatewayList verifies a gateway list of a fleet by the authority's key and reads it.
func OpenGatewayList(b []byte, fleet string, pub ed25519.PublicKey) (*GatewayList, error) {
	l := new(GatewayList)
	if err := openFact(domainGatewayList, b, pub, l); err != nil {
		return nil, err
	}
	if l.Fleet != fleet || l.Site == "" || len(l.Gateways) > MaxListed {
		return nil, fmt.Errorf("%s: %d gateways of site %.80q of fleet %.80q, want one of %q: %w",
			domainGatewayList, len(l.Gateways), l.Site, l.Fleet, fleet, ErrSignature)
	}
	return l, nil
}

// sealFact signs a payload with the authority's key.
func sealFact(domain string, v any, key crypto.Signer) ([]byte, error) {
	payload, err := wire.Marshal(v)
	if err != nil {
		return nil, err
	}
	return sealAs(domain, authorityKID, payload, cose.AlgorithmEdDSA, key)
}

// openFact verifies what sealFact signed and decodes it into v.
func openFact(domain string, b []byte, pub ed25519.PublicKey, v any) error {
	env, err := open(domain, cose.AlgorithmEdDSA, b)
	if err != nil {
		return err
	}
	if err := env.verify(pub); err != nil {
		return err
	}
	return env.decode(v)
}
