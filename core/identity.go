package core

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/holdfast-edge/holdfast/core/enroll"
	"github.com/holdfast-edge/holdfast/internal/durable"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

const maxKeyFile = 64 << 10

// A nodeCert is a key and its certificate chain in two files, name.key and name.crt. The certificate can be replaced while
// listeners use it.
type nodeCert struct {
	dir, name string
	cert      atomic.Pointer[tls.Certificate]
}

func (c *nodeCert) get() *tls.Certificate { return c.cert.Load() }

// load reads the files.
func (c *nodeCert) load() error {
	key, err := durable.ReadFile(filepath.Join(c.dir, c.name+".key"), maxKeyFile)
	if err != nil {
		return fmt.Errorf("read the %s key: %w", c.name, err)
	}
	crt, err := durable.ReadFile(filepath.Join(c.dir, c.name+".crt"), maxKeyFile)
	if err != nil {
		return fmt.Errorf("read the %s certificate: %w", c.name, err)
	}
	pair, err := tls.X509KeyPair(crt, key)
	if err != nil {
		return fmt.Errorf("%s.key and %s.crt in %s: %w", c.name, c.name, c.dir, err)
	}
	c.cert.Store(&pair)
	return nil
}

// issue makes a new key and certificate and stores both.
func (c *nodeCert) issue(k *enroll.Keyring, l ident.Leaf) error {
	key, err := ident.NewKey()
	if err != nil {
		return err
	}
	l.Public = key.Public()
	chain, err := k.Chain(l)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode the %s key: %w", c.name, err)
	}
	pemKey := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	defer clear(pemKey)
	if err := durable.WriteFile(filepath.Join(c.dir, c.name+".key"), pemKey, 0o600); err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(c.dir, c.name+".crt"), encodeChain(chain), 0o644); err != nil {
		return err
	}
	return c.load()
}

func encodeChain(chain [][]byte) []byte {
	var out []byte
	for _, der := range chain {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return out
}

// due tells whether the certificate should be replaced at now: past two thirds of its life, or without one of the names.
func (c *nodeCert) due(now time.Time, dns []string, ips []net.IP) bool {
	cert := c.get()
	if cert == nil || cert.Leaf == nil {
		return true
	}
	life := cert.Leaf.NotAfter.Sub(cert.Leaf.NotBefore)
	if now.After(cert.Leaf.NotBefore.Add(life * 2 / 3)) {
		return true
	}
	missingDNS := slices.ContainsFunc(dns, func(d string) bool { return !slices.Contains(cert.Leaf.DNSNames, d) })
	missingIP := slices.ContainsFunc(ips, func(ip net.IP) bool {
		return !slices.ContainsFunc(cert.Leaf.IPAddresses, ip.Equal)
	})
	return missingDNS || missingIP
}

// apiNames are the names and addresses that the API's certificate holds.
func apiNames(s Settings) (dns []string, ips []net.IP) {
	names := append([]string(nil), s.APISAN...)
	if host, _, err := net.SplitHostPort(s.API); err == nil {
		names = append(names, host)
	}
	for _, n := range names {
		ip := net.ParseIP(n)
		switch {
		case ip == nil:
			dns = append(dns, n)
		case ip.IsUnspecified(): // names nothing that a client could ask for
			dns = append(dns, "localhost")
			ips = append(ips, net.IPv4(127, 0, 0, 1), net.IPv6loopback)
		default:
			ips = append(ips, ip)
		}
	}
	return dns, ips
}
