package ident

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"
)

// An Endpoint is one side of every connection that a process makes or accepts. Certificates and trust come through
// functions, so that a renewal takes effect on the next handshake of a listener that keeps running.
type Endpoint struct {
	Trust       func() *Trust
	Certificate func() *tls.Certificate // leaf and issuing CA; nil where the side has no identity yet
	Wall        func() time.Time
}

// A Protocol is one ALPN name of a listener and who may speak it. Without roles the clients show no certificate.
type Protocol struct {
	ALPN  string
	Roles []Role
}

// errALPN refuses a client that offers no protocol of the port.
var errALPN = errors.New("client offers no protocol of this port")

// base holds what is the same on every connection of the fleet's own links.
func (e Endpoint) base() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, Time: e.Wall}
}

// Server builds the configuration of a listener that speaks protocols. Each client's chain is verified in VerifyConnection
// against the trust in force at that moment, and its role against the protocol it asked for.
func (e Endpoint) Server(protocols ...Protocol) *tls.Config {
	c := e.base()
	// What is set here besides GetConfigForClient is never used, because that decides for each client; it says what a reader
	// of the configuration should expect.
	c.ClientAuth = tls.RequireAndVerifyClientCert
	for _, p := range protocols {
		c.NextProtos = append(c.NextProtos, p.ALPN)
		if len(p.Roles) == 0 {
			c.ClientAuth = tls.NoClientCert
		}
	}
	c.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		for _, p := range protocols {
			if slices.Contains(h.SupportedProtos, p.ALPN) {
				return e.serverFor(p), nil
			}
		}
		return nil, errALPN
	}
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, errALPN }
	return c
}

func (e Endpoint) serverFor(p Protocol) *tls.Config {
	c := e.base()
	c.NextProtos = []string{p.ALPN}
	if len(p.Roles) == 0 {
		// The client has no identity yet and knows only the root's pin: it needs the root itself.
		c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return e.withRoot(), nil }
		c.ClientAuth = tls.NoClientCert
		return c
	}
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return e.present(), nil }
	c.ClientAuth = tls.RequireAnyClientCert
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		_, err := e.Trust().Verify(cs.PeerCertificates, e.Wall(), p.Roles...)
		return err
	}
	return c
}

// present is the certificate to show, empty where there is none: crypto/tls answers an empty one with an alert, and a nil one
// in a client with a panic.
func (e Endpoint) present() *tls.Certificate {
	if c := e.Certificate(); c != nil {
		return c
	}
	return new(tls.Certificate)
}

// withRoot is the certificate with the root appended to its chain.
func (e Endpoint) withRoot() *tls.Certificate {
	c := *e.present()
	c.Certificate = append(slices.Clip(c.Certificate), e.Trust().Root.Raw)
	return &c
}

// Client builds the configuration of a dialler. The server's chain must verify to the trust, have the role, and satisfy
// accept, which also decides about an expired certificate; a nil accept refuses expired ones.
func (e Endpoint) Client(alpn string, role Role, accept func(Peer) error) *tls.Config {
	c := e.base()
	c.NextProtos = []string{alpn}
	if e.Certificate != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return e.present(), nil }
	}
	c.InsecureSkipVerify = true // the standard check wants a host name; VerifyConnection does ours, which wants an identity
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		p, err := e.Trust().Verify(cs.PeerCertificates, e.Wall(), role)
		if err != nil {
			return err
		}
		return e.accept(p, accept)
	}
	return c
}

func (e Endpoint) accept(p Peer, accept func(Peer) error) error {
	if accept != nil {
		return accept(p)
	}
	if p.Expired {
		return fmt.Errorf("certificate of %v expired at %v: %w", p.ID, p.Leaf.NotAfter, ErrUntrusted)
	}
	return nil
}

// FirstContact builds the configuration of a client that has no identity yet. It trusts the one root whose key the pin
// names, if the server presents it, and only a server of the role whose certificate has not expired. Nothing of the token
// leaves the box before that.
func FirstContact(pin KeyID, role Role, wall func() time.Time) *tls.Config {
	e := Endpoint{Wall: wall}
	c := e.base()
	c.NextProtos = []string{"holdfast-enroll/1"}
	c.InsecureSkipVerify = true // as in Client
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		t, err := PinnedTrust(cs.PeerCertificates, pin)
		if err != nil {
			return err
		}
		p, err := t.Verify(cs.PeerCertificates, wall(), role)
		if err != nil {
			return err
		}
		return e.accept(p, nil)
	}
	return c
}

// PeerOf reads who the peer of an established connection is. The chain was verified in the handshake. A client without a
// certificate has no identity: ok is false.
func PeerOf(certs []*x509.Certificate, now time.Time) (p Peer, ok bool) {
	if len(certs) == 0 {
		return Peer{}, false
	}
	id, err := FromCert(certs[0])
	if err != nil {
		return Peer{}, false
	}
	return Peer{ID: id, Key: KeyIDOf(certs[0]), Leaf: certs[0], Expired: now.After(certs[0].NotAfter)}, true
}

// APIServer builds the configuration of the operators' HTTPS listener: a server certificate, no client certificates. It
// shares nothing with the fleet's own links.
func APIServer(certificate func() *tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return certificate(), nil
		},
	}
}
