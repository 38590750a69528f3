// Package pki is a throw-away certificate authority for measurements: one root on P-256 that signs a server and any
// number of devices, and the two sides of mutual TLS 1.3 made of them. Nothing of it is fit for production: the root's
// key lies about in memory and travels between processes.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/url"
	"time"
)

// The names that the certificates carry. A device's is as long as a real one, because a server keeps it.
const (
	serverName = "server.floor.test"
	fleetURI   = "spiffe://floor.test/device/"
	protocol   = "floor" // ALPN
)

// lifetime is longer than any benchmark and short enough to be worthless afterwards.
const lifetime = 48 * time.Hour

// Authority is a root and its key. It is immutable and may be used from any goroutine.
type Authority struct {
	root *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Material is an Authority as it travels to a child process: everything, the private key included.
type Material struct {
	Root []byte `json:"root"` // DER
	Key  []byte `json:"key"`  // SEC 1, DER
}

// New makes an authority.
func New() (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make root key: %w", err)
	}
	t := template("floor root", 1)
	t.IsCA = true
	t.KeyUsage = x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("make root certificate: %w", err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse own root certificate: %w", err)
	}
	return &Authority{root: root, key: key}, nil
}

// Load makes an Authority of what Material returned.
func Load(m Material) (*Authority, error) {
	root, err := x509.ParseCertificate(m.Root)
	if err != nil {
		return nil, fmt.Errorf("load root certificate: %w", err)
	}
	key, err := x509.ParseECPrivateKey(m.Key)
	if err != nil {
		return nil, fmt.Errorf("load root key: %w", err)
	}
	return &Authority{root: root, key: key}, nil
}

// Material returns what Load makes the same Authority of.
func (a *Authority) Material() (Material, error) {
	key, err := x509.MarshalECPrivateKey(a.key)
	if err != nil {
		return Material{}, fmt.Errorf("encode root key: %w", err)
	}
	return Material{Root: a.root.Raw, Key: key}, nil
}

// ServerTLS returns the server's side of mutual TLS 1.3, with a new key. Only devices of this authority are admitted.
func (a *Authority) ServerTLS() (*tls.Config, error) {
	t := template(serverName, 2)
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	t.DNSNames = []string{serverName}
	leaf, err := a.issue(t)
	if err != nil {
		return nil, fmt.Errorf("server certificate: %w", err)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{leaf}, ClientCAs: a.pool(), ClientAuth: tls.RequireAndVerifyClientCert,
		MinVersion: tls.VersionTLS13, NextProtos: []string{protocol},
	}, nil
}

// DeviceTLS returns the side of device number i (0 or more), with a new key. Only this authority's server is trusted.
func (a *Authority) DeviceTLS(i int) (*tls.Config, error) {
	leaf, err := a.device(i)
	if err != nil {
		return nil, err
	}
	return deviceTLS(leaf, a.pool()), nil
}

func deviceTLS(leaf tls.Certificate, roots *x509.CertPool) *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{leaf}, RootCAs: roots, ServerName: serverName,
		MinVersion: tls.VersionTLS13, NextProtos: []string{protocol},
	}
}

func (a *Authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.root)
	return pool
}

func (a *Authority) device(i int) (tls.Certificate, error) {
	name := fmt.Sprintf("device-%08d", i)
	id, err := url.Parse(fleetURI + name)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate of device %d: %w", i, err)
	}
	t := template(name, int64(i)+1000)
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	t.URIs = []*url.URL{id}
	leaf, err := a.issue(t)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate of device %d: %w", i, err)
	}
	return leaf, nil
}

func (a *Authority) issue(t *x509.Certificate) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make key: %w", err)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.root, &key.PublicKey, a.key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("sign: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("parse what was signed: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

func template(name string, serial int64) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(lifetime),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
	}
}
