package seal

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/veraison/go-cose"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

var update = flag.Bool("update", false, "write the golden files from what the code produces now")

// The keys of the goldens are no secrets: everybody can read them here.
var (
	device    = ident.DeviceID{0x01, 0x8f, 0x3c, 0x5d, 0x7a, 0x01, 0x4b, 0xcd, 0x8e, 0xf0, 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc}
	deviceKey = mustKey(bytes.Repeat([]byte{0x11}, 32))
	spki      = mustSPKI(&deviceKey.PublicKey)
	deviceKID = ident.KeyIDOfSPKI(spki)
	authority = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{0x22}, 32))
	token     = &Token{
		ID: TokenID{1, 2, 3, 4, 5, 6, 7, 8}, Pin: ident.KeyID(bytes.Repeat([]byte{0x44}, 32)),
		seed: [32]byte(bytes.Repeat([]byte{0x33}, 32)),
	}
)

func mustKey(scalar []byte) *ecdsa.PrivateKey {
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar)
	if err != nil {
		panic(err)
	}
	return k
}

func mustSPKI(pub *ecdsa.PublicKey) []byte {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		panic(err)
	}
	return der
}

func sampleRegister() *Register {
	return &Register{
		Profile: wire.Profile{
			Model: wire.Known("NVIDIA Jetson Xavier NX Developer Kit"), SoC: wire.Known("nvidia-jetson-xavier-nx"), Arch: wire.Known("arm64"),
			RAMBytes: wire.Known[uint64](8 << 30), CPUCores: wire.Known[uint32](6), Accelerators: wire.Known([]string{"nvidia-gpu"}),
			OS: wire.Known("Ubuntu 20.04.6 LTS"), Kernel: wire.Unknown[string]("uname: permission denied"),
			Hints: wire.Hints{Serial: "1422621001234", MachineID: "0123456789abcdef0123456789abcdef", MACs: []string{"48:b0:2d:00:00:01"}},
		},
		AgentVersion: "1.0.0",
		Tags:         map[string]string{"line": "3", "area": "paint"},
	}
}

func sampleStatement(tb testing.TB) *Statement {
	tb.Helper()
	body, err := wire.Marshal(sampleRegister())
	if err != nil {
		tb.Fatal(err)
	}
	return &Statement{
		Version: 1, Type: StatementRegister, Device: device, Epoch: 2, EpochID: RandomID{9, 8, 7}, Seq: 1, TimeMS: 1795464000000,
		UptimeMS: 60000, BootID: RandomID{1, 1, 2}, Clock: ClockSynced, Body: body,
		Before: &EpochLink{Epoch: 1, Seq: 17, Chain: Chain{5, 5}, Lost: "outbox was damaged"},
	}
}

func sampleAttach() *Attach {
	return &Attach{
		Version: 1, Device: device, Gateway: "spiffe://plant/gateway/berlin/gw1", Start: 3, Run: 1 << 62, Session: 2, Epoch: 2, Lowest: 4,
		Highest: 6, Chain: Chain{6, 6}, ClusterEpoch: 1, Order: 12, IntervalMS: 5000, TimeMS: 1795464000000,
		OldestEpoch: 1, OldestSeq: 15, Doubts: "spiffe://plant/gateway/berlin/gw2", SilentMS: 90_000, DoubtFor: DoubtAnswers,
	}
}

func sampleReceipt() *Receipt {
	return &Receipt{Version: 1, Device: device, ClusterEpoch: 1, Epoch: 2, Seq: 6, Chain: Chain{6, 6}, LogTimeMS: 1795464001000}
}

func sampleAuditHead() *AuditHead {
	return &AuditHead{Version: 1, Fleet: "plant", ClusterEpoch: 1, Seq: 900, Hash: [32]byte{7, 7}, LogTimeMS: 1795464001000}
}

func sampleDeviceEntry() *DeviceEntry {
	return &DeviceEntry{
		Version: 1, Fleet: "plant", Device: device, Site: "berlin", ClusterEpoch: 1, Number: 42, State: wire.DeviceQuarantined,
		Keys: []ident.KeyID{deviceKID, {9}}, IntervalMS: 5000, LogTimeMS: 1795464001000,
	}
}

func sampleGatewayList() *GatewayList {
	return &GatewayList{
		Version: 1, Fleet: "plant", Site: "berlin", ClusterEpoch: 1, Number: 43, LogTimeMS: 1795464001000,
		Gateways: []ListedGateway{{Name: "gw1", Keys: []ident.KeyID{{7}}, Listen: "10.0.0.1:7443"}, {Name: "gw2", Keys: []ident.KeyID{{8}}, Listen: "gw2.berlin:7443"}},
	}
}

// A kind of sealed message, so that one test can go over all of them.
type sealedKind struct {
	name   string
	domain string
	alg    cose.Algorithm
	sample func(testing.TB) any
	seal   func(testing.TB) []byte
	// open parses and verifies with the right key, and returns what was signed.
	open func([]byte) (any, error)
	// wrap makes the message out of the signed part; nil: it is the message.
	wrap func(testing.TB, []byte) []byte
}

func sealedKinds() []sealedKind {
	return []sealedKind{
		{
			"statement", domainStatement, cose.AlgorithmES256, func(tb testing.TB) any { return *sampleStatement(tb) },
			func(tb testing.TB) []byte {
				s, err := SealStatement(sampleStatement(tb), deviceKID, deviceKey)
				fatal(tb, err)
				return s.Sealed
			}, openStatement, nil,
		},
		{
			"attach", domainAttach, cose.AlgorithmES256, func(testing.TB) any { return *sampleAttach() },
			func(tb testing.TB) []byte {
				b, err := SealAttach(sampleAttach(), deviceKID, deviceKey)
				fatal(tb, err)
				return b
			}, openAttach, nil,
		},
		{
			"receipt", domainReceipt, cose.AlgorithmEdDSA, func(testing.TB) any { return *sampleReceipt() },
			func(tb testing.TB) []byte {
				b, err := SealReceipt(sampleReceipt(), authority)
				fatal(tb, err)
				return b
			}, openReceipt, nil,
		},
		{
			"audit_head", domainAuditHead, cose.AlgorithmEdDSA, func(testing.TB) any { return *sampleAuditHead() },
			func(tb testing.TB) []byte {
				b, err := SealAuditHead(sampleAuditHead(), authority)
				fatal(tb, err)
				return b
			}, openAuditHead, nil,
		},
		{
			"device_entry", domainDeviceEntry, cose.AlgorithmEdDSA, func(testing.TB) any { return *sampleDeviceEntry() },
			func(tb testing.TB) []byte {
				b, err := SealDeviceEntry(sampleDeviceEntry(), authority)
				fatal(tb, err)
				return b
			}, openDeviceEntry, nil,
		},
		{
			"gateway_list", domainGatewayList, cose.AlgorithmEdDSA, func(testing.TB) any { return *sampleGatewayList() },
			func(tb testing.TB) []byte {
				b, err := SealGatewayList(sampleGatewayList(), authority)
				fatal(tb, err)
				return b
			}, openGatewayList, nil,
		},
		{
			"enroll", domainEnroll, cose.AlgorithmEdDSA,
			func(testing.TB) any {
				return EnrollProof{Fleet: "plant", Token: token.ID[:], SPKI: hashSPKI(spki), Kind: KindDevice}
			},
			func(tb testing.TB) []byte {
				b, err := SealEnroll(token, "plant", KindDevice, spki)
				fatal(tb, err)
				return b
			}, openEnroll, nil,
		},
		{
			"order", domainOrder, cose.AlgorithmEdDSA, func(tb testing.TB) any { return *sampleOrder(tb) },
			func(tb testing.TB) []byte {
				b, err := SealOrder(sampleOrder(tb), authority)
				fatal(tb, err)
				return b
			}, openOrder, nil,
		},
		{
			"release", domainRelease, cose.AlgorithmEdDSA, func(testing.TB) any { return *sampleRelease() },
			func(tb testing.TB) []byte {
				b, err := SealRelease(sampleRelease(), publisherKey)
				fatal(tb, err)
				return b
			}, openRelease, nil,
		},
		{
			"publisher_set", domainPublishers, cose.AlgorithmEdDSA, func(testing.TB) any { return *sampleSet(1) },
			func(tb testing.TB) []byte {
				b, err := SignPublisherSet(sampleSet(1), authority)
				fatal(tb, err)
				return joined(tb, b)
			}, openFirstSet, func(tb testing.TB, b []byte) []byte { return joined(tb, b) },
		},
	}
}

func openStatement(b []byte) (any, error) {
	s, err := ParseStatement(b)
	if err != nil {
		return nil, err
	}
	return s.Statement, s.Verify(&deviceKey.PublicKey)
}

func openAttach(b []byte) (any, error) {
	a, err := ParseAttach(b)
	if err != nil {
		return nil, err
	}
	return a.Attach, a.Verify(&deviceKey.PublicKey)
}

func openReceipt(b []byte) (any, error) {
	r, err := OpenReceipt(b, authority.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, err
	}
	return *r, nil
}

func openAuditHead(b []byte) (any, error) {
	h, err := OpenAuditHead(b, authority.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, err
	}
	return *h, nil
}

func openDeviceEntry(b []byte) (any, error) {
	e, err := OpenDeviceEntry(b, "plant", authority.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, err
	}
	return *e, nil
}

func openGatewayList(b []byte) (any, error) {
	l, err := OpenGatewayList(b, "plant", authority.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, err
	}
	return *l, nil
}

func openEnroll(b []byte) (any, error) {
	e, err := ParseEnroll(b)
	if err != nil {
		return nil, err
	}
	return e.EnrollProof, e.Verify(token.Public(), "plant", KindDevice, spki)
}

func fatal(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// golden is a committed file of hex. With -update it writes b, unless nil, there first.
func golden(tb testing.TB, name string, b []byte) []byte {
	tb.Helper()
	path := filepath.Join("testdata", "golden", name+".hex")
	if *update && b != nil {
		var lines strings.Builder
		for len(b) > 0 {
			n := min(32, len(b))
			lines.WriteString(hex.EncodeToString(b[:n]) + "\n")
			b = b[n:]
		}
		fatal(tb, os.WriteFile(path, []byte(lines.String()), 0o644))
	}
	in, err := os.ReadFile(path)
	if err != nil {
		tb.Fatalf("no golden: add it with -update: %v", err)
	}
	out, err := hex.DecodeString(strings.Join(strings.Fields(string(in)), ""))
	fatal(tb, err)
	return out
}

func TestGoldenPayloads(t *testing.T) {
	for _, k := range sealedKinds() {
		payload, err := wire.Marshal(k.sample(t))
		fatal(t, err)
		if want := golden(t, k.name+".payload", payload); !bytes.Equal(payload, want) {
			t.Errorf("%s is encoded as\n%x, want\n%x", k.name, payload, want)
		}
	}
	body := sampleStatement(t).Body
	if want := golden(t, "register.body", body); !bytes.Equal(body, want) {
		t.Errorf("a registration is encoded as\n%x, want\n%x", body, want)
	}
	for name, body := range sampleBodies() {
		b, err := wire.Marshal(body)
		fatal(t, err)
		if want := golden(t, name+".body", b); !bytes.Equal(b, want) {
			t.Errorf("the body of a %s is encoded as\n%x, want\n%x", name, b, want)
		}
	}
}

// What was signed by an earlier build verifies for ever: it is in the history, and it is never signed again.
func TestGoldenSealedMessages(t *testing.T) {
	for _, k := range sealedKinds() {
		now := k.seal(t)
		b := golden(t, k.name+".sealed", now)
		got, err := k.open(b)
		if err != nil {
			t.Errorf("%s: %v", k.name, err)
		}
		if want := k.sample(t); !reflect.DeepEqual(got, want) {
			t.Errorf("%s reads as\n%+v, want\n%+v", k.name, got, want)
		}
		if k.alg == cose.AlgorithmEdDSA && !bytes.Equal(now, b) {
			t.Errorf("%s is sealed as\n%x, want\n%x", k.name, now, b)
		}
	}
	s, err := ParseStatement(golden(t, "statement.sealed", nil))
	fatal(t, err)
	r, err := s.Register()
	fatal(t, err)
	if !reflect.DeepEqual(r, sampleRegister()) {
		t.Errorf("the registration reads as\n%+v", r)
	}
	if s.Key != deviceKID || s.Chain != (Chain{}).Next(golden(t, "statement.payload", nil)) {
		t.Error("key id or chain is not that of the payload")
	}
}

// A field that a sample leaves zero would have no key in its golden.
func TestSamplesSetEveryField(t *testing.T) {
	samples := []any{*sampleRegister(), *sampleStatement(t).Before, sampleRegister().Profile, sampleRegister().Profile.Hints, sampleGatewayList().Gateways[0]}
	for _, k := range sealedKinds() {
		samples = append(samples, k.sample(t))
	}
	samples = append(samples, sampleSet(1).Publishers[0], *sampleDesired(), sampleDesired().Assignments[0], *sampleStatus(), *sampleAlarm(), sampleSlots()[0])
	for _, m := range samples {
		v := reflect.ValueOf(m)
		for i := range v.NumField() {
			if f := v.Type().Field(i).Name; v.Field(i).IsZero() && f != "Prev" && f != "Slots" { // Slots came later: the golden statement is older
				t.Errorf("the sample of %v leaves %s zero", v.Type(), f)
			}
		}
	}
}

func TestGoldenToken(t *testing.T) {
	const want = "hf1_AQIDBAUGBwgzMzMzMzMzMzMzMzMzMzMzMzMzMzMzMzMzMzMzMzMzM0RERERERERERERERERERERERERERERERERERERERERE"
	if got := token.Reveal(); got != want {
		t.Errorf("token string is %s, want %s", got, want)
	}
	got, err := ParseToken(want)
	if err != nil || *got != *token {
		t.Errorf("token string reads as %v, %v", got, err)
	}
}
