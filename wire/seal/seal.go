// Package seal holds what is signed: statements and attaches (by devices), receipts, orders, audit heads, device entries and gateway
// lists (by the authority), releases (by publishers), sets of publishers (by root keys) and enrollment proofs (by a token's key). Each is a COSE_Sign1 (RFC 9052) whose external data separates its domain from the others, so
// that a signature made for one can never pass as another.
//
// A signature is verified over the bytes that were received; nothing is ever encoded again to be verified.
package seal

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/holdfast-edge/holdfast/wire"
)

// ErrSignature is the sentinel of everything that is not what its signer signed.
var ErrSignature = errors.New("signature does not verify")

// The domains, as external_aad of the signature.
const (
	domainStatement   = "holdfast/statement/v1"
	domainAttach      = "holdfast/attach/v1"
	domainReceipt     = "holdfast/receipt/v1"
	domainAuditHead   = "holdfast/audit-head/v1"
	domainDeviceEntry = "holdfast/device-entry/v1"
	domainGatewayList = "holdfast/gateway-list/v1"
	domainEnroll      = "holdfast/enroll/v1"
	domainOrder       = "holdfast/order/v1"
	domainRelease     = "holdfast/release/v1"
	domainPublishers  = "holdfast/publishers/v1"
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
	head := []byte{0x58, byte(len(dst))} //nolint:gosec // G115: less than 256, see above
	if len(dst) < 24 {
		head = []byte{0x40 | byte(len(dst))} //nolint:gosec // G115: less than 24
	}
	rest, ok := bytes.CutPrefix(b, head)
	if !ok || len(rest) != len(dst) {
		return fmt.Errorf("no byte string of %d bytes: %w", len(dst), wire.ErrMalformed)
	}
	copy(dst, rest)
	return nil
}

// decode reads the payload into v. Keys that this build does not know are skipped: a newer device may state more.
func (e *envelope) decode(v any) error {
	if err := wire.Unmarshal(e.payload, v); err != nil {
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
	if !bytes.Equal(again, e.payload) {
		return fmt.Errorf("%s: payload is not in deterministic form: %w", e.domain, wire.ErrMalformed)
	}
	return nil
}
