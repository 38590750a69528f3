package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"time"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/internal/floor"
	"github.com/holdfast-edge/holdfast/internal/floor/proc"
	"github.com/holdfast-edge/holdfast/sim/procs"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// coreNode is a node of the core and its process.
type coreNode struct {
	coreConfig
	child *floor.Child // nil: it does not run
}

// startCores makes the core and waits until all its nodes are voters.
func (w *world) startCores(ctx context.Context) error {
	for i := range w.nodes {
		n := &coreNode{coreConfig: coreConfig{Name: fmt.Sprintf("core-%d", i+1)}}
		n.Dir = filepath.Join(w.dir, n.Name)
		for _, a := range []*string{&n.API, &n.Uplink, &n.Cluster} {
			var err error
			if *a, err = procs.FreeAddr(); err != nil {
				return err
			}
		}
		w.cores = append(w.cores, n)
	}
	if w.filled > 0 {
		if err := w.fillRegistry(ctx); err != nil {
			return err
		}
	}
	for i, n := range w.cores {
		if i > 0 {
			t, err := w.token(ctx, seal.KindCore, 1)
			if err != nil {
				return err
			}
			n.Join, n.Token = []string{w.cores[0].Uplink}, t.Reveal()
		}
		var err error
		if n.child, err = floor.StartChild(ctx, floor.ChildConfig{Role: roleCore, CPU: proc.AnyCPU, Config: n.coreConfig}); err != nil {
			return err
		}
		if i > 0 {
			continue
		}
		if err := w.openClient(n.Dir); err != nil {
			return err
		}
	}
	return w.awaitVoters(ctx)
}

// uplinks are where gateways reach the core.
func (w *world) uplinks() []string {
	var out []string
	for _, n := range w.cores {
		out = append(out, n.Uplink)
	}
	return out
}

// corePIDs are the processes of the core, in order of the nodes.
func (w *world) corePIDs() []int {
	var out []int
	for _, n := range w.cores {
		out = append(out, n.child.PID())
	}
	return out
}

// cluster is the core as its first node knows it.
func (w *world) cluster(ctx context.Context) (c v1.Cluster, err error) {
	err = w.call(ctx, &c, http.MethodGet, "/v1/cluster", nil)
	return c, err
}

const (
	// clusterPoll is how often the core is asked how far it is.
	clusterPoll = 100 * time.Millisecond
	// clusterWait bounds how long it may take to get there: a registry of 100,000 devices goes to each node.
	clusterWait = 60 * time.Second
)

var errCluster = errors.New("the core does not get there")

// await asks the core until it is as wanted.
func (w *world) await(ctx context.Context, what string, reached func(c *v1.Cluster) bool) error {
	ctx, cancel := context.WithTimeout(ctx, clusterWait)
	defer cancel()
	for {
		c, err := w.cluster(ctx)
		if err == nil && reached(&c) {
			return nil
		}
		if restErr := rest(ctx, clusterPoll); restErr != nil {
			return fmt.Errorf("%w: %s: %w", errCluster, what, errors.Join(err, restErr))
		}
	}
}

// awaitVoters waits until all nodes are voters, know one leader, and have the same history.
func (w *world) awaitVoters(ctx context.Context) error {
	return w.await(ctx, "all nodes are voters", func(c *v1.Cluster) bool {
		ready := 0
		for i := range c.Nodes {
			n := &c.Nodes[i]
			if n.Voter && n.Member && !n.CatchingUp && n.Index != nil && *n.Index == c.Index {
				ready++
			}
		}
		return ready == w.nodes && c.Leader != ""
	})
}

// leader is the place of the node that leads.
func (w *world) leader(ctx context.Context) (int, error) {
	c, err := w.cluster(ctx)
	if err != nil {
		return 0, err
	}
	return w.node(c.Leader)
}

// node is the place of a node by name.
func (w *world) node(name string) (int, error) {
	for i, n := range w.cores {
		if n.Name == name {
			return i, nil
		}
	}
	return 0, fmt.Errorf("core node %q: %w", name, errCluster)
}

// lead makes a node the leader and waits until it is.
func (w *world) lead(ctx context.Context, node int) error {
	name := w.cores[node].Name
	if now, err := w.leader(ctx); err != nil || now == node {
		return err
	}
	if err := w.call(ctx, nil, http.MethodPost, "/v1/cluster/transfer-leadership", v1.TransferLeadership{To: name}); err != nil {
		return err
	}
	return w.await(ctx, name+" leads", func(c *v1.Cluster) bool { return c.Leader == name })
}
