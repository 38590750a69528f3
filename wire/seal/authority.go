package seal

import (
	"crypto"
	"crypto/ed25519"
	"fmt"
	"time"

	"github.com/veraison/go-cose"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

// A Receipt is the authority's word that a device's statements up to Seq are committed. On nothing less does a device let
// go of one.
type Receipt struct {
	Version      uint8          `cbor:"1,keyasint"`
	Device       ident.DeviceID `cbor:"2,keyasint"`
	ClusterEpoch uint64         `cbor:"3,keyasint"`
	Epoch        uint64         `cbor:"4,keyasint"`
	Seq          uint64         `cbor:"5,keyasint"`
	Chain        Chain          `cbor:"6,keyasint"` // the device's chain after Seq
	LogTimeMS    int64          `cbor:"7,keyasint"` // Unix ms; raises the device's time floor
}

// ReceiptVersion is the schema version of receipts that this build writes.
const ReceiptVersion = 1

// LogTime is the core's log time at which the receipt was made.
func (r *Receipt) LogTime() time.Time { return time.UnixMilli(r.LogTimeMS).UTC() }

// authorityKID names the authority's key: there is one.
var authorityKID = []byte("authority/1")

// SealReceipt signs r with the authority's key, which is Ed25519: the same receipt always has the same bytes.
func SealReceipt(r *Receipt, key crypto.Signer) ([]byte, error) {
	payload, err := wire.Marshal(r)
	if err != nil {
		return nil, err
	}
	return sealAs(domainReceipt, authorityKID, payload, cose.AlgorithmEdDSA, key)
}

// OpenReceipt verifies a receipt by the authority's key and reads it.
func OpenReceipt(b []byte, pub ed25519.PublicKey) (*Receipt, error) {
	env, err := open(domainReceipt, cose.AlgorithmEdDSA, b)
	if err != nil {
		return nil, err
	}
	if err := env.verify(pub); err != nil {
		return nil, err
	}
	r := new(Receipt)
	if err := env.decode(r); err != nil {
		return nil, err
	}
	return r, nil
}

// An AuditHead is the authority's word about the audit trail: after record Seq its hash was Hash. Whoever keeps one is a
// witness that what came before was not rewritten since.
type AuditHead struct {
	Version      uint8    `cbor:"1,keyasint"`
	Fleet        string   `cbor:"2,keyasint"`
	ClusterEpoch uint64   `cbor:"3,keyasint"`
	Seq          uint64   `cbor:"4,keyasint"` // number of the newest record, from 1
	Hash         [32]byte `cbor:"5,keyasint"` // of the chain after it
	LogTimeMS    int64    `cbor:"6,keyasint"` // Unix ms
}

// AuditHeadVersion is the schema version of audit heads that this build writes.
const AuditHeadVersion = 1

// SealAuditHead signs h with the authority's key.
func SealAuditHead(h *AuditHead, key crypto.Signer) ([]byte, error) {
	payload, err := wire.Marshal(h)
	if err != nil {
		return nil, err
	}
	return sealAs(domainAuditHead, authorityKID, payload, cose.AlgorithmEdDSA, key)
}

// OpenAuditHead verifies an audit head by the authority's key and reads it.
func OpenAuditHead(b []byte, pub ed25519.PublicKey) (*AuditHead, error) {
	env, err := open(domainAuditHead, cose.AlgorithmEdDSA, b)
	if err != nil {
		return nil, err
	}
	if err := env.verify(pub); err != nil {
		return nil, err
	}
	h := new(AuditHead)
	if err := env.decode(h); err != nil {
		return nil, err
	}
	return h, nil
}

// An EnrollProof says that the holder of a token wants this public key enrolled, and no other: whoever relays it cannot
// put a key of his own in its place.
type EnrollProof struct {
	Fleet string   `cbor:"1,keyasint"`
	Token []byte   `cbor:"2,keyasint"` // id
	SPKI  [32]byte `cbor:"3,keyasint"` // SHA-256 of the SubjectPublicKeyInfo
	Kind  Kind     `cbor:"4,keyasint"`
}

// SealEnroll proves, by the token's own key, that the key with the given SPKI may be enrolled.
func SealEnroll(t *Token, fleet string, kind Kind, spki []byte) ([]byte, error) {
	payload, err := wire.Marshal(EnrollProof{Fleet: fleet, Token: t.ID[:], SPKI: hashSPKI(spki), Kind: kind})
	if err != nil {
		return nil, err
	}
	return sealAs(domainEnroll, t.ID[:], payload, cose.AlgorithmEdDSA, t.key())
}

// A SealedEnroll is a parsed enrollment proof, not yet verified.
type SealedEnroll struct {
	EnrollProof
	TokenID TokenID
	env     *envelope
}

// ParseEnroll reads an enrollment proof. It is not verified yet: call Verify with the public key of the token that TokenID
// names.
func ParseEnroll(b []byte) (*SealedEnroll, error) {
	env, err := open(domainEnroll, cose.AlgorithmEdDSA, b)
	if err != nil {
		return nil, err
	}
	e := &SealedEnroll{env: env}
	if len(env.kid) != len(e.TokenID) {
		return nil, fmt.Errorf("enrollment proof: token id of %d bytes: %w", len(env.kid), wire.ErrMalformed)
	}
	copy(e.TokenID[:], env.kid)
	if err := env.decodeExact(&e.EnrollProof); err != nil {
		return nil, err
	}
	return e, nil
}

// Verify checks that the token with public key pub permits, in fleet, the key with the given SPKI to enroll as kind.
func (e *SealedEnroll) Verify(pub ed25519.PublicKey, fleet string, kind Kind, spki []byte) error {
	if err := e.env.verify(pub); err != nil {
		return err
	}
	switch {
	case string(e.Token) != string(e.TokenID[:]):
		return fmt.Errorf("enrollment proof names another token: %w", ErrSignature)
	case e.Fleet != fleet:
		return fmt.Errorf("enrollment proof is for another fleet: %w", ErrSignature)
	case e.Kind != kind:
		return fmt.Errorf("enrollment proof is for another kind: %w", ErrSignature)
	case e.SPKI != hashSPKI(spki):
		return fmt.Errorf("enrollment proof is for another key: %w", ErrSignature)
	}
	return nil
}
