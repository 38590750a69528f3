package seal

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"math/big"

	"github.com/veraison/go-cose"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/holdfast-edge/holdfast/wire"
)

// The envelope is a COSE_Sign1 (RFC 9052, section 4.2) in the one form that this package writes and reads:
//
//	D2                       tag 18
//	84                       array of 4
//	   bstr                  protected header, itself CBOR: A2 01 alg 04 kid
//	   A0                    unprotected header: empty
//	   bstr                  payload
//	   bstr                  signature, 64 bytes
//
// Every length is in its shortest form. It is read and written by hand because a core verifies one for every statement: a
// general COSE library costs a third of the verification on top. The tests hold both against such a library.

// A cursor reads CBOR byte strings from the front of a message.
type cursor []byte

// literal takes exactly the bytes given.
func (c *cursor) literal(b ...byte) bool {
	if len(*c) < len(b) || string((*c)[:len(b)]) != string(b) {
		return false
	}
	*c = (*c)[len(b):]
	return true
}

// bytes takes a byte string of at most 64 KiB whose length is in its shortest form.
func (c *cursor) bytes() ([]byte, bool) {
	b := *c
	if len(b) == 0 {
		return nil, false
	}
	var n, head int
	switch h := b[0]; {
	case h >= 0x40 && h < 0x58:
		n, head = int(h-0x40), 1
	case h == 0x58 && len(b) > 1 && b[1] >= 24:
		n, head = int(b[1]), 2
	case h == 0x59 && len(b) > 2 && b[1] > 0:
		n, head = int(b[1])<<8|int(b[2]), 3
	default:
		return nil, false
	}
	if len(b) < head+n {
		return nil, false
	}
	*c = b[head+n:]
	return b[head : head+n], true
}

// appendBytes appends b as a CBOR byte string; it is the counterpart of cursor.bytes.
func appendBytes(dst, b []byte) []byte {
	switch n := len(b); {
	case n < 24:
		dst = append(dst, 0x40|byte(n))
	case n < 256:
		dst = append(dst, 0x58, byte(n))
	default:
		dst = append(dst, 0x59, byte(n>>8), byte(n)) //nolint:gosec // G115: the low byte is meant
	}
	return append(dst, b...)
}

// algByte is the CBOR of an algorithm's number.
func algByte(alg cose.Algorithm) byte { return 0x20 | byte(-1-int64(alg)) } //nolint:gosec // G115: algorithms here are -7 and -8

const signatureSize = 64

// toBeSigned is the Sig_structure (RFC 9052, section 4.4) of an envelope.
func toBeSigned(domain string, protected, payload []byte) []byte {
	b := make([]byte, 0, 32+len(protected)+len(domain)+len(payload))
	b = append(b, 0x84, 0x6a)
	b = append(b, "Signature1"...)
	b = appendBytes(b, protected)
	b = appendBytes(b, []byte(domain))
	return appendBytes(b, payload)
}

// sealAs signs payload in a domain. kid names the key for the receiver.
func sealAs(domain string, kid, payload []byte, alg cose.Algorithm, key crypto.Signer) ([]byte, error) {
	if len(kid)+len(payload)+signatureSize+32 > maxSealed {
		return nil, fmt.Errorf("seal %s: %d bytes, limit %d: %w", domain, len(payload), maxSealed, wire.ErrMalformed)
	}
	protected := appendBytes([]byte{0xa2, 0x01, algByte(alg), 0x04}, kid)
	sig, err := sign(toBeSigned(domain, protected, payload), alg, key)
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", domain, err)
	}
	b := make([]byte, 0, len(protected)+len(payload)+signatureSize+16)
	b = appendBytes(append(b, 0xd2, 0x84), protected)
	b = appendBytes(append(b, 0xa0), payload)
	return appendBytes(b, sig), nil
}

// sign makes the 64-byte signature of a message.
func sign(message []byte, alg cose.Algorithm, key crypto.Signer) ([]byte, error) {
	if !usable(key.Public(), alg) {
		return nil, fmt.Errorf("key is %T, unfit for %v", key.Public(), alg)
	}
	if alg == cose.AlgorithmEdDSA {
		return key.Sign(rand.Reader, message, crypto.Hash(0))
	}
	digest := sha256.Sum256(message)
	der, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	var r, s big.Int
	in := cryptobyte.String(der)
	var seq cryptobyte.String
	if !in.ReadASN1(&seq, asn1.SEQUENCE) || !seq.ReadASN1Integer(&r) || !seq.ReadASN1Integer(&s) || r.BitLen() > 256 || s.BitLen() > 256 {
		return nil, fmt.Errorf("signer returned no ECDSA signature: %w", ErrSignature)
	}
	sig := make([]byte, signatureSize)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return sig, nil
}

// An envelope is a parsed and not yet verified COSE_Sign1. Its parts alias the bytes that it was parsed from.
type envelope struct {
	domain    string
	alg       cose.Algorithm
	protected []byte
	kid       []byte
	payload   []byte
	signature []byte
}

// open parses a sealed message of a domain and algorithm. Nothing in it is true yet.
func open(domain string, alg cose.Algorithm, b []byte) (*envelope, error) {
	if len(b) > maxSealed {
		return nil, fmt.Errorf("%s of %d bytes, limit %d: %w", domain, len(b), maxSealed, wire.ErrMalformed)
	}
	e := &envelope{domain: domain, alg: alg}
	c := cursor(b)
	if !c.literal(0xd2, 0x84) {
		return nil, fmt.Errorf("%s: not a COSE_Sign1: %w", domain, wire.ErrMalformed)
	}
	var ok bool
	if e.protected, ok = c.bytes(); !ok {
		return nil, fmt.Errorf("%s: no protected header: %w", domain, wire.ErrMalformed)
	}
	h := cursor(e.protected)
	if !h.literal(0xa2, 0x01, algByte(alg), 0x04) {
		return nil, fmt.Errorf("%s: header is not algorithm %v and key id: %w", domain, alg, wire.ErrMalformed)
	}
	if e.kid, ok = h.bytes(); !ok || len(h) > 0 {
		return nil, fmt.Errorf("%s: no key id: %w", domain, wire.ErrMalformed)
	}
	if !c.literal(0xa0) {
		return nil, fmt.Errorf("%s: unprotected headers: %w", domain, wire.ErrMalformed)
	}
	if e.payload, ok = c.bytes(); !ok {
		return nil, fmt.Errorf("%s: no payload: %w", domain, wire.ErrMalformed)
	}
	if e.signature, ok = c.bytes(); !ok || len(e.signature) != signatureSize || len(c) > 0 {
		return nil, fmt.Errorf("%s: no signature of %d bytes, or more behind it: %w", domain, signatureSize, wire.ErrMalformed)
	}
	return e, nil
}

// verify checks the signature by pub over the received bytes. A nil envelope, which a value that was not parsed has, and a key
// of another kind or size verify nothing.
func (e *envelope) verify(pub crypto.PublicKey) error {
	if e == nil {
		return fmt.Errorf("not parsed from bytes: %w", ErrSignature)
	}
	if !usable(pub, e.alg) {
		return fmt.Errorf("%s: no key to verify with: %w", e.domain, ErrSignature)
	}
	message := toBeSigned(e.domain, e.protected, e.payload)
	valid := false
	switch k := pub.(type) {
	case ed25519.PublicKey:
		valid = ed25519.Verify(k, message, e.signature)
	case *ecdsa.PublicKey:
		digest := sha256.Sum256(message)
		valid = ecdsa.VerifyASN1(k, digest[:], derSignature(e.signature))
	}
	if !valid {
		return fmt.Errorf("%s: %w", e.domain, ErrSignature)
	}
	return nil
}

// usable tells whether pub is a key for the algorithm at all: the libraries below panic on a nil key and on one of the wrong
// size.
func usable(pub crypto.PublicKey, alg cose.Algorithm) bool {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		return alg == cose.AlgorithmES256 && k != nil && k.Curve != nil
	case ed25519.PublicKey:
		return alg == cose.AlgorithmEdDSA && len(k) == ed25519.PublicKeySize
	}
	return false
}

// derSignature is a 64-byte ECDSA signature in the form that crypto/ecdsa takes: a SEQUENCE of two INTEGERs.
func derSignature(sig []byte) []byte {
	out := make([]byte, 2, 2+2*(2+33))
	out[0] = 0x30
	for _, half := range [][]byte{sig[:32], sig[32:]} {
		for len(half) > 1 && half[0] == 0 {
			half = half[1:]
		}
		n := len(half)
		if half[0]&0x80 != 0 {
			out = append(out, 0x02, byte(n+1), 0) //nolint:gosec // G115: n is at most 32
		} else {
			out = append(out, 0x02, byte(n)) //nolint:gosec // G115: n is at most 32
		}
		out = append(out, half...)
	}
	out[1] = byte(len(out) - 2) //nolint:gosec // G115: at most 70 bytes
	return out
}
