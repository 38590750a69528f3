package wire

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/holdfast-edge/holdfast/wire/ident"
)

var update = flag.Bool("update", false, "write the golden files from what the code produces now")

var goldenDevice = ident.DeviceID{0x01, 0x8f, 0x3c, 0x5d, 0x7a, 0x01, 0x4b, 0xcd, 0x8e, 0xf0, 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc}

// samples has one message of each type with every field set, so that a golden shows every key.
func samples() map[Type]any {
	id := "spiffe://plant/device/018f3c5d-7a01-4bcd-8ef0-123456789abc"
	enroll := Enroll{
		Capability: 1, CSR: []byte("csr"), Proof: []byte("proof"), Name: "gw1", Listen: "10.0.0.1:7443",
		API: "10.0.1.2:8443", Uplink: "10.0.1.2:7400", Cluster: "10.0.1.2:7401", Holder: bytes.Repeat([]byte{9}, 32),
	}
	enrolled := Enrolled{
		Identity: id, Chain: [][]byte{[]byte("leaf"), []byte("ca")}, Root: []byte("root"), Authority: []byte("authority"),
		Gateways: []string{"10.0.0.1:7443", "10.0.0.2:7443"}, IntervalMS: 5000, Site: "berlin", Cores: []string{"10.0.1.1:7400", "10.0.1.2:7400"},
		List: []byte("list"),
	}
	return map[Type]any{
		TypeError:        &Error{Code: CodeBusy, RetryAfterMS: 1500, Detail: "too many enrollments", Ref: TypeEnroll, ID: 7},
		TypeAttach:       &Attach{Capability: 1, Sealed: []byte("sealed attach"), ListEpoch: 1, List: 43},
		TypeWelcome:      &Welcome{Capability: 1, Identity: id, IntervalMS: 5000, KeepAliveMS: 5000, Site: "berlin", TimeMS: 1795464000000, Kept: &Kept{Epoch: 1, Seq: 7, Chain: bytes.Repeat([]byte{5}, 32)}, PeriodMS: 10000},
		TypeHeartbeat:    &Heartbeat{Run: 1 << 63, Number: 42, Answered: 41, UptimeMS: 3600000, IntervalMS: 5000, Desired: 3, Running: []byte{1, 2, 3}, Publishers: 2},
		TypeHeartbeatAck: &HeartbeatAck{Number: 42, IntervalMS: 10000, Receipt: []byte("receipt"), Uplink: true, List: []byte("list"), Order: []byte("order"), Publishers: 2},
		TypeCustody:      &Custody{Epoch: 1, Seq: 8},
		TypeProbe:        &Probe{Capability: 1, ListEpoch: 1, List: 43},
		TypeProbed:       &Probed{Capability: 1, Uplink: true, List: []byte("list")},
		TypeFetch:        &Fetch{Capability: 1, Kind: ContentManifest, Digest: DigestOf([]byte("content")), Offset: MaxPart, Number: 2, Local: true},
		TypeBlob:         &Blob{Codec: CodecZstd, Data: []byte("data"), Total: MaxPart + 4, Code: CodeNoContent, Detail: "not here", RetryAfterMS: 1000},
		TypeStatement:    &Statement{Sealed: []byte("sealed statement")},
		TypeRenew:        &Renew{CSR: []byte("csr")},
		TypeRenewed:      &Renewed{Chain: [][]byte{[]byte("leaf"), []byte("ca")}},
		TypeGoAway:       &GoAway{RetryAfterMS: 2000},
		TypeEnroll:       &enroll,
		TypeEnrolled:     &enrolled,
		TypeUplinkHello: &UplinkHello{Capability: 1, Version: "1.0.0", Listen: "10.0.0.1:7443", Run: 99, KnownEpoch: 1, Known: 40, Via: "gw2", Spool: &SpoolEnds{
			Incarnation: [16]byte{7}, Trimmed: SpoolPoint{Seq: 8, Chain: [32]byte{8}}, Last: SpoolPoint{Seq: 9, Chain: [32]byte{9}},
		}},
		TypeUplinkWelcome: &UplinkWelcome{
			Capability: 1, Identity: "spiffe://plant/gateway/berlin/gw1", ReportPeriodMS: 10000, TimeMS: 1795464000000,
		},
		TypeSubmit: &Submit{ID: 5, TimeMS: 1795464000000, Statements: [][]byte{[]byte("one"), []byte("two")}, AfterMS: []int64{0, 40}, Spans: []Span{{
			Device: ident.DeviceID{1, 15: 2}, Attach: []byte("attach"), FromMS: 1795464000000, LastMS: 1795464060000, ToMS: 1795464150000, Beats: 3, Missed: 1,
		}}, Upto: &SpoolPoint{Seq: 10, Chain: [32]byte{10}}},
		TypeSubmitted: &Submitted{ID: 5, Results: []SubmitResult{
			{}, {Code: CodeConflict, Detail: "seq 3 was committed with other content"},
		}},
		TypePresence: &Presence{
			TimeMS: 1795464000000, Digest: true, Count: 2, Beats: Beats{0, 1, 0xe7, 7, 40},
			Online: []DeviceOnline{{
				Slot: 1, Device: goldenDevice, Attach: []byte("attach"), SinceMS: 1795463000000, LastMS: 1795463999000,
				IntervalMS: 5000, Beats: 200, Missed: 1,
			}},
			Offline: []DeviceOffline{{Device: goldenDevice, LastMS: 1795463000000, AtMS: 1795463015000, Beats: 10, Missed: 3}},
			Told:    []DeviceInterval{{Slot: 1000, IntervalMS: 20000}}, LeastMS: 15000,
			Backlog: &Backlog{Statements: 7, Bytes: 1 << 20, OldestMS: 1795463000000, Holding: true, Failing: true, Refused: 1, Lost: 2},
		},
		TypeSite: &Site{
			Version: 9, IntervalMS: 5000, Cores: []string{"10.0.1.1:7400"}, AuditHead: []byte("head"),
			Entries: [][]byte{[]byte("entry"), []byte("another")}, List: []byte("list"), UptoEpoch: 1, Upto: 42, LeastMS: 15000,
			SiteKey: &SiteKey{Generation: 2, Key: bytes.Repeat([]byte{6}, SiteKeySize)},
			Orders:  [][]byte{[]byte("order")}, Publishers: 2, Content: &ContentLimit{BytesPerSecond: 1 << 20, Window: "22:00-05:00"},
		},
		TypeRelayEnroll:   &RelayEnroll{ID: 11, Enroll: enroll},
		TypeRelayEnrolled: &RelayEnrolled{ID: 11, Enrolled: enrolled},
		TypeRelayRenew:    &RelayRenew{ID: 12, Device: goldenDevice, Renew: Renew{CSR: []byte("csr")}},
		TypeRelayRenewed:  &RelayRenewed{ID: 12, Renewed: Renewed{Chain: [][]byte{[]byte("leaf"), []byte("ca")}}},
		TypeAsk:           &Ask{Device: goldenDevice},
		TypeMirrorAsk:     &MirrorAsk{AfterEpoch: 1, After: 40, ListEpoch: 1, List: 7},
		TypeMirrorPage:    &MirrorPage{Entries: [][]byte{[]byte("entry"), []byte("another")}, List: []byte("list"), More: true, Orders: [][]byte{[]byte("order")}},
		TypeProve:         &Prove{Seq: 8},
		TypeProof: &Proof{Point: &SpoolPoint{Seq: 8, Chain: [32]byte{8}}, Spool: &SpoolEnds{
			Incarnation: [16]byte{7}, Trimmed: SpoolPoint{Seq: 7, Chain: [32]byte{7}}, Last: SpoolPoint{Seq: 9, Chain: [32]byte{9}},
		}},
		TypeReceipts: &Receipts{Items: []DeviceReceipt{{Device: goldenDevice, Receipt: []byte("receipt")}}},

		TypeSiblingHello:   &SiblingHello{Capability: 1, Purpose: PurposeRelay},
		TypeSiblingWelcome: &SiblingWelcome{Capability: 1, Identity: "spiffe://plant/gateway/berlin/gw1"},
		TypeBytes:          &Bytes{Data: []byte("bytes")},
	}
}

// fresh is a new zero message of the type of m.
func fresh(m any) any { return reflect.New(reflect.TypeOf(m).Elem()).Interface() }

func goldenPath(t Type) string { return filepath.Join("testdata", "golden", t.String()+".hex") }

// golden is the committed frame of a type. With -update it writes frame, unless nil, there first.
func golden(tb testing.TB, typ Type, frame []byte) []byte {
	tb.Helper()
	path := goldenPath(typ)
	if *update && frame != nil {
		if err := os.WriteFile(path, []byte(hexLines(frame)), 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Fatalf("%v has no golden frame: add it with -update: %v", typ, err)
	}
	out, err := hex.DecodeString(strings.Join(strings.Fields(string(b)), ""))
	if err != nil {
		tb.Fatalf("%s: %v", path, err)
	}
	return out
}

// hexLines writes b in lines of 32 bytes.
func hexLines(b []byte) string {
	var s strings.Builder
	for len(b) > 0 {
		n := min(32, len(b))
		s.WriteString(hex.EncodeToString(b[:n]) + "\n")
		b = b[n:]
	}
	return s.String()
}

func TestGoldenFrames(t *testing.T) {
	all := samples()
	for typ := range types {
		m := all[typ]
		if m == nil {
			t.Errorf("%v has no sample", typ)
			continue
		}
		frame, err := AppendFrame(nil, typ, m)
		if err != nil {
			t.Fatal(err)
		}
		want := golden(t, typ, frame)
		if !bytes.Equal(frame, want) {
			t.Errorf("%v is encoded as\n%swant\n%s", typ, hexLines(frame), hexLines(want))
		}
		gotType, body, err := NewFrameReader(bytes.NewReader(want), MaxFrame).Next()
		if err != nil || gotType != typ {
			t.Fatalf("%v reads as %v, %v", typ, gotType, err)
		}
		back := fresh(m)
		if err := Unmarshal(body, back); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(back, m) {
			t.Errorf("%v decodes as\n%+v\nwant\n%+v", typ, back, m)
		}
	}
	if len(all) != len(types) {
		t.Errorf("%d samples for %d types", len(all), len(types))
	}
}

// A field that a sample leaves zero would have no key in its golden frame, and could then change its number unseen.
func TestSamplesSetEveryField(t *testing.T) {
	for typ, m := range samples() {
		v := reflect.ValueOf(m).Elem()
		for i := range v.NumField() {
			if v.Field(i).IsZero() {
				t.Errorf("the sample of %v leaves %s zero", typ, v.Type().Field(i).Name)
			}
		}
	}
}

func TestNoStrayGoldens(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "golden", "*.hex"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(types) {
		t.Errorf("%d golden files for %d types", len(files), len(types))
	}
}

// The buffer of a FrameReader is used again for the next frame.
func TestDecodedBytesAreCopies(t *testing.T) {
	b, err := Marshal(Statement{Sealed: []byte("abc")})
	if err != nil {
		t.Fatal(err)
	}
	var s Statement
	if err := Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	clear(b)
	if string(s.Sealed) != "abc" {
		t.Error("a decoded byte string aliases the buffer it was read from")
	}
}
