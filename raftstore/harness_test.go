package raftstore

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"
)

// When raft's main goroutine had to be ended (see sealedLog), raft never answers what was asked before, and whoever asked
// stays until the process ends. One test does that, outside a bubble; in all others the bubble finds such a leftover.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("github.com/hashicorp/raft.(*deferError).Error"),
		goleak.IgnoreAnyFunction("github.com/holdfast-edge/holdfast/raftstore.closedAfter.func1"))
}

// ledger is a state machine that keeps every command it was given. The result of a command is its number, from 1 on.
type ledger struct {
	mu    sync.Mutex // tests read while the store applies
	rows  []ledgerRow
	sum   uint32                             // of the rows
	fault func(m Meta, command []byte) error // nil: no command is refused
	// bends is the log index from which on the state is another one than it should be; 0: never.
	bends uint64
	bent  bool
}

type ledgerRow struct {
	Index   uint64
	Time    time.Time
	Command string
}

func (l *ledger) Apply(m Meta, commands [][]byte) ([]any, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bent = l.bent || l.bends > 0 && m.Index >= l.bends
	results := make([]any, len(commands))
	for i, c := range commands {
		if l.fault != nil {
			if err := l.fault(m, c); err != nil {
				return nil, err
			}
		}
		l.add(ledgerRow{Index: m.Index, Time: m.Time, Command: string(c)})
		results[i] = len(l.rows)
	}
	return results, nil
}

// StateHash implements Hasher.
func (l *ledger) StateHash() [32]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := [32]byte{}
	binary.BigEndian.PutUint32(h[:], l.sum)
	if l.bent {
		h[31] = 1
	}
	return h
}

// add appends a row; the hash grows with the rows, as that of a real state does.
func (l *ledger) add(r ledgerRow) {
	var fixed [16]byte
	binary.BigEndian.PutUint64(fixed[:], r.Index)
	binary.BigEndian.PutUint64(fixed[8:], uint64(r.Time.UnixMilli()))
	l.sum = crc32.Update(crc32.Update(l.sum, castagnoli, fixed[:]), castagnoli, []byte(r.Command))
	l.rows = append(l.rows, r)
}

func (l *ledger) Snapshot() (Snapshot, error) { return ledgerSnapshot(l.all()), nil }

func (l *ledger) Restore(r io.Reader) error {
	var rows []ledgerRow
	d := json.NewDecoder(r)
	if err := d.Decode(&rows); err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("ledger: after the rows: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rows, l.sum = nil, 0
	for _, r := range rows {
		l.add(r)
	}
	return nil
}

func (l *ledger) all() []ledgerRow {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.rows)
}

func (l *ledger) commands() []string {
	var out []string
	for _, r := range l.all() {
		out = append(out, r.Command)
	}
	return out
}

type ledgerSnapshot []ledgerRow

func (s ledgerSnapshot) Persist(w io.Writer) error { return json.NewEncoder(w).Encode(s) }
func (ledgerSnapshot) Release()                    {}

// world is a set of nodes on one memNet. Node ids double as addresses.
type world struct {
	t     testing.TB
	net   *memNet
	ca    *authority
	base  string
	certs map[string]tls.Certificate
	tune  Tuning
	wall  map[string]func() time.Time
	nodes map[string]*node

	join    map[string]bool   // nodes that start without a state
	bends   map[string]uint64 // see ledger
	handler func(id string) func(context.Context, string, uint8, []byte) ([]byte, error)
}

type node struct {
	*Store
	sm *ledger
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	return &world{
		t: tb, net: newMemNet(), ca: newAuthority(tb), base: tb.TempDir(),
		certs: make(map[string]tls.Certificate), wall: make(map[string]func() time.Time), nodes: make(map[string]*node),
		join: make(map[string]bool), bends: make(map[string]uint64),
	}
}

func (w *world) dir(id string) string { return filepath.Join(w.base, id) }

func (w *world) config(id string) Config {
	w.t.Helper()
	cert, ok := w.certs[id]
	if !ok {
		cert = w.ca.issue(w.t, id)
		w.certs[id] = cert
	}
	var handler func(context.Context, string, uint8, []byte) ([]byte, error)
	if w.handler != nil {
		handler = w.handler(id)
	}
	return Config{
		Join: w.join[id], Handler: handler, Dir: w.dir(id), NodeID: id, Listener: w.net.listen(id), Advertise: id, Dial: w.net.dialFrom(id),
		ServerTLS: w.ca.serverTLS(cert), ClientTLS: w.ca.clientTLS(cert), PeerID: commonName, Wall: w.wall[id], Tuning: w.tune,
		Logger: slog.New(slog.NewTextHandler(w.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
}

// commonName is how the tests' certificates name nodes.
func commonName(c tls.ConnectionState) (string, error) {
	return c.PeerCertificates[0].Subject.CommonName, nil
}

// found bootstraps one cluster of all ids.
func (w *world) found(ids ...string) {
	w.t.Helper()
	var members raft.Configuration
	for _, id := range ids {
		members.Servers = append(members.Servers, raft.Server{ID: raft.ServerID(id), Address: raft.ServerAddress(id)})
	}
	for _, id := range ids {
		check(w.t, bootstrap(Config{Dir: w.dir(id), NodeID: id, Advertise: id}, members))
	}
}

func (w *world) start(ids ...string) {
	w.t.Helper()
	for _, id := range ids {
		sm := &ledger{bends: w.bends[id]}
		s, err := Open(w.config(id), sm)
		check(w.t, err)
		w.nodes[id] = &node{Store: s, sm: sm}
	}
}

func (w *world) stop(ids ...string) {
	w.t.Helper()
	for _, id := range ids {
		ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
		check(w.t, w.nodes[id].Shutdown(ctx))
		cancel()
		delete(w.nodes, id)
	}
}

func (w *world) stopAll() {
	w.t.Helper()
	for id := range w.nodes {
		w.stop(id)
	}
}

// crash ends a node as a power cut does for its peers: without a word, and without handing over.
func (w *world) crash(id string) {
	w.t.Helper()
	w.net.isolate(id, true)
	w.stop(id)
	w.net.isolate(id, false)
}

// trio founds and starts a cluster of three and returns its leader.
func (w *world) trio() *node {
	w.t.Helper()
	w.found(trio...)
	w.start(trio...)
	return w.leader(trio...)
}

// leader waits until one of the nodes has announced that it leads.
func (w *world) leader(among ...string) *node {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	found := make(chan *node, len(among))
	var wg sync.WaitGroup
	for _, id := range among {
		n := w.nodes[id]
		wg.Go(func() {
			if awaitLeadership(ctx, n.Store) {
				found <- n
				cancel()
			}
		})
	}
	wg.Wait()
	select {
	case n := <-found:
		return n
	default:
		w.t.Fatal("no leader within 30 s")
		return nil
	}
}

func awaitLeadership(ctx context.Context, s *Store) bool {
	for {
		now, changed := s.Leadership()
		if now.Leader {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// readAnywhere asks for a read point until a leader gives it; a leader that was just cut off may change again.
func (w *world) readAnywhere(among ...string) (*node, uint64) {
	w.t.Helper()
	for range 10 {
		n := w.leader(among...)
		if index, err := n.ReadBarrier(w.t.Context()); err == nil {
			return n, index
		}
	}
	w.t.Fatal("no read point from any leader")
	return nil, 0
}

// propose proposes commands one after the other and returns the last one's index.
func (w *world) propose(n *node, commands ...string) uint64 {
	w.t.Helper()
	var last uint64
	for _, c := range commands {
		ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
		_, index, err := n.Propose(ctx, []byte(c))
		cancel()
		check(w.t, err)
		last = index
	}
	return last
}

// caughtUp waits until the nodes have applied index.
func (w *world) caughtUp(index uint64, ids ...string) {
	w.t.Helper()
	for _, id := range ids {
		ctx, cancel := context.WithTimeout(w.t.Context(), 60*time.Second)
		check(w.t, w.nodes[id].WaitApplied(ctx, index))
		cancel()
	}
}

func numbered(prefix string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("%s-%04d", prefix, i)
	}
	return out
}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func wantError(tb testing.TB, err, target error) {
	tb.Helper()
	if !errors.Is(err, target) {
		tb.Fatalf("error %v, want one that is %v", err, target)
	}
}
