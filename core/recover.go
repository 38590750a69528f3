package core

import (
	"context"
	"errors"
	"fmt"
	"io"

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
	n, err := open(c, func(rc raftstore.Config, sm raftstore.StateMachine) error { //nolint:contextcheck // opening the history is not given up half way
		if err := recoverable(&c, rc, key); err != nil {
			return err
		}
		return raftstore.Recover(rc, sm)
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, n.close()) }() //nolint:contextcheck // the context may have ended; closing has its own bound
	if err := n.lead(ctx); err != nil {
		return nil, err
	}
	f := n.store.View().Fleet()
	me, ring, err := member(&c, f, key)
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

// recoverable tells whether the directory and the key are good for a recovery, before anything is changed: what is refused
// must be able to go on as a member.
func recoverable(c *Config, rc raftstore.Config, key *enroll.HolderKey) error {
	s := &inspected{state: registry.New()}
	if err := raftstore.Inspect(rc, s); err != nil {
		return err
	}
	_, _, err := member(c, s.state.View().Fleet(), key)
	return err
}

// member is this node as the fleet has it, and the fleet's keys opened by the recovery key.
func member(c *Config, f *registry.Fleet, key *enroll.HolderKey) (command.CoreNode, *enroll.Keyring, error) {
	if f == nil {
		return command.CoreNode{}, nil, fmt.Errorf("%s: there is no fleet in it: nothing to recover", c.DataDir)
	}
	me, ok := f.Node(c.Name)
	if !ok {
		return me, nil, fmt.Errorf("%s: node %s was removed from the core before: use the directory of a member", c.DataDir, c.Name)
	}
	ring, err := enroll.OpenKeyring(f, registry.RecoveryHolder, key)
	if err != nil {
		return me, nil, fmt.Errorf("recovery key: %w", err)
	}
	return me, ring, nil
}

// inspected is the registry alone: what is applied to it leaves no trace in the history.
type inspected struct{ state *registry.State }

// Apply implements raftstore.StateMachine.
func (s *inspected) Apply(m raftstore.Meta, commands [][]byte) ([]any, error) {
	eff, err := s.state.Apply(m.Index, m.Time, commands)
	if err != nil {
		return nil, err
	}
	return eff.Results, nil
}

// Snapshot implements raftstore.StateMachine.
func (s *inspected) Snapshot() (raftstore.Snapshot, error) { return snapshot{s.state.View()}, nil }

// Restore implements raftstore.StateMachine.
func (s *inspected) Restore(rd io.Reader) error {
	state, err := registry.Restore(rd)
	if err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, rd); err != nil {
		return err
	}
	s.state = state
	return nil
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
