package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-edge/holdfast/core"
	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/history"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/internal/floor"
	"github.com/holdfast-edge/holdfast/internal/floor/proc"
	"github.com/holdfast-edge/holdfast/raftstore"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

const (
	// fillSites is over how many sites the devices are spread that nobody plays.
	fillSites = 50
	// fillChunk is how many devices are put into the registry at a time, and fillBatch how many share a command.
	fillChunk = 2000
	fillBatch = 250
	// fillAge is how long ago the devices were enrolled: long enough that no retry of it is answered any more.
	fillAge = 72 * time.Hour
	// certBytes is the size of a device's certificate in this fleet.
	certBytes = 476
)

// fillConfig asks for a registry with so many devices, in the directory of the first node of a core.
type fillConfig struct {
	Core    coreConfig
	Devices int
	Passed  int // small entries before each reading of the heap
}

// filled is what the registry of a node takes, as live heap in bytes: without devices, just after they were enrolled, and
// when their enrollments can no longer be repeated. Restored is the last without anything else of the node, as read from a
// snapshot.
type filled struct {
	Devices                int
	Empty, Enrolled, Later uint64
	Restored               uint64
	Forgetting             time.Duration // of the one command that forgets all those enrollments
	Entries                uint64        // of the log
}

// fillRegistry makes the first node's directory with all devices in its log.
func (w *world) fillRegistry(ctx context.Context) (err error) {
	cfg := fillConfig{Core: w.cores[0].coreConfig, Devices: w.filled, Passed: w.passed}
	child, err := floor.StartChild(ctx, floor.ChildConfig{Role: roleFill, CPU: proc.AnyCPU, Config: cfg})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, child.Close()) }()
	return child.Ask(ctx, commandFill, &w.fill)
}

// commandFill makes a filler do its work; answers filled.
const commandFill = "fill"

// filler is a node of the core reduced to its log, its registry and its history: what it commits is what a core would
// commit, without devices, gateways and operators who ask for it.
type filler struct {
	cfg   fillConfig
	store *raftstore.Store
	log   *history.Store
	key   *ecdsa.PrivateKey

	state *registry.State // owned by the store's apply goroutine

	clock atomic.Int64                  // how far behind the wall clock it is, in nanoseconds
	view  atomic.Pointer[registry.View] // the newest; nil before the first
}

// openFill makes the fleet in the past.
func openFill(ctx context.Context, config json.RawMessage) (floor.Service, error) {
	cfg, err := decode[fillConfig](config)
	if err != nil {
		return nil, err
	}
	f := &filler{cfg: cfg, state: registry.New()}
	f.clock.Store(int64(fillAge))
	if f.key, err = ident.NewKey(); err != nil {
		return nil, err
	}
	c := cfg.Core.config()
	c.Wall = f.wall
	if err := core.Init(ctx, c); err != nil {
		return nil, err
	}
	if f.log, err = history.Open(filepath.Join(c.DataDir, "history"), history.Options{Logger: c.Log}); err != nil { //nolint:contextcheck // a file or two
		return nil, err
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.Core.Cluster)
	if err != nil {
		return nil, errors.Join(err, f.log.Close())
	}
	f.store, err = raftstore.Open(raftstore.Config{
		Dir: filepath.Join(c.DataDir, "raft"), NodeID: cfg.Core.Name, Listener: ln, Advertise: cfg.Core.Cluster,
		Dial:      func(context.Context, string) (net.Conn, error) { return nil, errAlone },
		ServerTLS: &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAndVerifyClientCert},
		ClientTLS: func(string) *tls.Config { return &tls.Config{MinVersion: tls.VersionTLS13} },
		Wall:      f.wall, Logger: c.Log, Tuning: raftstore.Tuning{TrailingLogs: 1},
	}, f)
	if err != nil {
		return nil, errors.Join(err, f.log.Close())
	}
	return f, nil
}

var errAlone = errors.New("this node has no others")

func (f *filler) wall() time.Time { return time.Now().Add(-time.Duration(f.clock.Load())) }

// Apply implements raftstore.StateMachine, as a core node does.
func (f *filler) Apply(m raftstore.Meta, commands [][]byte) ([]any, error) {
	eff, err := f.state.Apply(m.Index, m.Time, commands)
	if err != nil {
		return nil, err
	}
	recs := make([]history.Record, len(eff.Records))
	for i, x := range eff.Records {
		recs[i] = history.Record{
			Index: m.Index, N: uint32(i), Time: m.Time, Kind: history.Kind(x.Kind), Stream: history.StreamID(x.Stream), Data: x.Data,
		}
	}
	if err := f.log.Append(recs); err != nil {
		return nil, err
	}
	f.log.Applied(m.Index)
	v := f.state.View()
	f.view.Store(&v)
	return eff.Results, nil
}

// Snapshot implements raftstore.StateMachine.
func (f *filler) Snapshot() (raftstore.Snapshot, error) {
	return snapshot{f.state.View()}, f.log.Sync()
}

// Restore implements raftstore.StateMachine. There is nothing to restore: the directory was made a moment ago.
func (f *filler) Restore(io.Reader) error { return errAlone }

type snapshot struct{ registry.View }

// Release implements raftstore.Snapshot.
func (snapshot) Release() {}

// Do implements floor.Service.
func (f *filler) Do(ctx context.Context, command string) (any, error) {
	if command != commandFill {
		return nil, fmt.Errorf("%w: %s", floor.ErrUnknownCommand, command)
	}
	return f.fill(ctx)
}

// Close implements floor.Service.
func (f *filler) Close() error {
	return errors.Join(f.store.Shutdown(context.Background()), f.log.Close())
}

// propose commits a command that must not be refused.
func (f *filler) propose(ctx context.Context, c command.Command) error {
	b, err := command.Encode(c)
	if err != nil {
		return err
	}
	res, _, err := f.store.Propose(ctx, b)
	if err != nil {
		return err
	}
	if refused, ok := res.(error); ok {
		return fmt.Errorf("%T: %w", c, refused)
	}
	return nil
}

// fill puts the devices into the registry, and reads the heap before, after, and when their enrollments are forgotten.
func (f *filler) fill(ctx context.Context) (out filled, err error) {
	out.Devices = f.cfg.Devices
	if err := f.pass(ctx); err != nil {
		return out, err
	}
	out.Empty = liveHeap()
	tokens := make([]seal.TokenID, fillSites)
	for i := range tokens {
		tokens[i] = seal.TokenID{byte(i + 1)}
		if err := f.propose(ctx, fillToken(tokens[i], fillSite(i), f.cfg.Devices)); err != nil {
			return out, err
		}
	}
	for from := 0; from < f.cfg.Devices; from += fillChunk {
		if err := f.chunk(ctx, tokens, from, min(from+fillChunk, f.cfg.Devices)); err != nil {
			return out, fmt.Errorf("devices from %d on: %w", from, err)
		}
	}
	if err := f.pass(ctx); err != nil {
		return out, err
	}
	out.Enrolled = liveHeap()
	f.clock.Store(0)
	begin := time.Now()
	if err := f.propose(ctx, fillToken(seal.TokenID{255}, fillSite(0), 1)); err != nil {
		return out, err
	}
	out.Forgetting = time.Since(begin)
	if err := f.pass(ctx); err != nil {
		return out, err
	}
	out.Later = liveHeap()
	st := f.store.Status()
	out.Entries = st.AppliedIndex
	restored, err := f.restored()
	if err != nil {
		return out, err
	}
	if n := restored.View().DeviceCount(); n != f.cfg.Devices {
		return out, fmt.Errorf("%d devices, want %d: %w", n, f.cfg.Devices, errFill)
	}
	out.Restored = liveHeap() - out.Later
	runtime.KeepAlive(restored)
	return out, f.store.Snapshot() // with which the node starts, and which the others get
}

// restored is a second registry with the same content, as a node has it that starts with a snapshot.
func (f *filler) restored() (s *registry.State, err error) {
	r, w := io.Pipe()
	var g errgroup.Group
	g.Go(func() error { return w.CloseWithError(f.view.Load().Persist(w)) })
	s, err = registry.Restore(r)
	return s, errors.Join(err, r.Close(), g.Wait())
}

var errFill = errors.New("the registry is not as filled")

// liveHeap is what is in use after a collection, in bytes.
func liveHeap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// pass commits small entries until no large one is in what the log keeps in memory.
func (f *filler) pass(ctx context.Context) error {
	for i := range f.cfg.Passed {
		if err := f.propose(ctx, &command.SetSite{By: admin(), Site: fillSite(0), IntervalMS: uint32(30_000 + i%2*1000)}); err != nil {
			return err
		}
	}
	return nil
}

// admin is the operator that init makes.
func admin() command.Actor { return command.Actor{Operator: "op-1"} }

func fillSite(i int) string { return fmt.Sprintf("plant-%d", 100+i%fillSites) }

func fillToken(id seal.TokenID, site string, uses int) *command.CreateToken {
	return &command.CreateToken{
		By: admin(), ID: id, Public: make([]byte, 32), Kind: seal.KindDevice, Site: site, Tags: map[string]string{"line": "3"},
		TTLMS: time.Hour.Milliseconds(), Uses: uint32(uses), //nolint:gosec // G115: a number of devices
	}
}

// chunk enrolls devices, has them register, and reports them online.
func (f *filler) chunk(ctx context.Context, tokens []seal.TokenID, from, to int) error {
	g, gctx := errgroup.WithContext(ctx)
	for i := from; i < to; i++ {
		g.Go(func() error { return f.propose(gctx, fillEnroll(tokens[i%fillSites], i, f.wall())) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	g, gctx = errgroup.WithContext(ctx)
	for begin := from; begin < to; begin += fillBatch {
		g.Go(func() error { return f.batch(gctx, begin, min(begin+fillBatch, to)) })
	}
	return g.Wait()
}

// batch commits the statements of a few devices and that they came online.
func (f *filler) batch(ctx context.Context, from, to int) error {
	stated := &command.Statements{}
	online := &command.Presence{Gateway: fillSite(0) + "/" + gatewayName}
	for i := from; i < to; i++ {
		s, err := f.statement(i)
		if err != nil {
			return err
		}
		now := f.wall().UnixMilli()
		stated.Items = append(stated.Items, command.Statement{Sealed: s.Sealed, Gateway: online.Gateway, GatewayMS: now, Device: fillDevice(i)})
		online.Items = append(online.Items, command.PresenceItem{
			Device: fillDevice(i), Online: true, AtMS: now, LastMS: now, IntervalMS: intervalMS,
			Attach: &command.Attach{Start: 1, Run: uint64(i), Session: 1, Epoch: 1, Lowest: 2, Highest: 1, Chain: s.Chain}, //nolint:gosec // G115: a number of devices
		})
	}
	if err := f.propose(ctx, stated); err != nil {
		return err
	}
	return f.propose(ctx, online)
}

// fillDevice is the id of a device, spread over all ids.
func fillDevice(i int) ident.DeviceID {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(i))) //nolint:gosec // G115: a number of devices
	return ident.DeviceID(sum[:16])
}

// fillSPKI stands for a device's public key, of the size of a P-256 key.
func fillSPKI(i int) []byte {
	b := make([]byte, 91)
	binary.BigEndian.PutUint64(b[27:], uint64(i)+1) //nolint:gosec // G115: a number of devices
	return b
}

func fillEnroll(token seal.TokenID, i int, now time.Time) *command.Enroll {
	return &command.Enroll{
		Token: token, Kind: seal.KindDevice, Device: fillDevice(i), SPKI: fillSPKI(i), Cert: make([]byte, certBytes),
		Via: "spiffe://" + fleetName + "/gateway/" + fillSite(0) + "/" + gatewayName, NotAfter: now.Add(ident.LeafLifetime).UnixMilli(),
	}
}

// statement is a device's registration. All are signed with one key: only what is not in the log yet is verified.
func (f *filler) statement(i int) (*seal.SealedStatement, error) {
	p := profile()
	p.Hints = wire.Hints{Serial: fmt.Sprintf("1421221%06d", i), MachineID: fmt.Sprintf("%032d", i), MACs: []string{fmt.Sprintf("48:b0:2d:%02x:%02x:%02x", i>>16&255, i>>8&255, i&255)}}
	body, err := wire.Marshal(seal.Register{Profile: p, AgentVersion: "0.1.0", Tags: map[string]string{"rack": fmt.Sprint(i)}})
	if err != nil {
		return nil, err
	}
	return seal.SealStatement(&seal.Statement{
		Version: seal.StatementVersion, Type: seal.StatementRegister, Device: fillDevice(i), Epoch: 1, EpochID: seal.RandomID{1}, Seq: 1,
		TimeMS: f.wall().UnixMilli(), Clock: seal.ClockSynced, Body: body,
	}, ident.KeyIDOfSPKI(fillSPKI(i)), f.key)
}
