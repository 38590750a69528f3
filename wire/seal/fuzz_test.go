package seal

import (
	"crypto/ed25519"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/holdfast-edge/holdfast/wire"
)

// known tells whether err is one of those that input may cause.
func known(err error) bool {
	return errors.Is(err, wire.ErrMalformed) || errors.Is(err, ErrSignature) || errors.Is(err, ErrPublisher)
}

// fuzzSealed fuzzes the parser of one kind. The fuzzer has no key: whatever verifies must say what the golden says.
func fuzzSealed(f *testing.F, name string) {
	f.Helper()
	for _, k := range sealedKinds() {
		f.Add(golden(f, k.name+".sealed", nil))
		if k.name != name {
			continue
		}
		want := k.sample(f)
		defer f.Fuzz(func(t *testing.T, b []byte) {
			got, err := k.open(b)
			if err == nil && !reflect.DeepEqual(got, want) {
				t.Fatalf("verifies as %+v", got)
			}
			if err != nil && !known(err) {
				t.Fatalf("%v is neither ErrMalformed nor ErrSignature", err)
			}
		})
	}
}

func FuzzParseAttach(f *testing.F) { fuzzSealed(f, "attach") }

func FuzzOpenReceipt(f *testing.F) { fuzzSealed(f, "receipt") }

// FuzzOpenAuditHead: as FuzzOpenReceipt.
func FuzzOpenAuditHead(f *testing.F) { fuzzSealed(f, "audit_head") }

// FuzzOpenDeviceEntry: as FuzzOpenReceipt.
func FuzzOpenDeviceEntry(f *testing.F) { fuzzSealed(f, "device_entry") }

// FuzzOpenGatewayList: as FuzzOpenReceipt.
func FuzzOpenGatewayList(f *testing.F) { fuzzSealed(f, "gateway_list") }

// FuzzOpenOrder: as FuzzOpenReceipt.
func FuzzOpenOrder(f *testing.F) { fuzzSealed(f, "order") }

// FuzzOpenRelease: as FuzzOpenReceipt.
func FuzzOpenRelease(f *testing.F) { fuzzSealed(f, "release") }

// FuzzOpenPublisherSet: as FuzzOpenReceipt.
func FuzzOpenPublisherSet(f *testing.F) { fuzzSealed(f, "publisher_set") }

func FuzzParseEnroll(f *testing.F) { fuzzSealed(f, "enroll") }

// The body of a registration is read also where nobody can forge it; the profile and the tags are limited there.
func FuzzParseStatement(f *testing.F) {
	for _, k := range sealedKinds() {
		f.Add(golden(f, k.name+".sealed", nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseStatement(b)
		if err != nil {
			if !known(err) {
				t.Fatalf("%v is not ErrMalformed", err)
			}
			return
		}
		if s.Verify(&deviceKey.PublicKey) == nil && !reflect.DeepEqual(s.Statement, *sampleStatement(t)) {
			t.Fatalf("verifies as %+v", s.Statement)
		}
		if _, err := s.Register(); err != nil && !known(err) {
			t.Fatalf("%v is not ErrMalformed", err)
		}
	})
}

func FuzzRegister(f *testing.F) {
	f.Add(golden(f, "register.body", nil))
	f.Add([]byte{0xa0})
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := (&Statement{Type: StatementRegister, Body: body}).Register()
		if err != nil {
			if !known(err) {
				t.Fatalf("%v is not ErrMalformed", err)
			}
			return
		}
		if len(r.Tags) > wire.MaxTags || len(r.AgentVersion) > maxVersion || len(r.Profile.Hints.MACs) > 16 {
			t.Fatalf("limits do not hold: %+v", r)
		}
	})
}

// Bodies that a device signs, and those of orders: what reads keeps the limits.
func FuzzBodies(f *testing.F) {
	for name := range sampleBodies() {
		f.Add(golden(f, name+".body", nil))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		s, serr := (&Statement{Type: StatementStatus, Body: body}).Status()
		a, aerr := (&Statement{Type: StatementAlarm, Body: body}).Alarm()
		d, derr := (&Order{Kind: OrderDesired, Body: body}).Desired()
		r, rerr := (&Statement{Type: StatementRegister, Body: body}).Register()
		for _, err := range []error{serr, aerr, derr, rerr} {
			if err != nil && !known(err) {
				t.Fatalf("%v is not ErrMalformed", err)
			}
		}
		switch {
		case serr == nil && (CheckSlot(s.Slot) != nil || len(s.Reason) > maxReason || len(s.Detail) > maxDetail):
			t.Fatalf("limits do not hold: %+v", s)
		case aerr == nil && (a.Reason == "" || len(a.Reason) > maxReason || len(a.Detail) > maxDetail):
			t.Fatalf("limits do not hold: %+v", a)
		case derr == nil && len(d.Assignments) > MaxSlots:
			t.Fatalf("limits do not hold: %+v", d)
		case rerr == nil && len(r.Slots) > MaxSlots:
			t.Fatalf("limits do not hold: %+v", r)
		}
	})
}

// What a set says before anybody verified it keeps the rules.
func FuzzPeekPublisherSet(f *testing.F) {
	for _, name := range []string{"publisher_set", "publisher_set_next"} {
		f.Add(golden(f, name+".sealed", nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := PeekPublisherSet(b)
		if err != nil {
			if !known(err) {
				t.Fatalf("%v is not ErrMalformed", err)
			}
			return
		}
		signatures, err := PublisherSignatures(b)
		if err != nil || p.Check() != nil || len(signatures) == 0 || len(signatures) > MaxRoots {
			t.Fatalf("%+v with %d signatures: %v", p, len(signatures), err)
		}
	})
}

// A payload that is signed by a device that went bad: everything that decodes keeps the rules.
func FuzzPayload(f *testing.F) {
	f.Add(golden(f, "statement.payload", nil))
	f.Add(golden(f, "attach.payload", nil))
	f.Fuzz(func(t *testing.T, payload []byte) {
		var s Statement
		if err := wire.Unmarshal(payload, &s); err != nil {
			return
		}
		if s.check() == nil && (s.Seq == 0 || s.Epoch == 0 || len(s.Body) == 0) {
			t.Fatalf("a statement that breaks the rules passes: %+v", s)
		}
	})
}

func FuzzParseToken(f *testing.F) {
	f.Add(token.Reveal())
	f.Add("hf1_")
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := ParseToken(s)
		if err != nil {
			if !errors.Is(err, ErrToken) {
				t.Fatalf("%v is not ErrToken", err)
			}
			return
		}
		back, err := ParseToken(tok.Reveal())
		if err != nil || *back != *tok {
			t.Fatalf("token does not read back: %v", err)
		}
		// Line ends inside are passed over: a token that a terminal has wrapped is still one.
		if !strings.Contains(strings.NewReplacer("\r", "", "\n", "").Replace(s), tok.Reveal()) || len(tok.Public()) != ed25519.PublicKeySize {
			t.Fatalf("%q has two forms", s)
		}
	})
}
