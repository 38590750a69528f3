package core

import (
	"context"
	"path/filepath"

	"github.com/holdfast-edge/holdfast/core/content"
	"github.com/holdfast-edge/holdfast/core/registry"
)

// openContent opens what this node holds of artifacts. Calls of other nodes may come in as soon as the store is open.
func (n *node) openContent() error {
	s, err := content.Open(filepath.Join(n.DataDir, contentDir), content.Options{Quota: int64(n.ContentQuota), Logger: n.Log})
	if err != nil {
		return err
	}
	n.content = content.NewKeeper(s, contentNodes{n}, content.KeeperOptions{Logger: n.Log})
	n.peers.content = n.content
	return nil
}

// contentNodes is the core as the keeper of its content sees it.
type contentNodes struct{ *node }

var _ content.Cluster = contentNodes{}

// Members implements content.Cluster.
func (n contentNodes) Members() content.Members {
	m := content.Members{Self: n.Name}
	for _, o := range n.store.raft.Status().Nodes {
		if o.Voter {
			m.Voters = append(m.Voters, o.ID)
		} else {
			m.Others = append(m.Others, o.ID)
		}
	}
	return m
}

// Call implements content.Cluster.
func (n contentNodes) Call(ctx context.Context, node string, call content.Call, body []byte) ([]byte, error) {
	return n.store.raft.Call(ctx, node, methodContent+uint8(call), body)
}

// View implements content.Cluster.
func (n contentNodes) View() registry.View { return n.store.View() }

// Barrier implements content.Cluster.
func (n contentNodes) Barrier(ctx context.Context) error { return n.store.Barrier(ctx) }
