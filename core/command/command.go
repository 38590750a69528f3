// Package command is the vocabulary of the replicated log: the commands that change the registry, numbered and versioned.
//
// A command carries everything that its effect depends on, times and random ids included, because applying it must give the
// same result on every node and at every replay. Kinds and keys are append-only and never reused.
package command

import (
	"errors"
	"fmt"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A Kind names a command.
type Kind uint8

// The kinds.
const (
	KindInit        Kind = 1
	KindCreateToken Kind = 2
	KindRevokeToken Kind = 3
	KindEnroll      Kind = 4
	KindStatements  Kind = 5
	KindPresence    Kind = 6
	KindSetSite     Kind = 7
	KindSetTags     Kind = 8
	KindSetInterval Kind = 9
	KindSiteReach   Kind = 10
	KindRenewed     Kind = 11
	KindRelease     Kind = 12

	KindCreateOperator Kind = 13
	KindRevokeOperator Kind = 14
	KindOperatorsUsed  Kind = 15
	KindRefusals       Kind = 16
	KindSetNode        Kind = 17
	KindRemoveNode     Kind = 18
	KindRecover        Kind = 19

	KindSpans Kind = 20

	KindRevokeGateway Kind = 21
	KindUplinked      Kind = 22
	KindDoubt         Kind = 24

	KindSetPublishers  Kind = 23
	KindAddArtifact    Kind = 25
	KindDeleteArtifact Kind = 26
	KindAssign         Kind = 27
)

// version is the encoding version of every command of this build. A command of a higher version is not understood.
const version = 1

// ErrUnknown is the sentinel of a command that this build cannot apply. A node that meets one in the log must stop: it would
// differ from the others.
var ErrUnknown = errors.New("command not known to this build")

// Encode is the log form of a command: kind, version, deterministic CBOR.
func Encode(c Command) ([]byte, error) {
	b, err := wire.Marshal(c)
	if err != nil {
		return nil, err
	}
	return append([]byte{byte(c.kind()), version}, b...), nil
}

// A Command is one of the command types of this package.
type Command interface{ kind() Kind }

// Decode reads what Encode wrote. It fails with ErrUnknown for a kind or version of a later build, and with
// wire.ErrMalformed for bytes that are no command.
func Decode(b []byte) (Command, error) {
	if len(b) < 2 {
		return nil, fmt.Errorf("command of %d bytes: %w", len(b), wire.ErrMalformed)
	}
	if b[1] != version {
		return nil, fmt.Errorf("kind %d, version %d: %w", b[0], b[1], ErrUnknown)
	}
	c := empty(Kind(b[0]))
	if c == nil {
		return nil, fmt.Errorf("kind %d: %w", b[0], ErrUnknown)
	}
	if err := wire.Unmarshal(b[2:], c); err != nil {
		return nil, err
	}
	return c, nil
}

func empty(k Kind) Command {
	switch k {
	case KindInit:
		return new(Init)
	case KindCreateToken:
		return new(CreateToken)
	case KindRevokeToken:
		return new(RevokeToken)
	case KindEnroll:
		return new(Enroll)
	case KindStatements:
		return new(Statements)
	case KindPresence:
		return new(Presence)
	case KindSetSite:
		return new(SetSite)
	case KindSetTags:
		return new(SetTags)
	case KindSetInterval:
		return new(SetInterval)
	case KindSiteReach:
		return new(SiteReach)
	case KindRenewed:
		return new(Renewed)
	case KindRelease:
		return new(Release)
	case KindCreateOperator:
		return new(CreateOperator)
	case KindRevokeOperator:
		return new(RevokeOperator)
	case KindOperatorsUsed:
		return new(OperatorsUsed)
	case KindRefusals:
		return new(Refusals)
	case KindSetNode:
		return new(SetNode)
	case KindRemoveNode:
		return new(RemoveNode)
	case KindRecover:
		return new(Recover)
	case KindSpans:
		return new(Spans)
	case KindRevokeGateway:
		return new(RevokeGateway)
	case KindUplinked:
		return new(Uplinked)
	case KindDoubt:
		return new(Doubt)
	case KindSetPublishers, KindAddArtifact, KindDeleteArtifact, KindAssign:
		return emptyArtifact(k)
	}
	return nil
}

// Init makes the fleet, once.
type Init struct {
	Fleet      string      `cbor:"1,keyasint"`
	Root       WrappedCA   `cbor:"2,keyasint"`
	CAs        []WrappedCA `cbor:"3,keyasint"` // issuing CAs
	Authority  WrappedCA   `cbor:"4,keyasint"`
	Wraps      []KeyWrap   `cbor:"5,keyasint"` // of the fleet key
	Operator   Operator    `cbor:"6,keyasint"`
	Node       CoreNode    `cbor:"7,keyasint"`
	IntervalMS uint32      `cbor:"8,keyasint"` // the fleet's default heartbeat interval
}

// A WrappedCA is a certificate with its private key, which only the holder of the fleet key can open.
type WrappedCA struct {
	Role ident.Role `cbor:"1,keyasint"`
	Cert []byte     `cbor:"2,keyasint"` // DER
	Key  []byte     `cbor:"3,keyasint"` // PKCS #8 under the fleet key
}

// A KeyWrap is the fleet key as one holder can open it.
type KeyWrap struct {
	Holder string `cbor:"1,keyasint"` // a core node's name, or "recovery"
	Wrap   []byte `cbor:"2,keyasint"`
	Public []byte `cbor:"3,keyasint"` // the holder's X25519 key, for the wraps of later fleet keys
}

// A Rotation puts the fleet's private keys under a new fleet key, which only the holders of its wraps can open.
type Rotation struct {
	Generation uint64      `cbor:"1,keyasint"` // of the new fleet key: the present one's and one
	Root       WrappedCA   `cbor:"2,keyasint"`
	CAs        []WrappedCA `cbor:"3,keyasint"`
	Authority  WrappedCA   `cbor:"4,keyasint"`
	Wraps      []KeyWrap   `cbor:"5,keyasint"`
}

// An Actor says on whose behalf a command is, and how often it may take effect.
type Actor struct {
	Operator string `cbor:"1,keyasint"`           // id
	Request  string `cbor:"2,keyasint,omitempty"` // id of the request, for the audit trail
	Source   string `cbor:"3,keyasint,omitempty"` // address that it came from
	Once     *Once  `cbor:"4,keyasint,omitempty"` // nil: each time that it is proposed
	Revision uint64 `cbor:"5,keyasint,omitempty"` // of the record that it changes, as the operator knows it; 0: any
}

// Once makes a request take effect once: repeated, it gets the result of the first time.
type Once struct {
	Key  [32]byte `cbor:"1,keyasint"` // SHA-256 of the idempotency key
	Body [32]byte `cbor:"2,keyasint"` // SHA-256 of what is asked, so that a key cannot stand for two requests
}

// Operated is a command of an operator.
type Operated interface {
	Command
	Actor() *Actor
}

// An Operator is a bearer token of the API, stored as its hash.
type Operator struct {
	ID        string   `cbor:"1,keyasint"`
	Name      string   `cbor:"2,keyasint"`
	Hash      [32]byte `cbor:"3,keyasint"`           // SHA-256 of the token
	Role      string   `cbor:"4,keyasint"`           // viewer, operator or admin
	Sites     []string `cbor:"5,keyasint,omitempty"` // what it is limited to, sorted; empty: the whole fleet
	ExpiresMS int64    `cbor:"6,keyasint,omitempty"` // Unix ms; 0: never
}

// A CoreNode is one member of the core.
type CoreNode struct {
	Name     string      `cbor:"1,keyasint"`
	API      string      `cbor:"2,keyasint"`
	Uplink   string      `cbor:"3,keyasint"`
	Cluster  string      `cbor:"4,keyasint"`
	Key      ident.KeyID `cbor:"5,keyasint"`           // of the certificate that it joined with
	JoinedMS int64       `cbor:"6,keyasint,omitempty"` // log time, set when it is applied
}

// CreateToken makes an enrollment token known. Of the token itself only the public half is here.
type CreateToken struct {
	By      Actor             `cbor:"1,keyasint"`
	ID      seal.TokenID      `cbor:"2,keyasint"`
	Public  []byte            `cbor:"3,keyasint"`
	Kind    seal.Kind         `cbor:"4,keyasint"`
	Site    string            `cbor:"5,keyasint,omitempty"`
	Tags    map[string]string `cbor:"6,keyasint,omitempty"`
	TTLMS   int64             `cbor:"7,keyasint"`
	Uses    uint32            `cbor:"8,keyasint"`
	Comment string            `cbor:"9,keyasint,omitempty"`
}

// RevokeToken ends a token before its time.
type RevokeToken struct {
	By Actor        `cbor:"1,keyasint"`
	ID seal.TokenID `cbor:"2,keyasint"`
}

// Enroll consumes a use of a token and admits a key. The proposer verified the proof and issued the certificate; applying
// decides whether the token still permits it.
type Enroll struct {
	Token    seal.TokenID   `cbor:"1,keyasint"`
	Kind     seal.Kind      `cbor:"2,keyasint"`
	Device   ident.DeviceID `cbor:"3,keyasint,omitempty"` // id for a new record; unused when the key is known
	Name     string         `cbor:"4,keyasint,omitempty"` // gateways
	Listen   string         `cbor:"5,keyasint,omitempty"` // gateways
	SPKI     []byte         `cbor:"6,keyasint"`
	Cert     []byte         `cbor:"7,keyasint"`            // DER of the leaf
	Via      string         `cbor:"8,keyasint,omitempty"`  // SPIFFE id of the gateway that relayed it
	NotAfter int64          `cbor:"9,keyasint"`            // of the certificate, Unix ms
	Node     *CoreNode      `cbor:"10,keyasint,omitempty"` // core nodes: the member to be
	Wrap     *KeyWrap       `cbor:"11,keyasint,omitempty"` // core nodes: the fleet key for it
	Gen      uint64         `cbor:"12,keyasint,omitempty"` // core nodes: generation of the fleet key that Wrap holds
}

// Statements brings verified statements of devices. The proposer checked each signature against the key that the registry
// held; applying decides about numbers and chain.
type Statements struct {
	Items []Statement `cbor:"1,keyasint"`
	Mark  *Mark       `cbor:"2,keyasint,omitempty"` // nil: not told
}

// A Mark is how far a gateway's spool is committed with what it comes with.
type Mark struct {
	Gateway     string          `cbor:"1,keyasint"` // site/name
	Run         uint64          `cbor:"2,keyasint"` // of the session
	Incarnation [16]byte        `cbor:"3,keyasint"`
	Upto        wire.SpoolPoint `cbor:"4,keyasint"` // zero: what was put off before, which moves nothing
}

// Uplinked tells that a run of a gateway comes up that is not the newest one known, or with a spool that is not the one known or
// has gone another way.
type Uplinked struct {
	Gateway string           `cbor:"1,keyasint"` // site/name
	Key     ident.KeyID      `cbor:"2,keyasint"`
	Run     uint64           `cbor:"3,keyasint"`
	Spool   wire.SpoolEnds   `cbor:"4,keyasint"`           // as it told last: when it was asked, if it was
	Asked   uint64           `cbor:"5,keyasint,omitempty"` // number of the record that it was asked to prove; 0: none
	Proof   *wire.SpoolPoint `cbor:"6,keyasint,omitempty"` // nil: it could not
}

// A Statement is one verified statement on its way into a record.
type Statement struct {
	Sealed    []byte         `cbor:"1,keyasint"` // as signed
	Gateway   string         `cbor:"2,keyasint"` // site/name
	GatewayMS int64          `cbor:"3,keyasint"` // when the gateway received it, Unix ms
	Device    ident.DeviceID `cbor:"4,keyasint"`
}

// Presence brings transitions of devices as their gateway reported them.
type Presence struct {
	Gateway string         `cbor:"1,keyasint"` // site/name
	Items   []PresenceItem `cbor:"2,keyasint"`
}

// A PresenceItem is one transition.
type PresenceItem struct {
	Device     ident.DeviceID `cbor:"1,keyasint"`
	Online     bool           `cbor:"2,keyasint"`
	AtMS       int64          `cbor:"3,keyasint"` // start of the new span, Unix ms
	LastMS     int64          `cbor:"4,keyasint"` // last beat heard, Unix ms
	IntervalMS uint32         `cbor:"5,keyasint,omitempty"`
	Beats      uint64         `cbor:"6,keyasint,omitempty"` // of the span that ends
	Missed     uint64         `cbor:"7,keyasint,omitempty"` // of the span that ends
	Attach     *Attach        `cbor:"8,keyasint,omitempty"` // Online: the attach, verified by the proposer
	Counted    bool           `cbor:"9,keyasint,omitempty"` // Beats and Missed are the gateway's count; false: nobody counted
}

// Attach is what of a device's attach the registry compares with the one before.
type Attach struct {
	Start   uint64     `cbor:"1,keyasint"`
	Run     uint64     `cbor:"2,keyasint"`
	Session uint64     `cbor:"3,keyasint"`
	Epoch   uint64     `cbor:"4,keyasint"`
	Lowest  uint64     `cbor:"5,keyasint"`
	Highest uint64     `cbor:"6,keyasint"`
	Chain   seal.Chain `cbor:"7,keyasint"`

	// The oldest statement that the outbox holds of an epoch before Epoch; 0: it holds none.
	OldestEpoch uint64 `cbor:"8,keyasint,omitempty"`
	OldestSeq   uint64 `cbor:"9,keyasint,omitempty"`

	Doubts string `cbor:"10,keyasint,omitempty"` // SPIFFE id of a gateway that does what DoubtFor says, as the device says; "": there is none

	SilentMS uint64 `cbor:"11,keyasint,omitempty"` // see seal.Attach

	DoubtFor seal.Doubt `cbor:"12,keyasint,omitempty"`
}

// Spans brings stretches of presence that a gateway had on its disk. The proposer checked that each device attached there.
type Spans struct {
	Gateway string `cbor:"1,keyasint"` // site/name
	Items   []Span `cbor:"2,keyasint"`
	Mark    *Mark  `cbor:"3,keyasint,omitempty"` // nil: not told
}

// A Span is one of them: wire.Span without its proof.
type Span struct {
	Device ident.DeviceID `cbor:"1,keyasint"`
	FromMS int64          `cbor:"2,keyasint"` // Unix ms
	LastMS int64          `cbor:"3,keyasint"` // last heartbeat, Unix ms
	ToMS   int64          `cbor:"4,keyasint"` // Unix ms
	Beats  uint64         `cbor:"5,keyasint,omitempty"`
	Missed uint64         `cbor:"6,keyasint,omitempty"`
}

// Doubt names a gateway that said what cannot be. It changes no record: it is told and put on the audit trail. The proposer sees to it
// that a gateway is not named for the same thing again and again.
type Doubt struct {
	Gateway string         `cbor:"1,keyasint"` // site/name
	Reason  string         `cbor:"2,keyasint"` // what it did
	Detail  string         `cbor:"3,keyasint,omitempty"`
	Device  ident.DeviceID `cbor:"4,keyasint"` // of which it was said; zero: of none
	Count   uint64         `cbor:"5,keyasint"` // how often, since it was named last
}

// SetSite makes or changes a site. Zero fields leave what is.
type SetSite struct {
	By         Actor  `cbor:"1,keyasint"`
	Site       string `cbor:"2,keyasint"`
	IntervalMS uint32 `cbor:"3,keyasint,omitempty"`

	// The limit of what its gateways fetch over the WAN, see wire.ContentLimit. Nil leaves what is.
	ContentRate   *uint64 `cbor:"4,keyasint,omitempty"` // bytes per second; 0: none
	ContentWindow *string `cbor:"5,keyasint,omitempty"` // "": always
}

// SetTags changes the operator's tags of a device.
type SetTags struct {
	By     Actor             `cbor:"1,keyasint"`
	Device ident.DeviceID    `cbor:"2,keyasint"`
	Set    map[string]string `cbor:"3,keyasint,omitempty"`
	Remove []string          `cbor:"4,keyasint,omitempty"`
}

// SetInterval sets the heartbeat interval of a device; 0 returns it to its site's.
type SetInterval struct {
	By         Actor          `cbor:"1,keyasint"`
	Device     ident.DeviceID `cbor:"2,keyasint"`
	IntervalMS uint32         `cbor:"3,keyasint,omitempty"`
}

// SiteReach records that every gateway of a site fell silent, or that one is back.
type SiteReach struct {
	Site      string `cbor:"1,keyasint"`
	Reachable bool   `cbor:"2,keyasint"`
	AtMS      int64  `cbor:"3,keyasint"` // Unix ms: since when
}

// Renewed records that a key got a new certificate.
type Renewed struct {
	Device   ident.DeviceID `cbor:"1,keyasint,omitempty"`
	Gateway  string         `cbor:"2,keyasint,omitempty"` // site/name, when it is a gateway's
	Key      ident.KeyID    `cbor:"3,keyasint"`
	NotAfter int64          `cbor:"4,keyasint"`
}

// Release ends a device's quarantine. What its attaches are held against begins anew with the next one.
type Release struct {
	By     Actor          `cbor:"1,keyasint"`
	Device ident.DeviceID `cbor:"2,keyasint"`
}

// CreateOperator gives somebody a bearer token for the API.
type CreateOperator struct {
	By       Actor    `cbor:"1,keyasint"`
	Operator Operator `cbor:"2,keyasint"`
}

// RevokeOperator ends an operator's token, from this entry of the log on.
type RevokeOperator struct {
	By Actor  `cbor:"1,keyasint"`
	ID string `cbor:"2,keyasint"`
}

// RevokeGateway ends a gateway: none of its keys counts from this entry of the log on.
type RevokeGateway struct {
	By      Actor  `cbor:"1,keyasint"`
	Gateway string `cbor:"2,keyasint"`           // site/name
	Reason  string `cbor:"3,keyasint,omitempty"` // for people
}

// OperatorsUsed notes when operators were last heard. A node sends it at most once a minute.
type OperatorsUsed struct {
	Items []OperatorUse `cbor:"1,keyasint"`
}

// An OperatorUse is the newest request of one operator that a node served.
type OperatorUse struct {
	ID     string `cbor:"1,keyasint"`
	AtMS   int64  `cbor:"2,keyasint"` // Unix ms
	Source string `cbor:"3,keyasint"` // address
}

// Refusals brings what a node refused since it last told, summed up by who and why, so that a flood of refusals makes few
// records.
type Refusals struct {
	Node  string    `cbor:"1,keyasint"`
	Items []Refusal `cbor:"2,keyasint"`
}

// A Refusal sums up requests that were refused for one reason.
type Refusal struct {
	Action  string `cbor:"1,keyasint"`           // enroll, authenticate, or the operation's id
	Actor   string `cbor:"2,keyasint,omitempty"` // operator or token that was named, if any
	Source  string `cbor:"3,keyasint,omitempty"` // address or gateway; the last, when Count has several
	Reason  string `cbor:"4,keyasint"`
	Count   uint64 `cbor:"5,keyasint"`
	FirstMS int64  `cbor:"6,keyasint"` // Unix ms
	LastMS  int64  `cbor:"7,keyasint"` // Unix ms
}

// SetNode changes the addresses at which operators and gateways reach a core node. The node itself proposes it.
type SetNode struct {
	Name   string `cbor:"1,keyasint"`
	API    string `cbor:"2,keyasint"`
	Uplink string `cbor:"3,keyasint"`
}

// RemoveNode ends a core node's membership, and puts the fleet's keys where it cannot open them.
type RemoveNode struct {
	By       Actor    `cbor:"1,keyasint"`
	Name     string   `cbor:"2,keyasint"`
	Rotation Rotation `cbor:"3,keyasint"`
}

// Recover goes on with one node after the majority of the core was lost for good. The holder of the recovery key proposes it
// on a cluster of that one node.
type Recover struct {
	Node     CoreNode `cbor:"1,keyasint"`
	Rotation Rotation `cbor:"2,keyasint"`
	Lost     []string `cbor:"3,keyasint,omitempty"` // names of the nodes that are members no more
}

// Actor implements Operated.
func (c *CreateToken) Actor() *Actor { return &c.By }

// Actor implements Operated.
func (c *RevokeToken) Actor() *Actor { return &c.By }

// Actor implements Operated.
func (c *SetSite) Actor() *Actor { return &c.By }

// Actor implements Operated.
func (c *SetTags) Actor() *Actor { return &c.By }

// Actor implements Operated.
func (c *SetInterval) Actor() *Actor { return &c.By }

// Actor implements Operated.
func (c *Release) Actor() *Actor { return &c.By }

// Actor implements Operated.
func (c *CreateOperator) Actor() *Actor { return &c.By }

// Actor implements Operated.
func (c *RevokeOperator) Actor() *Actor { return &c.By }

// Actor implements Operated.
func (c *RevokeGateway) Actor() *Actor { return &c.By }

// Actor implements Operated.
func (c *RemoveNode) Actor() *Actor { return &c.By }

// Actor implements Operated.
func (c *SetPublishers) Actor() *Actor { return &c.By }

// Actor implements Operated.
func (c *AddArtifact) Actor() *Actor { return &c.By }

// Actor implements Operated.
func (c *DeleteArtifact) Actor() *Actor { return &c.By }

// Actor implements Operated.
func (c *Assign) Actor() *Actor { return &c.By }

func (*Init) kind() Kind        { return KindInit }
func (*CreateToken) kind() Kind { return KindCreateToken }
func (*RevokeToken) kind() Kind { return KindRevokeToken }
func (*Enroll) kind() Kind      { return KindEnroll }
func (*Statements) kind() Kind  { return KindStatements }
func (*Presence) kind() Kind    { return KindPresence }
func (*SetSite) kind() Kind     { return KindSetSite }
func (*SetTags) kind() Kind     { return KindSetTags }
func (*SetInterval) kind() Kind { return KindSetInterval }
func (*SiteReach) kind() Kind   { return KindSiteReach }
func (*Renewed) kind() Kind     { return KindRenewed }
func (*Release) kind() Kind     { return KindRelease }

func (*CreateOperator) kind() Kind { return KindCreateOperator }
func (*RevokeOperator) kind() Kind { return KindRevokeOperator }
func (*OperatorsUsed) kind() Kind  { return KindOperatorsUsed }
func (*Refusals) kind() Kind       { return KindRefusals }
func (*SetNode) kind() Kind        { return KindSetNode }
func (*RemoveNode) kind() Kind     { return KindRemoveNode }
func (*Recover) kind() Kind        { return KindRecover }
func (*Spans) kind() Kind          { return KindSpans }
func (*RevokeGateway) kind() Kind  { return KindRevokeGateway }
func (*Uplinked) kind() Kind       { return KindUplinked }
func (*Doubt) kind() Kind          { return KindDoubt }

func (*SetPublishers) kind() Kind  { return KindSetPublishers }
func (*AddArtifact) kind() Kind    { return KindAddArtifact }
func (*DeleteArtifact) kind() Kind { return KindDeleteArtifact }
func (*Assign) kind() Kind         { return KindAssign }
