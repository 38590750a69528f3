// Package v1 holds the JSON of the operators' API, version 1: what the core writes and what clients read. Fields are only
// ever added. docs: GET /openapi.json of any core node.
package v1

import "time"

// A List is one page. NextCursor is empty on the last.
type List[T any] struct {
	Items      []T    `json:"items" nullable:"false"`
	NextCursor string `json:"next_cursor,omitempty" doc:"pass as ?cursor= for the next page; absent on the last"`
}

// Device is one device's record with its presence at the moment of reading.
type Device struct {
	ID                 string            `json:"id" format:"uuid"`
	Site               string            `json:"site"`
	State              string            `json:"state" enum:"active,quarantined,decommissioned"`
	StateReason        string            `json:"state_reason,omitempty" doc:"why the device is quarantined"`
	Presence           string            `json:"presence" enum:"online,offline"`
	PresenceReason     string            `json:"presence_reason,omitempty" enum:"heartbeat_missed,site_unreachable,never_connected,recovering,unverified"`
	PresenceSince      *time.Time        `json:"presence_since,omitempty"`
	LastHeartbeatAt    *time.Time        `json:"last_heartbeat_at" doc:"null: none yet"`
	HeartbeatIntervalS float64           `json:"heartbeat_interval_s" doc:"seconds; what the device is told to use: what was set, or longer where its gateway holds the devices back"`
	Gateway            string            `json:"gateway" doc:"site/name of the gateway of the newest attach; empty: never connected"`
	Profile            Profile           `json:"profile"`
	AgentVersion       string            `json:"agent_version"`
	Tags               map[string]string `json:"tags" doc:"in force: operator's over token's over the device's own, and site"`
	EnrolledAt         time.Time         `json:"enrolled_at"`
	RegisteredAt       *time.Time        `json:"registered_at" doc:"newest registration; null: none yet"`
	Desired            Desired           `json:"desired"`
	Reported           Reported          `json:"reported"`
	Keys               []Key             `json:"keys" nullable:"false"`
}

// Profile is the detected hardware profile. A fact that is null is either absent, or unknown for the reason that Unknown gives.
type Profile struct {
	Model        *string           `json:"model"`
	SoC          *string           `json:"soc"`
	Arch         *string           `json:"arch"`
	RAMBytes     *uint64           `json:"ram_bytes"`
	CPUCores     *uint32           `json:"cpu_cores"`
	Accelerators []string          `json:"accelerators" nullable:"false"`
	OS           *string           `json:"os"`
	Kernel       *string           `json:"kernel"`
	Unknown      map[string]string `json:"unknown,omitempty" doc:"fact to the reason that its probe failed"`
	Hints        *Hints            `json:"hints,omitempty"`
}

// Hints are hardware ids that help to recognise a machine. They are no identity.
type Hints struct {
	Serial    string   `json:"serial,omitempty"`
	MachineID string   `json:"machine_id,omitempty"`
	MACs      []string `json:"macs,omitempty" nullable:"false"`
}

// Key is one key of a device.
type Key struct {
	ID        string    `json:"id" doc:"SHA-256 of the public key's SubjectPublicKeyInfo, hex"`
	State     string    `json:"state" enum:"active,superseded,retired"`
	Since     time.Time `json:"since"`
	ExpiresAt time.Time `json:"certificate_expires_at"`
}

// HistoryItem is one committed statement of a device.
type HistoryItem struct {
	Epoch       uint64     `json:"epoch"`
	Seq         uint64     `json:"seq"`
	To          uint64     `json:"to,omitempty" doc:"of lost: the last seq of the range that begins with seq"`
	Type        string     `json:"type" enum:"register,status,alarm,lost" doc:"lost: statements that the device made and says it no longer holds; those that still come are items of their own"`
	DeviceTime  *time.Time `json:"device_time" doc:"null: lost"`
	ClockState  string     `json:"clock,omitempty" enum:"unknown,synced,unsynced,floored"`
	GatewayTime *time.Time `json:"gateway_time" doc:"when its gateway took it; null: lost"`
	Gateway     string     `json:"gateway"`
	CommittedAt time.Time  `json:"committed_at"`
	Late        bool       `json:"late,omitempty" doc:"it had been given up as lost"`
	Changed     []Change   `json:"changed" nullable:"false" doc:"the facts that it changed"`
	Status      *Status    `json:"status,omitempty" doc:"of a status: what it says"`
	Alarm       *Alarm     `json:"alarm,omitempty" doc:"of an alarm: what it says"`
}

// Change is one reported fact that a registration changed.
type Change struct {
	Fact string `json:"fact"`
	From string `json:"from"`
	To   string `json:"to"`
}

// PresenceItem is one stretch of a device's timeline. The newest has no end.
type PresenceItem struct {
	State   string     `json:"state" enum:"online,offline"`
	From    time.Time  `json:"from"`
	To      *time.Time `json:"to" doc:"null: it goes on"`
	Gateway string     `json:"gateway"`
	Reason  string     `json:"reason,omitempty"`
	Beats   uint64     `json:"beats"`
	Missed  uint64     `json:"missed"`
	Counted bool       `json:"counted" doc:"beats and missed are the gateway's count; false: not counted yet, or nobody could"`
}

// Token is an enrollment token without its secret.
type Token struct {
	ID        string            `json:"id"`
	Kind      string            `json:"kind" enum:"device,gateway,core"`
	Site      string            `json:"site,omitempty"`
	Tags      map[string]string `json:"tags,omitempty"`
	Uses      uint32            `json:"uses"`
	Used      uint32            `json:"used"`
	CreatedAt time.Time         `json:"created_at"`
	CreatedBy string            `json:"created_by"`
	ExpiresAt time.Time         `json:"expires_at"`
	State     string            `json:"state" enum:"open,used_up,expired,revoked"`
	Comment   string            `json:"comment,omitempty"`
}

// NewToken is a token just created: the only time its secret is shown, but for a repetition of the same request.
type NewToken struct {
	Token  string `json:"token" doc:"hf1_…: shown once"`
	Record Token  `json:"record"`
	ID     string `json:"id"`
}

// CreateToken asks for a token.
type CreateToken struct {
	Kind    string            `json:"kind" enum:"device,gateway,core" doc:"core takes the role admin, is for one use and lives at most 15m"`
	Site    string            `json:"site,omitempty" doc:"required for device and gateway; made when it is new"`
	TTL     string            `json:"ttl,omitempty" doc:"duration from 1m to 720h, such as 90m; empty: 1h, for core 15m"`
	Uses    uint32            `json:"uses,omitempty" minimum:"1" maximum:"10000" default:"1"`
	Tags    map[string]string `json:"tags,omitempty" doc:"preset on every device that it enrolls; not for other kinds"`
	Comment string            `json:"comment,omitempty" maxLength:"256" doc:"printable"`
}

// Site is a plant.
type Site struct {
	Name               string      `json:"name"`
	HeartbeatIntervalS float64     `json:"heartbeat_interval_s"`
	Devices            int         `json:"devices"`
	Online             int         `json:"online"`
	Gateways           int         `json:"gateways"`
	Connected          int         `json:"gateways_connected"`
	Relayed            int         `json:"gateways_relayed" doc:"of the connected: through a sibling, because their own way to the core is cut"`
	Backlog            SiteBacklog `json:"backlog"`
	Content            Content     `json:"content" doc:"the limit of what its gateways fetch for devices over the WAN"`
	UnreachableSince   *time.Time  `json:"unreachable_since" doc:"since when all its gateways are silent; null: reachable, or without gateways"`
	CreatedAt          time.Time   `json:"created_at"`
}

// SetSite changes a site, and makes it when it is new.
type SetSite struct {
	HeartbeatInterval string  `json:"heartbeat_interval,omitempty" doc:"duration from 1s to 1h"`
	ContentRate       *uint64 `json:"content_bytes_per_second,omitempty" maximum:"1099511627776" doc:"of all gateways of the site together; 0: no limit"`
	ContentWindow     *string `json:"content_window,omitempty" maxLength:"11" doc:"when content may be fetched, each day in UTC, such as 22:00-05:00; empty: always"`
}

// SetDevice changes a device's settings.
type SetDevice struct {
	HeartbeatInterval *string `json:"heartbeat_interval,omitempty" doc:"duration from 1s to 1h; empty string: the site's"`
}

// SetTags changes the operator's tags of a device.
type SetTags struct {
	Set    map[string]string `json:"set,omitempty"`
	Remove []string          `json:"remove,omitempty" nullable:"false" maxItems:"64" doc:"tags to hide, whoever sets them"`
}

// Gateway is one gateway of a site.
type Gateway struct {
	Site        string     `json:"site"`
	Name        string     `json:"name"`
	Listen      string     `json:"listen"`
	State       string     `json:"state" enum:"active,revoked" doc:"revoked: none of its keys counts, and the name may be enrolled anew"`
	Connected   bool       `json:"connected" doc:"heard within three report periods"`
	LastHeardAt *time.Time `json:"last_heard_at"`
	Uplink      *Uplink    `json:"uplink" doc:"null: not connected"`
	Backlog     *Backlog   `json:"backlog" doc:"what it told last, also while it is not connected; null: nothing yet"`
	LastSyncAt  *time.Time `json:"last_sync_at" doc:"when it told last that nothing waits there; null: not known"`
	Devices     int        `json:"devices" doc:"online through it"`
	EnrolledAt  time.Time  `json:"enrolled_at"`
	RevokedAt   *time.Time `json:"revoked_at" doc:"null: it is not"`
	RevokedBy   string     `json:"revoked_by,omitempty" doc:"id of an operator"`
	Reason      string     `json:"reason,omitempty" doc:"why it was revoked, as the operator said"`
	Forked      *Fork      `json:"forked" doc:"the newest copy of it that was refused, which is one of two machines or an older state of its disk; null: none was"`
	Keys        []Key      `json:"keys" nullable:"false"`
}

// Fork is a copy of a gateway that the core refused.
type Fork struct {
	At     time.Time `json:"at"`
	Reason string    `json:"reason"`
}

// RevokeGateway ends a gateway.
type RevokeGateway struct {
	Reason string `json:"reason,omitempty" maxLength:"256" doc:"printable; kept with the record and on the audit trail"`
}

// Uplink is a gateway's session with a core node.
type Uplink struct {
	Node    string    `json:"node"`
	Carrier string    `json:"carrier" doc:"quic, or tcp where UDP does not get through; empty: not known"`
	Relay   string    `json:"relay" doc:"name of the gateway of the site through which it goes, as it says itself; empty: none"`
	Since   time.Time `json:"since"`
}

// Backlog is what devices stated, a gateway has on its disk, and the core had not answered for when the gateway told it.
type Backlog struct {
	ToldAt     time.Time  `json:"told_at"`
	Statements uint64     `json:"statements"`
	Bytes      uint64     `json:"bytes" doc:"of the gateway's disk; what is done with leaves it in segments"`
	OldestAt   *time.Time `json:"oldest_at" doc:"when the oldest was taken; null: nothing waits, or the gateway cannot tell"`
	Holding    bool       `json:"holding" doc:"there is no room: devices are asked to keep what they state"`
	Failing    bool       `json:"failing" doc:"the gateway's disk takes nothing at present"`
	Refused    uint64     `json:"refused" doc:"since its start: statements that the core will never take"`
	Lost       uint64     `json:"lost" doc:"since its start: statements that its disk lost"`
}

// SiteBacklog sums up what the gateways of a site told last.
type SiteBacklog struct {
	Statements uint64     `json:"statements"`
	Bytes      uint64     `json:"bytes"`
	OldestAt   *time.Time `json:"oldest_at" doc:"null: nothing waits, or nobody can tell"`
	Holding    int        `json:"holding" doc:"gateways that have no room left"`
	Unknown    int        `json:"unknown" doc:"gateways of which no backlog is known"`
}

// Event tells of a change that is committed.
type Event struct {
	Index    uint64            `json:"index"`
	Time     time.Time         `json:"time"`
	Type     string            `json:"type"`
	Device   string            `json:"device,omitempty"`
	Site     string            `json:"site,omitempty"`
	Gateway  string            `json:"gateway,omitempty"`
	Token    string            `json:"token,omitempty"`
	Operator string            `json:"operator,omitempty"`
	Node     string            `json:"node,omitempty"`
	Data     map[string]string `json:"data,omitempty"`
}

// Cluster is the state of the core.
type Cluster struct {
	Fleet   string `json:"fleet"`
	Leader  string `json:"leader" doc:"empty: none known at present"`
	Index   uint64 `json:"index" doc:"log index that this node has applied"`
	Version string `json:"version"`
	Nodes   []Node `json:"nodes" nullable:"false"`
}

// Node is one core node.
type Node struct {
	Name         string     `json:"name"`
	Address      string     `json:"address" doc:"where the other nodes reach it"`
	API          string     `json:"api" doc:"where operators reach it"`
	Uplink       string     `json:"uplink" doc:"where gateways reach it"`
	Member       bool       `json:"member" doc:"admitted by the registry; false: on its way out"`
	Voter        bool       `json:"voter" doc:"false: it catches up, or has not been taken in yet"`
	Leader       bool       `json:"leader"`
	Self         bool       `json:"self" doc:"the node that answers"`
	LastContactS *float64   `json:"last_contact_s" doc:"seconds since the answering node heard of it; null: it does not hear of it directly"`
	Index        *uint64    `json:"index" doc:"newest log index that it told of; null: not told"`
	CatchingUp   bool       `json:"catching_up" doc:"fetches history that it lacks"`
	JoinedAt     *time.Time `json:"joined_at"`
}

// TransferLeadership asks the leader to hand over.
type TransferLeadership struct {
	To string `json:"to,omitempty" doc:"name of the node to lead; empty: whichever is best"`
}

// Snapshot tells of a snapshot that was made.
type Snapshot struct {
	Node  string `json:"node"`
	Index uint64 `json:"index" doc:"log index that it reaches"`
}

// Operator is somebody with a bearer token for the API. The token itself is not kept.
type Operator struct {
	ID           string     `json:"id"`
	Name         string     `json:"name"`
	Role         string     `json:"role" enum:"viewer,operator,admin"`
	Sites        []string   `json:"sites" nullable:"false" doc:"what it is limited to; empty: the whole fleet"`
	State        string     `json:"state" enum:"active,expired,revoked"`
	CreatedAt    time.Time  `json:"created_at"`
	CreatedBy    string     `json:"created_by" doc:"id of an operator; empty: made with the fleet"`
	ExpiresAt    *time.Time `json:"expires_at" doc:"null: never"`
	LastUsedAt   *time.Time `json:"last_used_at" doc:"to about a minute; null: never"`
	LastUsedFrom string     `json:"last_used_from" doc:"address of the newest request"`
}

// CreateOperator asks for an operator.
type CreateOperator struct {
	Name  string   `json:"name" minLength:"1" maxLength:"64" doc:"printable"`
	Role  string   `json:"role" enum:"viewer,operator,admin"`
	Sites []string `json:"sites,omitempty" nullable:"false" maxItems:"64" doc:"limit to these sites; empty: the whole fleet"`
	TTL   string   `json:"ttl,omitempty" doc:"duration from 1m to 87600h, such as 720h; empty: no end"`
}

// NewOperator is an operator just made: the only time its token is shown, but for a repetition of the same request.
type NewOperator struct {
	Operator Operator `json:"operator"`
	Token    string   `json:"token" doc:"hfo1_…: shown once"`
}

// AuditRecord is one record of the audit trail.
type AuditRecord struct {
	Seq     uint64            `json:"seq" doc:"from 1, without gaps"`
	Index   uint64            `json:"index" doc:"log index of the entry that had the effect"`
	Time    time.Time         `json:"time" doc:"log time"`
	Actor   string            `json:"actor" doc:"operator:ID, token:ID, core, core:NAME or recovery"`
	Action  string            `json:"action" doc:"noun.verb"`
	Target  string            `json:"target,omitempty"`
	Site    string            `json:"site,omitempty"`
	Request string            `json:"request,omitempty"`
	Source  string            `json:"source,omitempty"`
	Outcome string            `json:"outcome" enum:"done,refused"`
	Detail  map[string]string `json:"detail,omitempty"`
	Raw     string            `json:"raw" doc:"base64 of the record's bytes, over which the chain is made"`
	Hash    string            `json:"hash" doc:"hex of the chain's hash after this record"`
}

// AuditHead is how far the audit trail has come.
type AuditHead struct {
	Seq    uint64    `json:"seq"`
	Hash   string    `json:"hash" doc:"hex"`
	Time   time.Time `json:"time" doc:"log time of the newest entry"`
	Sealed string    `json:"sealed" doc:"base64 of the head as signed by the fleet's authority"`

	Authority string `json:"authority" doc:"base64 of the authority's certificate (DER), which the fleet's root has signed"`
}

// Whoami is who the bearer token speaks for.
type Whoami struct {
	ID       string   `json:"id"`
	Operator string   `json:"operator" doc:"its name"`
	Role     string   `json:"role"`
	Sites    []string `json:"sites" nullable:"false" doc:"what it is limited to; empty: the whole fleet"`
	Fleet    string   `json:"fleet"`
}

// Health is the answer of /healthz and /readyz when all is well.
type Health struct {
	Status string `json:"status" enum:"ok"`
}
