package raftstore

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/hashicorp/raft"
)

// Recover makes the node in cfg.Dir a cluster of its own, with everything that its directory holds: for the day on which so
// many of the others are lost for good that the rest has no majority. It needs Dir, NodeID and Advertise, and works while no
// store is open on the directory; sm is used up. Opening the directory afterwards gives a leader.
//
// Run it on one node only, the one with the longest log, and make sure that no other old node ever starts again with its
// directory: those that are kept are emptied and join anew. Commands of unknown outcome that the directory holds become
// applied; commands that only the lost nodes held are lost.
//
// The error wraps ErrEmpty, ErrConfig, ErrNotMember (the directory belongs to a node of another name), ErrCorrupt,
// ErrStateMachine, or the disk's error. After an error Recover may be run again; where the node is alone already it does
// nothing.
func Recover(cfg Config, sm StateMachine) (err error) {
	cfg = cfg.withDefaults()
	if err := cfg.validateIdentity(); err != nil {
		return err
	}
	used, err := HasState(cfg.Dir)
	if err != nil {
		return err
	}
	if !used {
		return fmt.Errorf("%w: %s", ErrEmpty, cfg.Dir)
	}
	log, err := openLog(filepath.Join(cfg.Dir, logFile))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	return recoverAlone(&cfg, log, sm)
}

// Inspect brings sm to the state that Recover would go on with, and changes nothing: the caller can look whether it should.
// sm is used up. It works while no store is open on the directory; the error is one of Recover's.
func Inspect(cfg Config, sm StateMachine) (err error) {
	cfg = cfg.withDefaults()
	if err := cfg.validateIdentity(); err != nil {
		return err
	}
	used, err := HasState(cfg.Dir)
	if err != nil {
		return err
	}
	if !used {
		return fmt.Errorf("%w: %s", ErrEmpty, cfg.Dir)
	}
	log, err := openLog(filepath.Join(cfg.Dir, logFile))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	var fatal error
	a := &applier{sm: sm, wait: newWaiters(), fail: func(err error) { fatal = errors.Join(fatal, err) }}
	if _, err := restoreDisk(&cfg, log, a); err != nil {
		return err
	}
	last, err := log.LastIndex()
	if err != nil {
		return err
	}
	var row raft.Log
	for index := a.applied.load() + 1; index <= last && fatal == nil; index++ {
		if err := log.read(index, &row); err != nil {
			return err
		}
		a.Apply(&row)
	}
	return fatal
}

func recoverAlone(cfg *Config, log *sealedLog, sm StateMachine) error {
	var fatal error
	a := &applier{sm: sm, wait: newWaiters(), fail: func(err error) { fatal = errors.Join(fatal, err) }}
	snapshots, err := restoreDisk(cfg, log, a)
	if err != nil {
		return err
	}
	members, err := newestMembers(log, snapshots)
	if err != nil {
		return err
	}
	if err := wasMember(cfg, members); err != nil {
		return err
	}
	addr, trans := raft.NewInmemTransport(raft.ServerAddress(cfg.Advertise))
	alone := raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: raft.ServerID(cfg.NodeID), Address: addr}}}
	if slices.Equal(members, alone.Servers) {
		return nil
	}
	err = raft.RecoverCluster(raftConfig(cfg, nil), a, log, log, snapshots, trans, alone)
	if err := errors.Join(fatal, err); err != nil {
		return fmt.Errorf("recover %s: %w", cfg.Dir, err)
	}
	return nil
}

// wasMember returns an error when the directory belongs to another node, or to none yet.
func wasMember(cfg *Config, members []raft.Server) error {
	if len(members) == 0 {
		return fmt.Errorf("%w: %s was never taken into a cluster", ErrEmpty, cfg.Dir)
	}
	for _, m := range members {
		if string(m.ID) == cfg.NodeID {
			return nil
		}
	}
	return fmt.Errorf("%w: %s holds the state of a cluster of %v, and not of %s", ErrNotMember, cfg.Dir, ids(members), cfg.NodeID)
}

func ids(members []raft.Server) []raft.ServerID {
	out := make([]raft.ServerID, len(members))
	for i, m := range members {
		out[i] = m.ID
	}
	return out
}

// newestMembers returns the members by the newest configuration on disk, none when there is none. The log was scanned before.
func newestMembers(log *sealedLog, snapshots *soundSnapshots) ([]raft.Server, error) {
	var members []raft.Server
	metas, err := snapshots.List()
	if err != nil {
		return nil, err
	}
	after := uint64(0)
	if len(metas) > 0 {
		members, after = metas[0].Configuration.Servers, metas[0].Index
	}
	last, err := log.LastIndex()
	if err != nil {
		return nil, err
	}
	var row raft.Log
	for index := last; index > after; index-- {
		if err := log.read(index, &row); err != nil {
			return nil, err
		}
		if row.Type == raft.LogConfiguration {
			return raft.DecodeConfiguration(row.Data).Servers, nil
		}
	}
	return members, nil
}
