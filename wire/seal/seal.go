// Package seal holds what is signed: statements and attaches (by devices), receipts (by the authority) and enrollment
// proofs (by a token's key). Each is a COSE_Sign1 (RFC 9052) whose external data separates its domain from the others, so
// that a signature made for one can never pass as another.
//
// A signature is verified over the bytes that were received; nothing is ever encoded again to be verified.
package seal

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/veraison/go-cose"

	"github.com/holdfast-edge/holdfast/wire"
)

// ErrSignature is the sentinel of everything that is not what its signer signed.
var ErrSignature = errors.New("signature does not verify")

// The domains, as external_aad of the signature.
const (
	domainStatement = "holdfast/statement/v1"
	domainAttach    = "holdfast/attach/v1"
	domainReceipt   = "holdfast/receipt/v1"
	domainEnroll    = "holdfast/enroll/v1"
)

// maxSealed bounds any sealed message, in bytes, before it is parsed.
const maxSealed = wire.MaxStatement

// A Chain links a device's statements: the SHA-256 of the chain before and the payload. The zero chain precedes the first
// statement of an epoch.
type Chain [32]byte

// Next is the chain after a statement with the given signed payload.
func (c Chain) Next(payload []byte) Chain {
	h := sha256.New()
	h.Write(c[:])
	h.Write(payload)
	return Chain(h.Sum(nil))
}

// UnmarshalCBOR reads a byte string of exactly 32 bytes; the codec alone would fill up or cut another length.
func (c *Chain) UnmarshalCBOR(b []byte) error { return exactBytes(c[:], b) }

// A RandomID is 16 random bytes that tell two things with the same number apart.
type RandomID [16]byte

// UnmarshalCBOR reads a byte string of exactly 16 bytes.
func (r *RandomID) UnmarshalCBOR(b []byte) error { return exactBytes(r[:], b) }

// exactBytes fills dst from a CBOR byte string of its length, in its shortest form. dst has less than 256 bytes.
func exactBytes(dst, b []byte) error {
	head := []byte{0x58, byte(len(dst))}
	if len(dst) < 24 {
		head = []byte{0x40 | byte(len(dst))}
	}
	rest, ok := bytes.CutPrefix(b, head)
	if !ok || len(rest) != len(dst) {
		return fmt.Errorf("no byte string of %d bytes: %w", len(dst), wire.ErrMalformed)
	}
	copy(dst, rest)
	return nil
}

// sealAs signs payload in a domain. kid names the key for the receiver.
func sealAs(domain string, kid, payload []byte, alg cose.Algorithm, key crypto.Signer) ([]byte, error) {
	s, err := cose.NewSigner(alg, key)
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", domain, err)
	}
	m := cose.NewSign1Message()
	m.Headers.Protected.SetAlgorithm(alg)
	m.Headers.Protected[cose.HeaderLabelKeyID] = kid
	m.Payload = payload
	if err := m.Sign(rand.Reader, []byte(domain), s); err != nil {
		return nil, fmt.Errorf("seal %s: %w", domain, err)
	}
	b, err := m.MarshalCBOR()
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", domain, err)
	}
	if len(b) > maxSealed {
		return nil, fmt.Errorf("seal %s: %d bytes, limit %d: %w", domain, len(b), maxSealed, wire.ErrMalformed)
	}
	return b, nil
}

// An envelope is a parsed and not yet verified COSE_Sign1.
type envelope struct {
	msg    cose.Sign1Message
	domain string
	alg    cose.Algorithm
	kid    []byte
}

// open parses a sealed message of a domain and algorithm. Nothing in it is true yet.
func open(domain string, alg cose.Algorithm, b []byte) (*envelope, error) {
	if len(b) > maxSealed {
		return nil, fmt.Errorf("%s of %d bytes, limit %d: %w", domain, len(b), maxSealed, wire.ErrMalformed)
	}
	e := &envelope{domain: domain, alg: alg}
	if err := e.msg.UnmarshalCBOR(b); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", domain, wire.ErrMalformed, err)
	}
	a, err := e.msg.Headers.Protected.Algorithm()
	if err != nil || a != alg {
		return nil, fmt.Errorf("%s: algorithm is not %v: %w", domain, alg, wire.ErrMalformed)
	}
	kid, ok := e.msg.Headers.Protected[cose.HeaderLabelKeyID].([]byte)
	if !ok {
		return nil, fmt.Errorf("%s: no key id: %w", domain, wire.ErrMalformed)
	}
	if len(e.msg.Headers.Unprotected) > 0 || len(e.msg.Headers.Protected) != 2 {
		return nil, fmt.Errorf("%s: headers other than algorithm and key id: %w", domain, wire.ErrMalformed)
	}
	e.kid = kid
	return e, nil
}

// verify checks the signature by pub over the received bytes. A nil envelope, which a value that was not parsed has, and a key
// of another kind or size verify nothing.
func (e *envelope) verify(pub crypto.PublicKey) error {
	if e == nil {
		return fmt.Errorf("not parsed from bytes: %w", ErrSignature)
	}
	if !usable(pub) {
		return fmt.Errorf("%s: no key to verify with: %w", e.domain, ErrSignature)
	}
	v, err := cose.NewVerifier(e.alg, pub)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", e.domain, ErrSignature, err)
	}
	if err := e.msg.Verify([]byte(e.domain), v); err != nil {
		return fmt.Errorf("%s: %w: %w", e.domain, ErrSignature, err)
	}
	return nil
}

// usable tells whether pub is a key at all: the libraries below panic on a nil key and on one of the wrong size.
func usable(pub crypto.PublicKey) bool {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		return k != nil && k.Curve != nil
	case ed25519.PublicKey:
		return len(k) == ed25519.PublicKeySize
	}
	return false
}

// decode reads the payload into v. Keys that this build does not know are skipped: a newer device may state more.
func (e *envelope) decode(v any) error {
	if err := wire.Unmarshal(e.msg.Payload, v); err != nil {
		return fmt.Errorf("%s: %w", e.domain, err)
	}
	return nil
}

// decodeExact is decode for payloads whose form this build knows completely: nothing may be in it that it would skip.
func (e *envelope) decodeExact(v any) error {
	if err := e.decode(v); err != nil {
		return err
	}
	again, err := wire.Marshal(v)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, e.msg.Payload) {
		return fmt.Errorf("%s: payload is not in deterministic form: %w", e.domain, wire.ErrMalformed)
	}
	return nil
}
