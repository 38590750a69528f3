// Package credential is the identity of a device or gateway on its own disk: a key made there that never leaves, the
// certificate chain, and the trust that came with it. It enrolls, and it renews without ever throwing away what works.
//
//	key.pem        the private key, mode 0600, written once
//	identity.{a,b} what enrollment and renewals brought (see durable.Slots), CBOR
package credential

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/holdfast-edge/holdfast/internal/durable"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

// ErrNone says that a directory holds no identity.
var ErrNone = errors.New("not enrolled")

// ErrEnrolled says that a directory holds another identity than the one asked for.
var ErrEnrolled = errors.New("enrolled already")

const (
	keyFile      = "key.pem"
	identityFile = "identity"
	maxFile      = 64 << 10
)

// stored is what identity.{a,b} hold.
type stored struct {
	Identity  string   `cbor:"1,keyasint"`
	Chain     [][]byte `cbor:"2,keyasint"`           // in use
	Next      [][]byte `cbor:"3,keyasint,omitempty"` // renewed, not yet used with success
	Root      []byte   `cbor:"4,keyasint"`
	Authority []byte   `cbor:"5,keyasint"`
}

// A Credential is an identity that is ready for use. Its certificate may be replaced while listeners and diallers use it.
type Credential struct {
	ID        ident.ID
	Key       *ecdsa.PrivateKey
	KeyID     ident.KeyID
	Trust     *ident.Trust
	Authority ed25519.PublicKey

	slots *durable.Slots
	now   stored // owned by whoever renews
	cert  atomic.Pointer[tls.Certificate]
}

// Load reads the identity of a directory. ErrNone says that there is none yet.
func Load(dir string) (*Credential, error) {
	slots := durable.OpenSlots(filepath.Join(dir, identityFile))
	b, err := slots.Load()
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", dir, ErrNone)
	}
	if err != nil {
		return nil, fmt.Errorf("read the identity: %w", err)
	}
	c := &Credential{slots: slots}
	if err := wire.Unmarshal(b, &c.now); err != nil {
		return nil, fmt.Errorf("read the identity: %w", err)
	}
	if c.Key, err = loadKey(dir); err != nil {
		return nil, err
	}
	return c, c.open()
}

// open checks what is stored and puts it into use. It runs once, before anybody else sees the credential: a renewal changes
// the certificate alone, while others read the rest.
func (c *Credential) open() (err error) {
	if c.ID, err = ident.Parse(c.now.Identity); err != nil {
		return fmt.Errorf("identity: %w", err)
	}
	if c.Trust, err = ident.NewTrust(c.ID.Fleet, c.now.Root); err != nil {
		return err
	}
	if c.Authority, err = c.Trust.VerifyAuthority(c.now.Authority); err != nil {
		return err
	}
	spki, err := x509.MarshalPKIXPublicKey(c.Key.Public())
	if err != nil {
		return fmt.Errorf("encode the public key: %w", err)
	}
	c.KeyID = ident.KeyIDOfSPKI(spki)
	return c.present()
}

// Chain is the certificate chain in use, as DER: the leaf and its issuing CA.
func (c *Credential) Chain() [][]byte { return c.cert.Load().Certificate }

// AuthorityCert is the certificate of the fleet's authority, as DER.
func (c *Credential) AuthorityCert() []byte { return c.now.Authority }

// present puts the newest stored chain into use.
func (c *Credential) present() error {
	chain := c.now.Chain
	if c.now.Next != nil {
		chain = c.now.Next
	}
	leaf, err := c.check(chain)
	if err != nil {
		return err
	}
	c.cert.Store(&tls.Certificate{Certificate: chain, PrivateKey: c.Key, Leaf: leaf})
	return nil
}

// check holds a chain against this identity, its key and its trust.
func (c *Credential) check(chain [][]byte) (*x509.Certificate, error) {
	certs := make([]*x509.Certificate, len(chain))
	for i, der := range chain {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("certificate: %w", err)
		}
		certs[i] = cert
	}
	var at time.Time // the chain is judged within its own validity
	p, err := c.Trust.Verify(certs, at, c.ID.Role)
	if err != nil {
		return nil, err
	}
	if p.ID != c.ID {
		return nil, fmt.Errorf("certificate for %v, want %v: %w", p.ID, c.ID, ident.ErrUntrusted)
	}
	if !c.Key.PublicKey.Equal(certs[0].PublicKey) {
		return nil, fmt.Errorf("certificate is for another key: %w", ident.ErrUntrusted)
	}
	return certs[0], nil
}

// Certificate is the certificate to present.
func (c *Credential) Certificate() *tls.Certificate { return c.cert.Load() }

// Endpoint is this identity's side of every connection.
func (c *Credential) Endpoint(wall func() time.Time) ident.Endpoint {
	return ident.Endpoint{Trust: func() *ident.Trust { return c.Trust }, Certificate: c.Certificate, Wall: wall}
}

// RenewAt is when to ask for a new certificate: at the given fraction (0.6 to 0.8, drawn by the caller) of its life.
func (c *Credential) RenewAt(fraction float64) time.Time {
	leaf := c.cert.Load().Leaf
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	return leaf.NotBefore.Add(time.Duration(float64(life) * fraction))
}

// Renewed takes a new chain for the same key. It is presented from the next connection on; the old one stays stored until
// Confirm says that the new one worked.
func (c *Credential) Renewed(chain [][]byte) error {
	if _, err := c.check(chain); err != nil {
		return fmt.Errorf("renewed certificate: %w", err)
	}
	n := c.now
	n.Next = slices.Clone(chain)
	return c.store(n)
}

// Confirm says that a session was admitted with the present certificate: the one before is no longer needed.
func (c *Credential) Confirm() error {
	if c.now.Next == nil {
		return nil
	}
	n := c.now
	n.Chain, n.Next = n.Next, nil
	return c.store(n)
}

// Reject says that the present certificate was refused: if it is a renewed one, the one before is used again.
func (c *Credential) Reject() error {
	if c.now.Next == nil {
		return nil
	}
	n := c.now
	n.Next = nil
	return c.store(n)
}

func (c *Credential) store(n stored) error {
	b, err := wire.Marshal(n)
	if err != nil {
		return err
	}
	if err := c.slots.Save(b, 0o600); err != nil {
		return err
	}
	c.now = n
	return c.present()
}

// loadKey reads the key. It is never made anew here: a key that cannot be read is an error, not a reason for another one.
func loadKey(dir string) (*ecdsa.PrivateKey, error) {
	path := filepath.Join(dir, keyFile)
	b, err := durable.ReadFile(path, maxFile)
	if err != nil {
		return nil, fmt.Errorf("read the private key: %w", err)
	}
	defer clear(b)
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("%s: no key in it: %w", path, durable.ErrDamaged)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, durable.ErrDamaged, err)
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s: key is %T, want ECDSA: %w", path, k, durable.ErrDamaged)
	}
	return key, nil
}

// makeKey reads the key, or makes it where there is none yet.
func makeKey(dir string) (*ecdsa.PrivateKey, error) {
	k, err := loadKey(dir)
	if !errors.Is(err, os.ErrNotExist) {
		return k, err
	}
	if k, err = ident.NewKey(); err != nil {
		return nil, fmt.Errorf("make the private key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, fmt.Errorf("encode the private key: %w", err)
	}
	defer clear(der)
	b := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	defer clear(b)
	return k, durable.WriteFile(filepath.Join(dir, keyFile), b, 0o600)
}
