package ident

import (
	"crypto/ed25519"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ErrUntrusted is the sentinel of every certificate chain that does not verify.
var ErrUntrusted = errors.New("certificate not trusted")

// A Peer is who the other side of a connection is, as its verified certificate says.
type Peer struct {
	ID      ID
	Key     KeyID
	Leaf    *x509.Certificate
	Expired bool // at the verifier's time; expiry alone admits and refuses nobody, so the caller decides
}

// Issued is when the certificate was issued, by the clock of the core node that did, in whole seconds.
func (p *Peer) Issued() time.Time { return p.Leaf.NotBefore.Add(BackDate) }

// Trust is what a peer's chain must verify to: one fleet's root.
type Trust struct {
	Fleet string
	Root  *x509.Certificate
}

// NewTrust trusts the root of fleet, given as DER.
func NewTrust(fleet string, rootDER []byte) (*Trust, error) {
	if err := CheckFleet(fleet); err != nil {
		return nil, err
	}
	root, err := x509.ParseCertificate(rootDER)
	if err != nil {
		return nil, fmt.Errorf("read the fleet's root certificate: %w", err)
	}
	if !root.IsCA || root.CheckSignatureFrom(root) != nil {
		return nil, fmt.Errorf("the fleet's root certificate is not a self-signed CA: %w", ErrUntrusted)
	}
	return &Trust{Fleet: fleet, Root: root}, nil
}

// PinnedTrust finds in a presented chain the root whose key has the id pin, and trusts it. The fleet's name is taken from
// the leaf, which must then verify to that root.
func PinnedTrust(chain []*x509.Certificate, pin KeyID) (*Trust, error) {
	for _, c := range chain {
		id := KeyIDOf(c)
		if subtle.ConstantTimeCompare(id[:], pin[:]) != 1 {
			continue
		}
		leaf, err := FromCert(chain[0])
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrUntrusted, err)
		}
		return NewTrust(leaf.Fleet, c.Raw)
	}
	return nil, fmt.Errorf("the peer's chain does not end in the root that the token names: %w", ErrUntrusted)
}

// Pin is the id of the root's key.
func (t *Trust) Pin() KeyID { return KeyIDOf(t.Root) }

// Verify checks a presented chain (leaf first): leaf, the issuing CA of the leaf's own role, and optionally the root. The
// time is clamped into the validity of all three, so that no clock, neither ours nor the issuer's, locks a peer out; whether
// the leaf has expired at now is reported in the Peer. One of roles must match.
func (t *Trust) Verify(chain []*x509.Certificate, now time.Time, roles ...Role) (Peer, error) {
	if len(chain) < 2 || len(chain) > maxChain {
		return Peer{}, fmt.Errorf("chain of %d certificates, want 2 or %d: %w", len(chain), maxChain, ErrUntrusted)
	}
	for _, c := range chain {
		if len(c.Raw) > maxCert {
			return Peer{}, fmt.Errorf("certificate of %d bytes, limit %d: %w", len(c.Raw), maxCert, ErrUntrusted)
		}
	}
	leaf, issuing := chain[0], chain[1]
	id, err := FromCert(leaf)
	if err != nil {
		return Peer{}, fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	if id.Fleet != t.Fleet {
		return Peer{}, fmt.Errorf("certificate of fleet %q, want %q: %w", id.Fleet, t.Fleet, ErrUntrusted)
	}
	if !slices.Contains(roles, id.Role) {
		return Peer{}, fmt.Errorf("certificate for role %s, want one of %v: %w", id.Role, roles, ErrUntrusted)
	}
	if len(issuing.URIs) != 1 || *issuing.URIs[0] != *caURL(t.Fleet, id.Role) {
		return Peer{}, fmt.Errorf("certificate for role %s is not by that role's CA: %w", id.Role, ErrUntrusted)
	}
	if err := t.verifyAt(leaf, issuing, clamp(now, leaf, issuing, t.Root)); err != nil {
		return Peer{}, err
	}
	return Peer{ID: id, Key: KeyIDOf(leaf), Leaf: leaf, Expired: now.After(leaf.NotAfter)}, nil
}

func (t *Trust) verifyAt(leaf, issuing *x509.Certificate, at time.Time) error {
	roots, inter := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(t.Root)
	inter.AddCert(issuing)
	chains, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: inter, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	if len(chains[0]) != 3 || leaf.IsCA {
		return fmt.Errorf("chain is not leaf, issuing CA, root: %w", ErrUntrusted)
	}
	return nil
}

// clamp moves now into the time in which all of chain are valid, if there is one. A leaf may be older than its CA by the
// dates alone: the node that made the CA had a clock that was ahead and was then set right.
func clamp(now time.Time, chain ...*x509.Certificate) time.Time {
	from, until := chain[0].NotBefore, chain[0].NotAfter
	for _, c := range chain[1:] {
		if c.NotBefore.After(from) {
			from = c.NotBefore
		}
		if c.NotAfter.Before(until) {
			until = c.NotAfter
		}
	}
	switch {
	case now.Before(from):
		return from
	case now.After(until):
		return until
	}
	return now
}

// VerifyAuthority checks the authority's certificate, which the root signs directly, and returns its key.
func (t *Trust) VerifyAuthority(der []byte) (ed25519.PublicKey, error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read the authority's certificate: %w", err)
	}
	id, err := FromCert(c)
	if err != nil {
		return nil, fmt.Errorf("authority: %w: %w", ErrUntrusted, err)
	}
	if id != Authority(t.Fleet) {
		return nil, fmt.Errorf("certificate for %v where the authority's was expected: %w", id, ErrUntrusted)
	}
	if err := c.CheckSignatureFrom(t.Root); err != nil {
		return nil, fmt.Errorf("authority: %w: %w", ErrUntrusted, err)
	}
	k, ok := c.PublicKey.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("authority's key is %T, want Ed25519: %w", c.PublicKey, ErrUntrusted)
	}
	return k, nil
}
