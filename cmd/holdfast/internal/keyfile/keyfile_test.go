package keyfile

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestGenerate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "root.key")
	pub, err := Generate(path)
	if err != nil {
		t.Fatal(err)
	}
	key, open, err := Private(path)
	if err != nil || open || !bytes.Equal(key[32:], pub) {
		t.Errorf("private key: open %v, error %v", open, err)
	}
	if got, err := Public(path + PublicSuffix); err != nil || !got.Equal(pub) {
		t.Errorf("public key: %v", err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, error %v", info.Mode(), err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, open, err := Private(path); err != nil || !open {
		t.Errorf("open %v, error %v", open, err)
	}
}

func TestGenerateNeverOverwrites(t *testing.T) {
	for _, there := range []string{"k", "k.pub"} {
		path := filepath.Join(t.TempDir(), "k")
		what := filepath.Join(filepath.Dir(path), there)
		if err := os.WriteFile(what, []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Generate(path); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s is there: error %v, want ErrExist", there, err)
		}
		if b, err := os.ReadFile(what); err != nil || string(b) != "mine" {
			t.Errorf("%s was overwritten", there)
		}
		if files, err := os.ReadDir(filepath.Dir(path)); err != nil || len(files) != 1 {
			t.Errorf("%s is there: it left %v", there, files)
		}
	}
}

func TestKeysOfOtherKindsAreRefused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "k")
	if _, err := Generate(path); err != nil {
		t.Fatal(err)
	}
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string, b []byte) string {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, name)
	}
	for name, p := range map[string]string{
		"a public key": path + PublicSuffix,
		"nothing":      file("nothing", nil),
		"no PEM":       file("text", []byte("hello")),
		"encrypted":    file("encrypted", pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: der})),
		"ECDSA":        file("ecdsa", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		"cut off":      file("cut", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der[:20]})),
	} {
		if _, _, err := Private(p); !errors.Is(err, ErrKey) {
			t.Errorf("private: %s: error %v, want ErrKey", name, err)
		}
	}
	for name, p := range map[string]string{
		"a private key": path,
		"ECDSA":         file("ecdsa.pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})),
		"cut off":       file("cut.pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki[:20]})),
	} {
		if _, err := Public(p); !errors.Is(err, ErrKey) {
			t.Errorf("public: %s: error %v, want ErrKey", name, err)
		}
	}
	if _, err := Public(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: error %v", err)
	}
}
