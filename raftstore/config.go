package raftstore

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"time"
)

// Config says where a node's state lies, how it reaches its peers, and how patient it is. Zero tuning fields mean their
// defaults.
type Config struct {
	// Dir is the node's data directory, used by this package alone. It is created (0700) when missing.
	Dir string
	// NodeID names the node in the cluster, for ever: never give a removed node's id to another one.
	NodeID string
	// Listener accepts the peers' plain connections; the store does the TLS handshakes and closes it at Shutdown. Open
	// takes it over even when it fails. Bootstrap does not use it.
	Listener net.Listener
	// Advertise is the address under which the peers reach Listener. It is part of the cluster's replicated
	// configuration.
	Advertise string
	// Dial opens a plain connection to a peer's Advertise address; the store does the TLS handshake. It must return
	// soon after ctx ends.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// ServerTLS must demand and verify a client certificate and admit core nodes only.
	ServerTLS *tls.Config
	// ClientTLS returns the configuration for dialling the peer named serverID. It must admit that very peer and no
	// other, because an address may have come to belong to another node.
	ClientTLS func(serverID string) *tls.Config
	// PeerID returns the node id that a peer's verified certificate is for. nil: no peer is admitted, which suits a node
	// that stays alone.
	PeerID func(tls.ConnectionState) (string, error)
	// Handler answers the calls that other members make with Call under the owner's methods, FirstMethod and above. from
	// is the caller's verified id; the body and the answer are at most MaxCallBody bytes. It is called from many
	// goroutines and must return soon after ctx ends, which it does with the caller's patience or with the store. nil:
	// such calls are refused.
	Handler func(ctx context.Context, from string, method uint8, body []byte) ([]byte, error)
	// Join lets Open start on a directory without a node's state: the node then waits until a cluster takes it in with
	// AddNode. Set it for the very first start of a node and never again, because a voter that lost its directory must
	// not come back as if it were new.
	Join bool
	// Wall is the clock that stamps entries and that the members compare. nil: time.Now.
	Wall func() time.Time
	// Logger receives what happens. nil: nothing is logged.
	Logger *slog.Logger

	Tuning
}

// Tuning holds the numbers that rarely need a change. All nodes of a cluster should use the same.
type Tuning struct {
	// HeartbeatTimeout is how long a follower hears nothing before it stands for election; a leader without a majority
	// steps down after half of it. Default 1 s, at least 20 ms: a plant's core nodes are milliseconds apart, and a
	// failover then takes 2 to 3 s.
	HeartbeatTimeout time.Duration
	// ElectionTimeout is how long a candidate waits for votes. Default and least: HeartbeatTimeout.
	ElectionTimeout time.Duration
	// SnapshotInterval is how often the node checks whether a snapshot is due; the checks come at random between one
	// and two intervals. Default 10 s: at full write load, that is some ten thousand entries, and removing many more
	// from the log in one go would hold up writes for more than 100 ms.
	SnapshotInterval time.Duration
	// SnapshotThreshold is how many entries make a snapshot due. Default 8192.
	SnapshotThreshold uint64
	// TrailingLogs is how many entries stay in the log after a snapshot, so that a peer that was away for a short time
	// gets entries and not a whole snapshot. Default 10240.
	TrailingLogs uint64
	// InFlight is how many entries may wait for their commit at once. Default 4: while they travel, later commands
	// gather and share the next entry. Range 1..16.
	InFlight int
	// QueueLength is how many commands may wait for an entry; a Propose beyond it waits. Default 1024.
	QueueLength int
	// HandshakeTimeout bounds a TLS handshake on either side, dialling included. Default 10 s.
	HandshakeTimeout time.Duration
}

// withDefaults returns c with every zero tuning field set.
func (c Config) withDefaults() Config {
	setDefault(&c.HeartbeatTimeout, time.Second)
	setDefault(&c.ElectionTimeout, c.HeartbeatTimeout)
	setDefault(&c.SnapshotInterval, 10*time.Second)
	setDefault(&c.SnapshotThreshold, 8192)
	setDefault(&c.TrailingLogs, 10240)
	setDefault(&c.InFlight, 4)
	setDefault(&c.QueueLength, 1024)
	setDefault(&c.HandshakeTimeout, 10*time.Second)
	if c.Wall == nil {
		c.Wall = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// validateIdentity checks what Bootstrap needs.
func (c *Config) validateIdentity() error {
	switch {
	case c.Dir == "":
		return fmt.Errorf("%w: Dir is empty", ErrConfig)
	case c.NodeID == "":
		return fmt.Errorf("%w: NodeID is empty", ErrConfig)
	case c.Advertise == "":
		return fmt.Errorf("%w: Advertise is empty", ErrConfig)
	}
	return nil
}

// validate checks what Open needs, after withDefaults.
func (c *Config) validate() error {
	var problem string
	switch {
	case c.Listener == nil:
		problem = "Listener is nil"
	case c.Dial == nil:
		problem = "Dial is nil"
	case c.ServerTLS == nil || c.ServerTLS.ClientAuth != tls.RequireAndVerifyClientCert:
		problem = "ServerTLS is nil or does not demand a client certificate"
	case c.ClientTLS == nil:
		problem = "ClientTLS is nil"
	case c.HeartbeatTimeout < 20*time.Millisecond || c.ElectionTimeout < c.HeartbeatTimeout:
		problem = "HeartbeatTimeout is under 20 ms, or ElectionTimeout is shorter than it"
	case c.SnapshotInterval < 5*time.Millisecond || c.HandshakeTimeout < 0:
		problem = "SnapshotInterval is under 5 ms, or HandshakeTimeout is negative"
	case c.InFlight < 1 || c.InFlight > maxInFlight || c.QueueLength < 1:
		problem = "InFlight is outside 1..16, or QueueLength is negative"
	}
	if problem != "" {
		return fmt.Errorf("%w: %s", ErrConfig, problem)
	}
	return c.validateIdentity()
}
