package cli

import (
	"strings"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

const (
	idA = "3fa85f64-5717-4562-b3fc-2c963f66afa6"
	idB = "3fb00000-5717-4562-b3fc-2c963f66afa6"
	idC = "9c0d1e2f-5717-4562-b3fc-2c963f66afa6"
)

// newFleet is a core with a small fleet.
// The digests of two artifacts.
var digestA, digestB = strings.Repeat("a", 64), strings.Repeat("b", 64)

func newFleet() *fakeCore {
	keys := []v1.Key{{ID: "0123456789abcdef0123456789abcdef", State: "active", Since: *before(48 * time.Hour), ExpiresAt: *before(-88 * 24 * time.Hour)}}
	jetson := v1.Profile{
		Model: new("NVIDIA Jetson Xavier NX"), SoC: new("nvidia-jetson-xavier-nx"), Arch: new("arm64"),
		RAMBytes: new(uint64(8165347328)), CPUCores: new(uint32(6)), Accelerators: []string{"nvidia-gpu"},
		OS: new("Ubuntu 24.04"), Hints: &v1.Hints{Serial: "142042", MACs: []string{"48:b0:2d:00:00:01"}},
		Unknown: map[string]string{"kernel": "uname: permission denied", "accelerators": "usb: input/output error"},
	}
	return &fakeCore{
		fleet: "acme",
		devices: []v1.Device{
			{
				ID: idA, Site: "plant-7", State: "active", Presence: "online", PresenceSince: before(26 * time.Hour),
				LastHeartbeatAt: before(3 * time.Second), HeartbeatIntervalS: 2, Gateway: "plant-7/gw-a", Profile: jetson,
				AgentVersion: "1.0.0", Tags: map[string]string{"site": "plant-7", "line": "3"}, EnrolledAt: *before(48 * time.Hour),
				RegisteredAt: before(26 * time.Hour), Keys: keys,
				Desired: v1.Desired{Version: 4, Assignments: []v1.Assignment{{Slot: "app", Artifact: digestB, Name: "vision", Version: "1.2", Attempt: 1, Order: 4, Since: before(time.Hour), By: "op-1"}}},
				Reported: v1.Reported{Version: 3, Slots: []v1.Slot{
					{
						Status: v1.Status{
							Slot: "app", Artifact: digestB, Name: "vision", Version: "1.2", State: "rolled_back", Order: 3, Reason: "health", Detail: "port 80: refused",
							Running: digestA, RunningName: "vision", RunningVersion: "1.1",
						},
						Epoch: 2, Seq: 3, StatedAt: *before(50 * time.Minute), At: *before(50 * time.Minute), Since: *before(50 * time.Minute),
					},
				}},
			},
			{
				ID: idB, Site: "plant-7", State: "quarantined", StateReason: "clone", Presence: "offline", PresenceReason: "heartbeat_missed",
				PresenceSince: before(5 * time.Minute), LastHeartbeatAt: before(5*time.Minute + 4*time.Second), HeartbeatIntervalS: 90,
				Gateway: "plant-7/gw-a", AgentVersion: "1.0.0", Profile: v1.Profile{Accelerators: []string{}},
				EnrolledAt: *before(time.Hour), Tags: map[string]string{},
			},
			{
				ID: idC, Site: "plant-8", State: "active", Presence: "offline", PresenceReason: "never_connected",
				HeartbeatIntervalS: 30, EnrolledAt: *before(time.Minute), Tags: map[string]string{},
			},
		},
		sites: []v1.Site{
			{Name: "plant-7", HeartbeatIntervalS: 2, Devices: 2, Online: 1, Gateways: 2, Connected: 1, Relayed: 1, Backlog: v1.SiteBacklog{Statements: 12, Bytes: 1 << 20, OldestAt: before(40 * time.Second)}, CreatedAt: *before(72 * time.Hour)},
			{Name: "plant-8", HeartbeatIntervalS: 30, Devices: 1, Gateways: 1, Backlog: v1.SiteBacklog{Unknown: 1}, CreatedAt: *before(time.Hour), UnreachableSince: before(90 * time.Second)},
		},
		gateways: []v1.Gateway{
			{
				Site: "plant-7", Name: "gw-a", Listen: "10.7.0.2:7443", State: "active", Connected: true, LastHeardAt: before(time.Second), Devices: 1, EnrolledAt: *before(72 * time.Hour), Keys: keys,
				Uplink:  &v1.Uplink{Node: "core-1", Carrier: "quic", Since: *before(2 * time.Hour)},
				Backlog: &v1.Backlog{ToldAt: *before(3 * time.Second), Statements: 12, Bytes: 1 << 20, OldestAt: before(40 * time.Second)}, LastSyncAt: before(43 * time.Second),
			},
			{
				Site: "plant-7", Name: "gw-b", Listen: "10.7.0.3:7443", State: "active", LastHeardAt: before(time.Hour), EnrolledAt: *before(72 * time.Hour), Keys: keys,
				Backlog: &v1.Backlog{ToldAt: *before(time.Hour), Statements: 4000, Bytes: 32 << 20, OldestAt: before(30 * time.Hour), Holding: true, Refused: 1, Lost: 2},
			},
			{Site: "plant-8", Name: "gw-a", Listen: "10.8.0.2:7443", State: "active", Forked: &v1.Fork{At: *before(time.Minute), Reason: "it is an older copy"}, EnrolledAt: *before(time.Hour), Keys: []v1.Key{}},
		},
		tokens: []v1.Token{
			{ID: "aa11", Kind: "device", Site: "plant-7", Tags: map[string]string{"line": "3"}, Uses: 10, Used: 4, CreatedAt: *before(time.Hour), CreatedBy: "admin", ExpiresAt: *before(-time.Hour), State: "open", Comment: "line 3"},
			{ID: "ab22", Kind: "gateway", Site: "plant-8", Uses: 1, Used: 1, CreatedAt: *before(time.Hour), CreatedBy: "admin", ExpiresAt: *before(0), State: "used_up"},
		},
		history: []v1.HistoryItem{
			{Epoch: 1, Seq: 1, Type: "register", DeviceTime: before(48 * time.Hour), ClockState: "synced", GatewayTime: before(48 * time.Hour), Gateway: "plant-7/gw-a", CommittedAt: *before(48 * time.Hour), Changed: []v1.Change{{Fact: "agent_version", To: "0.9.0"}}},
			{Epoch: 1, Seq: 2, Type: "register", DeviceTime: before(27 * time.Hour), ClockState: "floored", GatewayTime: before(26 * time.Hour), Gateway: "plant-7/gw-a", CommittedAt: *before(26 * time.Hour), Changed: []v1.Change{{Fact: "agent_version", From: "0.9.0", To: "1.0.0"}}},
			{Epoch: 1, Seq: 3, To: 5, Type: "lost", CommittedAt: *before(2 * time.Hour), Changed: []v1.Change{}},
			{Epoch: 1, Seq: 4, Type: "register", DeviceTime: before(26 * time.Hour), ClockState: "synced", GatewayTime: before(26 * time.Hour), Gateway: "plant-7/gw-b", CommittedAt: *before(time.Minute), Late: true, Changed: []v1.Change{}},
			{Epoch: 2, Seq: 1, Type: "register", DeviceTime: before(time.Hour), ClockState: "synced", GatewayTime: before(time.Hour), Gateway: "plant-7/gw-a", CommittedAt: *before(time.Hour), Changed: []v1.Change{}},
			{
				Epoch: 2, Seq: 2, Type: "status", DeviceTime: before(55 * time.Minute), ClockState: "synced", GatewayTime: before(55 * time.Minute), Gateway: "plant-7/gw-a",
				CommittedAt: *before(55 * time.Minute), Changed: []v1.Change{},
				Status: &v1.Status{Slot: "app", Artifact: digestB, Name: "vision", Version: "1.2", State: "downloading", Order: 3, TotalBytes: 200 << 20, FetchedBytes: 2 << 20, SavedBytes: 190 << 20},
			},
			{
				Epoch: 2, Seq: 3, Type: "status", DeviceTime: before(50 * time.Minute), ClockState: "synced", GatewayTime: before(50 * time.Minute), Gateway: "plant-7/gw-a",
				CommittedAt: *before(50 * time.Minute), Changed: []v1.Change{},
				Status: &v1.Status{Slot: "app", Artifact: digestB, State: "failed", Order: 3, Reason: "health", Running: digestA},
			},
			{
				Epoch: 2, Seq: 4, Type: "alarm", DeviceTime: before(time.Minute), ClockState: "synced", GatewayTime: before(time.Minute), Gateway: "plant-7/gw-a",
				CommittedAt: *before(time.Minute), Changed: []v1.Change{}, Alarm: &v1.Alarm{Reason: "publishers", Detail: "set 2 does not verify"},
			},
		},
		artifacts: []v1.Artifact{
			{
				Digest: digestB, Name: "vision", Version: "1.2", Number: 2, Kind: "tree", Size: 200 << 20, ManifestSize: 300 << 10, Chunks: 3200, Publisher: "ci", Signer: digestA,
				Devices: 1, AddedAt: *before(2 * time.Hour), AddedBy: "op-1", Release: "AAE=",
			},
			{Digest: digestA, Name: "vision", Version: "1.1", Number: 1, Kind: "tree", Size: 199 << 20, Chunks: 3190, Publisher: "ci", Signer: digestA, AddedAt: *before(72 * time.Hour), AddedBy: "op-1"},
			{Digest: strings.Repeat("c", 64), Name: "tool", Version: "3", Number: 3, Kind: "file", Size: 4096, Publisher: "ci", Signer: digestA, AddedAt: *before(time.Minute), AddedBy: "op-1"},
		},
		publishers: []v1.PublisherSet{
			{Number: 1, Publishers: []v1.Publisher{{Name: "ci", Key: digestA}, {Name: "ops", Key: digestB}}, Roots: []string{digestA, digestB}, Threshold: 1, SetAt: *before(72 * time.Hour), SetBy: "op-1", Sealed: "AAE="},
		},
		explained: v1.Explanation{Device: idA, At: fakeNow, Facts: []v1.Fact{
			{Topic: "device", Text: "It belongs to site plant-7 and is active."},
			{Topic: "presence", Text: "It is online through gateway plant-7/gw-a.", Since: before(26 * time.Hour), Until: before(-3 * time.Second)},
			{Slot: "app", Topic: "assignment", Text: "vision@1.2 is assigned.", Since: before(time.Hour)},
			{Slot: "app", Topic: "waits", Text: "It waits for content."},
			{Slot: "lib", Topic: "next", Text: "Nothing is to be done."},
		}},
		presence: []v1.PresenceItem{
			{State: "online", From: *before(48 * time.Hour), To: before(27 * time.Hour), Gateway: "plant-7/gw-a", Beats: 37800, Missed: 2, Counted: true},
			{State: "offline", From: *before(27 * time.Hour), To: before(26 * time.Hour), Gateway: "plant-7/gw-a", Reason: "site_unreachable", Missed: 1800},
			{State: "online", From: *before(26 * time.Hour), Gateway: "plant-7/gw-a", Beats: 46800},
		},
		events: []v1.Event{
			{Index: 41, Time: *before(2 * time.Second), Type: "device.online", Device: idA, Site: "plant-7", Data: map[string]string{"gateway": "plant-7/gw-a"}},
			{Index: 42, Time: *before(time.Second), Type: "token.created", Token: "aa11", Site: "plant-7"},
		},
		cluster: v1.Cluster{
			Fleet: "acme", Leader: "core-1", Index: 4711, Version: "1.0.0",
			Nodes: []v1.Node{
				{Name: "core-1", Address: "10.0.0.1:8445", API: "core-1.example.com:8443", Uplink: "10.0.0.1:8444", Member: true, Voter: true, Leader: true, LastContactS: new(0.4), Index: new(uint64(4711)), JoinedAt: before(72 * time.Hour)},
				{Name: "core-2", Address: "10.0.0.2:8445", API: "10.0.0.2:8443", Uplink: "10.0.0.2:8444", Member: true, Voter: true, Self: true, JoinedAt: before(48 * time.Hour)},
				{Name: "core-3", Address: "10.0.0.3:8445", API: "10.0.0.3:8443", Uplink: "10.0.0.3:8444", Member: true, LastContactS: new(75.0), Index: new(uint64(17)), CatchingUp: true, JoinedAt: before(time.Minute)},
				{Name: "core-0", Address: "10.0.0.9:8445", Voter: true},
			},
		},
		operators: []v1.Operator{
			{ID: "op-1", Name: "admin", Role: "admin", Sites: []string{}, State: "active", CreatedAt: *before(72 * time.Hour), LastUsedAt: before(time.Second), LastUsedFrom: "192.0.2.7"},
			{ID: "op-2b4c", Name: "shift-a", Role: "operator", Sites: []string{"plant-7", "plant-8"}, State: "active", CreatedAt: *before(time.Hour), CreatedBy: "op-1", ExpiresAt: before(-24 * time.Hour)},
			{ID: "op-3d00", Name: "ci", Role: "viewer", Sites: []string{}, State: "revoked", CreatedAt: *before(time.Hour), CreatedBy: "op-1", LastUsedAt: before(30 * time.Minute), LastUsedFrom: "2001:db8::7"},
		},
		audit: newAuditTrail(5, nil),
	}
}
