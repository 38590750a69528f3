package seal

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"

	"github.com/veraison/go-cose"

	"github.com/holdfast-edge/holdfast/wire"
)

// A PublisherKey names an ed25519 key: the SHA-256 of its 32 bytes.
type PublisherKey = wire.Digest

// PublisherKeyOf is the name of a key.
func PublisherKeyOf(pub ed25519.PublicKey) PublisherKey { return wire.DigestOf(pub) }

// A Release is a publisher's word that a manifest is a version of an artifact.
type Release struct {
	Format   uint8       `cbor:"1,keyasint"`
	Name     string      `cbor:"2,keyasint"`
	Version  string      `cbor:"3,keyasint"`
	Number   uint64      `cbor:"4,keyasint"` // grows from release to release of a name
	Manifest wire.Digest `cbor:"5,keyasint"`
	Size     uint64      `cbor:"6,keyasint"` // bytes of the manifest
}

// ReleaseFormat is the format of releases that this build writes.
const ReleaseFormat = 1

// SealRelease signs r with a publisher's key, which is ed25519.
func SealRelease(r *Release, key crypto.Signer) ([]byte, error) {
	pub, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("publisher's key is %T, want ed25519: %w", key.Public(), ErrSignature)
	}
	payload, err := wire.Marshal(r)
	if err != nil {
		return nil, err
	}
	kid := PublisherKeyOf(pub)
	return sealAs(domainRelease, kid[:], payload, cose.AlgorithmEdDSA, key)
}

// ErrPublisher says that whoever signed is not in the set of publishers.
var ErrPublisher = errors.New("the signer is not in the set of publishers")

// OpenRelease verifies a release by the set's publishers and reads it. The error is ErrPublisher when somebody else signed it.
func OpenRelease(b []byte, set *PublisherSet) (*Release, error) {
	env, err := open(domainRelease, cose.AlgorithmEdDSA, b)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(set.Publishers, func(p Publisher) bool {
		kid := PublisherKeyOf(p.Key)
		return bytes.Equal(kid[:], env.kid)
	})
	if i < 0 {
		return nil, fmt.Errorf("%s: signed by key %.12x, set %d: %w", domainRelease, env.kid, set.Number, ErrPublisher)
	}
	if err := env.verify(ed25519.PublicKey(set.Publishers[i].Key)); err != nil {
		return nil, err
	}
	r := new(Release)
	if err := env.decodeExact(r); err != nil {
		return nil, err
	}
	if r.Format != ReleaseFormat {
		return nil, fmt.Errorf("%s: format %d, known is %d: %w", domainRelease, r.Format, ReleaseFormat, wire.ErrMalformed)
	}
	return r, nil
}

// PeekRelease reads a release without verifying it, and which key signed it. Nothing in it is true yet.
func PeekRelease(b []byte) (*Release, PublisherKey, error) {
	env, err := open(domainRelease, cose.AlgorithmEdDSA, b)
	if err != nil {
		return nil, PublisherKey{}, err
	}
	r, kid := new(Release), PublisherKey{}
	if len(env.kid) != len(kid) {
		return nil, kid, fmt.Errorf("%s: key id of %d bytes: %w", domainRelease, len(env.kid), wire.ErrMalformed)
	}
	copy(kid[:], env.kid)
	return r, kid, env.decodeExact(r)
}

// A PublisherSet says who may publish artifacts for a fleet. Set 1 is signed by the authority; each later one by a threshold of the
// root keys of the one before, which the operator keeps offline, so that the core can replace none.
type PublisherSet struct {
	Format     uint8       `cbor:"1,keyasint"`
	Fleet      string      `cbor:"2,keyasint"`
	Number     uint64      `cbor:"3,keyasint"` // from 1
	Roots      [][]byte    `cbor:"4,keyasint"` // ed25519 public keys, sorted; 1 to MaxRoots
	Threshold  uint8       `cbor:"5,keyasint"` // how many roots must sign the next set; 1 to len(Roots)
	Publishers []Publisher `cbor:"6,keyasint"` // in order of name, at most MaxPublishers
}

// A Publisher may sign releases.
type Publisher struct {
	Name string `cbor:"1,keyasint"`
	Key  []byte `cbor:"2,keyasint"` // ed25519 public key
}

// Bounds of a set of publishers.
const (
	PublisherSetFormat = 1
	MaxRoots           = 8
	MaxPublishers      = 32
	MaxPublisherSet    = 64 << 10 // bytes, sealed
	maxPublisherName   = 64
)

// Check holds the set against its rules. The error is wire.ErrMalformed.
func (p *PublisherSet) Check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("set of publishers %d: "+format+": %w", slices.Concat([]any{p.Number}, args, []any{wire.ErrMalformed})...)
	}
	switch {
	case p.Format != PublisherSetFormat:
		return bad("format %d, known is %d", p.Format, PublisherSetFormat)
	case p.Fleet == "" || p.Number == 0:
		return bad("it names no fleet, or has no number")
	case len(p.Roots) == 0 || len(p.Roots) > MaxRoots:
		return bad("%d root keys, want 1 to %d", len(p.Roots), MaxRoots)
	case p.Threshold == 0 || int(p.Threshold) > len(p.Roots):
		return bad("threshold %d of %d root keys", p.Threshold, len(p.Roots))
	case len(p.Publishers) > MaxPublishers:
		return bad("%d publishers, at most %d", len(p.Publishers), MaxPublishers)
	}
	for i, k := range p.Roots {
		if len(k) != ed25519.PublicKeySize || i > 0 && bytes.Compare(p.Roots[i-1], k) >= 0 {
			return bad("root key %d is no ed25519 key, or not in order", i+1)
		}
	}
	for i, x := range p.Publishers {
		if len(x.Key) != ed25519.PublicKeySize || x.Name == "" || len(x.Name) > maxPublisherName || i > 0 && p.Publishers[i-1].Name >= x.Name {
			return bad("publisher %.80q has no ed25519 key, or is not in order", x.Name)
		}
	}
	return nil
}

// sealedSet is a set of publishers with its signatures: each is a COSE_Sign1 with the same payload.
type sealedSet struct {
	Signed [][]byte `cbor:"1,keyasint"` // 1 to MaxRoots
}

// rootKID names a root key in a signature.
func rootKID(pub ed25519.PublicKey) []byte { d := PublisherKeyOf(pub); return d[:] }

// SignPublisherSet is one signature: of a root key of the set before, or, for set 1, of the authority.
func SignPublisherSet(p *PublisherSet, key crypto.Signer) ([]byte, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	pub, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("key is %T, want ed25519: %w", key.Public(), ErrSignature)
	}
	payload, err := wire.Marshal(p)
	if err != nil {
		return nil, err
	}
	kid := rootKID(pub)
	if p.Number == 1 {
		kid = authorityKID
	}
	return sealAs(domainPublishers, kid, payload, cose.AlgorithmEdDSA, key)
}

// JoinPublisherSet puts signatures of one set together. Whether they are enough, OpenPublisherSet tells.
func JoinPublisherSet(signatures ...[]byte) ([]byte, error) {
	if len(signatures) == 0 || len(signatures) > MaxRoots {
		return nil, fmt.Errorf("%d signatures, want 1 to %d: %w", len(signatures), MaxRoots, wire.ErrMalformed)
	}
	return wire.Marshal(sealedSet{signatures})
}

// parseSet reads a sealed set. Nothing in it is true yet.
func parseSet(b []byte) (*PublisherSet, []*envelope, error) {
	if len(b) > MaxPublisherSet {
		return nil, nil, fmt.Errorf("%s of %d bytes, limit %d: %w", domainPublishers, len(b), MaxPublisherSet, wire.ErrMalformed)
	}
	var s sealedSet
	if err := wire.Unmarshal(b, &s); err != nil {
		return nil, nil, err
	}
	if len(s.Signed) == 0 || len(s.Signed) > MaxRoots {
		return nil, nil, fmt.Errorf("%s: %d signatures, want 1 to %d: %w", domainPublishers, len(s.Signed), MaxRoots, wire.ErrMalformed)
	}
	envs := make([]*envelope, len(s.Signed))
	for i, x := range s.Signed {
		env, err := open(domainPublishers, cose.AlgorithmEdDSA, x)
		if err != nil {
			return nil, nil, err
		}
		if i > 0 && !bytes.Equal(env.payload, envs[0].payload) {
			return nil, nil, fmt.Errorf("%s: signature %d is of another set: %w", domainPublishers, i+1, wire.ErrMalformed)
		}
		envs[i] = env
	}
	p := new(PublisherSet)
	if err := envs[0].decodeExact(p); err != nil {
		return nil, nil, err
	}
	return p, envs, p.Check()
}

// PeekPublisherSet reads a sealed set without verifying it.
func PeekPublisherSet(b []byte) (*PublisherSet, error) {
	p, _, err := parseSet(b)
	return p, err
}

// OpenPublisherSet verifies a sealed set and reads it: set 1 by the authority when before is nil, otherwise the one after before by
// a threshold of before's root keys.
func OpenPublisherSet(b []byte, fleet string, before *PublisherSet, authority ed25519.PublicKey) (*PublisherSet, error) {
	p, envs, err := parseSet(b)
	if err != nil {
		return nil, err
	}
	number := uint64(1)
	if before != nil {
		number = before.Number + 1
	}
	if p.Fleet != fleet || p.Number != number {
		return nil, fmt.Errorf("%s: set %d of fleet %.80q, want set %d of %q: %w", domainPublishers, p.Number, p.Fleet, number, fleet, ErrSignature)
	}
	if before == nil {
		return p, envs[0].verify(authority)
	}
	return p, before.carries(envs)
}

// carries tells whether enough of the set's root keys signed.
func (p *PublisherSet) carries(envs []*envelope) error {
	if n := len(p.signers(envs)); n < int(p.Threshold) {
		return fmt.Errorf("%s: %d of the root keys of set %d signed, want %d: %w", domainPublishers, n, p.Number, p.Threshold, ErrSignature)
	}
	return nil
}

// signers are the root keys of the set that signed, each once.
func (p *PublisherSet) signers(envs []*envelope) (keys []PublisherKey) {
	for _, root := range p.Roots {
		pub := ed25519.PublicKey(root)
		if slices.ContainsFunc(envs, func(e *envelope) bool { return bytes.Equal(e.kid, rootKID(pub)) && e.verify(pub) == nil }) {
			keys = append(keys, PublisherKeyOf(pub))
		}
	}
	return keys
}

// RootsOf are the root keys of the set whose signatures of a sealed set verify, each once.
func (p *PublisherSet) RootsOf(sealed []byte) ([]PublisherKey, error) {
	_, envs, err := parseSet(sealed)
	if err != nil {
		return nil, err
	}
	return p.signers(envs), nil
}

// A PublisherSignature is one signature of a sealed set.
type PublisherSignature struct {
	Key   PublisherKey // that claims to have made it; zero: the authority's
	Bytes []byte       // as SignPublisherSet made it
}

// PublisherSignatures are the signatures of a sealed set, in their order and not verified.
func PublisherSignatures(sealed []byte) ([]PublisherSignature, error) {
	if _, _, err := parseSet(sealed); err != nil {
		return nil, err
	}
	var s sealedSet
	if err := wire.Unmarshal(sealed, &s); err != nil {
		return nil, err
	}
	out := make([]PublisherSignature, len(s.Signed))
	for i, b := range s.Signed {
		env, err := open(domainPublishers, cose.AlgorithmEdDSA, b)
		if err != nil {
			return nil, err
		}
		out[i].Bytes = b
		if len(env.kid) == len(out[i].Key) {
			out[i].Key = PublisherKey(env.kid)
		}
	}
	return out, nil
}
