package registry

import (
	"fmt"
	"slices"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

// RecoveryHolder is the holder's name of the wrap that the offline recovery key opens.
const RecoveryHolder = "recovery"

// MaxNodes bounds the members of the core.
const MaxNodes = 7

// enrollNode takes a node into the core, with its wrap of the fleet key, in the one entry that uses up its token.
func (a *applier) enrollNode(t *Token, c *command.Enroll, key ident.KeyID) (*Enrolled, error) {
	if c.Node == nil || c.Wrap == nil || c.Wrap.Holder != c.Node.Name || c.Node.Name == RecoveryHolder {
		return nil, fmt.Errorf("a core node without its wrap: %w", ErrInvalid)
	}
	f := *a.view.fleet
	if c.Gen != f.Generation {
		return nil, fmt.Errorf("the fleet key was changed: %w", ErrRetry)
	}
	if _, ok := f.Node(c.Node.Name); ok {
		return nil, fmt.Errorf("core node %s is a member already: remove it first, or choose another name: %w", c.Node.Name, ErrExists)
	}
	_, taken := a.view.keys.get(key)
	if taken || slices.ContainsFunc(f.Nodes, func(n command.CoreNode) bool { return n.Key == key }) {
		return nil, ErrRefused
	}
	if len(f.Nodes) >= MaxNodes {
		return nil, fmt.Errorf("the core has %d nodes already: %w", len(f.Nodes), ErrInvalid)
	}
	n := *c.Node
	n.Key, n.JoinedMS = key, a.ms
	f.Nodes = append(slices.Clip(f.Nodes), n)
	f.Wraps = append(slices.DeleteFunc(slices.Clone(f.Wraps), func(w command.KeyWrap) bool { return w.Holder == n.Name }), *c.Wrap)
	a.view.fleet = &f
	a.event(EventNodeJoined, Subject{Node: n.Name}, map[string]string{"token": t.ID.String(), "cluster": n.Cluster})
	return &Enrolled{Node: &n, Cert: c.Cert}, nil
}

// setNode changes a member's addresses. Result: nil.
func (a *applier) setNode(c *command.SetNode) any {
	f := *a.view.fleet
	i := slices.IndexFunc(f.Nodes, func(n command.CoreNode) bool { return n.Name == c.Name })
	if i < 0 {
		return fmt.Errorf("core node %s: %w", c.Name, ErrNotFound)
	}
	if f.Nodes[i].API == c.API && f.Nodes[i].Uplink == c.Uplink {
		return nil
	}
	f.Nodes = slices.Clone(f.Nodes)
	f.Nodes[i].API, f.Nodes[i].Uplink = c.API, c.Uplink
	a.view.fleet = &f
	a.event(EventNodeChanged, Subject{Node: c.Name}, nil)
	a.audit(AuditRecord{Actor: "core:" + c.Name, Action: "node.set", Target: c.Name, Detail: map[string]string{"api": c.API, "uplink": c.Uplink}})
	return nil
}

// removeNode ends a membership and rotates the fleet key. Result: nil.
func (a *applier) removeNode(c *command.RemoveNode) any {
	f := *a.view.fleet
	if _, ok := f.Node(c.Name); !ok {
		return fmt.Errorf("core node %s: %w", c.Name, ErrNotFound)
	}
	if len(f.Nodes) == 1 {
		return fmt.Errorf("core node %s is the only one: %w", c.Name, ErrInvalid)
	}
	f.Nodes = slices.DeleteFunc(slices.Clone(f.Nodes), func(n command.CoreNode) bool { return n.Name == c.Name })
	if err := f.rotate(&c.Rotation); err != nil {
		return err
	}
	a.view.fleet = &f
	a.event(EventNodeRemoved, Subject{Node: c.Name}, map[string]string{"by": c.By.Operator})
	return nil
}

// rotate puts the fleet's keys under a new fleet key, which its nodes and the recovery key can open, and nobody else.
func (f *Fleet) rotate(r *command.Rotation) error {
	if r.Generation != f.Generation+1 {
		return fmt.Errorf("the fleet key was changed: %w", ErrRetry)
	}
	holders := []string{RecoveryHolder}
	for _, n := range f.Nodes {
		holders = append(holders, n.Name)
	}
	for _, w := range r.Wraps {
		if !slices.Contains(holders, w.Holder) {
			return fmt.Errorf("a wrap for %s, which is no member: %w", w.Holder, ErrRetry)
		}
	}
	if len(r.Wraps) != len(holders) || len(r.CAs) != len(f.CAs) {
		return fmt.Errorf("%d wraps for %d holders: %w", len(r.Wraps), len(holders), ErrRetry)
	}
	f.Generation, f.Root, f.CAs, f.Authority, f.Wraps = r.Generation, r.Root, r.CAs, r.Authority, r.Wraps
	return nil
}

// recover goes on with one node. Result: nil.
func (a *applier) recover(c *command.Recover) any {
	f := *a.view.fleet
	f.Nodes = []command.CoreNode{c.Node}
	f.Nodes[0].JoinedMS = a.ms
	if err := f.rotate(&c.Rotation); err != nil {
		return err
	}
	f.ClusterEpoch++
	a.view.fleet = &f
	a.event(EventNodeRecovered, Subject{Node: c.Node.Name}, map[string]string{"cluster_epoch": u64(f.ClusterEpoch)})
	detail := map[string]string{"cluster_epoch": u64(f.ClusterEpoch)}
	for i, n := range c.Lost {
		detail["lost."+u64(uint64(i))] = n
	}
	a.audit(AuditRecord{Actor: "recovery", Action: "core.recover", Target: c.Node.Name, Detail: detail})
	return nil
}
