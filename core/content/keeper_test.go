package content

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/content/contenttest"
	"github.com/holdfast-edge/holdfast/core/content/pack"
	"github.com/holdfast-edge/holdfast/core/enroll"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/internal/disk/simdisk"
	"github.com/holdfast-edge/holdfast/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errDown = errors.New("unreachable")

// A fleet is a core of some nodes with one registry, which are reached at once or not at all.
type fleet struct {
	t     *testing.T
	nodes map[string]*node

	mu     sync.Mutex
	state  *registry.State
	index  uint64
	down   map[string]bool
	stuck  map[string]bool // answer nothing until the caller gives up
	calls  map[string]int  // by node and call
	tamper func(node string, call Call, answer []byte) []byte
	asked  func() error // what a barrier does first
}

// A node is one of them.
type node struct {
	*fleet
	name string
	disk *simdisk.Disk
	*Keeper
}

// world runs f in a bubble with a core of n nodes, on each of which a keeper runs.
func world(t *testing.T, n int, o KeeperOptions, quota int64, f func(t *testing.T, fl *fleet)) {
	synctest.Test(t, func(t *testing.T) {
		fl := &fleet{t: t, nodes: make(map[string]*node), state: registry.New(), down: make(map[string]bool), stuck: make(map[string]bool), calls: make(map[string]int)}
		key, err := enroll.NewHolderKey()
		if err != nil {
			t.Fatal(err)
		}
		made, err := enroll.NewFleet("acme", map[string]*enroll.HolderKey{"core-1": key}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		made.IntervalMS, made.Operator = 30_000, command.Operator{ID: "o1", Role: "admin"}
		fl.do(made)
		keys, err := enroll.OpenKeyring(fl.View().Fleet(), "core-1", key)
		if err != nil {
			t.Fatal(err)
		}
		fl.do(contenttest.Publishers(t, "acme", keys.Authority()))
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range n {
			nd := &node{fleet: fl, name: fmt.Sprintf("core-%d", i+1), disk: simdisk.New(uint64(i))}
			nd.Keeper = NewKeeper(openStore(t, nd.disk, quota), nd, o)
			fl.nodes[nd.name] = nd
			wg.Go(func() {
				if err := nd.Run(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		f(t, fl)
		cancel()
		wg.Wait()
		for _, nd := range fl.nodes {
			if err := nd.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

func (f *fleet) do(cmd command.Command) any {
	f.t.Helper()
	if o, ok := cmd.(command.Operated); ok {
		o.Actor().Operator = "o1"
	}
	b, err := command.Encode(cmd)
	if err != nil {
		f.t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.index++
	eff, err := f.state.Apply(f.index, time.Now(), [][]byte{b})
	if err != nil {
		f.t.Fatal(err)
	}
	if err, refused := eff.Results[0].(error); refused {
		f.t.Fatalf("%T: %v", cmd, err)
	}
	return eff.Results[0]
}

// View implements Cluster.
func (f *fleet) View() registry.View {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state.View()
}

// Barrier implements Cluster.
func (f *fleet) Barrier(context.Context) error {
	f.mu.Lock()
	asked := f.asked
	f.mu.Unlock()
	if asked == nil {
		return nil
	}
	return asked()
}

func (f *fleet) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// Members implements Cluster.
func (n *node) Members() Members {
	return Members{Self: n.name, Voters: slices.Sorted(maps.Keys(n.nodes))}
}

// Call implements Cluster.
func (n *node) Call(ctx context.Context, to string, call Call, body []byte) ([]byte, error) {
	n.fleet.mu.Lock()
	down, stuck, tamper := n.down[to] || n.down[n.name], n.stuck[to], n.tamper
	n.calls[fmt.Sprint(to, call)]++
	n.fleet.mu.Unlock()
	if down {
		return nil, errDown
	}
	if stuck {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	b, err := n.nodes[to].Handle(ctx, call, body)
	if tamper != nil {
		b = tamper(to, call, b)
	}
	return b, err
}

// lacks fails the test unless the node lacks exactly so many of the chunks.
func (n *node) lacks(want int, list []pack.Chunk) {
	n.t.Helper()
	got := 0
	for i := range list {
		if !n.store.Has(list[i].Digest) {
			got++
		} else {
			holds(n.t, n.store, list[i])
		}
	}
	if got != want {
		n.t.Errorf("%s lacks %d chunks, want %d", n.name, got, want)
	}
}

// settle lets what goes on in the background come to its end.
func settle() {
	time.Sleep(retryAfter + time.Second)
	synctest.Wait()
}

// One node of three is down: content is taken, and the node gets it when it is back.
func TestOneNodeDown(t *testing.T) {
	world(t, 3, KeeperOptions{}, 0, func(t *testing.T, f *fleet) {
		a := contenttest.New(t, "app", 1, 300, 0)
		f.set(func() { f.down["core-3"] = true })
		k := f.nodes["core-1"]
		if lacking, err := k.Lacking(t.Context(), contenttest.Digests(a.All())); len(lacking) != len(a.All()) || err != nil {
			t.Fatalf("%d lacking: %v", len(lacking), err)
		}
		if err := k.Put(t.Context(), verified(t, a.All()...)); err != nil {
			t.Fatal(err)
		}
		if lacking, err := k.Lacking(t.Context(), contenttest.Digests(a.All())); len(lacking) != 0 || err != nil {
			t.Fatalf("%d lacking: %v", len(lacking), err)
		}
		f.do(a.Add())
		settle()
		f.nodes["core-2"].lacks(0, a.All())
		f.nodes["core-3"].lacks(len(a.All()), a.All())
		if got := f.nodes["core-3"].Stats(); got.Missing == 0 {
			t.Errorf("%+v", got)
		}
		f.set(func() { f.down["core-3"] = false })
		settle()
		f.nodes["core-3"].lacks(0, a.All())
		if got := f.nodes["core-3"].Stats(); got.Missing != 0 || got.Fetched != uint64(len(a.All())) {
			t.Errorf("%+v", got)
		}
	})
}

// Two nodes of three are down: nothing is acknowledged, and nobody can say what is there.
func TestTwoNodesDown(t *testing.T) {
	world(t, 3, KeeperOptions{}, 0, func(t *testing.T, f *fleet) {
		f.set(func() { f.down["core-2"], f.down["core-3"] = true, true })
		k := f.nodes["core-1"]
		if err := k.Put(t.Context(), verified(t, chunks(0, 3)...)); !errors.Is(err, ErrNoMajority) || errors.Is(err, ErrQuota) {
			t.Errorf("put: %v", err)
		}
		if _, err := k.Lacking(t.Context(), contenttest.Digests(chunks(0, 3))); !errors.Is(err, ErrNoMajority) {
			t.Errorf("lacking: %v", err)
		}
		if _, err := k.Get(t.Context(), chunk(7).Digest); !errors.Is(err, ErrUnreached) {
			t.Errorf("get: %v", err)
		}
		f.set(func() { clear(f.down) })
		lacking, err := k.Lacking(t.Context(), contenttest.Digests(chunks(0, 3)))
		if len(lacking) != 3 || err != nil { // this node has them, and is no majority
			t.Errorf("%d lacking: %v", len(lacking), err)
		}
		if _, err := k.Get(t.Context(), chunk(7).Digest); !errors.Is(err, ErrMissing) {
			t.Errorf("get: %v", err)
		}
	})
}

// A node that is reached and does not answer holds nobody up, and holds no more than two packs.
func TestStuckNode(t *testing.T) {
	world(t, 3, KeeperOptions{}, 0, func(t *testing.T, f *fleet) {
		f.set(func() { f.stuck["core-3"] = true })
		k, begun := f.nodes["core-1"], time.Now()
		for n := range 20 {
			if err := k.Put(t.Context(), verified(t, chunk(n))); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(begun); took > time.Second {
			t.Errorf("took %v", took)
		}
		synctest.Wait()
		if n := f.calls[fmt.Sprint("core-3", CallStore)]; n > maxCalls {
			t.Errorf("%d calls are under way", n)
		}
		if lacking, err := k.Lacking(t.Context(), contenttest.Digests(chunks(0, 20))); len(lacking) != 0 || err != nil {
			t.Errorf("%d lacking: %v", len(lacking), err)
		}
		f.set(func() { f.stuck["core-2"] = true })
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := k.Put(ctx, verified(t, chunk(99))); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("put: %v", err)
		}
	})
}

func TestFull(t *testing.T) {
	world(t, 3, KeeperOptions{}, 3000, func(t *testing.T, f *fleet) {
		k := f.nodes["core-1"]
		big := contenttest.Raw(make([]byte, 2900))
		if err := f.nodes["core-3"].store.Put(t.Context(), verified(t, big)); err != nil {
			t.Fatal(err)
		}
		if err := k.Put(t.Context(), verified(t, chunk(1))); err != nil {
			t.Errorf("one node is full: %v", err)
		}
		synctest.Wait()
		if err := f.nodes["core-2"].store.Put(t.Context(), verified(t, contenttest.Raw(make([]byte, 1000)))); err != nil {
			t.Fatal(err)
		}
		if err := k.Put(t.Context(), verified(t, chunks(2, 4)...)); !errors.Is(err, ErrQuota) || !errors.Is(err, ErrNoMajority) {
			t.Errorf("two nodes are full: %v", err)
		}
	})
}

// A chunk that this node lacks comes from another one, once for all who ask, and is stored; one that is wrong is refused.
func TestGetFromAnother(t *testing.T) {
	world(t, 3, KeeperOptions{}, 0, func(t *testing.T, f *fleet) {
		c := chunk(1)
		for _, name := range []string{"core-2", "core-3"} {
			if err := f.nodes[name].store.Put(t.Context(), verified(t, c)); err != nil {
				t.Fatal(err)
			}
		}
		f.set(func() {
			f.tamper = func(node string, call Call, answer []byte) []byte {
				if call != CallFetch {
					return answer
				}
				time.Sleep(time.Second)
				if node == "core-2" {
					answer[len(answer)-1] ^= 1
				}
				return answer
			}
		})
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				b, err := f.nodes["core-1"].Get(t.Context(), c.Digest)
				if err != nil || string(b) != string(c.Stored) {
					t.Errorf("get: %v", err)
				}
			})
		}
		wg.Wait()
		f.nodes["core-1"].lacks(0, []pack.Chunk{c})
		if n := f.calls[fmt.Sprint("core-3", CallFetch)]; n != 1 {
			t.Errorf("%d fetches", n)
		}
		f.set(func() { f.down["core-3"] = true })
		d := chunk(2)
		if err := f.nodes["core-2"].store.Put(t.Context(), verified(t, d)); err != nil {
			t.Fatal(err)
		}
		if _, err := f.nodes["core-1"].Get(t.Context(), d.Digest); !errors.Is(err, ErrUnreached) {
			t.Errorf("all that is left is wrong: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := f.nodes["core-1"].Get(ctx, d.Digest); !errors.Is(err, context.Canceled) {
			t.Errorf("nobody waits: %v", err)
		}
	})
}

// What is damaged is moved aside when it is read, and fetched again.
func TestDamageHeals(t *testing.T) {
	world(t, 3, KeeperOptions{}, 0, func(t *testing.T, f *fleet) {
		a := contenttest.New(t, "app", 1, 20, 0)
		k := f.nodes["core-1"]
		if err := k.Put(t.Context(), verified(t, a.All()...)); err != nil {
			t.Fatal(err)
		}
		f.do(a.Add())
		settle()
		for _, c := range []pack.Chunk{a.Chunks[3], a.Parts[0]} {
			k.disk.Flip(k.store.path(c.Digest), 99)
			if _, err := k.Local(c.Digest); !errors.Is(err, ErrDamaged) {
				t.Errorf("got %v", err)
			}
			settle()
			k.lacks(0, a.All())
		}
		c := a.Chunks[5]
		k.disk.Flip(k.store.path(c.Digest), 99)
		if b, err := k.Get(t.Context(), c.Digest); err != nil || string(b) != string(c.Stored) {
			t.Errorf("read through the damage: %v", err)
		}
		if got := k.Stats(); got.Damaged != 3 || got.Missing != 0 {
			t.Errorf("%+v", got)
		}
	})
}

// A node that lacks much fetches no faster than it may.
func TestFetchRate(t *testing.T) {
	world(t, 2, KeeperOptions{FetchRate: 2000}, 0, func(t *testing.T, f *fleet) {
		a := contenttest.New(t, "app", 1, 4000, 0)
		f.set(func() { f.down["core-2"] = true })
		if err := f.nodes["core-1"].store.Put(t.Context(), verified(t, a.All()...)); err != nil {
			t.Fatal(err)
		}
		f.nodes["core-2"].rate.SetBurst(maxWanted * 300)
		f.do(a.Add())
		settle()
		f.set(func() { f.down["core-2"] = false })
		settle()
		if got := f.nodes["core-2"].Stats().Fetched; got == 0 || got > 2000 {
			t.Errorf("%d chunks within some seconds", got)
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		f.nodes["core-2"].lacks(0, a.All())
	})
}

// What nothing refers to goes after the grace time. What an artifact refers to stays: chunks, patches and the manifest.
func TestCollect(t *testing.T) {
	world(t, 3, KeeperOptions{}, 0, func(t *testing.T, f *fleet) {
		a, b := contenttest.New(t, "app", 1, 20, 0), contenttest.New(t, "app", 2, 20, 0)
		loose := chunks(0, 10)
		k := f.nodes["core-1"]
		if err := k.Put(t.Context(), verified(t, slices.Concat(a.All(), b.All(), loose)...)); err != nil {
			t.Fatal(err)
		}
		f.do(a.Add())
		f.do(b.Add())
		time.Sleep(DefaultGrace - time.Minute)
		for _, n := range f.nodes {
			n.lacks(0, loose)
		}
		if _, err := k.Lacking(t.Context(), contenttest.Digests(loose[:3])); err != nil { // somebody begins to send again
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		kept := 0
		for _, n := range f.nodes {
			n.lacks(0, slices.Concat(a.All(), b.All()))
			n.lacks(7, loose[3:])
			if n.store.Has(loose[0].Digest) {
				kept++
			}
		}
		if kept < 2 { // two that have them are enough of an answer
			t.Errorf("what was asked for is on %d nodes", kept)
		}
		time.Sleep(DefaultGrace)
		f.do(&command.DeleteArtifact{Digest: b.Digest})
		time.Sleep(DefaultGrace + 2*time.Hour)
		for _, n := range f.nodes {
			n.lacks(0, a.All())
			n.lacks(len(b.All()), b.All())
			n.lacks(10, loose)
		}
	})
}

// An artifact that is registered while a node collects keeps its chunks, whichever comes first.
func TestCollectRace(t *testing.T) {
	world(t, 1, KeeperOptions{}, 0, func(t *testing.T, f *fleet) {
		a, b, c := contenttest.New(t, "app", 1, 5, 0), contenttest.New(t, "app", 2, 5, 0), contenttest.New(t, "app", 3, 5, 0)
		k := f.nodes["core-1"]
		if err := k.Put(t.Context(), verified(t, slices.Concat(a.All(), b.All(), c.All())...)); err != nil {
			t.Fatal(err)
		}
		f.set(func() { f.asked = func() error { return errDown } })
		time.Sleep(DefaultGrace + 2*time.Hour)
		k.lacks(0, slices.Concat(a.All(), b.All(), c.All())) // without a barrier nothing is removed
		f.set(func() {
			f.asked = func() error { // everything was chosen to go
				f.do(a.Add()) // committed before the barrier ends; its chunks were asked for long ago
				if _, err := k.Lacking(t.Context(), contenttest.Digests(b.All())); err != nil {
					t.Error(err)
				}
				return nil // b is registered afterwards
			}
		})
		if err := k.Collect(t.Context()); err != nil {
			t.Fatal(err)
		}
		k.lacks(0, slices.Concat(a.All(), b.All()))
		k.lacks(len(c.All()), c.All())
		f.do(b.Add())
	})
}

// A node that cannot read a manifest does not know what it refers to, and removes nothing.
func TestCollectBlind(t *testing.T) {
	world(t, 2, KeeperOptions{}, 0, func(t *testing.T, f *fleet) {
		a := contenttest.New(t, "app", 1, 5, 0)
		k := f.nodes["core-1"]
		if err := k.Put(t.Context(), verified(t, append(a.All(), chunks(0, 5)...)...)); err != nil {
			t.Fatal(err)
		}
		f.do(a.Add())
		f.set(func() { f.down["core-2"] = true })
		k.disk.Flip(k.store.path(a.Parts[0].Digest), 99)
		time.Sleep(DefaultGrace + 2*time.Hour)
		if err := k.Collect(t.Context()); !errors.Is(err, ErrUnreached) || !strings.Contains(err.Error(), "app@1.1") {
			t.Errorf("got %v", err)
		}
		k.lacks(0, append(a.Chunks, chunks(0, 5)...))
		f.set(func() { f.down["core-2"] = false })
		settle()
		if err := k.Collect(t.Context()); err != nil {
			t.Error(err)
		}
		k.lacks(5, append(a.All(), chunks(0, 5)...))
	})
}

// A manifest is put together from its parts, in their order, and is what its digest says.
func TestJoin(t *testing.T) {
	world(t, 1, KeeperOptions{}, 0, func(t *testing.T, f *fleet) {
		a := contenttest.New(t, "app", 1, 5, 20_000)
		k, parts := f.nodes["core-1"], contenttest.Digests(a.Parts)
		if len(parts) < 2 {
			t.Fatalf("%d parts", len(parts))
		}
		if err := k.Put(t.Context(), verified(t, a.Parts...)); err != nil {
			t.Fatal(err)
		}
		if b, err := k.Join(t.Context(), parts, a.Digest); err != nil || string(b) != string(a.Bytes) {
			t.Errorf("%d bytes: %v", len(b), err)
		}
		turned := slices.Clone(parts)
		slices.Reverse(turned)
		for name, tc := range map[string]struct {
			parts []wire.Digest
			d     wire.Digest
		}{
			"none": {nil, a.Digest}, "turned round": {turned, a.Digest}, "cut": {parts[:1], a.Digest}, "another": {parts, parts[0]},
			"too many": {slices.Repeat(parts[:1], MaxParts+1), a.Digest},
		} {
			if _, err := k.Join(t.Context(), tc.parts, tc.d); err == nil {
				t.Errorf("%s: taken", name)
			}
		}
	})
}

// Calls that are no calls are refused, and answers have bounds.
func TestHandle(t *testing.T) {
	world(t, 1, KeeperOptions{}, 0, func(t *testing.T, f *fleet) {
		k := f.nodes["core-1"]
		var list []pack.Chunk
		for i := range 12 {
			list = append(list, contenttest.Raw(append(make([]byte, wire.MaxChunk-1), byte(i))))
		}
		if err := k.store.Put(t.Context(), verified(t, list...)); err != nil {
			t.Fatal(err)
		}
		call := func(c Call, request any) ([]byte, error) {
			t.Helper()
			b, err := wire.Marshal(request)
			if err != nil {
				t.Fatal(err)
			}
			return k.Handle(t.Context(), c, b)
		}
		b, err := call(CallFetch, fetchRequest{packDigests(contenttest.Digests(list))})
		if err != nil || len(b) > maxCallPack+100 || len(b) < maxCallPack/2 {
			t.Errorf("%d bytes: %v", len(b), err)
		}
		for name, tc := range map[string]struct {
			call    Call
			request any
		}{
			"unknown":         {CallFetch + 1, fetchRequest{}},
			"odd digests":     {CallHave, haveRequest{make(digests, 33)}},
			"many digests":    {CallHave, haveRequest{make(digests, 32*(maxAsk+1))}},
			"many chunks":     {CallFetch, fetchRequest{make(digests, 32*(maxWanted+1))}},
			"no pack":         {CallStore, storeRequest{[]byte("x")}},
			"a wrong chunk":   {CallStore, storeRequest{pack.Append(nil, pack.Chunk{Digest: chunk(1).Digest, Stored: chunk(2).Stored})}},
			"another message": {CallFetch, "text"},
		} {
			if _, err := call(tc.call, tc.request); err == nil {
				t.Errorf("%s: answered", name)
			}
		}
	})
}
