package registry

import (
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

// A Stream names whose history a record belongs to: a kind of subject and 16 bytes of its id.
type Stream [17]byte

// DeviceStream is the history of a device.
func DeviceStream(d ident.DeviceID) Stream {
	s := Stream{'d'}
	copy(s[1:], d[:])
	return s
}

// SiteStream is the history of a site.
func SiteStream(name string) Stream {
	s := Stream{'s'}
	h := sha256.Sum256([]byte(name))
	copy(s[1:], h[:])
	return s
}

// AuditStream is the fleet's audit trail.
var AuditStream = Stream{'a'}

// A RecordKind says what a history record holds. Kinds are append-only and never reused.
type RecordKind uint8

// The kinds.
const (
	KindStatement RecordKind = 1 // a StatementRecord, in a device's stream
	KindSpan      RecordKind = 2 // a Span, in a device's stream
	KindOutage    RecordKind = 3 // an Outage, in a site's stream
	KindAudit     RecordKind = 4 // an AuditRecord, in the audit stream
	KindLost      RecordKind = 5 // a Lost, in a device's stream
)

// A Record is something to append to the history.
type Record struct {
	Stream Stream
	Kind   RecordKind
	Data   []byte // CBOR
}

// A StatementRecord is a committed statement, as signed, and what it changed.
type StatementRecord struct {
	Sealed    []byte   `cbor:"1,keyasint"`
	Gateway   string   `cbor:"2,keyasint"`
	GatewayMS int64    `cbor:"3,keyasint"`
	Changed   []Change `cbor:"4,keyasint,omitempty"`
	Late      bool     `cbor:"5,keyasint,omitempty"` // it had been given up
}

// A Change is one reported fact that a registration changed.
type Change struct {
	Fact string `cbor:"1,keyasint" json:"fact"`
	From string `cbor:"2,keyasint" json:"from"`
	To   string `cbor:"3,keyasint" json:"to"`
}

// A Span is a stretch of a device's presence that is over.
type Span struct {
	Online  bool   `cbor:"1,keyasint,omitempty"`
	FromMS  int64  `cbor:"2,keyasint"`
	ToMS    int64  `cbor:"3,keyasint"`
	Gateway string `cbor:"4,keyasint"`
	LastMS  int64  `cbor:"5,keyasint"`
	Beats   uint64 `cbor:"6,keyasint,omitempty"`
	Missed  uint64 `cbor:"7,keyasint,omitempty"`
	Counted bool   `cbor:"8,keyasint,omitempty"` // Beats and Missed are the gateway's count; false: nobody counted
	// Kept says that the gateway had the span on its disk, and did not only report its end: the gateway's word about this time, whatever
	// was reported. Such spans do not come in order of time, and one may come twice, with the same Gateway and FromMS.
	Kept bool `cbor:"9,keyasint,omitempty"`
}

// An Outage is a stretch in which all gateways of a site were silent.
type Outage struct {
	FromMS int64 `cbor:"1,keyasint"`
	ToMS   int64 `cbor:"2,keyasint"`
}

// record appends to the history. Encoding a struct of this package cannot fail.
func (a *applier) record(s Stream, k RecordKind, v any) {
	b, err := wire.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("registry: %T does not encode: %v", v, err))
	}
	a.out.Records = append(a.out.Records, Record{Stream: s, Kind: k, Data: b})
}

// The event types.
const (
	EventDeviceEnrolled    = "device.enrolled"
	EventDeviceRegistered  = "device.registered"
	EventDeviceOnline      = "device.online"
	EventDeviceOffline     = "device.offline"
	EventDeviceTagged      = "device.tagged"
	EventDeviceChanged     = "device.changed"
	EventDeviceQuarantined = "device.quarantined"
	EventDeviceReleased    = "device.released"
	EventDeviceAssigned    = "device.assigned"
	EventDeviceStatus      = "device.status"
	EventDeviceAlarm       = "device.alarm"
	EventArtifactAdded     = "artifact.added"
	EventArtifactDeleted   = "artifact.deleted"
	EventPublishersChanged = "publishers.changed"
	EventStatementConflict = "statement.conflict"
	EventStatementsLost    = "statements.lost"
	EventGatewayDoubted    = "gateway.doubted"
	EventGatewayEnrolled   = "gateway.enrolled"
	EventGatewayRevoked    = "gateway.revoked"
	EventGatewayStarted    = "gateway.started"
	EventGatewayForked     = "gateway.forked"
	EventSiteChanged       = "site.changed"
	EventSiteUnreachable   = "site.unreachable"
	EventSiteReachable     = "site.reachable"
	EventTokenCreated      = "token.created"
	EventTokenRevoked      = "token.revoked"
	EventOperatorCreated   = "operator.created"
	EventOperatorRevoked   = "operator.revoked"
	EventNodeJoined        = "node.joined"
	EventNodeChanged       = "node.changed"
	EventNodeRemoved       = "node.removed"
	EventNodeRecovered     = "node.recovered"
)

// A Subject says what an event is about.
type Subject struct {
	Device   string `json:"device,omitempty"`
	Site     string `json:"site,omitempty"`
	Gateway  string `json:"gateway,omitempty"`
	Token    string `json:"token,omitempty"`
	Operator string `json:"operator,omitempty"`
	Node     string `json:"node,omitempty"`
}

// An Event tells of a change that is committed.
type Event struct {
	Index uint64    `json:"index"` // log index
	Time  time.Time `json:"time"`  // log time
	Type  string    `json:"type"`
	Subject
	Data map[string]string `json:"data,omitempty"`
}

func (a *applier) event(kind string, s Subject, data map[string]string) {
	a.out.Events = append(a.out.Events, Event{Index: a.index, Time: a.now, Type: kind, Subject: s, Data: data})
}

func (a *applier) subject(d *Device) Subject { return Subject{Device: d.ID.String(), Site: d.Site} }
