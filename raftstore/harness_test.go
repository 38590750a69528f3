package raftstore

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
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
	fault func(m Meta, command []byte) error // nil: no command is refused
}

type ledgerRow struct {
	Index   uint64
	Time    time.Time
	Command string
}

func (l *ledger) Apply(m Meta, commands [][]byte) ([]any, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	results := make([]any, len(commands))
	for i, c := range commands {
		if l.fault != nil {
			if err := l.fault(m, c); err != nil {
				return nil, err
			}
		}
		l.rows = append(l.rows, ledgerRow{Index: m.Index, Time: m.Time, Command: string(c)})
		results[i] = len(l.rows)
	}
	return results, nil
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
	l.rows = rows
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

// memNet is a network of pipes between named hosts. A host that is cut reaches nobody and is reached by nobody.
type memNet struct {
	mu        sync.Mutex
	listeners map[string]*memListener
	conns     map[*memConn]struct{}
	cut       map[string]bool
}

func newMemNet() *memNet {
	return &memNet{listeners: make(map[string]*memListener), conns: make(map[*memConn]struct{}), cut: make(map[string]bool)}
}

type memListener struct {
	net   *memNet
	addr  peerAddr
	queue chan net.Conn
	once  sync.Once
	done  chan struct{}
}

type memConn struct {
	net.Conn
	net           *memNet
	local, remote peerAddr
}

func (c *memConn) LocalAddr() net.Addr  { return c.local }
func (c *memConn) RemoteAddr() net.Addr { return c.remote }
func (c *memConn) Close() error {
	c.net.mu.Lock()
	delete(c.net.conns, c)
	c.net.mu.Unlock()
	return c.Conn.Close()
}

var errUnreachable = errors.New("memnet: unreachable")

func (n *memNet) listen(addr string) *memListener {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &memListener{net: n, addr: peerAddr(addr), queue: make(chan net.Conn), done: make(chan struct{})}
	n.listeners[addr] = l
	return l
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Addr() net.Addr { return l.addr }
func (l *memListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (n *memNet) dialFrom(from string) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		n.mu.Lock()
		l, ok := n.listeners[addr]
		if !ok || n.cut[from] || n.cut[addr] {
			n.mu.Unlock()
			return nil, errUnreachable
		}
		a, b := net.Pipe()
		ours := &memConn{Conn: a, net: n, local: peerAddr(from), remote: peerAddr(addr)}
		theirs := &memConn{Conn: b, net: n, local: peerAddr(addr), remote: peerAddr(from)}
		n.conns[ours], n.conns[theirs] = struct{}{}, struct{}{}
		n.mu.Unlock()
		select {
		case l.queue <- theirs:
			return ours, nil
		case <-l.done:
		case <-ctx.Done():
		}
		return nil, errors.Join(errUnreachable, ours.Close(), theirs.Close())
	}
}

// isolate cuts host off, or lets it back.
func (n *memNet) isolate(host string, cut bool) {
	n.mu.Lock()
	n.cut[host] = cut
	var ended []*memConn
	for c := range n.conns {
		if cut && (string(c.local) == host || string(c.remote) == host) {
			ended = append(ended, c)
		}
	}
	n.mu.Unlock()
	for _, c := range ended {
		_ = c.Conn.Close()
	}
}

// authority issues certificates whose common name is the node's id.
type authority struct {
	pool *x509.CertPool
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test root"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(10000 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	check(t, err)
	cert, err := x509.ParseCertificate(der)
	check(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &authority{pool: pool, cert: cert, key: key}
}

func (a *authority) issue(t testing.TB, id string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: id}, DNSNames: []string{id},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(10000 * time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	check(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a *authority) serverTLS(cert tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: a.pool,
	}
}

func (a *authority) clientTLS(cert tls.Certificate) func(string) *tls.Config {
	return func(id string) *tls.Config {
		return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, RootCAs: a.pool, ServerName: id}
	}
}

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
}

type node struct {
	*Store
	sm *ledger
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return &world{
		t: t, net: newMemNet(), ca: newAuthority(t), base: t.TempDir(),
		certs: make(map[string]tls.Certificate), wall: make(map[string]func() time.Time), nodes: make(map[string]*node),
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
	return Config{
		Dir: w.dir(id), NodeID: id, Listener: w.net.listen(id), Advertise: id, Dial: w.net.dialFrom(id),
		ServerTLS: w.ca.serverTLS(cert), ClientTLS: w.ca.clientTLS(cert), Wall: w.wall[id], Tuning: w.tune,
		Logger: slog.New(slog.NewTextHandler(w.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
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
		sm := &ledger{}
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

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantError(t testing.TB, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("error %v, want one that is %v", err, target)
	}
}
