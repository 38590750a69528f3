package core

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/raftstore"
)

// Who belongs to the core is decided in the registry, where a token or an operator lets a node in or out. The leader makes
// the store's membership follow, one change at a time.

// followEvery is how often the leader compares the two.
const followEvery = 500 * time.Millisecond

// changeTime bounds one change of the membership.
const changeTime = 20 * time.Second

// follow runs until ctx ends.
func (c *Core) follow(ctx context.Context) error {
	t := time.NewTicker(followEvery)
	defer t.Stop()
	for {
		if l, _ := c.store.raft.Leadership(); l.Leader {
			if err := c.followOnce(ctx); err != nil && ctx.Err() == nil {
				c.Log.Warn("the core's membership is not as decided yet, trying again", "err", err)
			}
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// followOnce makes at most one change.
func (c *Core) followOnce(ctx context.Context) error {
	f := c.store.View().Fleet()
	if f == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, changeTime)
	defer cancel()
	members := make(map[string]bool)
	for _, n := range c.store.raft.Status().Nodes {
		if _, ok := f.Node(n.ID); !ok {
			c.Log.Info("core node leaves", "node", n.ID)
			return ignoreNotLeader(c.store.raft.RemoveNode(ctx, n.ID))
		}
		members[n.ID] = true
	}
	for _, n := range f.Nodes {
		if !members[n.Name] {
			c.Log.Info("core node is taken in", "node", n.Name, "cluster", n.Cluster)
			return ignoreNotLeader(c.store.raft.AddNode(ctx, n.Name, n.Cluster))
		}
	}
	return nil
}

// ignoreNotLeader drops the error of a node that has just handed over: the next leader goes on.
func ignoreNotLeader(err error) error {
	if errors.Is(err, raftstore.ErrNotLeader) {
		return nil
	}
	return err
}

// announce tells the registry this node's addresses when its operator changed them. It tries until ctx ends.
func (c *Core) announce(ctx context.Context) error {
	t := time.NewTicker(followEvery)
	defer t.Stop()
	for {
		f := c.store.View().Fleet()
		if n, ok := f.Node(c.Name); !ok || n.API == c.API && n.Uplink == c.Uplink {
			return nil
		}
		if _, err := c.store.Propose(ctx, &command.SetNode{Name: c.Name, API: c.API, Uplink: c.Uplink}); err == nil {
			return nil
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// cluster is what the API may do with the core itself.
type cluster struct{ *Core }

// Status is the core as this node knows it, and as the others that answer know themselves.
func (c cluster) Status(ctx context.Context) v1.Cluster {
	st := c.store.raft.Status()
	v := c.store.View()
	out := v1.Cluster{Fleet: c.Fleet, Leader: st.LeaderID, Index: st.AppliedIndex, Version: c.Version, Nodes: []v1.Node{}}
	said := c.peers.states(ctx)
	_, _, _, gap := c.store.history.Missing()
	said[c.Name] = peerState{Applied: st.AppliedIndex, CatchingUp: gap}
	seen := make(map[string]bool)
	for i := range st.Nodes {
		n := &st.Nodes[i]
		seen[n.ID] = true
		item := v1.Node{Name: n.ID, Address: n.Address, Voter: n.Voter, Leader: n.Leader, Self: n.ID == c.Name}
		if n.LastContact != raftstore.UnknownContact {
			s := n.LastContact.Seconds()
			item.LastContactS = &s
		}
		out.Nodes = append(out.Nodes, item)
	}
	if f := v.Fleet(); f != nil {
		for _, n := range f.Nodes {
			if !seen[n.Name] {
				out.Nodes = append(out.Nodes, v1.Node{Name: n.Name, Address: n.Cluster})
			}
		}
		for i := range out.Nodes {
			if n, ok := f.Node(out.Nodes[i].Name); ok {
				joined := time.UnixMilli(n.JoinedMS).UTC()
				out.Nodes[i].Member, out.Nodes[i].API, out.Nodes[i].Uplink, out.Nodes[i].JoinedAt = true, n.API, n.Uplink, &joined
			}
		}
	}
	for i := range out.Nodes {
		if s, ok := said[out.Nodes[i].Name]; ok {
			out.Nodes[i].Index, out.Nodes[i].CatchingUp = &s.Applied, s.CatchingUp
		}
	}
	return out
}

// Remove ends a node's membership and rotates the fleet key, so that the node cannot open what is sealed from now on. It is
// refused when those that remain could not decide anything: the core would stop at that moment.
func (c cluster) Remove(ctx context.Context, by command.Actor, name string) error {
	for range 3 {
		f := c.store.View().Fleet()
		if _, ok := f.Node(name); !ok {
			return fmt.Errorf("core node %s: %w", name, registry.ErrNotFound)
		}
		var rest []string
		alive := 0
		said := c.peers.states(ctx)
		for _, n := range f.Nodes {
			if n.Name == name {
				continue
			}
			rest = append(rest, n.Name)
			if _, ok := said[n.Name]; ok || n.Name == c.Name {
				alive++
			}
		}
		if len(rest) > 0 && alive <= len(rest)/2 {
			return fmt.Errorf("of the %d core nodes that would remain, %d answer, and the core would stop: start them first: %w", len(rest), alive, registry.ErrInvalid)
		}
		r, err := c.keys.Rotate(f, rest)
		if err != nil {
			return err
		}
		if _, err = c.store.Propose(ctx, &command.RemoveNode{By: by, Name: name, Rotation: r}); !errors.Is(err, registry.ErrRetry) {
			return err
		}
	}
	return registry.ErrRetry
}

// Snapshot makes this node write a snapshot.
func (c cluster) Snapshot(context.Context) (v1.Snapshot, error) {
	if err := c.store.raft.Snapshot(); err != nil {
		return v1.Snapshot{}, err
	}
	return v1.Snapshot{Node: c.Name, Index: c.store.raft.Status().AppliedIndex}, nil
}

// Transfer makes another node lead.
func (c cluster) Transfer(ctx context.Context, to string) error {
	return c.store.raft.TransferLeadership(ctx, to)
}
