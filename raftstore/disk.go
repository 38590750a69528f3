package raftstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
)

const (
	logFile = "raft.db" // log, term and vote; snapshots lie beside it in "snapshots"

	// keepSnapshots: one to use, one to fall back on when the newest turns out damaged.
	keepSnapshots = 2

	// cachedEntries lets followers that are up to date be served, and entries be applied, without reading the disk.
	cachedEntries = 512

	// lockTimeout is how long to wait for the file lock of another process, which may just be ending.
	lockTimeout = 5 * time.Second
	lockRetry   = 50 * time.Millisecond
)

var errLocked = errors.New("another process uses it")

// openLog opens or creates the log at path.
func openLog(path string) (*sealedLog, error) {
	var bolt *raftboltdb.BoltStore
	err := guard(func() (err error) {
		bolt, err = raftboltdb.New(raftboltdb.Options{
			Path: path,
			BoltOptions: &bbolt.Options{
				Timeout: lockTimeout,
				// After a large truncation the free list is long, and writing it with every commit quadruples a commit's
				// time; it is rebuilt at the next open instead, at some 40 ms for 400 MB.
				NoFreelistSync: true,
				FreelistType:   bbolt.FreelistMapType,
				OpenFile:       openChecked,
			},
			MsgpackUseNewTimeFormat: true,
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open log %s: %w", path, err)
	}
	return &sealedLog{bolt: bolt}, nil
}

// openChecked opens the log's file for bbolt: locked, so that nobody changes it, and with sound pages. bbolt takes the
// same lock again, which succeeds because it does so through the same file.
func openChecked(path string, flag int, mode os.FileMode) (_ *os.File, err error) {
	f, err := os.OpenFile(path, flag, mode) //nolint:gosec // the operator's own directory
	if err != nil {
		return nil, err //nolint:wrapcheck // openLog says what was opened
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if err := lockFile(f); err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("look at the file: %w", err)
	}
	if info.Size() == 0 {
		return f, nil // bbolt is about to set it up
	}
	return f, checkPages(f)
}

// lockFile takes the lock that keeps a second process out.
func lockFile(f *os.File) error {
	ctx, cancel := context.WithTimeout(context.Background(), lockTimeout)
	defer cancel()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return err //nolint:wrapcheck // openLog says what was opened
		}
		if !pause(ctx, lockRetry) {
			return errLocked
		}
	}
}

// closeMark is written last of all.
var closeMark = []byte("closed")

// Close closes the file. bbolt keeps two roots and starts from the older one when the newer one is damaged, which would
// silently take back the last commit. One commit more, of no importance, and both roots lead to all that matters.
func (s *sealedLog) Close() error {
	err := guard(func() error { return s.bolt.Set(closeMark, nil) })
	return errors.Join(err, s.bolt.Close())
}

// HasState says whether dir holds a node's state, that is, whether Bootstrap or Open ran there. It opens nothing, so it
// may be asked while a store is open.
func HasState(dir string) (bool, error) {
	_, err := os.Stat(filepath.Join(dir, logFile))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for a node's state: %w", err)
	}
	return true, nil
}

// Bootstrap founds a cluster whose only voter is this node. It is called once in a cluster's life, before the first
// Open; every other node is added by the cluster. It needs Dir, NodeID and Advertise, and returns ErrBootstrapped when
// Dir is in use. When it returns an error, Dir holds no state.
func Bootstrap(cfg Config) error {
	self := raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(cfg.NodeID), Address: raft.ServerAddress(cfg.Advertise)}
	return bootstrap(cfg, raft.Configuration{Servers: []raft.Server{self}})
}

// bootstrap writes the first log entry, the cluster's members, into a fresh log. The file gets its name only when it is
// complete: a log with a term and no members would be neither fresh nor of use.
func bootstrap(cfg Config, members raft.Configuration) error {
	cfg = cfg.withDefaults()
	if err := cfg.validateIdentity(); err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("create node directory: %w", err)
	}
	used, err := HasState(cfg.Dir)
	if err != nil {
		return err
	}
	if used {
		return fmt.Errorf("%w: %s", ErrBootstrapped, cfg.Dir)
	}
	final := filepath.Join(cfg.Dir, logFile)
	fresh := final + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove a bootstrap's remains: %w", err)
	}
	if err := writeFirstEntry(&cfg, fresh, members); err != nil {
		return errors.Join(fmt.Errorf("bootstrap: %w", err), os.Remove(fresh))
	}
	if err := os.Rename(fresh, final); err != nil {
		return fmt.Errorf("bootstrap: %w", err)
	}
	return syncDir(cfg.Dir)
}

func writeFirstEntry(cfg *Config, path string, members raft.Configuration) error {
	log, err := openLog(path)
	if err != nil {
		return err
	}
	snapshots := raft.NewInmemSnapshotStore() // a new node has none, which is all that raft asks
	err = raft.BootstrapCluster(raftConfig(cfg, nil), log, log, snapshots, nil, members)
	return errors.Join(err, log.Close())
}

// syncDir makes the names in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // the operator's own directory
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// soundSnapshots is a snapshot store that conceals the snapshots that proved damaged, so that raft starts from the one
// that the state machine was restored from.
type soundSnapshots struct {
	*raft.FileSnapshotStore
	damaged map[string]bool                           // by id; written only while opening
	members func(index uint64, servers []raft.Server) // takes in a committed configuration; nil: nobody does
}

// Open implements raft.SnapshotStore.
func (s *soundSnapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, src, err := s.FileSnapshotStore.Open(id)
	if err != nil {
		return nil, nil, fmt.Errorf("open snapshot %s: %w", id, err)
	}
	if s.members != nil {
		s.members(meta.ConfigurationIndex, meta.Configuration.Servers)
	}
	return meta, src, nil
}

func openSnapshots(dir string, logger *slog.Logger) (*soundSnapshots, error) {
	store, err := raft.NewFileSnapshotStoreWithLogger(dir, keepSnapshots, newRaftLogger(logger))
	if err != nil {
		return nil, fmt.Errorf("open snapshots: %w", err)
	}
	return &soundSnapshots{FileSnapshotStore: store, damaged: make(map[string]bool)}, nil
}

// List implements raft.SnapshotStore, newest first.
func (s *soundSnapshots) List() ([]*raft.SnapshotMeta, error) {
	all, err := s.FileSnapshotStore.List()
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	var sound []*raft.SnapshotMeta
	for _, m := range all {
		if !s.damaged[m.ID] {
			sound = append(sound, m)
		}
	}
	return sound, nil
}

// restoreNewest restores a's state machine from the newest sound snapshot and returns the log index up to which that
// counts, 0 when there is no snapshot. Damaged snapshots are passed over; whether the log bridges the way from an older
// one is for sealedLog.scan to say. A snapshot that is sound, but that the state machine refuses, is an error: an older
// one would only hide that this program cannot read the state.
func (s *soundSnapshots) restoreNewest(a *applier, logger *slog.Logger) (uint64, error) {
	metas, err := s.List()
	if err != nil {
		return 0, err
	}
	var damage error
	for _, m := range metas {
		err := s.restoreOne(a, m.ID)
		if err == nil {
			// Entries that only raft sees may lie between the state machine's last one and the snapshot's end.
			a.applied.advance(m.Index)
			return m.Index, nil
		}
		if !errors.Is(err, ErrCorrupt) {
			return 0, err
		}
		logger.Error("snapshot is damaged, trying the one before", "snapshot", m.ID, "error", err)
		s.damaged[m.ID] = true
		damage = err
	}
	if damage != nil {
		return 0, fmt.Errorf("no snapshot is sound; remove this node from the cluster, empty its data directory and join it again "+
			"(a cluster of one: restore its backup): %w", damage)
	}
	return 0, nil
}

func (s *soundSnapshots) restoreOne(a *applier, id string) (err error) {
	_, src, err := s.Open(id)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	return a.restore(src)
}

// raftConfig is how raft is set up on every node.
func raftConfig(cfg *Config, notify chan<- bool) *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(cfg.NodeID)
	c.HeartbeatTimeout = cfg.HeartbeatTimeout
	c.ElectionTimeout = cfg.ElectionTimeout
	c.LeaderLeaseTimeout = cfg.HeartbeatTimeout / 2
	// An idle leader tells its followers of a commit after one to two of these; those that ask it something learn it from
	// the answer, see notice. 20 ms by default: some fifty small messages a second to each.
	c.CommitTimeout = max(cfg.HeartbeatTimeout/50, time.Millisecond)
	// Sixteen full entries are 8 MiB, which a link of 7 Mbit/s carries within the transport's deadline.
	c.MaxAppendEntries = maxInFlight
	// Room for this node's entries in flight, so that Apply does not block the batcher; forwarded ones wait their turn.
	c.BatchApplyCh = true
	c.SnapshotInterval = cfg.SnapshotInterval
	c.SnapshotThreshold = cfg.SnapshotThreshold
	c.TrailingLogs = cfg.TrailingLogs
	c.NotifyCh = notify
	c.Logger = newRaftLogger(cfg.Logger)
	c.NoLegacyTelemetry = true
	// Open restores the state itself, see soundSnapshots.restoreNewest.
	c.NoSnapshotRestoreOnStart = true
	// A node that raft shuts down on its own leaves futures unanswered; Shutdown is the store's business.
	c.ShutdownOnRemove = false
	return c
}
