package wire

import (
	"fmt"
	"math"
	"time"

	"github.com/holdfast-edge/holdfast/wire/ident"
)

// Capability is the protocol version that this build speaks. It only grows. A peer that states a lower number is spoken to
// with what that number has; n and n-1 always work together.
//
//	1  2026-11-23  first: enrollment, attach, heartbeat, statements, uplink
const Capability = 1

// ALPN protocol names. Each is a different conversation with a different set of admitted roles.
const (
	ALPNEnroll = "holdfast-enroll/1"
	ALPNAgent  = "holdfast-agent/1"
	ALPNUplink = "holdfast-uplink/1"
	ALPNSite   = "holdfast-site/1" // between the gateways of a site
)

// A Type names a message. Types are append-only and never reused; a receiver answers an unknown one with CodeUnsupported.
type Type uint16

// The message types. 1 to 15 are for an agent's session, 16 to 19 for enrollment, 32 to 47 for the uplink, 48 on for
// sessions between gateways.
const (
	TypeError        Type = 1
	TypeAttach       Type = 2
	TypeWelcome      Type = 3
	TypeHeartbeat    Type = 4
	TypeHeartbeatAck Type = 5
	TypeStatement    Type = 6
	TypeRenew        Type = 7
	TypeRenewed      Type = 8
	TypeGoAway       Type = 9
	TypeCustody      Type = 10
	TypeProbe        Type = 11
	TypeProbed       Type = 12
	TypeFetch        Type = 13
	TypeBlob         Type = 14

	TypeEnroll   Type = 16
	TypeEnrolled Type = 17

	TypeUplinkHello   Type = 32
	TypeUplinkWelcome Type = 33
	TypeSubmit        Type = 34
	TypeSubmitted     Type = 35
	TypePresence      Type = 36
	TypeSite          Type = 37
	TypeRelayEnroll   Type = 38
	TypeRelayEnrolled Type = 39
	TypeRelayRenew    Type = 40
	TypeRelayRenewed  Type = 41
	TypeAsk           Type = 42
	TypeReceipts      Type = 43

	TypeSiblingHello   Type = 48
	TypeSiblingWelcome Type = 49
	TypeBytes          Type = 50
	TypeMirrorAsk      Type = 52
	TypeMirrorPage     Type = 53
	TypeProve          Type = 60
	TypeProof          Type = 61
)

// types lists every type with its name and the largest frame (type and message) it may have, in bytes.
var types = map[Type]struct {
	name  string
	limit int
}{
	TypeError:         {"error", 1 << 10},
	TypeAttach:        {"attach", 2 << 10},
	TypeWelcome:       {"welcome", 4 << 10},
	TypeHeartbeat:     {"heartbeat", 512},
	TypeHeartbeatAck:  {"heartbeat_ack", 32 << 10},
	TypeStatement:     {"statement", MaxStatement + 256},
	TypeRenew:         {"renew", 4 << 10},
	TypeRenewed:       {"renewed", 32 << 10},
	TypeGoAway:        {"go_away", 512},
	TypeCustody:       {"custody", 512},
	TypeProbe:         {"probe", 512},
	TypeProbed:        {"probed", 32 << 10},
	TypeFetch:         {"fetch", 512},
	TypeBlob:          {"blob", max(MaxChunk, MaxPart) + 4<<10},
	TypeEnroll:        {"enroll", 8 << 10},
	TypeEnrolled:      {"enrolled", 32 << 10},
	TypeUplinkHello:   {"uplink_hello", 4 << 10},
	TypeUplinkWelcome: {"uplink_welcome", 4 << 10},
	TypeSubmit:        {"submit", MaxFrame},
	TypeSubmitted:     {"submitted", MaxFrame},
	TypePresence:      {"presence", MaxFrame},
	TypeSite:          {"site", MaxFrame},
	TypeRelayEnroll:   {"relay_enroll", 16 << 10},
	TypeRelayEnrolled: {"relay_enrolled", 64 << 10},
	TypeRelayRenew:    {"relay_renew", 8 << 10},
	TypeRelayRenewed:  {"relay_renewed", 64 << 10},
	TypeAsk:           {"ask", 512},
	TypeReceipts:      {"receipts", MaxFrame},

	TypeSiblingHello:   {"sibling_hello", 512},
	TypeSiblingWelcome: {"sibling_welcome", 512},
	TypeBytes:          {"bytes", MaxBytes + 16},
	TypeMirrorAsk:      {"mirror_ask", 512},
	TypeMirrorPage:     {"mirror_page", 640 << 10},
	TypeProve:          {"prove", 512},
	TypeProof:          {"proof", 512},
}

// MaxStatement bounds a sealed statement, in bytes.
const MaxStatement = 16 << 10

// unknownLimit bounds a frame whose type is not known here: enough to skip what a newer peer may say in passing.
const unknownLimit = 64 << 10

// String is the type's name in documents and logs.
func (t Type) String() string {
	if d, ok := types[t]; ok {
		return d.name
	}
	return fmt.Sprintf("type_%d", uint16(t))
}

// Limit is the largest n (see AppendFrame) that a frame of type t may have, in bytes.
func (t Type) Limit() int {
	if d, ok := types[t]; ok {
		return d.limit
	}
	return unknownLimit
}

// Attach opens an agent's session: the first frame on the control stream.
type Attach struct {
	Capability uint32 `cbor:"1,keyasint"`
	Sealed     []byte `cbor:"2,keyasint"`           // a seal.Attach, signed by the device
	ListEpoch  uint64 `cbor:"3,keyasint,omitempty"` // cluster epoch of the list that the agent has of this gateway's site; 0: none
	List       uint64 `cbor:"4,keyasint,omitempty"` // its number
}

// Welcome admits an agent: until it has come, a session is not online.
type Welcome struct {
	Capability  uint32 `cbor:"1,keyasint"`
	Identity    string `cbor:"2,keyasint"` // the device as the gateway reads it from the certificate
	IntervalMS  uint32 `cbor:"3,keyasint"` // heartbeat interval
	KeepAliveMS uint32 `cbor:"4,keyasint"` // QUIC keep-alive to use from the next session on
	Site        string `cbor:"5,keyasint"` // the gateway's site
	TimeMS      int64  `cbor:"6,keyasint"` // the gateway's wall clock, Unix ms; unsigned, a hint only
	Kept        *Kept  `cbor:"7,keyasint,omitempty"`
	PeriodMS    uint32 `cbor:"8,keyasint,omitempty"` // the core's report period: while the gateway has an uplink, a receipt takes no longer than three; 0: taken for the longest
}

// Kept is up to where the gateway has the agent's statements on disk from earlier sessions. The agent need not send them,
// if the chain is its own.
type Kept struct {
	Epoch uint64 `cbor:"1,keyasint"`
	Seq   uint64 `cbor:"2,keyasint"`
	Chain []byte `cbor:"3,keyasint"` // after Seq
}

// Heartbeat is small and unsigned: the session is authenticated and attached.
type Heartbeat struct {
	Run        uint64 `cbor:"1,keyasint"`           // random id of the agent's run
	Number     uint64 `cbor:"2,keyasint"`           // counts the heartbeats of this run from 1
	Answered   uint64 `cbor:"3,keyasint"`           // how many of them were answered
	UptimeMS   uint64 `cbor:"4,keyasint"`           // since boot
	IntervalMS uint32 `cbor:"5,keyasint"`           // interval in use
	Desired    uint64 `cbor:"6,keyasint,omitempty"` // number of the order with the desired state that is held
	Running    []byte `cbor:"7,keyasint,omitempty"` // digest of what runs
	Publishers uint64 `cbor:"8,keyasint,omitempty"` // number of the set of publishers held
}

// HeartbeatAck is a gateway's answer to a heartbeat, and, with Number 0, what it has to say in between.
type HeartbeatAck struct {
	Number     uint64 `cbor:"1,keyasint,omitempty"` // the heartbeat answered; 0: none
	IntervalMS uint32 `cbor:"2,keyasint,omitempty"` // interval to use from now on; 0: unchanged
	Receipt    []byte `cbor:"3,keyasint,omitempty"` // a seal.Receipt
	Uplink     bool   `cbor:"5,keyasint,omitempty"` // the gateway says that it has a session with the core
	List       []byte `cbor:"6,keyasint,omitempty"` // a seal.GatewayList of the gateway's site, when it is newer than the agent's
	Order      []byte `cbor:"7,keyasint,omitempty"` // a seal.Order with the desired state, when it is newer than the agent's
	Publishers uint64 `cbor:"8,keyasint,omitempty"` // number of the newest set of publishers, when it is newer than the agent's
}

// Statement carries one sealed statement, from an agent. On one session they come in order, each once, but for a step back
// after a refusal.
type Statement struct {
	Sealed []byte `cbor:"1,keyasint"`
}

// MaxUnkept is how many statements an agent may have under way on a session without Custody.
const MaxUnkept = 8

// Custody tells an agent that the gateway has its statements up to this one on disk: they need not be sent again on this
// session. Only a receipt lets the agent forget them.
type Custody struct {
	Epoch uint64 `cbor:"1,keyasint"`
	Seq   uint64 `cbor:"2,keyasint"`
}

// Renew asks for a new certificate for the key that the session was opened with.
type Renew struct {
	CSR []byte `cbor:"1,keyasint"` // DER
}

// Renewed brings it.
type Renewed struct {
	Chain [][]byte `cbor:"1,keyasint"` // DER: leaf, issuing CA
}

// GoAway tells an agent that its gateway stops; it should go elsewhere, or come back after the delay.
type GoAway struct {
	RetryAfterMS uint32 `cbor:"1,keyasint,omitempty"`
}

// Probe opens a session in the place of an Attach and only asks: how far away the gateway is, whether it would admit the device,
// and for news. It changes nothing about who vouches for the device's presence.
type Probe struct {
	Capability uint32 `cbor:"1,keyasint"`
	ListEpoch  uint64 `cbor:"2,keyasint,omitempty"` // cluster epoch of the list that the agent has of this gateway's site; 0: none
	List       uint64 `cbor:"3,keyasint,omitempty"` // its number
}

// Probed answers it. A gateway that would not admit the device, or has no time, answers with an error as to an Attach.
type Probed struct {
	Capability uint32 `cbor:"1,keyasint"`
	Uplink     bool   `cbor:"2,keyasint,omitempty"` // the gateway says that it has a session with the core
	List       []byte `cbor:"3,keyasint,omitempty"` // a seal.GatewayList of the gateway's site, when it is newer than the agent's
}

// Enroll asks for an identity: a key made on the box and the proof that a token permits it. It has no field for a name,
// because nobody names himself.
type Enroll struct {
	Capability uint32 `cbor:"1,keyasint"`
	CSR        []byte `cbor:"2,keyasint"`           // DER; only the public key and the proof of possession are used
	Proof      []byte `cbor:"3,keyasint"`           // a seal.EnrollProof, signed by the token's key
	Name       string `cbor:"4,keyasint,omitempty"` // gateways and core nodes: the name asked for
	Listen     string `cbor:"5,keyasint,omitempty"` // gateways: where agents reach it
	API        string `cbor:"6,keyasint,omitempty"` // core nodes: where operators reach it
	Uplink     string `cbor:"7,keyasint,omitempty"` // core nodes: where gateways reach it
	Cluster    string `cbor:"8,keyasint,omitempty"` // core nodes: where the other core nodes reach it
	Holder     []byte `cbor:"9,keyasint,omitempty"` // core nodes: the X25519 key that the fleet key is to be wrapped to
}

// Enrolled is the identity given.
type Enrolled struct {
	Identity   string   `cbor:"1,keyasint"`           // SPIFFE id
	Chain      [][]byte `cbor:"2,keyasint"`           // DER: leaf, issuing CA
	Root       []byte   `cbor:"3,keyasint"`           // DER of the fleet's root, to be held against the token's pin
	Authority  []byte   `cbor:"4,keyasint"`           // DER of the authority's certificate
	Gateways   []string `cbor:"5,keyasint,omitempty"` // addresses of the site's gateways
	IntervalMS uint32   `cbor:"6,keyasint,omitempty"` // heartbeat interval
	Site       string   `cbor:"7,keyasint,omitempty"`
	Cores      []string `cbor:"8,keyasint,omitempty"` // to gateways and core nodes: uplink addresses of the core's nodes
	List       []byte   `cbor:"9,keyasint,omitempty"` // to devices: a seal.GatewayList of the site
}

// UplinkHello opens a gateway's session with the core.
type UplinkHello struct {
	Capability uint32 `cbor:"1,keyasint"`
	Version    string `cbor:"2,keyasint"`           // the gateway's build
	Listen     string `cbor:"3,keyasint"`           // where agents reach it
	Run        uint64 `cbor:"4,keyasint"`           // random id of the gateway's run
	KnownEpoch uint64 `cbor:"5,keyasint,omitempty"` // cluster epoch of Known
	Known      uint64 `cbor:"6,keyasint,omitempty"` // the gateway holds every entry of its site up to this number; 0: tell it all
	Via        string `cbor:"8,keyasint,omitempty"` // name of the sibling that relays the session; "": none does

	Spool *SpoolEnds `cbor:"9,keyasint,omitempty"` // nil: a gateway that does not tell
}

// A SpoolPoint is a place in a gateway's spool: two spools of one incarnation that have the same chain behind the same number
// hold the same records up to it.
type SpoolPoint struct {
	Seq   uint64   `cbor:"1,keyasint"`
	Chain [32]byte `cbor:"2,keyasint"` // behind Seq
}

// SpoolEnds are where a gateway's spool begins and ends.
type SpoolEnds struct {
	Incarnation [16]byte   `cbor:"1,keyasint"` // random, and as old as the spool
	Trimmed     SpoolPoint `cbor:"2,keyasint"` // the core has answered for everything up to it
	Last        SpoolPoint `cbor:"3,keyasint"` // everything up to it is on the disk
}

// Prove asks a gateway, before it is admitted, for the point behind a record of its spool.
type Prove struct {
	Seq uint64 `cbor:"1,keyasint"`
}

// Proof answers a Prove.
type Proof struct {
	Point *SpoolPoint `cbor:"1,keyasint,omitempty"` // nil: the record is trimmed, or lost to damage
	Spool *SpoolEnds  `cbor:"2,keyasint,omitempty"` // where the spool begins and ends by now; nil: as the hello said
}

// UplinkWelcome admits a gateway.
type UplinkWelcome struct {
	Capability     uint32 `cbor:"1,keyasint"`
	Identity       string `cbor:"2,keyasint"`
	ReportPeriodMS uint32 `cbor:"3,keyasint"`
	TimeMS         int64  `cbor:"4,keyasint"`
}

// Submit brings the core what a gateway has in custody: sealed statements, in the order in which it took them, and the spans of
// presence that it saw end.
type Submit struct {
	ID         uint64   `cbor:"1,keyasint"`           // chosen by the gateway; the answer repeats it
	TimeMS     int64    `cbor:"2,keyasint"`           // what AfterMS counts from, Unix ms
	Statements [][]byte `cbor:"3,keyasint"`           // with the spans at most MaxBatch
	AfterMS    []int64  `cbor:"4,keyasint"`           // for each statement, when it was received, counted from TimeMS
	Spans      []Span   `cbor:"5,keyasint,omitempty"` // in the order in which they ended
	// Upto is behind the last of its records in the spool; nil: they do not follow on one another, or the gateway does not tell.
	Upto *SpoolPoint `cbor:"6,keyasint,omitempty"`
}

// MaxBatch bounds the statements and spans of one Submit.
const MaxBatch = 512

// A Span is a stretch in which a device was online at a gateway, with what the gateway counted in it. A span that ends with the
// verdict that the device is offline ends after its last heartbeat. One of which the gateway did not see the end, because it
// stopped itself, ends with the last heartbeat that it remembers: ToMS equals LastMS.
type Span struct {
	Device ident.DeviceID `cbor:"1,keyasint"`
	Attach []byte         `cbor:"2,keyasint"` // a seal.Attach of the device at this gateway
	FromMS int64          `cbor:"3,keyasint"` // Unix ms, as the others; with the gateway it names the span
	LastMS int64          `cbor:"4,keyasint"` // last heartbeat
	ToMS   int64          `cbor:"5,keyasint"`
	Beats  uint64         `cbor:"6,keyasint,omitempty"`
	Missed uint64         `cbor:"7,keyasint,omitempty"`
}

// Submitted answers a Submit: one result per statement, in its order, and behind them one per span.
type Submitted struct {
	ID      uint64         `cbor:"1,keyasint"`
	Results []SubmitResult `cbor:"2,keyasint"`
}

// SubmitResult tells what became of one statement or span: Code 0 when it is committed, now or before.
type SubmitResult struct {
	Code   Code   `cbor:"1,keyasint,omitempty"`
	Detail string `cbor:"2,keyasint,omitempty"`
}

// Receipts brings devices' receipts to a gateway: to a device's first statement at once, then at most once in a report
// period.
type Receipts struct {
	Items []DeviceReceipt `cbor:"1,keyasint"` // at most MaxReceipts
}

// MaxReceipts bounds the receipts of one message.
const MaxReceipts = 1024

// DeviceReceipt is one device's newest receipt.
type DeviceReceipt struct {
	Device  ident.DeviceID `cbor:"1,keyasint"`
	Receipt []byte         `cbor:"2,keyasint"` // a seal.Receipt, at most MaxReceipt bytes
}

// MaxReceipt bounds a sealed receipt, in bytes.
const MaxReceipt = 512

// Presence is a gateway's word about its devices: transitions as they happen, and once per report period the digest.
type Presence struct {
	TimeMS  int64            `cbor:"1,keyasint"`           // the gateway's wall clock, Unix ms
	Digest  bool             `cbor:"2,keyasint,omitempty"` // this report closes a report period
	Count   uint32           `cbor:"3,keyasint,omitempty"` // with Digest: devices online at this gateway
	Online  []DeviceOnline   `cbor:"4,keyasint,omitempty"`
	Offline []DeviceOffline  `cbor:"5,keyasint,omitempty"`
	Told    []DeviceInterval `cbor:"8,keyasint,omitempty"` // intervals in force that changed
	// With Digest: no device is told to beat more often than this; 0: the gateway holds nobody back.
	LeastMS uint32   `cbor:"12,keyasint,omitempty"`
	Backlog *Backlog `cbor:"13,keyasint,omitempty"` // with Digest: what waits at the gateway; nil: it does not say
	Beats   Beats    `cbor:"14,keyasint,omitempty"` // the devices that beat in the period
}

// A Backlog is what a gateway has in custody and the core has not answered for.
type Backlog struct {
	Statements uint64 `cbor:"1,keyasint"`
	Bytes      uint64 `cbor:"2,keyasint,omitempty"` // of disk, which also holds what is done with
	OldestMS   int64  `cbor:"3,keyasint,omitempty"` // when the oldest was taken, Unix ms; 0: nothing waits, or it cannot be read
	Holding    bool   `cbor:"4,keyasint,omitempty"` // devices are asked to keep theirs: there is no room
	Failing    bool   `cbor:"5,keyasint,omitempty"` // the disk takes nothing at present
	Refused    uint64 `cbor:"6,keyasint,omitempty"` // statements since its start that the core will never take
	Lost       uint64 `cbor:"7,keyasint,omitempty"` // statements since its start that its disk lost
}

// DeviceOnline reports that a device attached, or, after the uplink came back, that it is attached.
type DeviceOnline struct {
	Slot       uint32         `cbor:"1,keyasint"` // names the device in digests, until another Online takes the slot
	Device     ident.DeviceID `cbor:"2,keyasint"`
	Attach     []byte         `cbor:"3,keyasint"` // the seal.Attach as the device signed it
	SinceMS    int64          `cbor:"4,keyasint"` // start of the span, Unix ms
	LastMS     int64          `cbor:"5,keyasint"` // last beat, Unix ms
	IntervalMS uint32         `cbor:"6,keyasint"` // max(told, echoed)
	Beats      uint64         `cbor:"7,keyasint,omitempty"`
	Missed     uint64         `cbor:"8,keyasint,omitempty"`
}

// DeviceOffline reports that the gateway heard no beat for three intervals.
type DeviceOffline struct {
	Device ident.DeviceID `cbor:"1,keyasint"`
	LastMS int64          `cbor:"2,keyasint"` // last beat, Unix ms
	AtMS   int64          `cbor:"3,keyasint"` // when the verdict fell, Unix ms
	Beats  uint64         `cbor:"4,keyasint,omitempty"`
	Missed uint64         `cbor:"5,keyasint,omitempty"`
}

// DeviceInterval tells which interval is in force for a device.
type DeviceInterval struct {
	Slot       uint32 `cbor:"1,keyasint"`
	IntervalMS uint32 `cbor:"2,keyasint"` // max(told, echoed)
}

// Site brings a gateway what it must know of its site, of devices of other sites that came to it, and of the core. What must
// be true without the core is signed by the authority, and nothing else of it is kept. Keys 3 to 5 were unsigned lists.
type Site struct {
	Version    uint64   `cbor:"1,keyasint"`            // log index that the message shows
	IntervalMS uint32   `cbor:"2,keyasint,omitempty"`  // the site's default; 0: unchanged
	Cores      []string `cbor:"6,keyasint,omitempty"`  // uplink addresses of the core's nodes; empty: unchanged
	AuditHead  []byte   `cbor:"7,keyasint,omitempty"`  // a sealed head of the audit trail, to be kept as a witness
	Entries    [][]byte `cbor:"8,keyasint,omitempty"`  // each a seal.DeviceEntry, at most 4096
	List       []byte   `cbor:"9,keyasint,omitempty"`  // a seal.GatewayList of the site; empty: unchanged
	UptoEpoch  uint64   `cbor:"10,keyasint,omitempty"` // cluster epoch of Upto
	Upto       uint64   `cbor:"11,keyasint,omitempty"` // every entry of the site up to this number has now been told; 0: not said
	// LeastMS is the fleet's pace: no device is to beat more often than this. 1000, as often as any may: nobody is held back. 0: unchanged.
	LeastMS uint32   `cbor:"12,keyasint,omitempty"`
	SiteKey *SiteKey `cbor:"13,keyasint,omitempty"` // nil: unchanged
	// Orders are the newest orders of devices whose Entries are in the same message, each a seal.Order.
	Orders     [][]byte      `cbor:"14,keyasint,omitempty"`
	Publishers uint64        `cbor:"15,keyasint,omitempty"` // number of the newest set of publishers; 0: unchanged
	Content    *ContentLimit `cbor:"16,keyasint,omitempty"` // nil: unchanged
}

// A SiteKey is what the gateways of a site share among themselves, for their gossip. It proves nothing about who holds it.
type SiteKey struct {
	Generation uint64 `cbor:"1,keyasint,omitempty"` // grows when a gateway is shut out; the key of an older one is not used any more
	Key        []byte `cbor:"2,keyasint"`           // SiteKeySize bytes, secret
}

// SiteKeySize is the length of a site key: AES-256.
const SiteKeySize = 32

// String names the key without giving it away.
func (k SiteKey) String() string {
	return fmt.Sprintf("site key of generation %d", k.Generation)
}

// Format keeps the key out of whatever prints it.
func (k SiteKey) Format(s fmt.State, _ rune) { fmt.Fprint(s, k.String()) } //nolint:errcheck // the state takes what it is given

// MaxCores bounds the uplink addresses that one message carries.
const MaxCores = 16

// Ask wants to know about a device of which the gateway has no entry; the answer is a Site message with it, or with one of
// state 0 (unknown).
type Ask struct {
	Device ident.DeviceID `cbor:"1,keyasint"`
}

// DeviceState is the state of a device's record.
type DeviceState uint8

// The states of a record.
const (
	DeviceUnknown        DeviceState = 0
	DeviceActive         DeviceState = 1
	DeviceQuarantined    DeviceState = 2
	DeviceDecommissioned DeviceState = 3
)

// String is the state as the API writes it.
func (s DeviceState) String() string {
	switch s {
	case DeviceActive:
		return "active"
	case DeviceQuarantined:
		return "quarantined"
	case DeviceDecommissioned:
		return "decommissioned"
	case DeviceUnknown:
	}
	return "unknown"
}

// RelayEnroll carries a device's Enroll from its gateway to the core.
type RelayEnroll struct {
	ID     uint64 `cbor:"1,keyasint"`
	Enroll Enroll `cbor:"2,keyasint"`
}

// RelayEnrolled answers it; a refusal is an Error with the same id.
type RelayEnrolled struct {
	ID       uint64   `cbor:"1,keyasint"`
	Enrolled Enrolled `cbor:"2,keyasint"`
}

// RelayRenew carries a device's Renew from its gateway to the core.
type RelayRenew struct {
	ID     uint64         `cbor:"1,keyasint"`
	Device ident.DeviceID `cbor:"2,keyasint"`
	Renew  Renew          `cbor:"3,keyasint"`
}

// RelayRenewed answers it; a refusal is an Error with the same id.
type RelayRenewed struct {
	ID      uint64  `cbor:"1,keyasint"`
	Renewed Renewed `cbor:"2,keyasint"`
}

// Millis is a duration as messages carry it: whole milliseconds, held to what the field can express.
func Millis(d time.Duration) uint32 {
	return uint32(min(max(d.Milliseconds(), 0), math.MaxUint32))
}
