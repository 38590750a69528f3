package registry

import (
	"bytes"
	"maps"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// Records are immutable: a change makes a copy. What a view hands out may be read for ever and must never be written.

// A Fleet is what init made, once.
type Fleet struct {
	Name         string              `cbor:"1,keyasint"`
	ClusterEpoch uint64              `cbor:"2,keyasint"`
	Root         command.WrappedCA   `cbor:"3,keyasint"`
	CAs          []command.WrappedCA `cbor:"4,keyasint"`
	Authority    command.WrappedCA   `cbor:"5,keyasint"`
	Wraps        []command.KeyWrap   `cbor:"6,keyasint"`
	IntervalMS   uint32              `cbor:"7,keyasint"` // default heartbeat interval
	CreatedMS    int64               `cbor:"8,keyasint"`
	Nodes        []command.CoreNode  `cbor:"9,keyasint"`
	Generation   uint64              `cbor:"10,keyasint"` // of the fleet key, from 1
}

// Node finds a member of the core.
func (f *Fleet) Node(name string) (command.CoreNode, bool) {
	for _, n := range f.Nodes {
		if n.Name == name {
			return n, true
		}
	}
	return command.CoreNode{}, false
}

// Wrap finds a holder's wrap of the fleet key.
func (f *Fleet) Wrap(holder string) (command.KeyWrap, bool) {
	for _, w := range f.Wraps {
		if w.Holder == holder {
			return w, true
		}
	}
	return command.KeyWrap{}, false
}

// CA is the issuing CA of a role.
func (f *Fleet) CA(r ident.Role) (command.WrappedCA, bool) {
	for _, c := range f.CAs {
		if c.Role == r {
			return c, true
		}
	}
	return command.WrappedCA{}, false
}

// A KeyState is the state of one key of a record.
type KeyState uint8

// The states of a key. Revocation is a key's state, never a certificate's.
const (
	KeyActive     KeyState = 1
	KeySuperseded KeyState = 2
	KeyRetired    KeyState = 3
)

// String is the state as the API writes it.
func (s KeyState) String() string {
	switch s {
	case KeyActive:
		return "active"
	case KeySuperseded:
		return "superseded"
	case KeyRetired:
		return "retired"
	}
	return "unknown"
}

// A Key is one key of a device or gateway.
type Key struct {
	ID         ident.KeyID `cbor:"1,keyasint"`
	SPKI       []byte      `cbor:"2,keyasint"` // DER
	State      KeyState    `cbor:"3,keyasint"`
	SinceMS    int64       `cbor:"4,keyasint"` // log time at which it entered that state
	NotAfterMS int64       `cbor:"5,keyasint"` // of its newest certificate
}

// A Device is the record of one device. Its id outlives its keys.
type Device struct {
	ID           ident.DeviceID     `cbor:"1,keyasint"`
	Site         string             `cbor:"2,keyasint"`
	State        wire.DeviceState   `cbor:"3,keyasint"`
	Keys         []Key              `cbor:"4,keyasint"`
	Facts        []byte             `cbor:"5,keyasint,omitempty"`  // CBOR of the newest seal.Register: see Registered
	TokenTags    map[string]string  `cbor:"8,keyasint,omitempty"`  // preset by its enrollment token
	OperatorTags map[string]*string `cbor:"9,keyasint,omitempty"`  // nil: the operator removed the tag, whoever else sets it
	IntervalMS   uint32             `cbor:"10,keyasint,omitempty"` // 0: the site's
	EnrolledMS   int64              `cbor:"11,keyasint"`
	RegisteredMS int64              `cbor:"12,keyasint,omitempty"` // log time of the newest registration; 0: never
	Epoch        Epoch              `cbor:"13,keyasint,omitempty"`
	Attach       *Attach            `cbor:"14,keyasint,omitempty"`
	Presence     Presence           `cbor:"15,keyasint,omitempty"`
	Duplicates   uint64             `cbor:"16,keyasint,omitempty"` // statements that had been committed before
	Reason       string             `cbor:"17,keyasint,omitempty"` // why it is quarantined
	Revision     uint64             `cbor:"18,keyasint,omitempty"` // number of the audit record of the newest change by the core or an operator
	Entry        Fact               `cbor:"19,keyasint,omitempty"` // the newest change of what gateways are told of it
	Open         *Sequence          `cbor:"20,keyasint,omitempty"` // nil: Epoch is the only one that is not settled, and has no gap; see Sequence
	RegisteredAt Position           `cbor:"21,keyasint,omitempty"` // of the registration that Facts are of
	Desired      *Desired           `cbor:"22,keyasint,omitempty"` // nil: nothing was ever assigned
	Reported     *Reported          `cbor:"23,keyasint,omitempty"` // nil: it stated nothing about slots
}

// Registered is what the device last registered. The record keeps it encoded, because most of the time nobody looks, and
// decoded it takes several times the memory.
func (d *Device) Registered() seal.Register {
	var r seal.Register
	if len(d.Facts) == 0 || wire.Unmarshal(d.Facts, &r) != nil {
		return seal.Register{}
	}
	return r
}

// Tags are the tags in force: an operator's win over the token's, the token's over the device's own, and the core alone
// sets the site.
func (d *Device) Tags() map[string]string { return d.tags(d.Registered().Tags) }

// tags are the tags in force when own are the device's own.
func (d *Device) tags(own map[string]string) map[string]string {
	t := make(map[string]string, len(own)+len(d.TokenTags)+len(d.OperatorTags)+1)
	maps.Copy(t, own)
	maps.Copy(t, d.TokenTags)
	for k, v := range d.OperatorTags {
		if v == nil {
			delete(t, k)
		} else {
			t[k] = *v
		}
	}
	t[wire.TagSite] = d.Site
	return t
}

// ActiveKey finds an active key of the record.
func (d *Device) ActiveKey(id ident.KeyID) (Key, bool) {
	return keyIn(d.Keys, id, KeyActive)
}

// keyIn finds a key that is in the given state.
func keyIn(keys []Key, id ident.KeyID, state KeyState) (Key, bool) {
	for _, k := range keys {
		if k.ID == id && k.State == state {
			return k, true
		}
	}
	return Key{}, false
}

// SigningKey finds a key of the record that may have signed what comes late: an active one, or one that a newer one superseded.
func (d *Device) SigningKey(id ident.KeyID) (Key, bool) {
	for _, k := range d.Keys {
		if k.ID == id && (k.State == KeyActive || k.State == KeySuperseded) {
			return k, true
		}
	}
	return Key{}, false
}

// An Attach is the newest attach of a device, and the runs seen before, by which a clone gives itself away.
type Attach struct {
	command.Attach
	Runs []Run `cbor:"20,keyasint,omitempty"` // newest first, at most keptRuns
	AtMS int64 `cbor:"21,keyasint,omitempty"` // log time when it was told first; 0: before this was noted
}

// Same tells whether another word is of this attach, told again.
func (a *Attach) Same(o *command.Attach) bool {
	return a.Start == o.Start && a.Run == o.Run && a.Session == o.Session
}

// Newer tells whether another attach of the device was made after this one.
func (a *Attach) Newer(o *command.Attach) bool {
	return o.Start > a.Start || o.Start == a.Start && o.Session > a.Session
}

// A Run is one start of an agent.
type Run struct {
	Start uint64 `cbor:"1,keyasint"`
	Run   uint64 `cbor:"2,keyasint"`
}

// A Presence is the span that a device is in, as its gateway reported it. Whether the gateway itself is heard is not here:
// that is derived when it is read.
type Presence struct {
	Online     bool   `cbor:"1,keyasint,omitempty"`
	SinceMS    int64  `cbor:"2,keyasint,omitempty"` // start of the span; 0: never connected
	Gateway    string `cbor:"3,keyasint,omitempty"` // site/name
	LastMS     int64  `cbor:"4,keyasint,omitempty"` // last heartbeat known when the span began
	IntervalMS uint32 `cbor:"5,keyasint,omitempty"`
	ToldMS     int64  `cbor:"6,keyasint,omitempty"` // log time of the newest report that counted
}

// A Site is a plant.
type Site struct {
	Name          string `cbor:"1,keyasint"`
	IntervalMS    uint32 `cbor:"2,keyasint,omitempty"` // 0: the fleet's
	CreatedMS     int64  `cbor:"3,keyasint"`
	UnreachableMS int64  `cbor:"4,keyasint,omitempty"` // since when all its gateways are silent; 0: reachable
	Revision      uint64 `cbor:"5,keyasint,omitempty"` // number of the audit record of the newest change by an operator
	List          Fact   `cbor:"6,keyasint,omitempty"` // the newest change of the list of its gateways
	KeyGeneration uint64 `cbor:"7,keyasint,omitempty"` // of the key that its gateways share. Invariant: it never goes back

	Content *wire.ContentLimit `cbor:"8,keyasint,omitempty"` // nil: content comes over the WAN as fast as it can, always
}

// A Gateway is one gateway of a site.
type Gateway struct {
	Site       string `cbor:"1,keyasint"`
	Name       string `cbor:"2,keyasint"`
	Listen     string `cbor:"3,keyasint"`
	Keys       []Key  `cbor:"4,keyasint"`
	EnrolledMS int64  `cbor:"5,keyasint"`
	RevokedMS  int64  `cbor:"6,keyasint,omitempty"` // log time; 0: it may serve its site
	RevokedBy  string `cbor:"7,keyasint,omitempty"` // id of an operator
	Reason     string `cbor:"8,keyasint,omitempty"` // why it was revoked, as the operator said
	Revision   uint64 `cbor:"9,keyasint,omitempty"` // number of the audit record of the newest change by the core or an operator

	Runs   []GatewayRun `cbor:"10,keyasint,omitempty"` // the one that may speak for it first, then those before it; at most keptGatewayRuns
	Spool  *SpoolMark   `cbor:"11,keyasint,omitempty"` // nil: it never told
	Forked *Fork        `cbor:"12,keyasint,omitempty"` // nil: it was not seen that there are two of it
}

// A GatewayRun is one run of a gateway's process.
type GatewayRun struct {
	Run     uint64 `cbor:"1,keyasint"`           // random id
	Back    bool   `cbor:"2,keyasint,omitempty"` // it was replaced by another run, and came back
	Refused bool   `cbor:"3,keyasint,omitempty"` // it is a copy's
}

// A SpoolMark is how far a gateway's spool is committed.
type SpoolMark struct {
	Incarnation [16]byte        `cbor:"1,keyasint"`
	Upto        wire.SpoolPoint `cbor:"2,keyasint"`
}

// A Fork is what was seen last of a copy of a gateway, which was refused.
type Fork struct {
	AtMS   int64  `cbor:"1,keyasint"` // log time
	Run    uint64 `cbor:"2,keyasint"`
	Reason string `cbor:"3,keyasint"`
}

// ID is the gateway's name within the fleet: site/name.
func (g *Gateway) ID() string { return g.Site + "/" + g.Name }

// ActiveKey finds an active key of the record.
func (g *Gateway) ActiveKey(id ident.KeyID) (Key, bool) {
	return keyIn(g.Keys, id, KeyActive)
}

// A Token is an enrollment token, without its secret.
type Token struct {
	ID        seal.TokenID      `cbor:"1,keyasint"`
	Public    []byte            `cbor:"2,keyasint"`
	Kind      seal.Kind         `cbor:"3,keyasint"`
	Site      string            `cbor:"4,keyasint,omitempty"`
	Tags      map[string]string `cbor:"5,keyasint,omitempty"`
	CreatedMS int64             `cbor:"6,keyasint"`
	ExpiresMS int64             `cbor:"7,keyasint"`
	Uses      uint32            `cbor:"8,keyasint"`           // permitted
	Used      uint32            `cbor:"9,keyasint,omitempty"` // so far
	RevokedMS int64             `cbor:"10,keyasint,omitempty"`
	By        string            `cbor:"11,keyasint,omitempty"`
	Comment   string            `cbor:"12,keyasint,omitempty"`
}

// A Use of a token: which key it enrolled, and until when its certificate is valid, from which the same certificate can be
// issued again for a retry after a lost reply. It is forgotten once no retry is answered any more.
type Use struct {
	Token      seal.TokenID `cbor:"1,keyasint"`
	Key        ident.KeyID  `cbor:"2,keyasint"`
	NotAfterMS int64        `cbor:"5,keyasint"`
}

// compareUses orders uses by token, then key.
func compareUses(a, b useKey) int {
	if c := bytes.Compare(a.Token[:], b.Token[:]); c != 0 {
		return c
	}
	return bytes.Compare(a.Key[:], b.Key[:])
}

type useKey struct {
	Token seal.TokenID
	Key   ident.KeyID
}

// retryWindow is how long after a token's end a retry of an enrollment that it permitted is still answered.
const retryWindow = 24 * time.Hour

// Open tells whether the token still admits a new key at log time now.
func (t *Token) Open(now time.Time) bool {
	return t.RevokedMS == 0 && now.UnixMilli() < t.ExpiresMS && t.Used < t.Uses
}

// Retriable tells whether an enrollment that the token permitted may be answered again at log time now.
func (t *Token) Retriable(now time.Time) bool {
	return t.RevokedMS == 0 && now.UnixMilli() < t.ExpiresMS+retryWindow.Milliseconds()
}
