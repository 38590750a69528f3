package core

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/enroll"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/raftstore"
)

// Recover makes a fleet go on with the one node of this data directory, after so many others were lost that the core cannot
// decide anything any more, for good. What the lost ones had and this one had not is gone: at most what was acknowledged
// while this node was away. No process may use the directory, and none of the lost nodes may ever be started again: they are
// members no more, and the fleet's keys are rotated away from them.
//
// key is the recovery key. The addresses in c replace this node's where they are set.
func Recover(ctx context.Context, c Config, key *enroll.HolderKey) (lost []string, err error) {
	c = c.withDefaults()
	if err := c.Check(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, initTime)
	defer cancel()
	n, err := open(c, func(rc raftstore.Config, sm raftstore.StateMachine) error { return raftstore.Recover(rc, sm) })
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, n.close()) }() //nolint:contextcheck // the context may have ended; closing has its own bound
	if err := n.lead(ctx); err != nil {
		return nil, err
	}
	f := n.store.View().Fleet()
	if f == nil {
		return nil, fmt.Errorf("%s: there is no fleet in it: nothing to recover", c.DataDir)
	}
	me, ok := f.Node(c.Name)
	if !ok {
		return nil, fmt.Errorf("%s: node %s was removed from the core before: use the directory of a member", c.DataDir, c.Name)
	}
	ring, err := enroll.OpenKeyring(f, registry.RecoveryHolder, key)
	if err != nil {
		return nil, err
	}
	me.API, me.Uplink, me.Cluster = c.API, c.Uplink, c.Cluster
	for _, other := range f.Nodes {
		if other.Name != c.Name {
			lost = append(lost, other.Name)
		}
	}
	r, err := ring.Rotate(f, []string{c.Name})
	if err != nil {
		return nil, err
	}
	if _, err := n.store.Propose(ctx, &command.Recover{Node: me, Rotation: r, Lost: lost}); err != nil {
		return nil, err
	}
	return lost, saveSettings(c.DataDir, c.Settings)
}

// lead waits until this node leads.
func (n *node) lead(ctx context.Context) error {
	for {
		l, changed := n.store.raft.Leadership()
		if l.Leader {
			return nil
		}
		select {
		case <-changed:
		case <-n.store.raft.Done():
			return n.store.raft.Err()
		case <-ctx.Done():
			return fmt.Errorf("the node did not become leader of its own cluster: %w", ctx.Err())
		}
	}
}
