package ident_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/url"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/ident/identtest"
)

var made = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func fatal(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func mustURL(tb testing.TB, s string) *url.URL {
	tb.Helper()
	u, err := url.Parse(s)
	fatal(tb, err)
	return u
}

// craft signs a certificate of the test's own making. pub nil stands for a new P-256 key.
func craft(tb testing.TB, by ident.CA, tmpl *x509.Certificate, pub crypto.PublicKey) []byte {
	tb.Helper()
	if pub == nil {
		pub = identtest.Key(tb).Public()
	}
	if tmpl.SerialNumber == nil {
		tmpl.SerialNumber = big.NewInt(1)
	}
	if tmpl.NotBefore.IsZero() {
		tmpl.NotBefore, tmpl.NotAfter = made, made.Add(24*time.Hour)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, by.Cert, pub, by.Key)
	fatal(tb, err)
	return der
}

func TestLeafProfiles(t *testing.T) {
	f := identtest.New(t, "plant", made)
	client, server := x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth
	for _, tc := range []struct {
		id   ident.ID
		eku  []x509.ExtKeyUsage
		life time.Duration
	}{
		{ident.Device("plant", ident.NewDeviceID()), []x509.ExtKeyUsage{client}, 90 * 24 * time.Hour},
		{ident.Gateway("plant", "berlin", "a"), []x509.ExtKeyUsage{server, client}, 90 * 24 * time.Hour},
		{ident.Core("plant", "c1"), []x509.ExtKeyUsage{server, client}, 365 * 24 * time.Hour},
		{ident.API("plant", "c1"), []x509.ExtKeyUsage{server}, 365 * 24 * time.Hour},
	} {
		c := identtest.Parse(t, f.Chain(tc.id, identtest.Key(t).Public(), made)...)[0]
		if !slices.Equal(c.ExtKeyUsage, tc.eku) || len(c.UnknownExtKeyUsage) > 0 || c.KeyUsage != x509.KeyUsageDigitalSignature {
			t.Errorf("%v: usages %v %v %v", tc.id, c.ExtKeyUsage, c.UnknownExtKeyUsage, c.KeyUsage)
		}
		if c.IsCA || !c.BasicConstraintsValid {
			t.Errorf("%v: CA %v, constraints present %v", tc.id, c.IsCA, c.BasicConstraintsValid)
		}
		if len(c.URIs) != 1 || c.URIs[0].String() != tc.id.String() || len(c.DNSNames)+len(c.IPAddresses)+len(c.EmailAddresses) > 0 {
			t.Errorf("%v: names %v %v %v", tc.id, c.URIs, c.DNSNames, c.IPAddresses)
		}
		if !c.NotBefore.Equal(made.Add(-5*time.Minute)) || !c.NotAfter.Equal(made.Add(tc.life)) {
			t.Errorf("%v: valid from %v to %v", tc.id, c.NotBefore, c.NotAfter)
		}
		if c.SerialNumber.BitLen() < 64 || c.SerialNumber.Sign() <= 0 {
			t.Errorf("%v: serial %v", tc.id, c.SerialNumber)
		}
		if got, err := ident.FromCert(c); err != nil || got != tc.id {
			t.Errorf("%v reads as %v, %v", tc.id, got, err)
		}
	}
}

// The same leaf gives the same certificate; whatever is different makes another one, with another serial number.
func TestIssuingIsAFunction(t *testing.T) {
	key, err := ident.NewKey()
	fatal(t, err)
	root, err := ident.NewRoot("plant", key, made)
	fatal(t, err)
	other := identtest.Key(t).Public()
	leaf := ident.Leaf{ID: ident.API("plant", "c1"), Public: identtest.Key(t).Public(), Now: made, DNS: []string{"a.example"}, IPs: []net.IP{{10, 0, 0, 1}}}
	issue := func(l ident.Leaf) (der []byte, serial string) {
		t.Helper()
		der, err := root.Issue(l)
		fatal(t, err)
		return der, identtest.Parse(t, der)[0].SerialNumber.String()
	}
	first, serial := issue(leaf)
	if again, _ := issue(leaf); !bytes.Equal(again, first) {
		t.Error("the same leaf, issued again, is another certificate")
	}
	within := leaf
	within.Now = made.Add(time.Second - 1) // a certificate holds whole seconds
	if again, _ := issue(within); !bytes.Equal(again, first) {
		t.Error("a part of a second makes another certificate")
	}
	for name, change := range map[string]func(l *ident.Leaf){
		"identity": func(l *ident.Leaf) { l.ID = ident.API("plant", "c2") },
		"key":      func(l *ident.Leaf) { l.Public = other },
		"time":     func(l *ident.Leaf) { l.Now = made.Add(time.Second) },
		"DNS name": func(l *ident.Leaf) { l.DNS = []string{"b.example"} },
		"no name":  func(l *ident.Leaf) { l.DNS = nil },
		"address":  func(l *ident.Leaf) { l.IPs = []net.IP{{10, 0, 0, 2}} },
	} {
		l := leaf
		change(&l)
		if _, got := issue(l); got == serial {
			t.Errorf("another %s has the same serial number", name)
		}
	}
}

func TestNamesAreForTheAPIAlone(t *testing.T) {
	f := identtest.New(t, "plant", made)
	leaf := ident.Leaf{
		ID: ident.API("plant", "c1"), Public: identtest.Key(t).Public(), Now: made, DNS: []string{"fleet.example"}, IPs: []net.IP{{10, 0, 0, 1}},
	}
	der, err := f.Issuing[ident.RoleAPI].Issue(leaf)
	fatal(t, err)
	if c := identtest.Parse(t, der)[0]; c.VerifyHostname("fleet.example") != nil || c.VerifyHostname("10.0.0.1") != nil {
		t.Error("the API's certificate lacks its names")
	}
	leaf.ID = ident.Core("plant", "c1")
	if _, err := f.Issuing[ident.RoleCore].Issue(leaf); !errors.Is(err, ident.ErrID) {
		t.Errorf("a core certificate with names: %v", err)
	}
}

func TestCAProfiles(t *testing.T) {
	f := identtest.New(t, "plant", made)
	year := 365 * 24 * time.Hour
	check := func(c *x509.Certificate, pathLen int, life time.Duration) {
		t.Helper()
		if !c.IsCA || c.MaxPathLen != pathLen || c.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign {
			t.Errorf("%s: CA %v, path length %d, usage %v", c.Subject, c.IsCA, c.MaxPathLen, c.KeyUsage)
		}
		if !c.NotBefore.Equal(made.Add(-ident.BackDate)) || !c.NotAfter.Equal(made.Add(life)) {
			t.Errorf("%s: valid from %v to %v", c.Subject, c.NotBefore, c.NotAfter)
		}
	}
	check(f.Root.Cert, 1, 30*year)
	for _, r := range ident.Roles() {
		c := f.Issuing[r].Cert
		check(c, 0, 20*year)
		if len(c.URIs) != 1 || c.URIs[0].String() != "spiffe://plant/ca/"+string(r) {
			t.Errorf("%s CA: %v", r, c.URIs)
		}
	}
	if _, err := ident.NewRoot("Not A Fleet", identtest.Key(t), made); !errors.Is(err, ident.ErrID) {
		t.Errorf("root of a fleet without a name: %v", err)
	}
}

// request signs a certificate request of the test's own making.
func request(tb testing.TB, tmpl *x509.CertificateRequest, key crypto.Signer) []byte {
	tb.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, tmpl, key)
	fatal(tb, err)
	return der
}

// Whatever a request asks for, only its key is taken.
func TestCSRContributesTheKeyAlone(t *testing.T) {
	f := identtest.New(t, "plant", made)
	key := identtest.Key(t)
	caTrue, err := asn1.Marshal(struct {
		CA bool
	}{true})
	fatal(t, err)
	anyUsage, err := asn1.Marshal([]asn1.ObjectIdentifier{{2, 5, 29, 37, 0}, {1, 3, 6, 1, 5, 5, 7, 3, 1}})
	fatal(t, err)
	for name, tmpl := range map[string]*x509.CertificateRequest{
		"nothing": {},
		"names": {
			Subject: pkix.Name{CommonName: "core-1"}, DNSNames: []string{"fleet.example"}, IPAddresses: []net.IP{{10, 0, 0, 1}},
			URIs: []*url.URL{mustURL(t, "spiffe://plant/core/core-1")}, EmailAddresses: []string{"a@example"},
		},
		"CA":       {ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: caTrue}}},
		"usages":   {ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Value: anyUsage}}},
		"anything": {ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte("x")}}},
	} {
		pub, err := ident.ParseCSR(request(t, tmpl, key))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !pub.Key.Equal(key.Public()) || pub.ID != ident.KeyIDOfSPKI(pub.SPKI) {
			t.Errorf("%s: another key", name)
		}
		id := ident.Device("plant", ident.NewDeviceID())
		c := identtest.Parse(t, f.Chain(id, pub.Key, made)...)[0]
		if c.IsCA || len(c.URIs) != 1 || len(c.DNSNames)+len(c.IPAddresses)+len(c.EmailAddresses) > 0 || len(c.ExtKeyUsage) != 1 || len(c.UnhandledCriticalExtensions) > 0 {
			t.Errorf("%s: the request shows in the certificate", name)
		}
		if ident.KeyIDOf(c) != pub.ID {
			t.Errorf("%s: the certificate's key id is not the request's", name)
		}
	}
}

func TestCSRsThatAreRefused(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	fatal(t, err)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	fatal(t, err)
	_, ed, err := ed25519.GenerateKey(nil)
	fatal(t, err)
	good, err := ident.NewCSR(identtest.Key(t))
	fatal(t, err)
	badSig := bytes.Clone(good)
	badSig[len(badSig)-1] ^= 1
	large := request(t, &x509.CertificateRequest{DNSNames: slices.Repeat([]string{"fleet.example"}, 400)}, identtest.Key(t))
	for name, der := range map[string][]byte{
		"RSA": request(t, &x509.CertificateRequest{}, rsaKey), "P-384": request(t, &x509.CertificateRequest{}, p384),
		"Ed25519": request(t, &x509.CertificateRequest{}, ed), "bad signature": badSig, "oversize": large,
		"nothing": nil, "trailing byte": append(bytes.Clone(good), 0), "another key's signature": swapKey(t, good),
	} {
		if pub, err := ident.ParseCSR(der); !errors.Is(err, ident.ErrCSR) || pub.Key != nil {
			t.Errorf("%s: got %v, want ErrCSR", name, err)
		}
	}
	for n := range good {
		if _, err := ident.ParseCSR(good[:n]); !errors.Is(err, ident.ErrCSR) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
	for i := range good {
		der := bytes.Clone(good)
		der[i] ^= 0x10
		if _, err := ident.ParseCSR(der); err == nil {
			t.Errorf("byte %d changed, and the proof of possession holds", i)
		}
	}
}

// swapKey puts another key into a request and leaves the signature.
func swapKey(tb testing.TB, csr []byte) []byte {
	tb.Helper()
	r, err := x509.ParseCertificateRequest(csr)
	fatal(tb, err)
	other, err := x509.MarshalPKIXPublicKey(identtest.Key(tb).Public())
	fatal(tb, err)
	out := bytes.Replace(csr, r.RawSubjectPublicKeyInfo, other, 1)
	if bytes.Equal(out, csr) {
		tb.Fatal("the key was not found in the request")
	}
	return out
}

// A second encoding of one key would be a second key id, under which a retired key could come back.
func TestAKeyHasOneEncoding(t *testing.T) {
	key := identtest.Key(t)
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	fatal(t, err)
	if got, err := ident.ParseSPKI(spki); err != nil || !got.Equal(key.Public()) {
		t.Fatalf("%v", err)
	}
	var outer struct {
		Algorithm asn1.RawValue
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(spki, &outer); err != nil {
		t.Fatal(err)
	}
	longer, err := asn1.Marshal(struct {
		Algorithm asn1.RawValue
		Key       asn1.BitString
		Extra     int
	}{outer.Algorithm, outer.Key, 1})
	fatal(t, err)
	for n := range 4 {
		der := spki
		switch n {
		case 0:
			der = longer
		case 1:
			der = append(bytes.Clone(spki), 0)
		case 2:
			der = spki[:len(spki)-1]
		case 3:
			p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
			fatal(t, err)
			der, err = x509.MarshalPKIXPublicKey(p384.Public())
			fatal(t, err)
		}
		if _, err := ident.ParseSPKI(der); err == nil {
			t.Errorf("encoding %d of a key was taken", n)
		}
	}
	if _, err := ident.ParseCSR(longerRequest(t, key, longer)); !errors.Is(err, ident.ErrCSR) {
		t.Errorf("a request with a second encoding of its key: %v", err)
	}
}

// longerRequest is a correctly signed request with the given encoding of its key.
func longerRequest(tb testing.TB, key *ecdsa.PrivateKey, spki []byte) []byte {
	tb.Helper()
	info, err := asn1.Marshal(struct {
		Version int
		Subject asn1.RawValue
		Key     asn1.RawValue
		Attrs   asn1.RawValue
	}{0, asn1.RawValue{FullBytes: []byte{0x30, 0}}, asn1.RawValue{FullBytes: spki}, asn1.RawValue{FullBytes: []byte{0xa0, 0}}})
	fatal(tb, err)
	h := crypto.SHA256.New()
	h.Write(info)
	sig, err := ecdsa.SignASN1(rand.Reader, key, h.Sum(nil))
	fatal(tb, err)
	der, err := asn1.Marshal(struct {
		Info asn1.RawValue
		Alg  pkix.AlgorithmIdentifier
		Sig  asn1.BitString
	}{
		asn1.RawValue{FullBytes: info},
		pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}},
		asn1.BitString{Bytes: sig, BitLength: 8 * len(sig)},
	})
	fatal(tb, err)
	return der
}

// corpus is a committed DER file in PEM, so that the fuzzers' seeds do not change from run to run.
func corpus(tb testing.TB, name string) []byte {
	tb.Helper()
	b, err := os.ReadFile("testdata/" + name + ".pem")
	fatal(tb, err)
	block, _ := pem.Decode(b)
	if block == nil {
		tb.Fatalf("%s has no PEM block", name)
	}
	return block.Bytes
}

func FuzzParseCSR(f *testing.F) {
	f.Add(corpus(f, "csr"))
	f.Add(corpus(f, "root"))
	f.Fuzz(func(t *testing.T, der []byte) {
		pub, err := ident.ParseCSR(der)
		if err != nil {
			if !errors.Is(err, ident.ErrCSR) {
				t.Fatalf("%v is not ErrCSR", err)
			}
			return
		}
		if back, err := ident.ParseSPKI(pub.SPKI); err != nil || !back.Equal(pub.Key) {
			t.Fatalf("the key of a request does not read back: %v", err)
		}
	})
}

func FuzzParseSPKI(f *testing.F) {
	f.Add(corpus(f, "spki"))
	f.Fuzz(func(t *testing.T, der []byte) {
		k, err := ident.ParseSPKI(der)
		if err != nil {
			return
		}
		if again, err := x509.MarshalPKIXPublicKey(k); err != nil || !bytes.Equal(again, der) {
			t.Fatalf("a key has two encodings: %v", err)
		}
	})
}

func FuzzNewTrust(f *testing.F) {
	f.Add("plant", corpus(f, "root"))
	f.Add("plant", corpus(f, "csr"))
	f.Fuzz(func(t *testing.T, fleet string, der []byte) {
		tr, err := ident.NewTrust(fleet, der)
		if err != nil {
			return
		}
		if !tr.Root.IsCA || tr.Fleet != fleet || !bytes.Equal(tr.Root.Raw, der) {
			t.Fatal("a root that is none was trusted")
		}
		if _, err := tr.Verify([]*x509.Certificate{tr.Root, tr.Root}, made, ident.Roles()...); err == nil {
			t.Fatal("the root passes as a leaf")
		}
		if _, err := tr.VerifyAuthority(der); err == nil {
			t.Fatal("the root passes as the authority")
		}
	})
}
