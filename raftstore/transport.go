package raftstore

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// idTransport makes the stream layer learn which peer is to be dialled. Raft's transport passes only an address to Dial,
// but an address can come to belong to another node, and then TLS must refuse it. So the id travels inside the address:
// each call that may dial replaces the target by "id, line feed, address", which peerStream.Dial splits again. Connection
// pools are thereby kept per id as well.
type idTransport struct {
	*raft.NetworkTransport
	// freshness bounds a heartbeat's round trip, see AppendEntries. At most half a HeartbeatTimeout.
	freshness time.Duration

	// Immutable.
	stream  *peerStream
	logger  *slog.Logger
	consume chan raft.RPC // unbuffered: what peers ask, from all connections
	mayVote func() bool   // whether this node may answer questions for its vote
	// appended is called when raft has taken entries in; it returns soon after over is closed.
	appended func(over <-chan struct{})

	beat atomic.Pointer[func(raft.RPC)] // raft's short cut for heartbeats; nil until raft sets it
}

var errLateAnswer = errors.New("answer came too late to prove anything")

var (
	_ raft.Transport   = (*idTransport)(nil)
	_ raft.WithPreVote = (*idTransport)(nil)
)

const (
	// rpcTimeout bounds one call to a peer; for a snapshot raft allows it once per 256 KiB.
	rpcTimeout = 10 * time.Second
	// pooledConns is how many idle connections to a peer are kept: one each for votes, replication and a spare.
	pooledConns = 3
)

// newIDTransport starts a transport on stream; Close ends both.
func newIDTransport(cfg *Config, stream *peerStream) *idTransport {
	inner := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream:  stream,
		MaxPool: pooledConns,
		// No pipelines. When the goroutine that takes their answers ends, on a higher term or a rejection, while the other waits
		// to hand in the next request, neither ever goes on (raft v1.8.0, netPipeline): the follower hears heartbeats and
		// gets no entry until the leader restarts, and the leader does not stop. TestLinearizable found it.
		MaxRPCsInFlight:         1,
		Timeout:                 rpcTimeout,
		Logger:                  newRaftLogger(cfg.Logger),
		MsgpackUseNewTimeFormat: true,
	})
	return &idTransport{
		NetworkTransport: inner,
		freshness:        cfg.HeartbeatTimeout / 2,
		stream:           stream,
		logger:           cfg.Logger,
		consume:          make(chan raft.RPC),
		mayVote:          func() bool { return true },
		appended:         func(<-chan struct{}) {},
	}
}

// Consumer implements raft.Transport.
func (t *idTransport) Consumer() <-chan raft.RPC { return t.consume }

// SetHeartbeatHandler implements raft.Transport.
func (t *idTransport) SetHeartbeatHandler(handle func(raft.RPC)) { t.beat.Store(&handle) }

// heartbeat hands a heartbeat to raft.
func (t *idTransport) heartbeat(rpc raft.RPC) {
	if handle := t.beat.Load(); handle != nil {
		(*handle)(rpc)
		return
	}
	rpc.Respond(nil, errStreamClosed)
}

// targetSeparator cannot occur in an address that can be dialled.
const targetSeparator = "\n"

func joinTarget(id raft.ServerID, addr raft.ServerAddress) raft.ServerAddress {
	return raft.ServerAddress(string(id) + targetSeparator + string(addr))
}

// splitTarget is joinTarget's inverse. The separator searched for is the last one, so an odd id cannot shift it.
func splitTarget(target raft.ServerAddress) (id, addr string, ok bool) {
	i := strings.LastIndex(string(target), targetSeparator)
	if i < 0 {
		return "", "", false
	}
	return string(target[:i]), string(target[i+1:]), true
}

// AppendEntriesPipeline implements raft.Transport.
func (t *idTransport) AppendEntriesPipeline(id raft.ServerID, addr raft.ServerAddress) (raft.AppendPipeline, error) {
	return t.NetworkTransport.AppendEntriesPipeline(id, joinTarget(id, addr))
}

// AppendEntries implements raft.Transport. A heartbeat that took longer than freshness counts as lost, because of this:
//
//  1. a leader sends a heartbeat and is suspended; a follower answers, and the answer waits in the leader's socket;
//  2. the followers elect another leader, which commits something;
//  3. the old leader goes on; a read arrives and asks raft to verify the leadership;
//  4. raft takes the answer that is waiting, though it was given before the read began, for a vote of confidence.
//
// A follower that answered refuses its vote to anybody else for a whole HeartbeatTimeout, so an answer to a question that
// is younger than that does prove leadership. Only a hand-over voids it; Shutdown ends all reads before.
func (t *idTransport) AppendEntries(
	id raft.ServerID, addr raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse,
) error {
	asked := time.Now()
	if err := t.NetworkTransport.AppendEntries(id, joinTarget(id, addr), args, resp); err != nil {
		return err
	}
	heartbeat := len(args.Entries) == 0 && args.PrevLogEntry == 0 && args.LeaderCommitIndex == 0
	if took := time.Since(asked); heartbeat && took > t.freshness {
		return fmt.Errorf("heartbeat took %v: %w", took, errLateAnswer)
	}
	return nil
}

// RequestVote implements raft.Transport.
func (t *idTransport) RequestVote(
	id raft.ServerID, addr raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse,
) error {
	return t.NetworkTransport.RequestVote(id, joinTarget(id, addr), args, resp)
}

// RequestPreVote implements raft.WithPreVote.
func (t *idTransport) RequestPreVote(
	id raft.ServerID, addr raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse,
) error {
	return t.NetworkTransport.RequestPreVote(id, joinTarget(id, addr), args, resp)
}

// InstallSnapshot implements raft.Transport.
func (t *idTransport) InstallSnapshot(
	id raft.ServerID, addr raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader,
) error {
	return t.NetworkTransport.InstallSnapshot(id, joinTarget(id, addr), args, resp, data)
}

// TimeoutNow implements raft.Transport.
func (t *idTransport) TimeoutNow(
	id raft.ServerID, addr raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse,
) error {
	return t.NetworkTransport.TimeoutNow(id, joinTarget(id, addr), args, resp)
}
