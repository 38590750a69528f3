package seal

import (
	"bytes"
	"errors"
	"testing"

	"github.com/veraison/go-cose"

	"github.com/holdfast-edge/holdfast/wire"
)

// byLibrary reads an envelope with a general COSE library, and tells whether its form is the one that this package takes.
func byLibrary(alg cose.Algorithm, b []byte) (m cose.Sign1Message, ok bool) {
	if m.UnmarshalCBOR(b) != nil {
		return m, false
	}
	a, err := m.Headers.Protected.Algorithm()
	kid, isBytes := m.Headers.Protected[cose.HeaderLabelKeyID].([]byte)
	ok = err == nil && a == alg && isBytes && len(m.Headers.Protected) == 2 && len(m.Headers.Unprotected) == 0 && len(m.Signature) == signatureSize
	if !ok || kid == nil || m.Payload == nil {
		return m, false
	}
	again, err := m.MarshalCBOR()
	return m, err == nil && bytes.Equal(again, b)
}

// What this package seals, a library verifies.
func TestALibraryVerifiesWhatIsSealed(t *testing.T) {
	for _, k := range sealedKinds() {
		b := k.seal(t)
		if k.wrap != nil {
			signatures, err := PublisherSignatures(b)
			fatal(t, err)
			b = signatures[0].Bytes
		}
		m, ok := byLibrary(k.alg, b)
		if !ok {
			t.Errorf("%s: a library does not take its form", k.name)
			continue
		}
		v, err := cose.NewVerifier(k.alg, map[string]any{
			domainStatement: &deviceKey.PublicKey, domainAttach: &deviceKey.PublicKey, domainReceipt: authority.Public(), domainAuditHead: authority.Public(),
			domainDeviceEntry: authority.Public(), domainGatewayList: authority.Public(), domainEnroll: token.Public(),
			domainOrder: authority.Public(), domainRelease: publisherKey.Public(), domainPublishers: authority.Public(),
		}[k.domain])
		fatal(t, err)
		if err := m.Verify([]byte(k.domain), v); err != nil {
			t.Errorf("%s: %v", k.name, err)
		}
	}
}

// Signatures with leading zeros in either half come up once in 128; each must read on both sides.
func TestSignaturesOfEveryLength(t *testing.T) {
	v, err := cose.NewVerifier(cose.AlgorithmES256, &deviceKey.PublicKey)
	fatal(t, err)
	for short := 0; short < 3; {
		b, err := SealAttach(sampleAttach(), deviceKID, deviceKey)
		fatal(t, err)
		if sig := b[len(b)-signatureSize:]; sig[0] == 0 || sig[32] == 0 {
			short++
		}
		m, ok := byLibrary(cose.AlgorithmES256, b)
		if _, err := openAttach(b); err != nil || !ok || m.Verify([]byte(domainAttach), v) != nil {
			t.Fatalf("%x does not verify: %v", b, err)
		}
	}
}

// A length in another width would be a second envelope around the same signature.
func TestLengthsHaveOneForm(t *testing.T) {
	for _, k := range sealedKinds() {
		b := golden(t, k.name+".sealed", nil)
		for name, form := range map[string][2][]byte{
			"header in two bytes":  {{0xd2, 0x84, 0x4d}, {0xd2, 0x84, 0x58, 0x0d}},
			"header in three":      {{0xd2, 0x84, 0x58}, {0xd2, 0x84, 0x59, 0}},
			"payload in three":     {{0xa0, 0x58}, {0xa0, 0x59, 0}},
			"signature in three":   {{0x58, 0x40}, {0x59, 0, 0x40}},
			"array in two bytes":   {{0xd2, 0x84}, {0xd2, 0x98, 4}},
			"tag in two bytes":     {{0xd2}, {0xd8, 18}},
			"unprotected in two":   {{0xa0}, {0xb8, 0}},
			"unprotected no end":   {{0xa0}, {0xbf, 0xff}},
			"without the tag":      {{0xd2, 0x84}, {0x84}},
			"payload of unknown n": {{0xa0, 0x58}, {0xa0, 0x5f, 0x58}},
		} {
			other := bytes.Replace(b, form[0], form[1], 1)
			if bytes.Equal(other, b) {
				continue // this kind has another length there
			}
			if _, err := k.open(other); err == nil {
				t.Errorf("%s: %s verifies", k.name, name)
			}
		}
	}
}

func TestExactBytes(t *testing.T) {
	chain := append([]byte{0x58, 32}, make([]byte, 32)...)
	var c Chain
	var r RandomID
	if err := errors.Join(c.UnmarshalCBOR(chain), r.UnmarshalCBOR(append([]byte{0x50}, make([]byte, 16)...))); err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{nil, {0x58}, {0x58, 32}, chain[:33], append(chain, 0)} {
		if err := c.UnmarshalCBOR(b); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("chain %x: got %v, want ErrMalformed", b, err)
		}
		if err := r.UnmarshalCBOR(b); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("random id %x: got %v, want ErrMalformed", b, err)
		}
	}
}

// The parser by hand and the library take the same inputs and find the same parts in them.
func FuzzEnvelope(f *testing.F) {
	for _, k := range sealedKinds() {
		f.Add(golden(f, k.name+".sealed", nil))
	}
	f.Add([]byte{0xd2, 0x84, 0x43, 0xa1, 0x01, 0x26, 0xa0, 0x40, 0x40})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, alg := range []cose.Algorithm{cose.AlgorithmES256, cose.AlgorithmEdDSA} {
			e, err := open("domain", alg, b)
			if err != nil && !errors.Is(err, wire.ErrMalformed) {
				t.Fatalf("%v is not ErrMalformed", err)
			}
			m, ok := byLibrary(alg, b)
			if ok != (err == nil) && len(b) <= maxSealed {
				t.Fatalf("by hand: %v, by the library: %v", err, ok)
			}
			if err == nil && (!bytes.Equal(e.payload, m.Payload) || !bytes.Equal(e.signature, m.Signature) ||
				!bytes.Equal(e.kid, m.Headers.Protected[cose.HeaderLabelKeyID].([]byte))) {
				t.Fatalf("by hand: %+v, by the library: %+v", e, m)
			}
		}
	})
}
