// Package registry is the replicated state of the fleet: devices, keys, sites, gateways, tokens and operators.
//
// It is pure: no clock, network, file, randomness or goroutine. A State changes through Apply alone, which takes time and
// ids from the command and returns what happened: the result for whoever proposed it, the history records to append, and
// the events to tell. The same commands always give the same state.
//
// Views are immutable and cost nothing to take. Readers never block Apply and Apply never blocks readers.
package registry

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A keyRef says whose key it is.
type keyRef struct {
	Key     ident.KeyID
	Device  ident.DeviceID // zero: a gateway's
	Gateway string         // site/name
}

// A State is the registry. It is owned by one goroutine; everybody else reads views.
type State struct {
	view View
}

// A View is the registry at one moment. It may be read from any goroutine, for as long as anybody wants.
type View struct {
	index     uint64
	time      time.Time
	fleet     *Fleet
	devices   table[ident.DeviceID, Device]
	counts    table[countKey, Count]
	keys      table[ident.KeyID, keyRef]
	sites     table[string, Site]
	gateways  table[string, Gateway]
	tokens    table[seal.TokenID, Token]
	uses      table[useKey, Use]
	operators table[string, Operator]
	bearers   table[[32]byte, bearer]
	repeats   table[repeatKey, Repeat]
	repeated  table[uint64, turn] // repeats in the order in which they were made

	artifacts  table[wire.Digest, Artifact]
	publishers table[uint64, PublisherSet]

	audit   Mark   // of the audit trail
	history Mark   // of the history
	facts   uint64 // number of the newest fact
}

// A Mark is how far a chain of records has come.
type Mark struct {
	Count uint64   `cbor:"1,keyasint"` // records so far
	Head  [32]byte `cbor:"2,keyasint"` // the chain's hash after them
}

// New is the empty registry of a fleet that has not been made.
func New() *State { return &State{view: emptyView()} }

func emptyView() View {
	bytesOf := func(a, b [32]byte) int { return bytes.Compare(a[:], b[:]) }
	return View{
		devices: newTable(snapDevice, func(a, b ident.DeviceID) int { return bytes.Compare(a[:], b[:]) },
			func(d *Device) ident.DeviceID { return d.ID }, func(k ident.DeviceID) *Device { return &Device{ID: k} }),
		counts: newTable(0, compareCounts, (*Count).key, countAt),
		keys: newTable(0, func(a, b ident.KeyID) int { return bytes.Compare(a[:], b[:]) },
			func(k *keyRef) ident.KeyID { return k.Key }, func(k ident.KeyID) *keyRef { return &keyRef{Key: k} }),
		sites: newTable(snapSite, compareStrings,
			func(s *Site) string { return s.Name }, func(k string) *Site { return &Site{Name: k} }),
		gateways: newTable(snapGateway, compareStrings, (*Gateway).ID, gatewayAt),
		tokens: newTable(snapToken, func(a, b seal.TokenID) int { return bytes.Compare(a[:], b[:]) },
			func(t *Token) seal.TokenID { return t.ID }, func(k seal.TokenID) *Token { return &Token{ID: k} }),
		uses: newTable(snapUse, compareUses, func(u *Use) useKey { return useKey{u.Token, u.Key} },
			func(k useKey) *Use { return &Use{Token: k.Token, Key: k.Key} }),
		operators: newTable(snapOperator, compareStrings, func(o *Operator) string { return o.ID },
			func(k string) *Operator { return &Operator{ID: k} }),
		bearers:  newTable(0, bytesOf, func(b *bearer) [32]byte { return b.Hash }, func(k [32]byte) *bearer { return &bearer{Hash: k} }),
		repeats:  newTable(snapRepeat, compareRepeats, (*Repeat).key, func(k repeatKey) *Repeat { return &Repeat{Operator: k.operator, Key: k.key} }),
		repeated: newTable(0, cmp.Compare[uint64], func(t *turn) uint64 { return t.turn }, func(k uint64) *turn { return &turn{turn: k} }),

		artifacts: newArtifacts(), publishers: newPublishers(),
	}
}

func gatewayAt(id string) *Gateway {
	for i := range id {
		if id[i] == '/' {
			return &Gateway{Site: id[:i], Name: id[i+1:]}
		}
	}
	return &Gateway{Site: id}
}

// View is the registry as it is now.
func (s *State) View() View {
	v := s.view
	v.devices, v.counts, v.keys, v.sites = v.devices.clone(), v.counts.clone(), v.keys.clone(), v.sites.clone()
	v.gateways, v.tokens, v.operators = v.gateways.clone(), v.tokens.clone(), v.operators.clone()
	v.uses, v.bearers, v.repeats, v.repeated = v.uses.clone(), v.bearers.clone(), v.repeats.clone(), v.repeated.clone()
	v.artifacts, v.publishers = v.artifacts.clone(), v.publishers.clone()
	return v
}

// Hash is the hash of the present state, see View.Hash.
func (s *State) Hash() [32]byte { return s.view.Hash() }

// Index is the log index of the newest entry in the view.
func (v View) Index() uint64 { return v.index }

// Time is the log time of the newest entry in the view.
func (v View) Time() time.Time { return v.time }

// Fleet is the fleet, or nil before init.
func (v View) Fleet() *Fleet { return v.fleet }

// Device finds a record.
func (v View) Device(id ident.DeviceID) (*Device, bool) { return v.devices.get(id) }

// DeviceByKey finds the device that a key belongs to, whatever the key's state.
func (v View) DeviceByKey(k ident.KeyID) (*Device, bool) {
	r, ok := v.keys.get(k)
	if !ok || r.Device.IsZero() {
		return nil, false
	}
	return v.devices.get(r.Device)
}

// Devices visits the devices whose ids come after the given one, in order of id, until f returns false.
func (v View) Devices(after ident.DeviceID, f func(*Device) bool) { v.devices.after(after, f) }

// DeviceCount is the number of device records.
func (v View) DeviceCount() int { return v.devices.len() }

// Site finds a site.
func (v View) Site(name string) (*Site, bool) { return v.sites.get(name) }

// Sites visits the sites in order of name.
func (v View) Sites(f func(*Site) bool) { v.sites.all(f) }

// Gateway finds a gateway by site/name.
func (v View) Gateway(id string) (*Gateway, bool) { return v.gateways.get(id) }

// Gateways visits the gateways in order of site and name.
func (v View) Gateways(f func(*Gateway) bool) { v.gateways.all(f) }

// Token finds a token.
func (v View) Token(id seal.TokenID) (*Token, bool) { return v.tokens.get(id) }

// Tokens visits the tokens in order of id.
func (v View) Tokens(f func(*Token) bool) { v.tokens.all(f) }

// UseOf finds the use of a token by a key.
func (v View) UseOf(t seal.TokenID, k ident.KeyID) (*Use, bool) { return v.uses.get(useKey{t, k}) }

// Operator finds the operator whose bearer token has the hash, whatever became of it since.
func (v View) Operator(hash [32]byte) (*Operator, bool) {
	b, ok := v.bearers.get(hash)
	if !ok {
		return nil, false
	}
	return v.operators.get(b.Operator)
}

// OperatorByID finds an operator.
func (v View) OperatorByID(id string) (*Operator, bool) { return v.operators.get(id) }

// Operators visits the operators in order of id.
func (v View) Operators(f func(*Operator) bool) { v.operators.all(f) }

// Audit is how far the audit trail has come: the number of its records and the hash of the newest.
func (v View) Audit() Mark { return v.audit }

// History is how far the history has come, as chain.Next links its records.
func (v View) History() Mark { return v.history }

// Hash is a digest of everything in the view. Two nodes that applied the same log have the same.
func (v View) Hash() [32]byte {
	h := sha256.New()
	var b [8]byte
	for _, n := range []uint64{v.index, uint64(v.time.UnixMilli()), v.audit.Count, v.history.Count, v.facts} {
		binary.BigEndian.PutUint64(b[:], n)
		h.Write(b[:])
	}
	h.Write(v.audit.Head[:])
	h.Write(v.history.Head[:])
	if v.fleet != nil {
		d := digestOf(snapFleet, v.fleet)
		h.Write(d[:])
	}
	for _, d := range []digest{v.devices.sum, v.sites.sum, v.gateways.sum, v.tokens.sum, v.uses.sum, v.operators.sum, v.repeats.sum} {
		h.Write(d[:])
	}
	for _, d := range []digest{v.artifacts.sum, v.publishers.sum} { // not there before there were any
		if d != (digest{}) {
			h.Write(d[:])
		}
	}
	return [32]byte(h.Sum(nil))
}

// Interval is the heartbeat interval that a device should use: its own, else its site's, else the fleet's.
func (v View) Interval(d *Device) time.Duration {
	if d.IntervalMS != 0 {
		return time.Duration(d.IntervalMS) * time.Millisecond
	}
	return v.SiteInterval(d.Site)
}

// SiteInterval is the heartbeat interval of a site's devices that have none of their own.
func (v View) SiteInterval(site string) time.Duration {
	s, _ := v.sites.get(site)
	return v.IntervalOf(s)
}

// IntervalOf is the heartbeat interval that a site's record says, or the fleet's when it says none. s may be of another view,
// or nil.
func (v View) IntervalOf(s *Site) time.Duration {
	if s != nil && s.IntervalMS != 0 {
		return time.Duration(s.IntervalMS) * time.Millisecond
	}
	if v.fleet == nil {
		return DefaultInterval
	}
	return time.Duration(v.fleet.IntervalMS) * time.Millisecond
}

// DefaultInterval is a new fleet's heartbeat interval.
const DefaultInterval = 30 * time.Second
