package raftstore

import (
	"errors"
	"fmt"
)

var (
	// ErrNotLeader says that this node does not lead the cluster, so nothing was proposed or read. The error that wraps
	// it is a *NotLeaderError with a hint where the leader is.
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
