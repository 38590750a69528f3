// Package raftcommit runs a bare Raft cluster in one process, for one purpose: to measure what a commit costs before
// any of our own code takes part. It is the only package besides raftstore that imports hashicorp/raft, and must be: a
// floor measured through raftstore would contain the very cost that raftstore is measured for. The settings are those
// that decide the cost in raftstore too: raft-boltdb with synced writes, the free list in memory, no snapshots.
package raftcommit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
)

// ErrSize says that a cluster cannot have that many nodes.
var ErrSize = errors.New("a cluster has 1 to 7 nodes")

// ErrLost says that no node leads, or that the one that did was deposed while a commit was under way.
var ErrLost = errors.New("no leader")

const (
	// enqueueTimeout bounds the wait for a place in the leader's queue. The commit itself is bounded by the leader's
	// lease: it fails when the majority has been out of reach for that long.
	enqueueTimeout = 10 * time.Second
	// transportTimeout bounds one exchange between nodes.
	transportTimeout = 10 * time.Second
	// transportPool is the number of idle connections kept to each node.
	transportPool = 3
	// leaderPoll is how often Start looks for a leader; an election takes a second or two.
	leaderPoll = 50 * time.Millisecond
	// openTimeout bounds the wait for the lock of a database file, which nobody else holds.
	openTimeout = time.Second
)

// Cluster is a number of nodes over loopback TCP, each with its log on disk. Commit may be called from any goroutine.
type Cluster struct {
	nodes  []*node
	leader *node
}

// node is one member; everything that Start has opened so far is not nil.
type node struct {
	id        raft.ServerID
	transport *raft.NetworkTransport
	store     *raftboltdb.BoltStore
	raft      *raft.Raft
	machine   machine
}

// Start opens size nodes (1 to 7) with their files in subdirectories of dir, and returns when one leads. The caller must call
// Close, and remove the files.
func Start(ctx context.Context, dir string, size int) (*Cluster, error) {
	if size < 1 || size > 7 {
		return nil, fmt.Errorf("start %d nodes: %w", size, ErrSize)
	}
	c := &Cluster{}
	if err := c.open(ctx, dir, size); err != nil {
		return nil, errors.Join(fmt.Errorf("start cluster in %s: %w", dir, err), c.Close())
	}
	return c, nil
}

func (c *Cluster) open(ctx context.Context, dir string, size int) error {
	var members raft.Configuration
	for i := range size {
		n := &node{id: raft.ServerID(strconv.Itoa(i))}
		c.nodes = append(c.nodes, n)
		if err := n.listen(); err != nil {
			return err
		}
		members.Servers = append(members.Servers, raft.Server{ID: n.id, Address: n.transport.LocalAddr()})
	}
	for _, n := range c.nodes {
		if err := n.open(filepath.Join(dir, "node-"+string(n.id))); err != nil {
			return fmt.Errorf("node %s: %w", n.id, err)
		}
	}
	if err := c.nodes[0].raft.BootstrapCluster(members).Error(); err != nil {
		return fmt.Errorf("bootstrap: %w", err)
	}
	return c.awaitLeader(ctx)
}

func (n *node) listen() error {
	t, err := raft.NewTCPTransportWithConfig("127.0.0.1:0", nil, &raft.NetworkTransportConfig{
		MaxPool: transportPool, Timeout: transportTimeout, Logger: hclog.NewNullLogger(),
	})
	if err != nil {
		return fmt.Errorf("node %s: listen: %w", n.id, err)
	}
	n.transport = t
	return nil
}

func (n *node) open(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	store, err := raftboltdb.New(raftboltdb.Options{
		Path:        filepath.Join(dir, "raft.db"),
		BoltOptions: &bbolt.Options{NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, Timeout: openTimeout},
	})
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	n.store = store
	cfg := raft.DefaultConfig()
	cfg.LocalID = n.id
	cfg.Logger = hclog.NewNullLogger()
	cfg.BatchApplyCh = true
	cfg.SnapshotThreshold = 1 << 40 // never: what a snapshot costs is not part of a commit
	n.raft, err = raft.NewRaft(cfg, &n.machine, store, store, raft.NewInmemSnapshotStore(), n.transport)
	if err != nil {
		return fmt.Errorf("start raft: %w", err)
	}
	return nil
}

// awaitLeader waits for a leader that commits.
func (c *Cluster) awaitLeader(ctx context.Context) error {
	poll := time.NewTicker(leaderPoll)
	defer poll.Stop()
	for {
		for _, n := range c.nodes {
			if n.raft.State() == raft.Leader && n.raft.Barrier(enqueueTimeout).Error() == nil {
				c.leader = n
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrLost, context.Cause(ctx))
		case <-poll.C:
		}
	}
}

// Commit returns when entry is on the disks of a majority and applied by the leader. The entry must not be changed
// afterwards. If the leader has changed the error is ErrLost, and the cluster is of no further use.
func (c *Cluster) Commit(entry []byte) error {
	err := c.leader.raft.Apply(entry, enqueueTimeout).Error()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipLost):
		return fmt.Errorf("commit %d bytes: %w: %w", len(entry), ErrLost, err)
	default:
		return fmt.Errorf("commit %d bytes: %w", len(entry), err)
	}
}

// Applied counts the bytes of all entries that the leader has applied.
func (c *Cluster) Applied() uint64 { return c.leader.machine.bytes.Load() }

// Close stops all nodes and closes their files.
func (c *Cluster) Close() error {
	var errs []error
	for _, n := range c.nodes {
		if n.raft != nil {
			errs = append(errs, n.raft.Shutdown().Error())
		}
		if n.transport != nil {
			errs = append(errs, n.transport.Close())
		}
		if n.store != nil {
			errs = append(errs, n.store.Close())
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close cluster: %w", err)
	}
	return nil
}

// machine is a state machine whose state is how much it was given.
type machine struct{ bytes atomic.Uint64 }

var errNoSnapshots = errors.New("this cluster makes no snapshots")

func (m *machine) Apply(l *raft.Log) any {
	m.bytes.Add(uint64(len(l.Data)))
	return nil
}

func (m *machine) Snapshot() (raft.FSMSnapshot, error) { return nil, errNoSnapshots }

func (m *machine) Restore(io.ReadCloser) error { return errNoSnapshots }
