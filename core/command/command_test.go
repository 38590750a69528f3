package command

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

var update = flag.Bool("update", false, "write the golden encodings anew")

// samples has one command of each kind with every field set.
func samples() map[Kind]Command {
	device := ident.DeviceID{0x11, 0x22, 15: 0xff}
	id := seal.TokenID{1, 2, 3, 4, 5, 6, 7, 8}
	ca := func(r ident.Role) WrappedCA { return WrappedCA{Role: r, Cert: []byte{0x30, 1}, Key: []byte{0xee, 2}} }
	by := Actor{Operator: "op-1", Request: "r-1", Source: "10.0.0.9", Once: &Once{Key: [32]byte{1}, Body: [32]byte{2}}, Revision: 7}
	node := CoreNode{Name: "core-2", API: "a:1", Uplink: "u:2", Cluster: "c:3", Key: ident.KeyID{5}, JoinedMS: 1}
	wrap := KeyWrap{Holder: "core-2", Wrap: []byte{1}, Public: []byte{2}}
	rotation := Rotation{
		Generation: 2, Root: ca("root"), CAs: []WrappedCA{ca(ident.RoleDevice)}, Authority: ca(ident.RoleAuthority), Wraps: []KeyWrap{wrap},
	}
	mark := &Mark{Gateway: "plant-7/gw-a", Run: 1 << 63, Incarnation: [16]byte{1}, Upto: wire.SpoolPoint{Seq: 9, Chain: [32]byte{2}}}
	return map[Kind]Command{
		KindInit: &Init{
			Fleet: "acme", Root: ca("root"), CAs: []WrappedCA{ca(ident.RoleDevice), ca(ident.RoleCore)}, Authority: ca(ident.RoleAuthority),
			Wraps:    []KeyWrap{wrap, {Holder: "recovery", Wrap: []byte{2}, Public: []byte{3}}},
			Operator: Operator{ID: "o1", Name: "admin", Hash: [32]byte{9, 31: 8}, Role: "admin"},
			Node:     node, IntervalMS: 30_000,
		},
		KindCreateToken: &CreateToken{
			By: by, ID: id, Public: []byte{5, 6}, Kind: seal.KindDevice, Site: "plant-7",
			Tags: map[string]string{"line": "3", "a": "b"}, TTLMS: 3_600_000, Uses: 10, Comment: "pilot",
		},
		KindRevokeToken: &RevokeToken{By: by, ID: id},
		KindEnroll: &Enroll{
			Token: id, Kind: seal.KindGateway, Device: device, Name: "gw-a", Listen: "gw-a:4433", SPKI: []byte{3}, Cert: []byte{4},
			Via: "spiffe://acme/gateway/plant-7/gw-a", NotAfter: 1_780_000_000_000,
			Node: &node, Wrap: &wrap, Gen: 3,
		},
		KindStatements: &Statements{Items: []Statement{{Sealed: []byte{1, 2, 3}, Gateway: "plant-7/gw-a", GatewayMS: 1_770_000_000_000, Device: device}}, Mark: mark},
		KindPresence: &Presence{Gateway: "plant-7/gw-a", Items: []PresenceItem{
			{
				Device: device, Online: true, AtMS: 1, LastMS: 2, IntervalMS: 3, Beats: 4, Missed: 5,
				Attach: &Attach{Start: 1, Run: 1 << 63, Session: 3, Epoch: 4, Lowest: 5, Highest: 6, Chain: seal.Chain{7, 31: 8}},
			},
			{Device: device, AtMS: -1},
		}},
		KindSetSite:     &SetSite{By: by, Site: "plant-7", IntervalMS: 2000, ContentRate: new(uint64(2 << 20)), ContentWindow: new("22:00-05:00")},
		KindSetTags:     &SetTags{By: by, Device: device, Set: map[string]string{"z": "1", "a": "2"}, Remove: []string{"b"}},
		KindSetInterval: &SetInterval{By: by, Device: device, IntervalMS: 5000},
		KindSiteReach:   &SiteReach{Site: "plant-7", Reachable: true, AtMS: 1_770_000_000_000},
		KindRelease:     &Release{By: by, Device: device},
		KindCreateOperator: &CreateOperator{By: by, Operator: Operator{
			ID: "op-2", Name: "night shift", Hash: [32]byte{4}, Role: "operator", Sites: []string{"plant-7"}, ExpiresMS: 1_780_000_000_000,
		}},
		KindRevokeOperator: &RevokeOperator{By: by, ID: "op-2"},
		KindOperatorsUsed:  &OperatorsUsed{Items: []OperatorUse{{ID: "op-2", AtMS: 1_770_000_000_000, Source: "10.0.0.9"}}},
		KindRefusals: &Refusals{Node: "core-1", Items: []Refusal{{
			Action: "enroll", Actor: "0102030405060708", Source: "plant-7/gw-a", Reason: "expired", Count: 3, FirstMS: 1, LastMS: 2,
		}}},
		KindSetNode:    &SetNode{Name: "core-2", API: "a:1", Uplink: "u:2"},
		KindRemoveNode: &RemoveNode{By: by, Name: "core-2", Rotation: rotation},
		KindRecover:    &Recover{Node: node, Rotation: rotation, Lost: []string{"core-3"}},
		KindSpans: &Spans{Gateway: "plant-7/gw-a", Mark: mark, Items: []Span{
			{Device: device, FromMS: 1_770_000_000_000, LastMS: 1_770_000_060_000, ToMS: 1_770_000_150_000, Beats: 3, Missed: 1},
		}},
		KindSetPublishers:  &SetPublishers{By: by, Sealed: []byte{1, 2}},
		KindAddArtifact:    &AddArtifact{By: by, Release: []byte{1}, Parts: []wire.Digest{{2}, {3}}, Kind: 1, Size: 200 << 20, Chunks: 3200},
		KindDeleteArtifact: &DeleteArtifact{By: by, Digest: wire.Digest{4, 31: 5}},
		KindAssign:         &Assign{By: by, Device: device, Slot: "app", Verb: VerbSet, Artifact: wire.Digest{6}, Downgrade: true},
		KindDoubt:          &Doubt{Gateway: "plant-7/gw-a", Reason: "it lies", Detail: "beats: 9", Device: device, Count: 2},
		KindRevokeGateway:  &RevokeGateway{By: by, Gateway: "plant-7/gw-a", Reason: "stolen"},
		KindUplinked: &Uplinked{
			Gateway: "plant-7/gw-a", Key: ident.KeyID{1}, Run: 1 << 63, Asked: 8, Proof: &wire.SpoolPoint{Seq: 8, Chain: [32]byte{4}},
			Spool: wire.SpoolEnds{Incarnation: [16]byte{1}, Trimmed: wire.SpoolPoint{Seq: 7, Chain: [32]byte{2}}, Last: wire.SpoolPoint{Seq: 9, Chain: [32]byte{3}}},
		},
		KindRenewed: &Renewed{Device: device, Gateway: "plant-7/gw-a", Key: ident.KeyID{1, 31: 2}, NotAfter: 1_780_000_000_000},
	}
}

func goldenPath(c Command) string {
	name := strings.ToLower(reflect.TypeOf(c).Elem().Name())
	return filepath.Join("testdata", "golden", name+".hex")
}

// The log of every release must stay readable: these bytes never change.
func TestGolden(t *testing.T) {
	for kind, c := range samples() {
		got, err := Encode(c)
		if err != nil {
			t.Fatal(err)
		}
		if Kind(got[0]) != kind {
			t.Errorf("%T has kind %d, want %d", c, got[0], kind)
		}
		path := goldenPath(c)
		if *update {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(hex.EncodeToString(got)+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		want, err := hex.DecodeString(strings.TrimSpace(string(text)))
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%T encodes as\n%x, want\n%x", c, got, want)
		}
		back, err := Decode(want)
		if err != nil {
			t.Errorf("%s: %v", path, err)
		} else if !reflect.DeepEqual(back, c) {
			t.Errorf("%s reads as %+v, want %+v", path, back, c)
		}
	}
}

// Every field of a sample is set, so that a golden file says something of each.
func TestSamplesAreFull(t *testing.T) {
	for kind, c := range samples() {
		v := reflect.ValueOf(c).Elem()
		for i := range v.NumField() {
			if v.Field(i).IsZero() {
				t.Errorf("the sample of kind %d does not set %s", kind, v.Type().Field(i).Name)
			}
		}
	}
}

// Every Kind that the source declares has a number of its own, a sample and a place in Decode.
func TestEveryKind(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "command.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	declared := 0
	ast.Inspect(f, func(n ast.Node) bool {
		if s, ok := n.(*ast.ValueSpec); ok && strings.HasPrefix(s.Names[0].Name, "Kind") {
			declared++
		}
		return true
	})
	if got := len(samples()); declared == 0 || got != declared {
		t.Errorf("%d samples for %d kinds", got, declared)
	}
	known := 0
	for k := range 256 {
		if c := empty(Kind(k)); c != nil {
			known++
			if c.kind() != Kind(k) {
				t.Errorf("kind %d decodes as %T, whose kind is %d", k, c, c.kind())
			}
		}
	}
	if known != declared {
		t.Errorf("Decode knows %d kinds of %d", known, declared)
	}
}

func TestDecodeUnknown(t *testing.T) {
	for name, b := range map[string][]byte{"kind 0": {0, version, 0xa0}, "later kind": {250, version, 0xa0}, "later version": {1, version + 1, 0xa0}, "version 0": {1, 0, 0xa0}} {
		if _, err := Decode(b); !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDecodeMalformed(t *testing.T) {
	for kind, c := range samples() {
		b, err := Encode(c)
		if err != nil {
			t.Fatal(err)
		}
		for n := range b {
			if _, err := Decode(b[:n]); !errors.Is(err, wire.ErrMalformed) {
				t.Errorf("kind %d cut to %d of %d bytes: %v", kind, n, len(b), err)
			}
		}
		if _, err := Decode(append(b, 0)); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("kind %d with a byte more: %v", kind, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, c := range samples() {
		b, err := Encode(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{1, version, 0xf6})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Decode(b)
		if err != nil {
			if !errors.Is(err, ErrUnknown) && !errors.Is(err, wire.ErrMalformed) {
				t.Errorf("error %v", err)
			}
			return
		}
		once, err := Encode(c)
		if err != nil {
			t.Fatalf("what was decoded does not encode: %v", err)
		}
		again, err := Decode(once)
		if err != nil {
			t.Fatalf("what was encoded does not decode: %v", err)
		}
		if twice, err := Encode(again); err != nil || !bytes.Equal(once, twice) {
			t.Errorf("encodes as %x, then as %x: %v", once, twice, err)
		}
	})
}
