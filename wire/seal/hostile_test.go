package seal

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/veraison/go-cose"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

func TestTruncatedSealedMessages(t *testing.T) {
	for _, k := range sealedKinds() {
		b := golden(t, k.name+".sealed", nil)
		for n := range b {
			if _, err := k.open(b[:n:n]); !errors.Is(err, wire.ErrMalformed) {
				t.Fatalf("%s cut at %d of %d: got %v, want ErrMalformed", k.name, n, len(b), err)
			}
		}
		if _, err := k.open(append(bytes.Clone(b), 0)); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s with a byte more: got %v, want ErrMalformed", k.name, err)
		}
	}
}

// There is no bit that can be turned and the message still verifies.
func TestEveryBitCounts(t *testing.T) {
	for _, k := range sealedKinds() {
		b := golden(t, k.name+".sealed", nil)
		for bit := range 8 * len(b) {
			b[bit/8] ^= 1 << (bit % 8)
			if got, err := k.open(b); err == nil {
				t.Errorf("%s with bit %d of byte %d turned verifies, as %+v", k.name, bit%8, bit/8, got)
			} else if !known(err) {
				t.Errorf("%s with bit %d of byte %d turned: %v", k.name, bit%8, bit/8, err)
			}
			b[bit/8] ^= 1 << (bit % 8)
		}
		if _, err := k.open(b); err != nil {
			t.Fatalf("the test spoiled its message: %v", err)
		}
	}
}

// keyFor is the kid and the key that a kind is signed with.
func keyFor(k sealedKind) (kid []byte, key any) {
	switch k.domain {
	case domainReceipt, domainAuditHead, domainDeviceEntry, domainGatewayList, domainOrder, domainPublishers:
		return authorityKID, authority
	case domainRelease:
		return rootKID(publisherKey.Public().(ed25519.PublicKey)), publisherKey
	case domainEnroll:
		return token.ID[:], token.key()
	}
	return deviceKID[:], deviceKey
}

// reseal signs payload as kind k, but in another domain.
func reseal(t *testing.T, k sealedKind, domain string, payload []byte) []byte {
	t.Helper()
	kid, key := keyFor(k)
	var b []byte
	var err error
	if k.alg == cose.AlgorithmEdDSA {
		b, err = sealAs(domain, kid, payload, k.alg, key.(ed25519.PrivateKey))
	} else {
		b, err = sealAs(domain, kid, payload, k.alg, key.(*ecdsa.PrivateKey))
	}
	fatal(t, err)
	if k.wrap != nil {
		return k.wrap(t, b)
	}
	return b
}

// A signature of one domain is none in another, though key and payload are right.
func TestDomainsAreSeparate(t *testing.T) {
	for _, k := range sealedKinds() {
		for _, other := range sealedKinds() {
			b := reseal(t, k, other.domain, golden(t, k.name+".payload", nil))
			if _, err := k.open(b); (err == nil) != (k.domain == other.domain) || err != nil && !errors.Is(err, ErrSignature) {
				t.Errorf("%s signed in the domain %s: %v", k.name, other.domain, err)
			}
		}
		if _, err := k.open(reseal(t, k, "", golden(t, k.name+".payload", nil))); !errors.Is(err, ErrSignature) {
			t.Errorf("%s signed without a domain: %v", k.name, err)
		}
	}
}

// Messages of one kind handed to the parser of another.
func TestKindsDoNotMix(t *testing.T) {
	for _, k := range sealedKinds() {
		for _, other := range sealedKinds() {
			if k.name == other.name {
				continue
			}
			if _, err := k.open(golden(t, other.name+".sealed", nil)); err == nil {
				t.Errorf("a sealed %s passes as %s", other.name, k.name)
			}
		}
	}
}

// envelopeOf signs payload with headers of the test's choice.
func envelopeOf(t *testing.T, edit func(*cose.Sign1Message)) []byte {
	t.Helper()
	s, err := cose.NewSigner(cose.AlgorithmES256, deviceKey)
	fatal(t, err)
	m := cose.NewSign1Message()
	m.Headers.Protected.SetAlgorithm(cose.AlgorithmES256)
	m.Headers.Protected[cose.HeaderLabelKeyID] = deviceKID[:]
	m.Payload = golden(t, "statement.payload", nil)
	edit(m)
	fatal(t, m.Sign(nil, []byte(domainStatement), s))
	b, err := m.MarshalCBOR()
	fatal(t, err)
	return b
}

// The signature of each of these holds; the form does not.
func TestOnlyTheOneFormIsTaken(t *testing.T) {
	for name, edit := range map[string]func(*cose.Sign1Message){
		"unprotected header": func(m *cose.Sign1Message) { m.Headers.Unprotected[int64(99)] = 1 },
		"key id unprotected": func(m *cose.Sign1Message) {
			delete(m.Headers.Protected, cose.HeaderLabelKeyID)
			m.Headers.Unprotected[cose.HeaderLabelKeyID] = deviceKID[:]
		},
		"no key id":      func(m *cose.Sign1Message) { delete(m.Headers.Protected, cose.HeaderLabelKeyID) },
		"short key id":   func(m *cose.Sign1Message) { m.Headers.Protected[cose.HeaderLabelKeyID] = deviceKID[:31] },
		"long key id":    func(m *cose.Sign1Message) { m.Headers.Protected[cose.HeaderLabelKeyID] = append(deviceKID[:], 0) },
		"another header": func(m *cose.Sign1Message) { m.Headers.Protected[cose.HeaderLabelContentType] = "text/plain" },
		"critical header": func(m *cose.Sign1Message) {
			m.Headers.Protected[int64(99)] = 1
			m.Headers.Protected[cose.HeaderLabelCritical] = []any{int64(99)}
		},
		"empty payload":        func(m *cose.Sign1Message) { m.Payload = []byte{} },
		"payload is no map":    func(m *cose.Sign1Message) { m.Payload = []byte{0x01} },
		"payload and more":     func(m *cose.Sign1Message) { m.Payload = append(bytes.Clone(m.Payload), 0) },
		"payload with nothing": func(m *cose.Sign1Message) { m.Payload = []byte{0xa0} },
	} {
		if _, err := ParseStatement(envelopeOf(t, edit)); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: got %v, want ErrMalformed", name, err)
		}
	}
	if _, err := openStatement(envelopeOf(t, func(*cose.Sign1Message) {})); err != nil {
		t.Errorf("the form itself: %v", err)
	}
	if _, err := ParseStatement(make([]byte, maxSealed+1)); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("over the limit: %v", err)
	}
}

func TestWrongKeysVerifyNothing(t *testing.T) {
	other, err := ident.NewKey()
	fatal(t, err)
	s, err := ParseStatement(golden(t, "statement.sealed", nil))
	fatal(t, err)
	a, err := ParseAttach(golden(t, "attach.sealed", nil))
	fatal(t, err)
	for name, pub := range map[string]*ecdsa.PublicKey{"other": &other.PublicKey, "nil": nil, "zero": {}} {
		if err := errors.Join(s.Verify(pub), a.Verify(pub)); !errors.Is(err, ErrSignature) || s.Verify(pub) == nil || a.Verify(pub) == nil {
			t.Errorf("%s key: %v", name, err)
		}
	}
	receipt, proof := golden(t, "receipt.sealed", nil), golden(t, "enroll.sealed", nil)
	e, err := ParseEnroll(proof)
	fatal(t, err)
	for name, pub := range map[string]ed25519.PublicKey{"other": token.Public()[:32:32], "nil": nil, "short": token.Public()[:31], "long": make([]byte, 33)} {
		if _, err := OpenReceipt(receipt, pub); !errors.Is(err, ErrSignature) {
			t.Errorf("receipt by %s key: %v", name, err)
		}
		if name == "other" {
			pub = authority.Public().(ed25519.PublicKey)
		}
		if err := e.Verify(pub, "plant", KindDevice, spki); !errors.Is(err, ErrSignature) {
			t.Errorf("proof by %s key: %v", name, err)
		}
	}
	if err := errors.Join(new(SealedStatement).Verify(&deviceKey.PublicKey)); !errors.Is(err, ErrSignature) {
		t.Errorf("a statement that was not parsed: %v", err)
	}
	if err := new(SealedAttach).Verify(&deviceKey.PublicKey); !errors.Is(err, ErrSignature) {
		t.Errorf("an attach that was not parsed: %v", err)
	}
	if err := new(SealedEnroll).Verify(token.Public(), "plant", KindDevice, spki); !errors.Is(err, ErrSignature) {
		t.Errorf("a proof that was not parsed: %v", err)
	}
}

// A proof permits one key, as one kind, in one fleet, by one token.
func TestEnrollProofBindsEverything(t *testing.T) {
	e, err := ParseEnroll(golden(t, "enroll.sealed", nil))
	fatal(t, err)
	other, err := ident.NewKey()
	fatal(t, err)
	for name, got := range map[string]error{
		"fleet": e.Verify(token.Public(), "other", KindDevice, spki),
		"kind":  e.Verify(token.Public(), "plant", KindGateway, spki),
		"key":   e.Verify(token.Public(), "plant", KindDevice, mustSPKI(&other.PublicKey)),
	} {
		if !errors.Is(got, ErrSignature) {
			t.Errorf("another %s: %v", name, got)
		}
	}
	payload, err := wire.Marshal(EnrollProof{Fleet: "plant", Token: []byte("another."), SPKI: hashSPKI(spki), Kind: KindDevice})
	fatal(t, err)
	b, err := sealAs(domainEnroll, token.ID[:], payload, cose.AlgorithmEdDSA, token.key())
	fatal(t, err)
	if e, err = ParseEnroll(b); err != nil || !errors.Is(e.Verify(token.Public(), "plant", KindDevice, spki), ErrSignature) {
		t.Errorf("a proof that names another token than its key id: %v", err)
	}
	for name, p := range map[string][]byte{
		"unknown key":  append([]byte{0xa5}, append(bytes.Clone(golden(t, "enroll.payload", nil)[1:]), 0x18, 99, 1)...),
		"long form":    append([]byte{0xb8, 4}, golden(t, "enroll.payload", nil)[1:]...),
		"nothing else": {0xa0},
	} {
		b, err := sealAs(domainEnroll, token.ID[:], p, cose.AlgorithmEdDSA, token.key())
		fatal(t, err)
		if _, err := ParseEnroll(b); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("payload with %s: %v", name, err)
		}
	}
	if b, err = sealAs(domainEnroll, token.ID[:7], golden(t, "enroll.payload", nil), cose.AlgorithmEdDSA, token.key()); err != nil {
		t.Fatal(err)
	}
	if _, err := ParseEnroll(b); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("short token id: %v", err)
	}
}

// A newer device may state more than this build knows; what it knows it reads.
func TestUnknownKeysOfStatementsAreSkipped(t *testing.T) {
	for _, k := range sealedKinds()[:3] {
		p := golden(t, k.name+".payload", nil)
		p = append(bytes.Clone(p), 0x18, 99, 0x61, 'x')
		p[0]++
		got, err := k.open(reseal(t, k, k.domain, p))
		if err != nil || !reflect.DeepEqual(got, k.sample(t)) {
			t.Errorf("%s with a new key: %v", k.name, err)
		}
	}
}

// What the authority says holds in one fleet, by one key, in one form.
func TestFactsBindTheirFleet(t *testing.T) {
	pub := authority.Public().(ed25519.PublicKey)
	entry, list := golden(t, "device_entry.sealed", nil), golden(t, "gateway_list.sealed", nil)
	if _, err := OpenDeviceEntry(entry, "other", pub); !errors.Is(err, ErrSignature) {
		t.Errorf("an entry in another fleet: %v", err)
	}
	if _, err := OpenGatewayList(list, "other", pub); !errors.Is(err, ErrSignature) {
		t.Errorf("a list in another fleet: %v", err)
	}
	for name, key := range map[string]ed25519.PublicKey{"other": token.Public(), "nil": nil, "short": pub[:31]} {
		if _, err := OpenDeviceEntry(entry, "plant", key); !errors.Is(err, ErrSignature) {
			t.Errorf("an entry by %s key: %v", name, err)
		}
		if _, err := OpenGatewayList(list, "plant", key); !errors.Is(err, ErrSignature) {
			t.Errorf("a list by %s key: %v", name, err)
		}
	}
	for name, change := range map[string]func(*DeviceEntry){
		"no device": func(e *DeviceEntry) { e.Device = ident.DeviceID{} },
		"no fleet":  func(e *DeviceEntry) { e.Fleet = "" },
	} {
		e := sampleDeviceEntry()
		change(e)
		b, err := SealDeviceEntry(e, authority)
		fatal(t, err)
		if _, err := OpenDeviceEntry(b, "plant", pub); !errors.Is(err, ErrSignature) {
			t.Errorf("an entry with %s: %v", name, err)
		}
	}
	long := sampleGatewayList()
	for len(long.Gateways) <= MaxListed {
		long.Gateways = append(long.Gateways, long.Gateways[0])
	}
	b, err := SealGatewayList(long, authority)
	fatal(t, err)
	if _, err := OpenGatewayList(b, "plant", pub); !errors.Is(err, ErrSignature) {
		t.Errorf("a list of %d gateways: %v", len(long.Gateways), err)
	}
	short, err := wire.Marshal(map[int]any{2: "plant", 3: device, 8: [][]byte{{1, 2, 3}}})
	fatal(t, err)
	if b, err = sealAs(domainDeviceEntry, authorityKID, short, cose.AlgorithmEdDSA, authority); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenDeviceEntry(b, "plant", pub); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("a key id of 3 bytes: %v", err)
	}
}

// The longest list of the longest names still fits into a sealed message.
func TestLongestListFits(t *testing.T) {
	l := sampleGatewayList()
	l.Gateways = nil
	for range MaxListed {
		l.Gateways = append(l.Gateways, ListedGateway{Name: strings.Repeat("n", 63), Keys: []ident.KeyID{{1}}, Listen: strings.Repeat("h", 256)})
	}
	b, err := SealGatewayList(l, authority)
	fatal(t, err)
	if _, err := OpenGatewayList(b, "plant", authority.Public().(ed25519.PublicKey)); err != nil {
		t.Errorf("%d bytes: %v", len(b), err)
	}
}

func TestStampsAreOrdered(t *testing.T) {
	ordered := []Stamp{{}, {0, 5}, {1, 0}, {1, 4}, {1, 5}, {2, 1}}
	for i, a := range ordered {
		for j, b := range ordered {
			if got := a.Compare(b); (got < 0) != (i < j) || (got > 0) != (i > j) {
				t.Errorf("%+v against %+v: %d", a, b, got)
			}
		}
	}
}
