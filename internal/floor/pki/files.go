package pki

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// ErrNoRoot says that a device's directory holds no root certificate.
var ErrNoRoot = errors.New("no certificate in it")

// The files of a device, all PEM.
const (
	rootFile = "root.pem"
	leafFile = "device.pem"
	keyFile  = "device.key"
)

// WriteDevice writes a new key of device number i, its certificate and the root into the directory dir, for a process
// that is no child of ours.
func (a *Authority) WriteDevice(dir string, i int) error {
	leaf, err := a.device(i)
	if err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(leaf.PrivateKey)
	if err != nil {
		return fmt.Errorf("encode key of device %d: %w", i, err)
	}
	files := map[string]*pem.Block{
		rootFile: {Type: "CERTIFICATE", Bytes: a.root.Raw},
		leafFile: {Type: "CERTIFICATE", Bytes: leaf.Certificate[0]},
		keyFile:  {Type: "PRIVATE KEY", Bytes: key},
	}
	for name, block := range files {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			return fmt.Errorf("write device %d: %w", i, err)
		}
	}
	return nil
}

// ReadDevice returns the device's side of mutual TLS made of what WriteDevice wrote into dir.
func ReadDevice(dir string) (*tls.Config, error) {
	leaf, err := tls.LoadX509KeyPair(filepath.Join(dir, leafFile), filepath.Join(dir, keyFile))
	if err != nil {
		return nil, fmt.Errorf("read device: %w", err)
	}
	path := filepath.Join(dir, rootFile)
	root, err := os.ReadFile(path) //nolint:gosec // G304: the caller's own directory
	if err != nil {
		return nil, fmt.Errorf("read device: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(root) {
		return nil, fmt.Errorf("read device: %s: %w", path, ErrNoRoot)
	}
	return deviceTLS(leaf, pool), nil
}
