// Package enroll holds what makes identities: the fleet's keys under their wraps, enrollment tokens, and the certificates
// that the core issues.
package enroll

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// ErrKey is the sentinel of key material that does not open.
var ErrKey = errors.New("key does not open")

// wrapInfo separates this use of HPKE from any other.
var wrapInfo = []byte("holdfast/fleet-key/v1")

// A HolderKey opens the wrap of the fleet key that was made for it: a core node's own key, or the recovery key. It is an
// X25519 key for HPKE (RFC 9180, base mode, HKDF-SHA256, AES-256-GCM).
type HolderKey struct {
	priv hpke.PrivateKey
	raw  []byte
}

// NewHolderKey makes a holder key.
func NewHolderKey() (*HolderKey, error) {
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make holder key: %w", err)
	}
	return holderKey(k)
}

func holderKey(k *ecdh.PrivateKey) (*HolderKey, error) {
	p, err := hpke.NewDHKEMPrivateKey(k)
	if err != nil {
		return nil, fmt.Errorf("holder key: %w", err)
	}
	return &HolderKey{priv: p, raw: k.Bytes()}, nil
}

const holderPrefix = "hfk1_"

// Reveal is the text form of the key, for its file of mode 0600.
func (h *HolderKey) Reveal() string {
	return holderPrefix + base64.RawURLEncoding.EncodeToString(h.raw) + "\n"
}

// ParseHolderKey reads the form that Reveal writes.
func ParseHolderKey(s string) (*HolderKey, error) {
	b64, ok := strings.CutPrefix(strings.TrimSpace(s), holderPrefix)
	if !ok {
		return nil, fmt.Errorf("does not start with %q: %w", holderPrefix, ErrKey)
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(b64)
	if err != nil {
		return nil, fmt.Errorf("damaged: %w", ErrKey)
	}
	k, err := ecdh.X25519().NewPrivateKey(raw)
	if err != nil {
		return nil, fmt.Errorf("damaged: %w", ErrKey)
	}
	return holderKey(k)
}

// Public is the key that the fleet key is wrapped to: X25519, 32 bytes.
func (h *HolderKey) Public() []byte { return h.priv.PublicKey().Bytes() }

// HolderPublicSize is the length of a holder's public key.
const HolderPublicSize = 32

// wrapTo encrypts the fleet key to a holder.
func wrapTo(holder string, public, fleetKey []byte) (command.KeyWrap, error) {
	pub, err := hpke.DHKEM(ecdh.X25519()).NewPublicKey(public)
	if err != nil {
		return command.KeyWrap{}, fmt.Errorf("the public key of holder %q: %w: %w", holder, ErrKey, err)
	}
	w, err := hpke.Seal(pub, hpke.HKDFSHA256(), hpke.AES256GCM(), wrapInfo, fleetKey)
	if err != nil {
		return command.KeyWrap{}, fmt.Errorf("wrap the fleet key for %q: %w", holder, err)
	}
	return command.KeyWrap{Holder: holder, Wrap: w, Public: public}, nil
}

func (h *HolderKey) unwrap(w []byte) ([]byte, error) {
	k, err := hpke.Open(h.priv, hpke.HKDFSHA256(), hpke.AES256GCM(), wrapInfo, w)
	if err != nil {
		return nil, fmt.Errorf("fleet key: %w: %w", ErrKey, err)
	}
	return k, nil
}

// A Keyring is the fleet's private keys, opened. It lives in memory alone.
type Keyring struct {
	fleet     string
	name      string // of the holder that opened it
	holder    *HolderKey
	root      *x509.Certificate
	cas       map[ident.Role]ident.CA
	authority ed25519.PrivateKey
	authCert  []byte
}

// Fleet is the fleet's name.
func (k *Keyring) Fleet() string { return k.fleet }

// Trust is the fleet's root.
func (k *Keyring) Trust() *ident.Trust { return &ident.Trust{Fleet: k.fleet, Root: k.root} }

// Authority is the key that signs orders and receipts.
func (k *Keyring) Authority() crypto.Signer { return k.authority }

// AuthorityCert is its certificate, as DER.
func (k *Keyring) AuthorityCert() []byte { return k.authCert }

// Chain issues a certificate for a public key and returns leaf and issuing CA as DER.
func (k *Keyring) Chain(l ident.Leaf) ([][]byte, error) {
	ca, ok := k.cas[l.ID.Role]
	if !ok {
		return nil, fmt.Errorf("no issuing CA for role %s: %w", l.ID.Role, ErrKey)
	}
	der, err := ca.Issue(l)
	if err != nil {
		return nil, err
	}
	return [][]byte{der, ca.Cert.Raw}, nil
}

// WithIssuer completes a leaf that was issued before with its issuing CA.
func (k *Keyring) WithIssuer(r ident.Role, leaf []byte) [][]byte {
	return [][]byte{leaf, k.cas[r].Cert.Raw}
}

// OpenKeyring opens the fleet's keys with the wrap of the named holder.
func OpenKeyring(f *registry.Fleet, holder string, key *HolderKey) (*Keyring, error) {
	fk, err := fleetKey(f, holder, key)
	if err != nil {
		return nil, err
	}
	defer clear(fk)
	k := &Keyring{fleet: f.Name, name: holder, holder: key, cas: make(map[ident.Role]ident.CA), authCert: f.Authority.Cert}
	if k.root, err = x509.ParseCertificate(f.Root.Cert); err != nil {
		return nil, fmt.Errorf("root certificate: %w", err)
	}
	for _, w := range f.CAs {
		cert, err := x509.ParseCertificate(w.Cert)
		if err != nil {
			return nil, fmt.Errorf("certificate of the %s CA: %w", w.Role, err)
		}
		s, err := openKey(fk, w)
		if err != nil {
			return nil, err
		}
		k.cas[w.Role] = ident.CA{Cert: cert, Key: s}
	}
	s, err := openKey(fk, f.Authority)
	if err != nil {
		return nil, err
	}
	var ok bool
	if k.authority, ok = s.(ed25519.PrivateKey); !ok {
		return nil, fmt.Errorf("authority's key is %T: %w", s, ErrKey)
	}
	return k, nil
}

// SealPublishers seals the fleet's first set of publishers with the authority. Of later ones it is no signer.
func (k *Keyring) SealPublishers(p *seal.PublisherSet) ([]byte, error) {
	if p.Number != 1 {
		return nil, fmt.Errorf("set of publishers %d: the root keys of the set before sign it, not the core: %w", p.Number, wire.ErrMalformed)
	}
	sig, err := seal.SignPublisherSet(p, k.authority)
	if err != nil {
		return nil, err
	}
	return seal.JoinPublisherSet(sig)
}

func fleetKey(f *registry.Fleet, holder string, key *HolderKey) ([]byte, error) {
	w, ok := f.Wrap(holder)
	if !ok {
		return nil, fmt.Errorf("the fleet key has no wrap for %q: %w", holder, ErrKey)
	}
	return key.unwrap(w.Wrap)
}

// Wrap gives the present fleet key to another holder.
func (k *Keyring) Wrap(f *registry.Fleet, holder string, public []byte) (command.KeyWrap, error) {
	fk, err := fleetKey(f, k.name, k.holder)
	if err != nil {
		return command.KeyWrap{}, err
	}
	defer clear(fk)
	return wrapTo(holder, public, fk)
}

// Rotate puts the fleet's private keys under a new fleet key, for the named holders and the recovery key alone. Each must
// hold a wrap of the present one, because that is where its public key is.
func (k *Keyring) Rotate(f *registry.Fleet, holders []string) (command.Rotation, error) {
	old, err := fleetKey(f, k.name, k.holder)
	if err != nil {
		return command.Rotation{}, err
	}
	defer clear(old)
	var fk [32]byte
	rand.Read(fk[:])
	defer clear(fk[:])
	out := command.Rotation{Generation: f.Generation + 1}
	if out.Root, err = reseal(old, fk[:], f.Root); err != nil {
		return out, err
	}
	if out.Authority, err = reseal(old, fk[:], f.Authority); err != nil {
		return out, err
	}
	for _, ca := range f.CAs {
		w, err := reseal(old, fk[:], ca)
		if err != nil {
			return out, err
		}
		out.CAs = append(out.CAs, w)
	}
	for _, h := range append([]string{registry.RecoveryHolder}, holders...) {
		had, ok := f.Wrap(h)
		if !ok {
			return out, fmt.Errorf("the fleet key has no wrap for %q: %w", h, ErrKey)
		}
		w, err := wrapTo(h, had.Public, fk[:])
		if err != nil {
			return out, err
		}
		out.Wraps = append(out.Wraps, w)
	}
	return out, nil
}

func reseal(old, fk []byte, w command.WrappedCA) (command.WrappedCA, error) {
	key, err := openKey(old, w)
	if err != nil {
		return w, err
	}
	return sealKey(fk, w.Role, w.Cert, key)
}

// Derive is a one-way function of data that all core nodes share and nobody else can compute. label separates its uses.
func (k *Keyring) Derive(label string, data []byte) [32]byte {
	key, err := hkdf.Key(sha256.New, k.authority.Seed(), nil, "holdfast/derive/v1/"+label, 32)
	if err != nil {
		panic("enroll: 32 bytes from HKDF-SHA256: " + err.Error()) // the length is fixed, and within what it gives
	}
	m := hmac.New(sha256.New, key)
	m.Write(data)
	return [32]byte(m.Sum(nil))
}

// siteKeyInfo separates this use of HKDF from any other.
const siteKeyInfo = "holdfast/site-key/v1"

// SiteKey is the key that the gateways of a site share: another one for each fleet, site and generation. All core nodes make the
// same; nothing of it is stored.
func (k *Keyring) SiteKey(site string, generation uint64) wire.SiteKey {
	// No name holds a zero byte, so no two inputs make the same info.
	info := fmt.Sprintf("%s\x00%s\x00%s\x00%d", siteKeyInfo, k.fleet, site, generation)
	key, err := hkdf.Key(sha256.New, k.authority.Seed(), nil, info, wire.SiteKeySize)
	if err != nil {
		panic("enroll: a site key from HKDF-SHA256: " + err.Error()) // the length is fixed, and within what it gives
	}
	return wire.SiteKey{Generation: generation, Key: key}
}

// roleRoot binds the root's key to what it is for.
const roleRoot ident.Role = "root"

// NewFleet makes everything that init commits: root, issuing CAs, authority, and the fleet key wrapped for each holder.
func NewFleet(fleet string, holders map[string]*HolderKey, now time.Time) (*command.Init, error) {
	var fk [32]byte
	rand.Read(fk[:])
	defer clear(fk[:])
	rootKey, err := ident.NewKey()
	if err != nil {
		return nil, err
	}
	root, err := ident.NewRoot(fleet, rootKey, now)
	if err != nil {
		return nil, err
	}
	out := &command.Init{Fleet: fleet}
	if out.Root, err = sealKey(fk[:], roleRoot, root.Cert.Raw, rootKey); err != nil {
		return nil, err
	}
	for _, r := range ident.Roles() {
		w, err := newIssuing(fk[:], root, fleet, r, now)
		if err != nil {
			return nil, err
		}
		out.CAs = append(out.CAs, w)
	}
	if out.Authority, err = newAuthority(fk[:], root, fleet, now); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(holders)) {
		w, err := wrapTo(name, holders[name].Public(), fk[:])
		if err != nil {
			return nil, err
		}
		out.Wraps = append(out.Wraps, w)
	}
	return out, nil
}

func newIssuing(fk []byte, root ident.CA, fleet string, r ident.Role, now time.Time) (command.WrappedCA, error) {
	key, err := ident.NewKey()
	if err != nil {
		return command.WrappedCA{}, err
	}
	ca, err := root.Issuing(fleet, r, key, now)
	if err != nil {
		return command.WrappedCA{}, err
	}
	return sealKey(fk, r, ca.Cert.Raw, key)
}

func newAuthority(fk []byte, root ident.CA, fleet string, now time.Time) (command.WrappedCA, error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return command.WrappedCA{}, fmt.Errorf("make authority key: %w", err)
	}
	der, err := root.Issue(ident.Leaf{ID: ident.Authority(fleet), Public: pub, Now: now})
	if err != nil {
		return command.WrappedCA{}, err
	}
	return sealKey(fk, ident.RoleAuthority, der, key)
}

// sealKey encrypts a private key under the fleet key, bound to its role and certificate: nonce (12 bytes), ciphertext.
func sealKey(fk []byte, r ident.Role, cert []byte, key crypto.Signer) (command.WrappedCA, error) {
	plain, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return command.WrappedCA{}, fmt.Errorf("encode the %s key: %w", r, err)
	}
	defer clear(plain)
	g, err := gcm(fk)
	if err != nil {
		return command.WrappedCA{}, err
	}
	sealed := g.Seal(nil, nil, plain, bind(r, cert)) //nolint:gosec // G407: the AEAD draws the nonce itself
	return command.WrappedCA{Role: r, Cert: cert, Key: sealed}, nil
}

func openKey(fk []byte, w command.WrappedCA) (crypto.Signer, error) {
	g, err := gcm(fk)
	if err != nil {
		return nil, err
	}
	plain, err := g.Open(nil, nil, w.Key, bind(w.Role, w.Cert))
	if err != nil {
		return nil, fmt.Errorf("the %s key: %w", w.Role, ErrKey)
	}
	defer clear(plain)
	k, err := x509.ParsePKCS8PrivateKey(plain)
	if err != nil {
		return nil, fmt.Errorf("the %s key: %w: %w", w.Role, ErrKey, err)
	}
	s, ok := k.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("the %s key is %T: %w", w.Role, k, ErrKey)
	}
	return s, nil
}

func gcm(fk []byte) (cipher.AEAD, error) {
	b, err := aes.NewCipher(fk)
	if err != nil {
		return nil, fmt.Errorf("fleet key: %w: %w", ErrKey, err)
	}
	return cipher.NewGCMWithRandomNonce(b)
}

func bind(r ident.Role, cert []byte) []byte { return append([]byte(r+"\x00"), cert...) }

// NewLeafKey makes a key and its first certificate: what init does for a node itself.
func (k *Keyring) NewLeafKey(id ident.ID, now time.Time) (*ecdsa.PrivateKey, [][]byte, error) {
	key, err := ident.NewKey()
	if err != nil {
		return nil, nil, err
	}
	chain, err := k.Chain(ident.Leaf{ID: id, Public: key.Public(), Now: now})
	return key, chain, err
}
