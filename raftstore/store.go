package raftstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// observations is how many of raft's observations may queue up; raft drops those beyond it.
const observations = 64

// Store is one running node. Its methods may be called from any goroutine.
//
//	Open ──> running ──(Shutdown)──────────────> closed
//	            └──(fatal error: Done closes)──> failed ──(Shutdown)──> closed
type Store struct {
	// Immutable.
	id        string
	logger    *slog.Logger
	handler   func(ctx context.Context, from string, method uint8, body []byte) ([]byte, error)
	log       *sealedLog
	snapshots *soundSnapshots
	transport *idTransport
	raft      *raft.Raft
	applier   *applier
	batcher   *batcher
	lead      *lead
	calls     *caller
	reads     chan *readRequest // capacity maxReadWaiters: readers for readLoop; ReadBarrier waits beyond it
	changing  chan struct{}     // capacity 1; an element is a change of the members under way
	doubts    chan struct{}     // capacity maxDoubts; an element is a stranger about whom the leader is asked
	committed *committed
	leader    *ledBy
	contacts  *contacts
	heard     *heard
	notify    chan bool             // capacity 1; raft waits when it is full, and pump empties it
	observed  chan raft.Observation // capacity observations; raft drops what does not fit

	ctx     context.Context //nolint:containedctx // ends with stop, for what is asked of peers
	cancel  context.CancelFunc
	answers context.Context //nolint:containedctx // ends with released, for what callers of Propose wait for
	release context.CancelFunc

	up       chan struct{}  // closed when every field above is set; what raft calls may come before
	stop     chan struct{}  // closed when no new work is taken
	released chan struct{}  // closed when waiting callers need wait no longer
	pumpStop chan struct{}  // closed when raft has ended
	loops    sync.WaitGroup // the goroutines that ask raft or peers, from Open to stop
	asking   sync.WaitGroup // others that wait for an answer of raft's, see enter
	pumping  sync.WaitGroup

	forwarded atomic.Uint64          // entries that went to another leader
	told      atomic.Pointer[notice] // the newest one of a leader's notices; nil before the first

	done     chan struct{} // closed by the first fatal error, or at the end of Shutdown
	halted   chan struct{} // closed when one of raft's own goroutines had to be ended, see sealedLog
	haltOnce sync.Once

	shutdownOnce sync.Once
	shutdownErr  error // owned by shutdownOnce

	mu      sync.Mutex
	err     error // guarded by mu: the first fatal error
	closed  bool  // guarded by mu: done is closed
	stopped bool  // guarded by mu: stop is closed
}

// Open starts a node on the state in cfg.Dir. With cfg.Join the directory may be empty: the node then waits until a cluster
// takes it in with AddNode. Open returns when the newest snapshot is restored and the log is checked; the entries after the snapshot are applied while
// the node runs (ReadBarrier and WaitApplied wait for them). sm must be empty and belongs to the store from now on. The
// owner watches Done and calls Shutdown in the end.
//
// The error wraps ErrConfig, ErrEmpty, ErrCorrupt, or the disk's error.
func Open(cfg Config, sm StateMachine) (*Store, error) {
	cfg = cfg.withDefaults()
	s, err := open(&cfg, sm)
	if err != nil && cfg.Listener != nil {
		err = errors.Join(err, ignoreClosed(cfg.Listener.Close()))
	}
	return s, err
}

func open(cfg *Config, sm StateMachine) (*Store, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if err := notEmpty(cfg); err != nil {
		return nil, err
	}
	s := newStore(cfg, sm)
	if err := s.openDisk(cfg); err != nil {
		return nil, err
	}
	if err := s.startRaft(cfg); err != nil {
		return nil, errors.Join(err, s.log.Close())
	}
	s.lead = newLead(s.raft, &s.applier.applied, s.notLeader, s.stop)
	s.calls = newCaller(s.transport.stream)
	close(s.up)
	s.pumping.Go(s.pump)
	s.loops.Go(s.batcher.run)
	s.loops.Go(s.lead.run)
	s.loops.Go(s.readLoop)
	s.loops.Go(s.vitalsLoop)
	s.loops.Go(s.promoteLoop)
	s.transport.stream.start()
	return s, nil
}

// newStore sets up what needs neither disk nor raft.
func newStore(cfg *Config, sm StateMachine) *Store {
	s := &Store{
		id:        cfg.NodeID,
		logger:    cfg.Logger,
		handler:   cfg.Handler,
		committed: new(committed),
		contacts:  &contacts{since: make(map[string]time.Time)},
		heard:     &heard{last: make(map[string]uint64)},
		notify:    make(chan bool, 1),
		observed:  make(chan raft.Observation, observations),
		reads:     make(chan *readRequest, maxReadWaiters),
		changing:  make(chan struct{}, 1),
		doubts:    make(chan struct{}, maxDoubts),
		up:        make(chan struct{}),
		stop:      make(chan struct{}),
		released:  make(chan struct{}),
		pumpStop:  make(chan struct{}),
		done:      make(chan struct{}),
		halted:    make(chan struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.answers, s.release = context.WithCancel(context.Background())
	s.leader = &ledBy{parent: s.answers}
	wait := newWaiters()
	s.applier = &applier{sm: sm, fail: s.fail, wait: wait, members: s.took}
	s.batcher = &batcher{
		wall:  cfg.Wall,
		hand:  s.hand,
		lost:  func() error { return s.notLeader() },
		queue: make(chan *proposal, cfg.QueueLength),
		slots: make(chan struct{}, cfg.InFlight),
		stop:  s.stop,
		ended: s.released,
		wait:  wait,
	}
	return s
}

// notEmpty refuses a directory without a node's state, unless the node is to join with it: a voter that lost its state would
// vote a second time where it has voted already.
func notEmpty(cfg *Config) error {
	used, err := HasState(cfg.Dir)
	if err != nil || used || cfg.Join {
		return err
	}
	return fmt.Errorf("%w: %s; if this node was a member, remove it from the cluster, then join it again; if it is the first one of "+
		"a new cluster, bootstrap it", ErrEmpty, cfg.Dir)
}

// took takes in a committed configuration.
func (s *Store) took(index uint64, servers []raft.Server) {
	if !s.committed.note(index, servers) {
		return
	}
	select {
	case <-s.up:
		s.membersChanged()
	default: // nobody was admitted yet
	}
}

// openDisk opens the log and the snapshots, restores the state machine and checks the log. On error nothing stays open.
func (s *Store) openDisk(cfg *Config) error {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("create node directory: %w", err)
	}
	log, err := openLog(filepath.Join(cfg.Dir, logFile))
	if err != nil {
		return err
	}
	snapshots, err := restoreDisk(cfg, log, s.applier)
	if err != nil {
		return errors.Join(err, log.Close())
	}
	s.log, s.snapshots = log, snapshots
	return nil
}

func restoreDisk(cfg *Config, log *sealedLog, a *applier) (*soundSnapshots, error) {
	snapshots, err := openSnapshots(cfg.Dir, cfg.Logger)
	if err != nil {
		return nil, err
	}
	snapshots.members = a.members
	index, err := snapshots.restoreNewest(a, cfg.Logger)
	if err != nil {
		return nil, err
	}
	if err := log.scan(index); err != nil {
		return nil, err
	}
	return snapshots, nil
}

// startRaft starts the transport and raft. On error nothing of them goes on.
func (s *Store) startRaft(cfg *Config) error {
	cache, err := raft.NewLogCache(cachedEntries, s.log)
	if err != nil {
		return fmt.Errorf("set up the log cache: %w", err)
	}
	s.log.fail, s.log.halted = s.fail, s.halt
	stream := newPeerStream(cfg)
	s.transport = newIDTransport(cfg, stream)
	s.transport.mayVote = func() bool { return len(s.members()) > 0 }
	s.transport.appended = s.putNotice
	stream.hooks = streamHooks{
		greet:   s.greet,
		admits:  s.mayDial,
		serve:   map[byte]func(*peerConn){kindRaft: s.transport.serveRaft, kindCall: s.serveCalls},
		removed: s.removed,
	}
	var wg sync.WaitGroup
	// In a goroutine of its own, because a fault of the disk may end it, see sealedLog.
	wg.Go(func() {
		s.raft, err = raft.NewRaft(raftConfig(cfg, s.notify), s.applier, cache, s.log, s.snapshots, s.transport)
	})
	wg.Wait()
	if err == nil && s.raft == nil {
		err = s.Err()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("start raft: %w", err), s.transport.Close())
	}
	s.raft.RegisterObserver(raft.NewObserver(s.observed, false, wanted))
	return nil
}

// pump takes everything that raft tells without being asked. It does nothing that blocks, because raft waits for it.
func (s *Store) pump() {
	for {
		select {
		case leading := <-s.notify:
			s.leadershipChanged(leading)
		case o := <-s.observed:
			// Raft tells of an election before the new leader observes anything, so that what lies in notify came first.
			select {
			case leading := <-s.notify:
				s.leadershipChanged(leading)
			default:
			}
			if seen, ok := o.Data.(raft.LeaderObservation); ok {
				s.leader.changed(string(seen.LeaderID))
			}
			s.contacts.note(o)
		case <-s.pumpStop:
			s.lead.observe(false)
			return
		}
	}
}

func (s *Store) leadershipChanged(leading bool) {
	s.contacts.reset()
	s.lead.observe(leading)
}

// Done is closed when the node cannot go on (Err then says why, and what to do) or has been shut down.
func (s *Store) Done() <-chan struct{} { return s.done }

// Err returns the fatal error that stopped the node, or nil.
func (s *Store) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// fail records a fatal error; only the first one counts.
func (s *Store) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.err = err
	s.closed = true
	s.applier.failed.Store(true)
	close(s.done)
	s.logger.Error("the node stops", "node", s.id, "error", err)
}

// halt notes that one of raft's own goroutines ended early, so that raft may leave questions unanswered.
func (s *Store) halt() { s.haltOnce.Do(func() { close(s.halted) }) }

// finish closes done after a shutdown.
func (s *Store) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.done)
	}
}

// running returns nil as long as the node takes work.
func (s *Store) running() error {
	select {
	case <-s.stop:
		return s.closedError()
	case <-s.done:
		return s.closedError()
	default:
		return nil
	}
}

// enter announces a question to raft outside of loops, which Shutdown then waits for; asking.Done ends it. It returns false
// when the node takes no more work.
func (s *Store) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped || s.closed {
		return false
	}
	s.asking.Add(1)
	return true
}

// notLeader says where the leader may be. A leader that is handing over is no help, so it does not name itself.
func (s *Store) notLeader() *NotLeaderError {
	addr, id := s.raft.LeaderWithID()
	if string(id) == s.id {
		return &NotLeaderError{}
	}
	return &NotLeaderError{LeaderID: string(id), LeaderAddr: string(addr)}
}

func (s *Store) closedError() error {
	if err := s.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return ErrClosed
}

// Snapshot writes a snapshot now, whatever the thresholds say, and shortens the log. It returns nil when nothing was
// applied since the last one.
func (s *Store) Snapshot() error {
	select {
	case <-s.done:
		return s.closedError()
	default:
	}
	have, err := s.snapshots.List()
	if err != nil {
		return err
	}
	if len(have) > 0 && have[0].Index >= s.applier.position().index {
		return nil
	}
	err = s.raft.Snapshot().Error()
	switch {
	case err == nil, errors.Is(err, raft.ErrNothingNewToSnapshot):
		return nil
	case errors.Is(err, raft.ErrRaftShutdown):
		return s.closedError()
	default:
		return fmt.Errorf("take a snapshot: %w", err)
	}
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
