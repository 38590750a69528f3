// Package keyfile keeps ed25519 keys of publishers and roots in files, in the forms that other tools read too: a private key as PKCS #8, a
// public one as SubjectPublicKeyInfo, both in PEM.
package keyfile

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/holdfast-edge/holdfast/internal/durable"
)

// PublicSuffix is what the name of a private key's file gets for that of its public key.
const PublicSuffix = ".pub"

const (
	privateBlock = "PRIVATE KEY"
	publicBlock  = "PUBLIC KEY"
	maxFile      = 16 << 10 // bytes
)

// ErrKey is the sentinel of a file that holds no key of the kind that was asked for.
var ErrKey = errors.New("no such key in this file")

// Generate makes a key: the private one in path, for its owner alone, and the public one beside it. Nothing that is there is overwritten.
func Generate(path string) (ed25519.PublicKey, error) {
	public := path + PublicSuffix
	if _, err := os.Lstat(public); err == nil {
		return nil, fmt.Errorf("%s is there already: %w", public, fs.ErrExist)
	}
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode the key: %w", err)
	}
	if err := create(path, privateBlock, der, 0o600); err != nil {
		return nil, err
	}
	if der, err = x509.MarshalPKIXPublicKey(pub); err != nil {
		return nil, fmt.Errorf("encode the public key: %w", err)
	}
	return pub, create(public, publicBlock, der, 0o644)
}

// create writes a file that is not there yet.
func create(path, block string, der []byte, mode fs.FileMode) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode) //nolint:gosec // G304: the operator names it
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already: a key is never overwritten: %w", path, fs.ErrExist)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := pem.Encode(f, &pem.Block{Type: block, Bytes: der}); err != nil {
		return err
	}
	return f.Sync()
}

// Private reads a private key. open says that others than its owner may read it.
func Private(path string) (key ed25519.PrivateKey, open bool, err error) {
	der, err := read(path, privateBlock)
	if err != nil {
		return nil, false, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, false, err
	}
	k, err := x509.ParsePKCS8PrivateKey(der)
	key, ok := k.(ed25519.PrivateKey)
	if err != nil || !ok {
		return nil, false, fmt.Errorf("%s: want an ed25519 private key: %w", path, ErrKey)
	}
	return key, info.Mode()&0o077 != 0, nil
}

// Public reads a public key.
func Public(path string) (ed25519.PublicKey, error) {
	der, err := read(path, publicBlock)
	if err != nil {
		return nil, err
	}
	k, err := x509.ParsePKIXPublicKey(der)
	key, ok := k.(ed25519.PublicKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("%s: want an ed25519 public key: %w", path, ErrKey)
	}
	return key, nil
}

// read takes the one PEM block out of a file.
func read(path, block string) ([]byte, error) {
	b, err := durable.ReadFile(path, maxFile)
	if err != nil {
		return nil, err
	}
	p, _ := pem.Decode(b)
	switch {
	case p == nil:
		return nil, fmt.Errorf("%s holds no PEM: %w", path, ErrKey)
	case p.Type != block:
		return nil, fmt.Errorf("%s holds a %.40q, want a %q: %w", path, p.Type, block, ErrKey)
	}
	return p.Bytes, nil
}
