package wire

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// A Digest names content: its SHA-256.
type Digest [sha256.Size]byte

// DigestOf is the digest of b.
func DigestOf(b []byte) Digest { return sha256.Sum256(b) }

// ParseDigest reads what String writes. The error is ErrMalformed.
func ParseDigest(s string) (d Digest, err error) {
	if n, err := hex.Decode(d[:], []byte(s[:min(len(s), 2*len(d))])); err != nil || n != len(d) || len(s) != 2*len(d) {
		return Digest{}, fmt.Errorf("digest %.80q, want %d hexadecimal digits: %w", s, 2*len(d), ErrMalformed)
	}
	return d, nil
}

// String is the digest in lower-case hexadecimal digits.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// Short is the beginning of the digest, for people.
func (d Digest) Short() string { return hex.EncodeToString(d[:6]) }

// IsZero tells whether d names nothing.
func (d Digest) IsZero() bool { return d == Digest{} }

// Compare orders digests by their bytes.
func (d Digest) Compare(o Digest) int { return bytes.Compare(d[:], o[:]) }

// UnmarshalCBOR reads a byte string of exactly 32 bytes; the codec alone would fill up or cut another length.
func (d *Digest) UnmarshalCBOR(b []byte) error {
	rest, ok := bytes.CutPrefix(b, []byte{0x58, sha256.Size})
	if !ok || len(rest) != len(d) {
		return fmt.Errorf("no digest of %d bytes: %w", len(d), ErrMalformed)
	}
	copy(d[:], rest)
	return nil
}
