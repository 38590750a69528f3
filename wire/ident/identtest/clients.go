package identtest

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net/url"
	"slices"
	"time"

	"github.com/holdfast-edge/holdfast/wire/ident"
)

// A Port is a listener of the product: who listens, and which of its protocols admits whom.
type Port struct {
	Server    ident.ID
	Protocols []ident.Protocol
}

// Ports are the listeners of a fleet's own links, by name. The names of the protocols are written out: that they are those of
// the product is tested where both are known.
func (f *Fleet) Ports() map[string]Port {
	enroll := ident.Protocol{ALPN: "holdfast-enroll/1"}
	core, gateway := ident.Core(f.Name, "c1"), ident.Gateway(f.Name, "berlin", "a")
	return map[string]Port{
		"agent":   {gateway, []ident.Protocol{{ALPN: "holdfast-agent/1", Roles: []ident.Role{ident.RoleDevice}}, enroll, {ALPN: "holdfast-site/1", Roles: []ident.Role{ident.RoleGateway}}}},
		"uplink":  {core, []ident.Protocol{{ALPN: "holdfast-uplink/1", Roles: []ident.Role{ident.RoleGateway}}, enroll}},
		"cluster": {core, []ident.Protocol{{ALPN: "holdfast-cluster/1", Roles: []ident.Role{ident.RoleCore}}}},
	}
}

// ALPNs are what a client may ask a port for; the empty one stands for none.
func ALPNs() []string {
	return []string{"holdfast-agent/1", "holdfast-uplink/1", "holdfast-cluster/1", "holdfast-enroll/1", "holdfast-site/1", "h3", ""}
}

// Admits tells what a port must answer to a client with a genuine certificate of role ("" for anybody else) that asks for alpn.
func (p Port) Admits(role ident.Role, alpn string) bool {
	for _, protocol := range p.Protocols {
		if protocol.ALPN != alpn {
			continue
		}
		if len(protocol.Roles) == 0 {
			return true
		}
		return slices.Contains(protocol.Roles, role)
	}
	return false
}

// A Client is somebody who tries a port. Role is set only when its certificate is genuine.
type Client struct {
	Role ident.Role
	Cert *tls.Certificate // nil: shows none
}

// Clients are everybody who may try a port: each role, and those who only pretend.
func (f *Fleet) Clients(now time.Time) map[string]Client {
	f.t.Helper()
	device := ident.Device(f.Name, ident.NewDeviceID())
	ids := []ident.ID{device, ident.Gateway(f.Name, "berlin", "b"), ident.Core(f.Name, "c2"), ident.API(f.Name, "c1")}
	twin, foreign := New(f.t, f.Name, now), New(f.t, "field", now)
	out := map[string]Client{
		"nobody": {},
		"authority": {Cert: &tls.Certificate{
			Certificate: [][]byte{f.AuthCert, f.Root.Cert.Raw}, PrivateKey: f.Authority,
		}},
		"device of another fleet":         {Cert: foreign.Certificate(ident.Device("field", device.Device), now)},
		"leaf without its CA":             {Cert: f.Certificate(device, now)},
		"device certificate, other's key": {Cert: f.Certificate(device, now)},
	}
	out["leaf without its CA"].Cert.Certificate = out["leaf without its CA"].Cert.Certificate[:1]
	out["device certificate, other's key"].Cert.PrivateKey = Key(f.t)
	for _, id := range ids {
		r := id.Role
		out[string(r)] = Client{Role: r, Cert: f.Certificate(id, now)}
		out[string(r)+" of a root of the same name"] = Client{Cert: twin.Certificate(id, now)}
		out[string(r)+" signed by itself"] = Client{Cert: f.selfSigned(id, now)}
	}
	return out
}

func (f *Fleet) selfSigned(id ident.ID, now time.Time) *tls.Certificate {
	f.t.Helper()
	k := Key(f.t)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), URIs: []*url.URL{id.URL()},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	f.ok(err)
	return &tls.Certificate{Certificate: [][]byte{der, f.Issuing[id.Role].Cert.Raw}, PrivateKey: k}
}

// Raw is the configuration of a client that checks nothing and shows what it has, whether the server asks for it or not.
func (c Client) Raw(alpn string) *tls.Config {
	tc := &tls.Config{InsecureSkipVerify: true} //nolint:gosec // the client of a test that is about the server
	if alpn != "" {
		tc.NextProtos = []string{alpn}
	}
	if c.Cert != nil {
		tc.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.Cert, nil }
	}
	return tc
}
