package core

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/enroll"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/internal/durable"
	"github.com/holdfast-edge/holdfast/raftstore"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

// ErrNotEmpty says that init found a data directory with something in it.
var ErrNotEmpty = errors.New("the data directory is not empty")

// initTime bounds the one election and the one command of init.
const initTime = 60 * time.Second

// Init makes a fleet: its root, issuing CAs, authority and fleet key, committed as one command to a cluster of this one
// node. It writes admin.token, ca.pem and recovery.key for the operator. The settings are written last: a directory without
// them holds an init that did not end.
func Init(ctx context.Context, c Config) error {
	c = c.withDefaults()
	if err := c.Check(); err != nil {
		return err
	}
	if c.Tuning.HeartbeatTimeout == 0 {
		c.Tuning.HeartbeatTimeout = 50 * time.Millisecond // there is nobody to wait for yet
	}
	if err := emptyDir(c.DataDir); err != nil {
		return err
	}
	node, err := enroll.NewHolderKey()
	if err != nil {
		return err
	}
	recovery, err := enroll.NewHolderKey()
	if err != nil {
		return err
	}
	cmd, err := enroll.NewFleet(c.Fleet, map[string]*enroll.HolderKey{c.Name: node, registry.RecoveryHolder: recovery}, c.Wall())
	if err != nil {
		return err
	}
	admin := newBearer()
	cmd.Operator = command.Operator{ID: "op-1", Name: "admin", Hash: sha256.Sum256([]byte(admin)), Role: "admin"}
	cmd.Node = command.CoreNode{Name: c.Name, API: c.API, Uplink: c.Uplink, Cluster: c.Cluster}
	cmd.IntervalMS = wire.Millis(registry.DefaultInterval)
	if err := c.writeIdentity(cmd, node); err != nil {
		return err
	}
	if err := c.commitInit(ctx, cmd); err != nil {
		return err
	}
	return c.writeForOperator(admin, recovery)
}

// newBearer makes an operator's token: 32 random bytes behind a prefix that scanners know.
func newBearer() string {
	b := make([]byte, 32)
	rand.Read(b)
	return "hfo1_" + base64.RawURLEncoding.EncodeToString(b)
}

func emptyDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if len(entries) == 0 {
		return nil
	}
	why := "an interrupted init or something else: empty it and run init again"
	if _, err := os.Stat(filepath.Join(dir, settingsFile)); err == nil {
		why = "it holds a core node: start it with holdfast-core run"
	}
	return fmt.Errorf("%s: %w: %s", dir, ErrNotEmpty, why)
}

// writeIdentity stores the node's own keys and certificates.
func (c *Config) writeIdentity(cmd *command.Init, node *enroll.HolderKey) error {
	if err := durable.WriteFile(filepath.Join(c.DataDir, holderFile), []byte(node.Reveal()), 0o600); err != nil {
		return err
	}
	ring, err := enroll.OpenKeyring(fleetOf(cmd), c.Name, node)
	if err != nil {
		return err
	}
	own := &nodeCert{dir: c.DataDir, name: "node"}
	if err := own.issue(ring, ident.Leaf{ID: ident.Core(c.Fleet, c.Name), Now: c.Wall()}); err != nil {
		return err
	}
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cmd.Root.Cert})
	return durable.WriteFile(filepath.Join(c.DataDir, caFile), root, 0o644)
}

func fleetOf(cmd *command.Init) *registry.Fleet {
	return &registry.Fleet{Name: cmd.Fleet, Root: cmd.Root, CAs: cmd.CAs, Authority: cmd.Authority, Wraps: cmd.Wraps, Generation: 1}
}

// commitInit founds the cluster and commits the one command.
func (c *Config) commitInit(ctx context.Context, cmd *command.Init) (err error) {
	ctx, cancel := context.WithTimeout(ctx, initTime)
	defer cancel()
	n, err := open(*c, func(rc raftstore.Config, _ raftstore.StateMachine) error { return raftstore.Bootstrap(rc) }) //nolint:contextcheck // opening the history is not given up half way
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.close()) }() //nolint:contextcheck // the context may have ended; closing has its own bound
	if err := n.lead(ctx); err != nil {
		return err
	}
	_, err = n.store.Propose(ctx, cmd)
	return err
}

func (c *Config) writeForOperator(admin string, recovery *enroll.HolderKey) error {
	if err := durable.WriteFile(filepath.Join(c.DataDir, recoveryFile), []byte(recovery.Reveal()), 0o600); err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(c.DataDir, adminFile), []byte(admin+"\n"), 0o600); err != nil {
		return err
	}
	return saveSettings(c.DataDir, c.Settings)
}
