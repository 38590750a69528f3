package settings

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

// newCA is the PEM of a certificate that exists nowhere else.
func newCA(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOver(t *testing.T) {
	env := FromEnv(func(k string) string {
		return map[string]string{EnvURL: "env-url", EnvCAFile: "env-ca", EnvTokenFile: "env-token"}[k]
	})
	got := Overrides{CAFile: "flag-ca"}.Over(env)
	if want := (Overrides{URL: "env-url", CAFile: "flag-ca", TokenFile: "env-token"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestResolve(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	stored := Context{URL: "https://core:8443", Token: "stored", CA: ca}
	for name, tc := range map[string]struct {
		o      Overrides
		stored Context
		url    string
		token  string
	}{
		"stored":                      {Overrides{}, stored, "https://core:8443", "stored"},
		"another node of the fleet":   {Overrides{URL: "https://[::1]:1/"}, stored, "https://[::1]:1", "stored"},
		"the stored CA again":         {Overrides{CAFile: file(t, "comment\n"+ca)}, stored, "https://core:8443", "stored"},
		"another token":               {Overrides{TokenFile: file(t, " given\n")}, stored, "https://core:8443", "given"},
		"another CA with its token":   {Overrides{CAFile: file(t, other), TokenFile: file(t, "given")}, stored, "https://core:8443", "given"},
		"nothing stored":              {Overrides{URL: "https://a", CAFile: file(t, ca), TokenFile: file(t, "given")}, Context{}, "https://a", "given"},
		"from standard input":         {Overrides{TokenFile: "-"}, stored, "https://core:8443", "typed"},
		"the longest token":           {Overrides{TokenFile: file(t, strings.Repeat("x", maxToken))}, stored, "https://core:8443", strings.Repeat("x", maxToken)},
		"several certificates in one": {Overrides{CAFile: file(t, ca+other), TokenFile: file(t, "given")}, stored, "https://core:8443", "given"},
	} {
		got, err := Resolve(tc.o, tc.stored, strings.NewReader("typed\r\n"))
		if err != nil || got.URL.String() != tc.url || got.Token != tc.token || got.Roots == nil {
			t.Errorf("%s: %v %q, %v", name, got.URL, got.Token, err)
		}
	}
}

func TestResolveRefuses(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	stored := Context{URL: "https://core:8443", Token: "stored-secret", CA: ca}
	for name, tc := range map[string]struct {
		o      Overrides
		stored Context
	}{
		"nothing":                       {Overrides{}, Context{}},
		"no CA":                         {Overrides{URL: "https://a", TokenFile: file(t, "x")}, Context{}},
		"no token":                      {Overrides{URL: "https://a", CAFile: file(t, ca)}, Context{}},
		"stored token under another CA": {Overrides{CAFile: file(t, other)}, stored},
		"more CAs than stored":          {Overrides{CAFile: file(t, ca+other)}, stored},
		"http":                          {Overrides{URL: "http://a"}, stored},
		"no scheme":                     {Overrides{URL: "core:8443"}, stored},
		"no host":                       {Overrides{URL: "https://:1"}, stored},
		"a path":                        {Overrides{URL: "https://a/v1"}, stored},
		"a query":                       {Overrides{URL: "https://a?x"}, stored},
		"a user":                        {Overrides{URL: "https://u:p@a"}, stored},
		"control character":             {Overrides{URL: "https://a\n"}, stored},
		"missing CA file":               {Overrides{CAFile: filepath.Join(t.TempDir(), "none")}, stored},
		"no certificate":                {Overrides{CAFile: file(t, "text"), TokenFile: file(t, "x")}, stored},
		"a key as CA":                   {Overrides{CAFile: file(t, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")}, stored},
		"huge CA file":                  {Overrides{CAFile: file(t, ca+strings.Repeat("\n", maxCA))}, stored},
		"missing token file":            {Overrides{TokenFile: filepath.Join(t.TempDir(), "none")}, stored},
		"empty token file":              {Overrides{TokenFile: file(t, "\n")}, stored},
		"token with space":              {Overrides{TokenFile: file(t, "stored-secret x")}, stored},
		"token of two lines":            {Overrides{TokenFile: file(t, "stored-secret\nx: y")}, stored},
		"token beyond ASCII":            {Overrides{TokenFile: file(t, "stored-secretä")}, stored},
		"huge token file":               {Overrides{TokenFile: file(t, strings.Repeat("x", maxToken+1))}, stored},
		"damaged stored token":          {Overrides{}, Context{URL: "https://a", CA: ca, Token: "stored-secret\x00"}},
		"huge standard input":           {Overrides{TokenFile: "-"}, stored},
	} {
		_, err := Resolve(tc.o, tc.stored, strings.NewReader(strings.Repeat("x", 2*maxToken)))
		if !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
		} else if strings.Contains(err.Error(), "stored-secret") {
			t.Errorf("%s: the error holds the token: %v", name, err)
		}
	}
	if _, err := Resolve(Overrides{TokenFile: "-"}, stored, iotest.ErrReader(os.ErrClosed)); !errors.Is(err, ErrConfig) || !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed standard input: %v", err)
	}
}

func TestPath(t *testing.T) {
	for want, env := range map[string]map[string]string{
		"/x/y.yaml":                              {EnvConfig: "/x/y.yaml", "HOME": "/home/me"},
		"/home/me/.config/holdfast/config.yaml":  {"HOME": "/home/me"},
		"/users/me/.config/holdfast/config.yaml": {"USERPROFILE": "/users/me"},
	} {
		if got, err := Path(func(k string) string { return env[k] }); got != want || err != nil {
			t.Errorf("Path = %q, %v; want %q", got, err, want)
		}
	}
	if _, err := Path(func(string) string { return "" }); !errors.Is(err, ErrConfig) {
		t.Errorf("without a home: %v", err)
	}
}

func TestSaveAndLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "config.yaml")
	if c, open, err := Load(path); !reflect.DeepEqual(c, Context{}) || open || err != nil {
		t.Errorf("no file loads as %+v, %v, %v", c, open, err)
	}
	want := Context{URL: "https://core:8443", Token: "secret", CA: newCA(t), Fleet: "acme", Operator: "admin"}
	for range 2 { // the second replaces the first
		if err := Save(path, want); err != nil {
			t.Fatal(err)
		}
	}
	got, open, err := Load(path)
	if !reflect.DeepEqual(got, want) || open || err != nil {
		t.Errorf("loads as %+v, %v, %v", got, open, err)
	}
	for p, mode := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
		if info, err := os.Stat(p); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s has mode %v, %v", p, info.Mode(), err)
		}
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, open, err := Load(path); !open || err != nil {
			t.Errorf("mode %v: open %v, %v", mode, open, err)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"not YAML": "token: secret\n\tx", "a list": "- secret\n", "one word": "secret", "a token that is a list": "token: [secret]\n", "huge": strings.Repeat("#secret\n", maxFile/8+1),
	} {
		_, _, err := Load(file(t, text))
		if !errors.Is(err, ErrConfig) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := Load(t.TempDir()); !errors.Is(err, ErrConfig) {
		t.Errorf("a directory: %v", err)
	}
}

func TestSaveRefuses(t *testing.T) {
	if err := Save(filepath.Join(file(t, "a file"), "config.yaml"), Context{}); !errors.Is(err, ErrConfig) {
		t.Errorf("below a file: %v", err)
	}
}
