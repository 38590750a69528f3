package content

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
)

const (
	// callTime bounds one call: a pack over a link of some Mbit/s, and the other node's syncs.
	callTime = 30 * time.Second
	// askTime bounds a question for what is stored, which an index answers.
	askTime = 5 * time.Second
	// maxCalls is how many calls about content are under way to one node at a time. It leaves most of what the store permits to presence
	// and history.
	maxCalls = 2
	// maxCallPack bounds a pack in a call, in bytes; a chunk fits in any case.
	maxCallPack = 2 << 20
	// maxAsk bounds the digests in a question for what is stored.
	maxAsk = 1 << 15
	// maxWanted bounds the digests in a request for chunks: about a pack's worth of usual ones.
	maxWanted = 64

	// DefaultGrace is how long a chunk that nothing refers to is kept after it was put or asked for.
	DefaultGrace = 24 * time.Hour
	// DefaultFetchRate is how fast a node fetches what it lacks, in bytes a second: well below what disks and networks between core
	// nodes carry.
	DefaultFetchRate = 32 << 20
)

// A Cluster is the core's nodes and their registry, as a keeper needs them.
type Cluster interface {
	// Members are the core's nodes as this one knows them.
	Members() Members
	// Call has another node answer a call; there, Keeper.Handle does.
	Call(ctx context.Context, node string, call Call, body []byte) ([]byte, error)
	View() registry.View
	// Barrier waits until View shows everything that was committed before the call.
	Barrier(ctx context.Context) error
}

// Members are the nodes of a core.
type Members struct {
	Self   string
	Voters []string // of whom a majority decides; Self may be one
	Others []string // who do not vote yet
}

// KeeperOptions adjust a keeper. The zero value is ready for use.
type KeeperOptions struct {
	Grace     time.Duration // 0: DefaultGrace; at least an hour
	FetchRate int           // bytes a second; 0: DefaultFetchRate
	Logger    *slog.Logger  // nil: say nothing
}

// A Keeper keeps the same content on all nodes of the core. Its Run must go on for what is in the background.
type Keeper struct {
	// Immutable.
	store   *Store
	cluster Cluster
	log     *slog.Logger
	grace   time.Duration
	rate    *rate.Limiter
	base    context.Context //nolint:containedctx // of what outlives the call that began it; ends with Close
	cancel  context.CancelFunc
	wg      sync.WaitGroup // what outlives the call that began it

	flights singleflight.Group // of fetches, by digest
	lacking atomic.Int64       // chunks that registered artifacts refer to and this node lacks, as of the last look
	fetched atomic.Uint64      // chunks got from other nodes

	mu    sync.Mutex
	slots map[string]chan struct{} // guarded by mu: calls under way, by node; capacity maxCalls
}

// NewKeeper makes a keeper over an open store, which it closes.
func NewKeeper(s *Store, c Cluster, o KeeperOptions) *Keeper {
	k := &Keeper{store: s, cluster: c, log: o.Logger, grace: o.Grace, slots: make(map[string]chan struct{})}
	if k.log == nil {
		k.log = slog.New(slog.DiscardHandler)
	}
	if k.grace == 0 {
		k.grace = DefaultGrace
	}
	k.grace = max(k.grace, time.Hour)
	if o.FetchRate == 0 {
		o.FetchRate = DefaultFetchRate
	}
	k.rate = rate.NewLimiter(rate.Limit(o.FetchRate), max(o.FetchRate, maxWanted*artifact.MaxStored))
	k.base, k.cancel = context.WithCancel(context.Background())
	return k
}

// Close ends what is under way and closes the store. No other call may be under way.
func (k *Keeper) Close() error {
	k.cancel()
	k.wg.Wait()
	return k.store.Close()
}

// KeeperStats is what a keeper knows of this node's content.
type KeeperStats struct {
	Stats
	Missing int64  // chunks that registered artifacts refer to and the node lacks, as of the last look
	Fetched uint64 // chunks that were got from other nodes since the start
}

// Stats returns what this node holds and lacks.
func (k *Keeper) Stats() KeeperStats {
	return KeeperStats{k.store.Stats(), k.lacking.Load(), k.fetched.Load()}
}

// spawn runs f, unless the keeper is closed. Close waits for it.
func (k *Keeper) spawn(f func()) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.base.Err() != nil {
		return false
	}
	k.wg.Go(f)
	return true
}

// slot waits until one more call to a node may be made; release gives the place back.
func (k *Keeper) slot(ctx context.Context, node string) (release func(), err error) {
	k.mu.Lock()
	slots := k.slots[node]
	if slots == nil {
		slots = make(chan struct{}, maxCalls)
		k.slots[node] = slots
	}
	k.mu.Unlock()
	select {
	case slots <- struct{}{}:
		return func() { <-slots }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait to call %s: %w", node, context.Cause(ctx))
	}
}

// ask makes one call to another node.
func ask[A any](ctx context.Context, k *Keeper, node string, call Call, request any) (*A, error) {
	release, err := k.slot(ctx, node)
	if err != nil {
		return nil, err
	}
	defer release()
	return exchange[A](ctx, k, node, call, request)
}

// exchange is ask for whoever has a slot.
func exchange[A any](ctx context.Context, k *Keeper, node string, call Call, request any) (*A, error) {
	body, err := wire.Marshal(request)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	b, err := k.cluster.Call(ctx, node, call, body)
	if err != nil {
		return nil, err
	}
	a := new(A)
	return a, wire.Unmarshal(b, a)
}

// others are the other nodes, in any order.
func (m *Members) others() []string {
	out := slices.DeleteFunc(slices.Concat(m.Voters, m.Others), func(n string) bool { return n == m.Self })
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] }) //nolint:gosec // G404: spreads the work
	return out
}

// majority is how many voters are one.
func (m *Members) majority() int { return len(m.Voters)/2 + 1 }
