package sim

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/sim/netsim"
	"github.com/holdfast-edge/holdfast/sitegw/spool"
	"github.com/holdfast-edge/holdfast/wire"
)

// A world of conservation.
const (
	siteGateways = 2
	siteDevices  = 5
	outageTime   = 54 * time.Second // of faults
	statedEvery  = time.Second      // by each device, while there are faults
	minStated    = 200              // in a world
	drainWithin  = 4 * time.Minute  // after the faults
	drainedAfter = 40 * time.Second // for what gateways hold that others brought before
	biggerEvery  = 4                // of so many seeds one has a core of three nodes
)

// A site is a plant with its core, stopped, as every outage begins with it.
type site struct {
	dir   string
	cores int
	token string
	at    time.Time
	ids   []string   // of the devices
	made  [][][]byte // by device, what it has stated
}

// conserve is one world under a schedule of faults.
type conserve struct {
	*World
	t     *testing.T
	ctx   context.Context //nolint:containedctx // of the one test that it serves
	seed  uint64
	cores int

	gateways []*machine
	devices  []*machine
	agents   []*Agent
	nodes    []*machine
	journals []*logbook
	spools   []string // the gateways' data directories
	stating  atomic.Bool

	storm  context.Context //nolint:containedctx // ends with the faults
	faults sync.WaitGroup

	mu    sync.Mutex
	cuts  map[[2]netip.Addr]int // guarded by mu: how many faults cut one host from another
	fired map[mishap]bool       // guarded by mu
}

// A machine runs one process, which may be killed and started again.
type machine struct {
	host  netip.Addr
	start func(context.Context) (*Process, error)
	busy  atomic.Bool // a fault has it in hands
	proc  *Process
}

// populate places gateways and devices, always at the same addresses, and lists what the world is made of.
func (c *conserve) populate() (gateways []*Gateway) {
	for i := range siteGateways {
		g := c.newGateway("gw-" + string(rune('a'+i)))
		gateways, c.spools = append(gateways, g), append(c.spools, g.Dir())
		c.gateways = append(c.gateways, &machine{host: g.Addr.Addr(), start: g.Start})
	}
	for i := range siteDevices {
		first := gateways[i%siteGateways]
		a := c.NewAgent(fmt.Sprintf("agent-%d", i+1), first, gateways[(i+1)%siteGateways])
		j := newLogbook(a.Dir())
		a.Log, a.Facts = slog.New(j), statedEvery
		looks := 0
		a.Profile = func() wire.Profile { // of one goroutine at a time
			m := smallMachine()
			if c.stating.Load() {
				looks++
			}
			m.Kernel = wire.Known(fmt.Sprintf("6.12.%d", looks))
			return m
		}
		c.agents, c.journals = append(c.agents, a), append(c.journals, j)
		c.devices = append(c.devices, &machine{host: a.Host, start: a.Start})
	}
	for i := range c.cores {
		n := c.Core(i + 1)
		c.nodes = append(c.nodes, &machine{host: n.Host, start: func(ctx context.Context) (*Process, error) {
			p := n.Start(ctx)
			return p, n.Serving(ctx)
		}})
	}
	return gateways
}

func (c *conserve) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// run starts machines.
func (c *conserve) run(all []*machine) {
	c.t.Helper()
	for _, m := range all {
		p, err := m.start(c.ctx)
		c.must(err)
		m.proc = p
	}
}

// stop ends everything in an orderly way.
func (c *conserve) stop() {
	for _, m := range slices.Concat(c.devices, c.gateways, c.nodes) {
		if err := m.proc.Stop(); err != nil {
			c.t.Errorf("stop: %v", err)
		}
	}
	c.Linger()
}

// newSite makes one in dir.
func newSite(t *testing.T, dir string, cores int) *site {
	t.Helper()
	s := &site{dir: dir, cores: cores}
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		c := &conserve{World: New(dir, netsim.New(1, netsim.Weather{Latency: time.Millisecond})), t: t, ctx: ctx, cores: cores}
		gateways := c.populate()
		c.must(c.Init(ctx))
		c.must(c.StartCores(ctx, cores))
		for i, n := range c.nodes {
			n.proc = c.Core(i + 1).Process()
		}
		c.must(c.Call(ctx, nil, http.MethodPut, "/v1/sites/plant-a", v1.SetSite{HeartbeatInterval: "1s"}))
		token, err := c.Token(ctx, "gateway", "plant-a", siteGateways)
		c.must(err)
		for _, g := range gateways {
			c.must(g.enroll(ctx, token))
		}
		c.run(c.gateways)
		time.Sleep(time.Second)
		token, err = c.Token(ctx, "device", "plant-a", siteDevices)
		c.must(err)
		for _, a := range c.agents {
			c.must(a.Enroll(ctx, token))
			s.ids = append(s.ids, a.ID)
		}
		c.run(c.devices)
		time.Sleep(10 * time.Second)
		c.stop()
		for _, j := range c.journals {
			s.made = append(s.made, j.all())
		}
		s.token, s.at = c.token, time.Now()
	})
	return s
}

// An account is what is left of a world when it is over.
type account struct {
	stated int
	fired  map[mishap]bool
}

// outage runs one world through its faults, and judges what the core has in the end.
func outage(t *testing.T, s *site, dir string, seed uint64) (a account) {
	t.Helper()
	if err := os.CopyFS(dir, os.DirFS(s.dir)); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(s.at))
		r := rand.New(rand.NewPCG(seed, 0))
		calm := netsim.Weather{Latency: time.Millisecond + time.Duration(r.Int64N(int64(20*time.Millisecond)))}
		storm, over := context.WithCancel(t.Context())
		defer over()
		c := &conserve{
			World: New(dir, netsim.New(seed, calm)), t: t, ctx: t.Context(), seed: seed, cores: s.cores, storm: storm,
			cuts: make(map[[2]netip.Addr]int), fired: make(map[mishap]bool),
		}
		c.token, c.Tuning = s.token, chaosTuning
		c.populate()
		for i, j := range c.journals {
			j.stated = slices.Clone(s.made[i])
			c.agents[i].ID = s.ids[i]
		}
		for i := range c.nodes {
			c.Core(i + 1).Start(c.ctx)
		}
		for i, n := range c.nodes {
			c.must(c.Core(i + 1).Serving(c.ctx))
			n.proc = c.Core(i + 1).Process()
		}
		c.run(c.gateways)
		c.stating.Store(true)
		c.run(c.devices)
		c.blow(r, calm)
		c.stating.Store(false)
		over()
		c.faults.Wait()
		c.drain()
		c.compareAPI()
		c.must(c.blameless(c.ctx))
		sequences := c.sequences()
		c.stop()
		c.judge(sequences)
		for _, j := range c.journals {
			a.stated += len(j.stated)
			if j.moves > 0 {
				c.fired[mishapFailover] = true
			}
		}
		a.fired = c.fired
	})
	return a
}

// drain waits until every statement is committed and receipted, and then for gateways that still hold what others brought.
func (c *conserve) drain() {
	end := time.Now().Add(drainWithin)
	why := ""
	for time.Now().Before(end) {
		if why = c.open(); why == "" {
			time.Sleep(drainedAfter)
			return
		}
		time.Sleep(time.Second)
	}
	c.t.Errorf("%v after the end of the faults: %s", drainWithin, why)
}

// open says what is not where it belongs yet; empty: nothing.
func (c *conserve) open() string {
	for n := range c.nodes {
		v, ok := c.Core(n + 1).View()
		if !ok {
			return c.Core(n+1).Name + " does not serve"
		}
		v.Gateways(func(g *registry.Gateway) bool {
			if g.Forked != nil {
				c.t.Errorf("%s takes %s for a copy: %s", c.Core(n+1).Name, g.ID(), g.Forked.Reason)
			}
			return true
		})
		for i, a := range c.agents {
			d, _ := v.Device(deviceID(c.t, a))
			if got, want := d.Epoch.Seq, len(c.journals[i].all()); got != uint64(want) {
				return fmt.Sprintf("%s has %d statements of %s, which made %d", c.Core(n+1).Name, got, a.Name, want)
			}
			left, err := os.ReadDir(filepath.Join(a.Dir(), "outbox"))
			c.must(err)
			if len(left) > 0 {
				return fmt.Sprintf("%s has no receipt for %d statements", a.Name, len(left))
			}
		}
	}
	return ""
}

// sequences is how far each node has each device.
func (c *conserve) sequences() (out [][]registry.Sequence) {
	for n := range c.nodes {
		v, _ := c.Core(n + 1).View()
		var all []registry.Sequence
		for _, a := range c.agents {
			d, _ := v.Device(deviceID(c.t, a))
			all = append(all, d.Sequence())
		}
		out = append(out, all)
	}
	return out
}

// compareAPI holds what operators are shown against the journals.
func (c *conserve) compareAPI() {
	for i, a := range c.agents {
		var l v1.List[v1.HistoryItem]
		c.must(c.Call(c.ctx, &l, http.MethodGet, "/v1/devices/"+a.ID+"/history?limit=1000", nil))
		want, err := parsed(c.journals[i].all())
		c.must(err)
		if len(l.Items) != len(want) {
			c.t.Errorf("%s: the API shows %d statements of %d", a.Name, len(l.Items), len(want))
			continue
		}
		slices.SortFunc(l.Items, func(x, y v1.HistoryItem) int { return cmp.Compare(x.Seq, y.Seq) })
		for k, it := range l.Items {
			if w := want[k]; it.Epoch != w.Epoch || it.Seq != w.Seq || it.DeviceTime.UnixMilli() != w.TimeMS {
				c.t.Errorf("%s: the API shows %+v for %s", a.Name, it, named(w))
			}
		}
	}
}

// judge holds the histories of all nodes against the journals, once everything has stopped.
func (c *conserve) judge(sequences [][]registry.Sequence) {
	for n := range c.nodes {
		for i, a := range c.agents {
			if err := c.journals[i].compare(c.t, c.Core(n+1), a, sequences[n][i]); err != nil {
				c.t.Errorf("%s of %s: %v", c.Core(n+1).Name, a.Name, err)
			}
		}
	}
	for _, g := range c.spools {
		s, err := spool.Open(spool.Config{Dir: filepath.Join(g, "spool")})
		c.must(err)
		if st := s.Status(); st.Records > 0 {
			c.t.Errorf("%s still holds %d statements", g, st.Records)
		}
		c.must(s.Close())
	}
}

// TestConservation states things in a plant of two gateways and five devices while its WAN is cut, its links lose, double and
// reorder packets, every process is killed again and again, and the core changes its leader. In the end the core must have each
// device's journal, once and in order, and nobody else may hold anything.
//
// HOLDFAST_SEEDS=n runs n seeds, HOLDFAST_SEED=n that one alone. A seed repeats the faults and the workload, not how goroutines
// take turns: run one that failed several times.
func TestConservation(t *testing.T) {
	t.Parallel()
	base := scratch(t)
	first, count := seeds(t, conserveSeeds)
	small := newSite(t, filepath.Join(base, "small"), 1)
	big := newSite(t, filepath.Join(base, "big"), 3)
	var mu sync.Mutex
	stated, fired := 0, make(map[mishap]uint64)
	t.Run("outages", func(t *testing.T) {
		for seed := first; seed < first+count; seed++ {
			t.Run(fmt.Sprintf("seed-%d", seed), func(t *testing.T) {
				t.Parallel()
				dir := filepath.Join(base, fmt.Sprintf("seed-%d", seed))
				defer func() {
					if t.Failed() {
						t.Logf("run it again: HOLDFAST_SEED=%d go test -run '^TestConservation$' -count=20 ./sim", seed)
					}
					if err := os.RemoveAll(dir); err != nil {
						t.Error(err)
					}
				}()
				s := small
				if seed%biggerEvery == 0 {
					s = big
				}
				a := outage(t, s, dir, seed)
				if a.stated < minStated {
					t.Errorf("only %d statements were made, want %d", a.stated, minStated)
				}
				mu.Lock()
				defer mu.Unlock()
				stated += a.stated
				for m := range a.fired {
					fired[m]++
				}
			})
		}
	})
	var how []string
	for m := range mishaps {
		how = append(how, fmt.Sprintf("%v in %d", m, fired[m]))
		if count >= 10 && fired[m]*10 < count && !t.Failed() {
			t.Errorf("%v befell %d of %d seeds: it is not tested", m, fired[m], count)
		}
	}
	t.Logf("%d seeds, %d statements, each at the core once; seeds with %s", count, stated, strings.Join(how, ", "))
}

// seeds are those that a run is to go through.
func seeds(t *testing.T, usual uint64) (first, count uint64) {
	t.Helper()
	first, count = 1, usual
	if n, ok := fromEnv(t, "HOLDFAST_SEEDS"); ok {
		count = n
	}
	if n, ok := fromEnv(t, "HOLDFAST_SEED"); ok {
		first, count = n, 1
	}
	return first, count
}
