package ident_test

import (
	"crypto/ed25519"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/ident/identtest"
)

// leafTemplate is what a device's certificate contains, for a test to spoil.
func leafTemplate(tb testing.TB, uris ...string) *x509.Certificate {
	tb.Helper()
	c := &x509.Certificate{KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true}
	for _, u := range uris {
		c.URIs = append(c.URIs, mustURL(tb, u))
	}
	return c
}

func TestVerify(t *testing.T) {
	f, other := identtest.New(t, "plant", made), identtest.New(t, "plant", made)
	id := ident.Device("plant", ident.NewDeviceID())
	uri := id.String()
	devices := f.Issuing[ident.RoleDevice]
	good := f.Chain(id, identtest.Key(t).Public(), made)
	root := f.Root.Cert.Raw
	by := func(ca ident.CA, tmpl *x509.Certificate) [][]byte {
		return [][]byte{craft(t, ca, tmpl, nil), ca.Cert.Raw}
	}
	subKey := identtest.Key(t)
	subCA := craft(t, devices, &x509.Certificate{
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, URIs: leafTemplate(t, "spiffe://plant/ca/device").URIs,
	}, subKey.Public())
	for name, tc := range map[string]struct {
		chain [][]byte
		ok    bool
	}{
		"leaf and CA":               {good, true},
		"leaf, CA and root":         {append(slices.Clone(good), root), true},
		"leaf, CA and another root": {append(slices.Clone(good), other.Root.Cert.Raw), true}, // the third is never looked at
		"nothing":                   {nil, false},
		"leaf alone":                {good[:1], false},
		"four certificates":         {append(slices.Clone(good), root, root), false},
		"wrong order":               {[][]byte{good[1], good[0]}, false},
		"leaf twice":                {[][]byte{good[0], good[0]}, false},
		"another root's":            {other.Chain(id, identtest.Key(t).Public(), made), false},
		"another root's leaf":       {[][]byte{other.Chain(id, identtest.Key(t).Public(), made)[0], good[1]}, false},
		"leaf by the root":          {by(f.Root, leafTemplate(t, uri)), false},
		"leaf by the root, CA between": {
			[][]byte{craft(t, f.Root, leafTemplate(t, uri), nil), devices.Cert.Raw}, false,
		},
		"by another role's CA": {by(f.Issuing[ident.RoleGateway], leafTemplate(t, uri)), false},
		"by another role's CA, with the right one shown": {
			[][]byte{craft(t, f.Issuing[ident.RoleGateway], leafTemplate(t, uri), nil), devices.Cert.Raw}, false,
		},
		"CA as leaf":        {[][]byte{devices.Cert.Raw, root}, false},
		"leaf that is a CA": {by(devices, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, URIs: leafTemplate(t, uri).URIs}), false},
		"by a CA's CA":      {[][]byte{craft(t, ident.CA{Cert: identtest.Parse(t, subCA)[0], Key: subKey}, leafTemplate(t, uri), nil), subCA}, false},
		"no URI":            {by(devices, leafTemplate(t)), false},
		"two URIs":          {by(devices, leafTemplate(t, uri, "spiffe://plant/core/c1")), false},
		"one URI twice":     {by(devices, leafTemplate(t, uri, uri)), false},
		"DNS instead":       {by(devices, &x509.Certificate{DNSNames: []string{uri}}), false},
		"the CA's URI":      {by(devices, leafTemplate(t, "spiffe://plant/ca/device")), false},
		"another fleet":     {by(devices, leafTemplate(t, strings.Replace(uri, "plant", "field", 1))), false},
		"a role not wanted": {f.Chain(ident.Core("plant", "c1"), identtest.Key(t).Public(), made), false},
		"oversize leaf":     {by(devices, &x509.Certificate{URIs: leafTemplate(t, uri).URIs, DNSNames: slices.Repeat([]string{strings.Repeat("a", 200)}, 50)}), false},
		"unknown critical":  {by(devices, withCritical(leafTemplate(t, uri))), false},
	} {
		p, err := f.Trust().Verify(identtest.Parse(t, tc.chain...), made, ident.RoleDevice, ident.RoleGateway)
		if (err == nil) != tc.ok || err != nil && !errors.Is(err, ident.ErrUntrusted) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && (p.ID != id || p.Expired || p.Key != ident.KeyIDOf(p.Leaf)) {
			t.Errorf("%s: %+v", name, p)
		}
		if err != nil && p.Leaf != nil {
			t.Errorf("%s: a peer comes with the error", name)
		}
	}
	if _, err := f.Trust().Verify(identtest.Parse(t, good...), made); !errors.Is(err, ident.ErrUntrusted) {
		t.Errorf("no role admitted: %v", err)
	}
}

func withCritical(c *x509.Certificate) *x509.Certificate {
	c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte("x")})
	return c
}

// An issuing CA is one role's for ever: its own certificate says so, and no other URI will do.
func TestIssuingCAsAreBound(t *testing.T) {
	f := identtest.New(t, "plant", made)
	id := ident.Core("plant", "c1")
	for name, uris := range map[string][]string{
		"none": {}, "two": {"spiffe://plant/ca/core", "spiffe://plant/ca/device"}, "other fleet": {"spiffe://field/ca/core"},
		"other role": {"spiffe://plant/ca/device"}, "query": {"spiffe://plant/ca/core?x"}, "user": {"spiffe://u@plant/ca/core"},
	} {
		key := identtest.Key(t)
		tmpl := leafTemplate(t, uris...)
		tmpl.IsCA, tmpl.KeyUsage, tmpl.ExtKeyUsage = true, x509.KeyUsageCertSign, nil
		ca := ident.CA{Cert: identtest.Parse(t, craft(t, f.Root, tmpl, key.Public()))[0], Key: key}
		chain := [][]byte{craft(t, ca, leafTemplate(t, id.String()), nil), ca.Cert.Raw}
		if _, err := f.Trust().Verify(identtest.Parse(t, chain...), made, ident.RoleCore); !errors.Is(err, ident.ErrUntrusted) {
			t.Errorf("CA with %s: %v", name, err)
		}
	}
}

// No clock locks anybody out, and the peer says whether its certificate has expired.
func TestVerifyAtAnyTime(t *testing.T) {
	f := identtest.New(t, "plant", made)
	id := ident.Device("plant", ident.NewDeviceID())
	chain := identtest.Parse(t, f.Chain(id, identtest.Key(t).Public(), made.Add(time.Hour))...)
	leaf := chain[0]
	for name, tc := range map[string]struct {
		at      time.Time
		expired bool
	}{
		"zero":            {time.Time{}, false},
		"1970":            {time.Unix(0, 0), false},
		"just before":     {leaf.NotBefore.Add(-time.Nanosecond), false},
		"first moment":    {leaf.NotBefore, false},
		"last moment":     {leaf.NotAfter, false},
		"just after":      {leaf.NotAfter.Add(time.Nanosecond), true},
		"a century later": {made.AddDate(100, 0, 0), true},
	} {
		p, err := f.Trust().Verify(chain, tc.at, ident.RoleDevice)
		if err != nil || p.Expired != tc.expired || p.ID != id {
			t.Errorf("%s: expired %v, %v", name, p.Expired, err)
		}
	}
}

// The node that made the CAs had a clock that was ahead and was then set right: what it issues is older than its CAs.
func TestLeavesOlderThanTheirCA(t *testing.T) {
	f := identtest.New(t, "plant", made)
	chain := identtest.Parse(t, f.Chain(ident.Core("plant", "c1"), identtest.Key(t).Public(), made.AddDate(0, 0, -3))...)
	for _, at := range []time.Time{made.AddDate(0, 0, -3), made, made.AddDate(2, 0, 0)} {
		if _, err := f.Trust().Verify(chain, at, ident.RoleCore); err != nil {
			t.Errorf("at %v: %v", at, err)
		}
	}
	never := identtest.Parse(t, f.Chain(ident.Core("plant", "c1"), identtest.Key(t).Public(), made.AddDate(-3, 0, 0))...)
	if _, err := f.Trust().Verify(never, made, ident.RoleCore); !errors.Is(err, ident.ErrUntrusted) {
		t.Errorf("a leaf that ended before its CA began: %v", err)
	}
}

func TestNewTrust(t *testing.T) {
	f := identtest.New(t, "plant", made)
	root := f.Root.Cert.Raw
	leaf := f.Chain(ident.Core("plant", "c1"), identtest.Key(t).Public(), made)[0]
	forged := slices.Clone(root)
	forged[len(forged)-1] ^= 1
	if tr, err := ident.NewTrust("plant", root); err != nil || tr.Pin() != f.Pin() {
		t.Fatalf("%v", err)
	}
	for name, tc := range map[string]struct {
		fleet string
		der   []byte
	}{
		"no fleet": {"", root}, "bad fleet": {"Plant", root}, "nothing": {"plant", nil}, "leaf": {"plant", leaf},
		"issuing CA": {"plant", f.Issuing[ident.RoleCore].Cert.Raw}, "bad signature": {"plant", forged}, "cut": {"plant", root[:100]},
	} {
		if _, err := ident.NewTrust(tc.fleet, tc.der); err == nil {
			t.Errorf("%s was trusted", name)
		}
	}
}

func TestVerifyAuthority(t *testing.T) {
	f, other := identtest.New(t, "plant", made), identtest.New(t, "plant", made)
	pub := f.Authority.Public().(ed25519.PublicKey)
	uri := ident.Authority("plant").String()
	if got, err := f.Trust().VerifyAuthority(f.AuthCert); err != nil || !got.Equal(pub) {
		t.Fatalf("%v", err)
	}
	for name, der := range map[string][]byte{
		"another root's": other.AuthCert,
		"by a role's CA": craft(t, f.Issuing[ident.RoleCore], leafTemplate(t, uri), pub),
		"P-256 key":      craft(t, f.Root, leafTemplate(t, uri), nil),
		"a core node's":  f.Chain(ident.Core("plant", "c1"), pub, made)[0],
		"another fleet":  craft(t, f.Root, leafTemplate(t, "spiffe://field/authority"), pub),
		"two URIs":       craft(t, f.Root, leafTemplate(t, uri, uri), pub),
		"no URI":         craft(t, f.Root, leafTemplate(t), pub),
		"the root":       f.Root.Cert.Raw,
		"nothing":        nil,
	} {
		if _, err := f.Trust().VerifyAuthority(der); err == nil {
			t.Errorf("%s passes as the authority's", name)
		} else if len(der) > 0 && !errors.Is(err, ident.ErrUntrusted) {
			t.Errorf("%s: got %v, want ErrUntrusted", name, err)
		}
	}
	// The authority's certificate, for its part, opens no connection.
	chain := identtest.Parse(t, f.AuthCert, f.Issuing[ident.RoleCore].Cert.Raw)
	if _, err := f.Trust().Verify(chain, made, append(ident.Roles(), ident.RoleAuthority)...); !errors.Is(err, ident.ErrUntrusted) {
		t.Errorf("the authority as a peer: %v", err)
	}
}

func TestPinnedTrust(t *testing.T) {
	f, other := identtest.New(t, "plant", made), identtest.New(t, "plant", made)
	chain := append(f.Chain(ident.Gateway("plant", "berlin", "a"), identtest.Key(t).Public(), made), f.Root.Cert.Raw)
	if tr, err := ident.PinnedTrust(identtest.Parse(t, chain...), f.Pin()); err != nil || tr.Fleet != "plant" || tr.Pin() != f.Pin() {
		t.Fatalf("%v", err)
	}
	leafPin := ident.KeyIDOf(identtest.Parse(t, chain...)[0])
	for name, tc := range map[string]struct {
		chain [][]byte
		pin   ident.KeyID
	}{
		"another root": {chain, other.Pin()}, "no root": {chain[:2], f.Pin()}, "nothing": {nil, f.Pin()}, "pin of the leaf": {chain, leafPin},
		"root alone": {chain[2:], f.Pin()}, "zero pin": {chain, ident.KeyID{}},
	} {
		if _, err := ident.PinnedTrust(identtest.Parse(t, tc.chain...), tc.pin); !errors.Is(err, ident.ErrUntrusted) {
			t.Errorf("%s: got %v, want ErrUntrusted", name, err)
		}
	}
}

func TestPeerOf(t *testing.T) {
	f := identtest.New(t, "plant", made)
	id := ident.Device("plant", ident.NewDeviceID())
	chain := identtest.Parse(t, f.Chain(id, identtest.Key(t).Public(), made)...)
	if p, ok := ident.PeerOf(chain, made); !ok || p.ID != id || p.Expired || p.Key != ident.KeyIDOf(chain[0]) {
		t.Errorf("%+v, %v", p, ok)
	}
	if p, ok := ident.PeerOf(chain, made.AddDate(1, 0, 0)); !ok || !p.Expired {
		t.Error("an expired certificate does not say so")
	}
	if _, ok := ident.PeerOf(nil, made); ok {
		t.Error("nobody is a peer")
	}
	if _, ok := ident.PeerOf(identtest.Parse(t, f.Root.Cert.Raw), made); ok {
		t.Error("the root is a peer")
	}
}
