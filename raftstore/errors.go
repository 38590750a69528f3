package raftstore

import (
	"errors"
	"fmt"
)

var (
	// ErrNotLeader says that this node does not lead the cluster, or that no leader was found in time, so nothing was
	// proposed, read or changed. The error that wraps it is a *NotLeaderError with a hint where the leader is.
	ErrNotLeader = errors.New("raftstore: this node is not the leader")

	// ErrUnknownOutcome says that a command was handed to consensus and that nobody can tell yet whether it will be
	// applied. The caller repeats it under the same idempotency key, or reads the state to find out.
	ErrUnknownOutcome = errors.New("raftstore: the command may or may not have been applied")

	// ErrClosed says that the store is shutting down, was shut down, or stopped after a fatal error (which is then
	// wrapped beside it). Nothing was proposed unless the error is ErrUnknownOutcome too.
	ErrClosed = errors.New("raftstore: closed")

	// ErrTooLarge says that a command is longer than MaxCommand. It was not proposed.
	ErrTooLarge = errors.New("raftstore: command too large")

	// ErrCorrupt says that something on disk is not what was written there. The error that wraps it is a *CorruptError
	// when a log entry is meant.
	ErrCorrupt = errors.New("raftstore: stored data is damaged")

	// ErrStorage says that a write to the node's disk did not succeed, so that the node can promise nothing any more.
	ErrStorage = errors.New("raftstore: the node's storage failed")

	// ErrStateMachine says that the state machine refused an entry or broke its contract.
	ErrStateMachine = errors.New("raftstore: the state machine cannot go on")

	// ErrBootstrapped says that a directory holds a node's state already, so it cannot found a new cluster.
	ErrBootstrapped = errors.New("raftstore: the directory already holds a node's state")

	// ErrEmpty says that a directory holds no node's state and that Config.Join does not allow that.
	ErrEmpty = errors.New("raftstore: the directory holds no node's state")

	// ErrUnreachable says that a peer call got no answer: the peer is not a member, or could not be reached in time, or the
	// connection broke. Whether the peer took the call in is not known.
	ErrUnreachable = errors.New("raftstore: the peer did not answer")

	// ErrMemberExists says that the id or the address of a node to be added belongs to another member.
	ErrMemberExists = errors.New("raftstore: a member has this id or this address already")

	// ErrNotMember says that a node is not among those that an operation could be about.
	ErrNotMember = errors.New("raftstore: no such member")

	// ErrLastVoter says that the node to be removed is the only voter.
	ErrLastVoter = errors.New("raftstore: the last voter cannot be removed")

	// ErrRemoved says that this node was removed from the cluster.
	ErrRemoved = errors.New("raftstore: this node was removed from the cluster")

	// ErrDiverged says that this node's state differs from that of the majority.
	ErrDiverged = errors.New("raftstore: this node's state differs from the majority's")

	// ErrConfig says that a Config cannot be used; the wrapping error names the field.
	ErrConfig = errors.New("raftstore: bad configuration")
)

// NotLeaderError is the typed form of ErrNotLeader.
type NotLeaderError struct {
	LeaderID   string // empty: no leader is known at present; try again after an election (a few seconds)
	LeaderAddr string // the address that the leader's peers dial; empty with LeaderID
}

// Error implements error.
func (e *NotLeaderError) Error() string {
	if e.LeaderID == "" {
		return ErrNotLeader.Error() + ", and no leader is known: try again in a few seconds"
	}
	return fmt.Sprintf("%v: ask %s at %s", ErrNotLeader, e.LeaderID, e.LeaderAddr)
}

// Is makes errors.Is(err, ErrNotLeader) hold.
func (e *NotLeaderError) Is(target error) bool { return target == ErrNotLeader }

// CorruptError is the typed form of ErrCorrupt for one log entry.
type CorruptError struct {
	Index  uint64 // the entry's log index
	Reason error  // what is wrong with it
}

// Error implements error. It ends with what the operator should do, because it is usually the last line of the log.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("%v: log entry %d: %v; check this node's disk, then remove the node from the cluster, "+
		"empty its data directory and join it again (a cluster of one: restore its backup)", ErrCorrupt, e.Index, e.Reason)
}

// Is makes errors.Is(err, ErrCorrupt) hold.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

// Unwrap returns the reason.
func (e *CorruptError) Unwrap() error { return e.Reason }

// RemoteError is what the handler of a peer call answered instead of a body.
type RemoteError struct {
	Node   string // the node that was called
	Method uint8
	Text   string // the handler's error, cut to maxErrorText bytes
}

// Error implements error.
func (e *RemoteError) Error() string {
	return fmt.Sprintf("raftstore: %s answered call %d: %s", e.Node, e.Method, e.Text)
}
