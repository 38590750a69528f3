package ident

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"time"
)

// Lifetimes of certificates.
const (
	RootLifetime    = 30 * 365 * 24 * time.Hour
	IssuingLifetime = 20 * 365 * 24 * time.Hour
	CoreLifetime    = 365 * 24 * time.Hour
	LeafLifetime    = 90 * 24 * time.Hour
	// BackDate is how far before its making a certificate becomes valid, for peers whose clocks are behind.
	BackDate = 5 * time.Minute
)

// Limits of what is accepted from a peer.
const (
	maxCSR   = 4 << 10
	maxChain = 3
	maxCert  = 8 << 10
)

// ErrCSR is the sentinel of every certificate request that is refused.
var ErrCSR = errors.New("certificate request refused")

// lifetime is how long a leaf of role lives.
func lifetime(r Role) time.Duration {
	switch r {
	case RoleCore, RoleAPI:
		return CoreLifetime
	case RoleAuthority:
		return IssuingLifetime
	case RoleDevice, RoleGateway:
	}
	return LeafLifetime
}

// NewKey makes a P-256 key, which is the kind that devices, gateways, core nodes and CAs have.
func NewKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// A CA signs certificates: the fleet's root signs issuing CAs and the authority, an issuing CA signs the leaves of one role.
type CA struct {
	Cert *x509.Certificate
	Key  crypto.Signer
}

// caURL is the URI SAN that binds an issuing CA to the one role it may certify.
func caURL(fleet string, r Role) *url.URL {
	return &url.URL{Scheme: "spiffe", Host: fleet, Path: "/ca/" + string(r)}
}

// NewRoot makes the self-signed root of a fleet, valid from now less BackDate for RootLifetime.
func NewRoot(fleet string, key crypto.Signer, now time.Time) (CA, error) {
	if err := CheckFleet(fleet); err != nil {
		return CA{}, err
	}
	t := caTemplate("Holdfast "+fleet+" root", now, RootLifetime)
	t.MaxPathLen = 1
	return sign(t, t, key.Public(), key, key)
}

// Issuing makes the issuing CA of role under the root ca.
func (ca CA) Issuing(fleet string, r Role, key crypto.Signer, now time.Time) (CA, error) {
	t := caTemplate("Holdfast "+fleet+" "+string(r)+" CA", now, IssuingLifetime)
	t.MaxPathLenZero = true
	t.URIs = []*url.URL{caURL(fleet, r)}
	return sign(t, ca.Cert, key.Public(), ca.Key, key)
}

func caTemplate(cn string, now time.Time, life time.Duration) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: cn},
		NotBefore: now.Add(-BackDate), NotAfter: now.Add(life),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

func sign(t, parent *x509.Certificate, pub crypto.PublicKey, parentKey, key crypto.Signer) (CA, error) {
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, parentKey)
	if err != nil {
		return CA{}, fmt.Errorf("sign certificate %q: %w", t.Subject.CommonName, err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return CA{}, fmt.Errorf("read back certificate %q: %w", t.Subject.CommonName, err)
	}
	return CA{Cert: c, Key: key}, nil
}

// A Leaf says what an end-entity certificate is to contain. Everything else in it is fixed by the role's profile.
type Leaf struct {
	ID     ID
	Public crypto.PublicKey
	Now    time.Time
	DNS    []string // RoleAPI only
	IPs    []net.IP // RoleAPI only
}

// Issue signs a leaf certificate and returns its DER. The same leaf gives the same certificate, to the byte, as long as the CA's
// key makes deterministic signatures (ECDSA as in RFC 6979, Ed25519): so a certificate that somebody may ask for again
// need not be kept.
func (ca CA) Issue(l Leaf) ([]byte, error) {
	if l.ID.Role != RoleAPI && len(l.DNS)+len(l.IPs) > 0 {
		return nil, fmt.Errorf("certificate for %v with DNS or IP names: %w", l.ID, ErrID)
	}
	serial, err := l.serial()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: l.ID.Fleet + " " + string(l.ID.Role)},
		NotBefore: l.Now.Add(-BackDate), NotAfter: l.Now.Add(lifetime(l.ID.Role)),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		URIs: []*url.URL{l.ID.URL()}, DNSNames: l.DNS, IPAddresses: l.IPs,
		ExtKeyUsage: usages(l.ID.Role),
	}
	der, err := x509.CreateCertificate(nil, t, ca.Cert, l.Public, ca.Key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate for %v: %w", l.ID, err)
	}
	return der, nil
}

// usages are the extended key usages of a role's leaves.
func usages(r Role) []x509.ExtKeyUsage {
	switch r {
	case RoleDevice:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	case RoleGateway, RoleCore:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	case RoleAPI:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	case RoleAuthority:
	}
	return nil
}

// serial is a 127-bit serial number that two leaves share only if they are equal: it is a hash of all that tells them apart.
func (l *Leaf) serial() (*big.Int, error) {
	spki, err := x509.MarshalPKIXPublicKey(l.Public)
	if err != nil {
		return nil, fmt.Errorf("public key for %v: %w", l.ID, err)
	}
	h := sha256.New()
	part := func(b []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	part([]byte("holdfast/serial/v1"))
	part([]byte(l.ID.String()))
	part(spki)
	part(binary.BigEndian.AppendUint64(nil, uint64(l.Now.Unix()))) //nolint:gosec // G115: bits, whatever the sign
	for _, name := range l.DNS {
		part([]byte("dns:" + name))
	}
	for _, ip := range l.IPs {
		part([]byte("ip:" + ip.String()))
	}
	b := h.Sum(nil)[:16]
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b), nil
}

// serial is a random 127-bit serial number.
func serial() *big.Int {
	var b [16]byte
	rand.Read(b[:]) // crypto/rand.Read never fails
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b[:])
}

// NewCSR makes the certificate request that presents key. It names nobody: the core decides who the key is.
func NewCSR(key crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	return der, nil
}

// A PublicKey is a key whose holder proved possession of it.
type PublicKey struct {
	Key  *ecdsa.PublicKey
	SPKI []byte // DER
	ID   KeyID
}

// ParseCSR takes the public key of a certificate request whose self-signature holds; names, extensions and everything else
// that the requester wrote are ignored. Only P-256 is accepted.
func ParseCSR(der []byte) (PublicKey, error) {
	if len(der) > maxCSR {
		return PublicKey{}, fmt.Errorf("%d bytes, limit %d: %w", len(der), maxCSR, ErrCSR)
	}
	r, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return PublicKey{}, fmt.Errorf("%w: %w", ErrCSR, err)
	}
	k, ok := r.PublicKey.(*ecdsa.PublicKey)
	if !ok || k.Curve != elliptic.P256() {
		return PublicKey{}, fmt.Errorf("key is %T, want ECDSA P-256: %w", r.PublicKey, ErrCSR)
	}
	if err := r.CheckSignature(); err != nil {
		return PublicKey{}, fmt.Errorf("no proof of possession: %w: %w", ErrCSR, err)
	}
	if err := checkSPKI(k, r.RawSubjectPublicKeyInfo); err != nil {
		return PublicKey{}, fmt.Errorf("%w: %w", ErrCSR, err)
	}
	return PublicKey{Key: k, SPKI: r.RawSubjectPublicKeyInfo, ID: KeyIDOfSPKI(r.RawSubjectPublicKeyInfo)}, nil
}

// ParseSPKI reads a DER-encoded P-256 public key.
func ParseSPKI(der []byte) (*ecdsa.PublicKey, error) {
	pub, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("read public key: %w", err)
	}
	k, ok := pub.(*ecdsa.PublicKey)
	if !ok || k.Curve != elliptic.P256() {
		return nil, fmt.Errorf("public key is %T, want ECDSA P-256", pub)
	}
	return k, checkSPKI(k, der)
}

// checkSPKI refuses every encoding of a key but the one that certificates carry: a key id is a hash of the encoding, and a
// second encoding would give a retired key a new id.
func checkSPKI(k *ecdsa.PublicKey, der []byte) error {
	want, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		return fmt.Errorf("encode public key: %w", err)
	}
	if !bytes.Equal(want, der) {
		return errors.New("public key is not in its one accepted encoding")
	}
	return nil
}
