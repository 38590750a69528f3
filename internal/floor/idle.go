package floor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-edge/holdfast/internal/floor/proc"
)

// IdleConfig is the regime of the idle floor. DefaultIdle gives the one to compare with.
type IdleConfig struct {
	// Connections is the number of devices, 1 or more. A few hundred are needed for a figure: what one connection adds
	// is far below what a process's size varies by.
	Connections int
	// Settle is how long the connections rest before memory is read, so that acknowledgements and probes are over.
	Settle time.Duration
}

// DefaultIdle returns 2,000 connections that rest for a second and a half.
func DefaultIdle() IdleConfig { return IdleConfig{Connections: 2000, Settle: 1500 * time.Millisecond} }

func (c *IdleConfig) validate() error {
	if c.Connections < 1 || c.Settle < 0 {
		return fmt.Errorf("idle floor: %w: %+v", ErrConfig, *c)
	}
	return nil
}

// IdleResult is what idle connections hold. Memory is in bytes per connection and may be negative if there were so few
// connections that the process shrank by more than they took.
type IdleResult struct {
	Connections int
	// Exchanges is how many messages the server has echoed, one for each connection unless one was tried again.
	Exchanges uint64
	// ServerRSS is the figure that the floor is about: resident memory that the server grew by, after a collection.
	ServerRSS float64
	// ClientRSS is the same of the clients, which share one process and one socket, over an unconnected server.
	ClientRSS float64
	// ServerHeap and ServerStack are the parts of ServerRSS in spans of the heap and of stacks that are in use.
	ServerHeap, ServerStack float64
	// ServerGoroutines is goroutines per connection.
	ServerGoroutines float64
}

// Idle measures what an idle mTLS QUIC connection holds in a server: a stream on which one small message has been
// exchanged, and a goroutine that waits for the next.
func Idle(ctx context.Context, cfg IdleConfig) (res IdleResult, err error) {
	if err := cfg.validate(); err != nil {
		return IdleResult{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, fleetLimit(cfg.Connections)+cfg.Settle)
	defer cancel()
	authority, err := newMaterial()
	if err != nil {
		return IdleResult{}, fmt.Errorf("idle floor: %w", err)
	}
	server, err := StartChild(ctx, ChildConfig{Role: roleIdleServer, CPU: proc.AnyCPU, Config: serverConfig{authority}})
	if err != nil {
		return IdleResult{}, fmt.Errorf("idle floor: %w", err)
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	empty, err := holdings(ctx, server)
	if err != nil {
		return IdleResult{}, fmt.Errorf("idle floor: %w", err)
	}
	client, err := startFleet(ctx, server, roleIdleClient, proc.AnyCPU, clientConfig{Authority: authority, Connections: cfg.Connections})
	if err != nil {
		return IdleResult{}, fmt.Errorf("idle floor: %w", err)
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	if err := wait(ctx, cfg.Settle); err != nil {
		return IdleResult{}, fmt.Errorf("idle floor: %w", err)
	}
	return compareIdle(ctx, cfg.Connections, empty, server, client)
}

// compareIdle reads both processes and says by how much they exceed an unconnected server, per connection.
func compareIdle(ctx context.Context, connections int, empty held, server, client *Child) (IdleResult, error) {
	full, err := holdings(ctx, server)
	if err != nil {
		return IdleResult{}, fmt.Errorf("idle floor: %w", err)
	}
	clients, err := holdings(ctx, client)
	if err != nil {
		return IdleResult{}, fmt.Errorf("idle floor: %w", err)
	}
	each := func(after, before int64) float64 { return float64(after-before) / float64(connections) }
	return IdleResult{
		Connections: connections, Exchanges: full.counts.Exchanges,
		ServerRSS: each(full.rss, empty.rss), ClientRSS: each(clients.rss, empty.rss),
		ServerHeap: each(full.counts.Heap, empty.counts.Heap), ServerStack: each(full.counts.Stack, empty.counts.Stack),
		ServerGoroutines: each(full.counts.Goroutines, empty.counts.Goroutines),
	}, nil
}

// held is a process after a collection.
type held struct {
	rss    int64 // bytes
	counts heapCounts
}

func holdings(ctx context.Context, c *Child) (held, error) {
	var h held
	if err := c.Ask(ctx, commandCollect, &h.counts); err != nil {
		return held{}, err
	}
	memory, err := proc.MemoryOf(c.PID())
	if err != nil {
		return held{}, err
	}
	h.rss = memory.RSS
	return h, nil
}

// Figures renders the result as lines of a report.
func (r IdleResult) Figures() []Figure {
	const kib = 1 << 10
	return []Figure{
		{"idle.server_rss", r.ServerRSS / kib, "KiB", fmt.Sprintf("per connection, %d connections, after a collection; heap %.1f, stack %.1f KiB, %.2f goroutines",
			r.Connections, r.ServerHeap/kib, r.ServerStack/kib, r.ServerGoroutines)},
		{"idle.client_rss", r.ClientRSS / kib, "KiB", "per connection, all clients in one process"},
	}
}
