// Package identtest makes whole fleets of certificates for tests: the root, the issuing CA of each role, and leaves.
package identtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire/ident"
)

// A Fleet has everything that signs certificates in one fleet.
type Fleet struct {
	t         testing.TB
	Name      string
	Root      ident.CA
	Issuing   map[ident.Role]ident.CA
	Authority ed25519.PrivateKey
	AuthCert  []byte // the authority's certificate, DER
}

// New makes a fleet whose root and CAs were made at now.
func New(tb testing.TB, name string, now time.Time) *Fleet {
	tb.Helper()
	f := &Fleet{t: tb, Name: name, Issuing: make(map[ident.Role]ident.CA)}
	root, err := ident.NewRoot(name, Key(tb), now)
	f.ok(err)
	f.Root = root
	for _, r := range ident.Roles() {
		f.Issuing[r], err = root.Issuing(name, r, Key(tb), now)
		f.ok(err)
	}
	pub, key, err := ed25519.GenerateKey(nil)
	f.ok(err)
	f.Authority = key
	f.AuthCert, err = root.Issue(ident.Leaf{ID: ident.Authority(name), Public: pub, Now: now})
	f.ok(err)
	return f
}

func (f *Fleet) ok(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// Key makes a P-256 key.
func Key(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	k, err := ident.NewKey()
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

// Trust is the fleet's root, trusted.
func (f *Fleet) Trust() *ident.Trust {
	f.t.Helper()
	tr, err := ident.NewTrust(f.Name, f.Root.Cert.Raw)
	f.ok(err)
	return tr
}

// Pin is what a token of the fleet names its root by.
func (f *Fleet) Pin() ident.KeyID { return ident.KeyIDOf(f.Root.Cert) }

// Chain issues a certificate for id by its role's CA: leaf and CA, DER.
func (f *Fleet) Chain(id ident.ID, pub crypto.PublicKey, now time.Time) [][]byte {
	f.t.Helper()
	ca := f.Issuing[id.Role]
	der, err := ca.Issue(ident.Leaf{ID: id, Public: pub, Now: now})
	f.ok(err)
	return [][]byte{der, ca.Cert.Raw}
}

// Certificate is a new key with a certificate for id.
func (f *Fleet) Certificate(id ident.ID, now time.Time) *tls.Certificate {
	f.t.Helper()
	k := Key(f.t)
	return &tls.Certificate{Certificate: f.Chain(id, k.Public(), now), PrivateKey: k}
}

// Endpoint is a side of connections that shows cert, which may be nil, and reads the wall clock of package time.
func (f *Fleet) Endpoint(cert *tls.Certificate) ident.Endpoint {
	f.t.Helper()
	tr := f.Trust()
	return ident.Endpoint{
		Trust:       func() *ident.Trust { return tr },
		Certificate: func() *tls.Certificate { return cert },
		Wall:        time.Now,
	}
}

// Parse reads a chain of DER certificates.
func Parse(tb testing.TB, chain ...[]byte) []*x509.Certificate {
	tb.Helper()
	out := make([]*x509.Certificate, len(chain))
	for i, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			tb.Fatal(err)
		}
		out[i] = c
	}
	return out
}
