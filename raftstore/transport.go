package raftstore

import (
	"io"
	"strings"

	"github.com/hashicorp/raft"
)

// idTransport makes the stream layer learn which peer is to be dialled. Raft's transport passes only an address to Dial,
// but an address can come to belong to another node, and then TLS must refuse it. So the id travels inside the address:
// each call that may dial replaces the target by "id, line feed, address", which peerStream.Dial splits again. Connection
// pools are thereby kept per id as well.
type idTransport struct {
	*raft.NetworkTransport
}

var (
	_ raft.Transport   = (*idTransport)(nil)
	_ raft.WithPreVote = (*idTransport)(nil)
)

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

// AppendEntries implements raft.Transport.
func (t *idTransport) AppendEntries(
	id raft.ServerID, addr raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse,
) error {
	return t.NetworkTransport.AppendEntries(id, joinTarget(id, addr), args, resp)
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
