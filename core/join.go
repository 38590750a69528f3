package core

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/holdfast-edge/holdfast/core/enroll"
	"github.com/holdfast-edge/holdfast/internal/config"
	"github.com/holdfast-edge/holdfast/internal/durable"
	"github.com/holdfast-edge/holdfast/wire/credential"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// Join makes the data directory of a further core node: its keys, made here, its certificate, and its settings. servers are
// uplink addresses of nodes that run. It may be repeated with the same token after an interruption. The cluster takes the
// node in as soon as it runs.
func Join(ctx context.Context, c Config, servers []string, token *seal.Token) error {
	c = c.withDefaults()
	if err := checkJoin(&c, servers); err != nil {
		return err
	}
	if err := joinable(c.DataDir); err != nil {
		return err
	}
	holder, err := loadOrMakeHolder(filepath.Join(c.DataDir, holderFile))
	if err != nil {
		return err
	}
	id, err := c.enroll(ctx, servers, token, holder)
	if err != nil {
		return err
	}
	c.Fleet = id.ID.Fleet
	if err := c.Check(); err != nil {
		return err
	}
	if err := writeCredential(c.DataDir, "node", id.Key, id.Chain()); err != nil {
		return err
	}
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: id.Trust.Root.Raw})
	if err := durable.WriteFile(filepath.Join(c.DataDir, caFile), root, 0o644); err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(c.DataDir, joiningFile), nil, 0o600); err != nil {
		return err
	}
	if err := saveSettings(c.DataDir, c.Settings); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(c.DataDir, enrollDir)) // whose key is the node's now
}

func checkJoin(c *Config, servers []string) error {
	with := c.Settings
	with.Fleet = "unknown" // the answer names it
	if err := with.Check(); err != nil {
		return err
	}
	if len(servers) == 0 {
		return fmt.Errorf("join: %w: no address of a core node that runs", ErrConfig)
	}
	for _, s := range servers {
		if err := config.CheckAddr(s); err != nil {
			return fmt.Errorf("join: %w: %w", ErrConfig, err)
		}
	}
	return nil
}

// joinable tells whether a directory can become a node's: it is empty, or a join of it was interrupted.
func joinable(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, settingsFile)); err == nil {
		return fmt.Errorf("%s: %w: it holds a core node: start it with holdfast-core run", dir, ErrNotEmpty)
	}
	if _, err := os.Stat(filepath.Join(dir, enrollDir)); err == nil {
		return nil
	}
	if err := emptyDir(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, enrollDir), 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	return nil
}

func loadOrMakeHolder(path string) (*enroll.HolderKey, error) {
	b, err := durable.ReadFile(path, maxKeyFile)
	if err == nil {
		return enroll.ParseHolderKey(string(b))
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	h, err := enroll.NewHolderKey()
	if err != nil {
		return nil, err
	}
	return h, durable.WriteFile(path, []byte(h.Reveal()), 0o600)
}

// enroll gets the node's identity from one of the servers.
func (c *Config) enroll(ctx context.Context, servers []string, token *seal.Token, holder *enroll.HolderKey) (_ *credential.Credential, err error) {
	pc, err := c.Net.ListenPacket(":0")
	if err != nil {
		return nil, fmt.Errorf("open a port: %w", err)
	}
	tr := link.NewTransport(pc, nil)
	defer func() { err = errors.Join(err, tr.Close()) }()
	id, _, err := credential.EnrollAny(ctx, link.NewDialer(tr, c.Net.Dial), servers, credential.Enrollment{
		Dir: filepath.Join(c.DataDir, enrollDir), Token: token, Kind: seal.KindCore, Server: ident.RoleCore, Name: c.Name,
		Node: &credential.Node{API: c.API, Uplink: c.Uplink, Cluster: c.Cluster, Holder: holder.Public()}, Wall: c.Wall, Log: c.Log,
	})
	return id, err
}

// writeCredential stores a key and its chain as a credential's two files.
func writeCredential(dir, name string, key *ecdsa.PrivateKey, chain [][]byte) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode the %s key: %w", name, err)
	}
	pemKey := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	defer clear(pemKey)
	if err := durable.WriteFile(filepath.Join(dir, name+".key"), pemKey, 0o600); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, name+".crt"), encodeChain(chain), 0o644)
}
