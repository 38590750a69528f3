package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/core"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/sim/linear"
	"github.com/holdfast-edge/holdfast/sim/netsim"
)

const (
	chaosNodes   = 3
	chaosDevices = 3
	chaosClients = 8
	stormTime    = 10 * time.Second
	thinkTime    = 600 * time.Millisecond // the most that a client waits between two operations
	calmTime     = 2 * time.Minute        // within which all must be well again
)

// chaosTuning makes nodes that were away for a moment take in a snapshot, and fetch the history that it leaves out.
var chaosTuning = core.Tuning{TrailingLogs: 16, SnapshotThreshold: 64, SnapshotInterval: 2 * time.Second}

var chaosSites = []string{"plant-a", "plant-b"}

// A fleet is a core of three nodes, a gateway and devices, stopped, as every storm begins with it.
type fleet struct {
	dir     string
	token   string
	at      time.Time // when it was stopped: certificates and log time are not to lie in the future
	devices []string
	base    map[linear.Key]linear.State // of the records
	audit   int                         // records of the audit trail so far
}

// newFleet makes one in dir.
func newFleet(t *testing.T, dir string) *fleet {
	t.Helper()
	f := &fleet{dir: dir, base: make(map[linear.Key]linear.State)}
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		c := &chaos{World: New(dir, netsim.New(1, netsim.Weather{Latency: time.Millisecond})), fleet: f, t: t, ctx: ctx}
		must := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		must(c.Init(ctx))
		must(c.StartCores(ctx, chaosNodes))
		for i, site := range chaosSites {
			must(c.Call(ctx, nil, http.MethodPut, "/v1/sites/"+site, v1.SetSite{HeartbeatInterval: fmt.Sprintf("%ds", 30+i)}))
		}
		gw, agents := c.gatewayAndAgents()
		token, err := c.Token(ctx, "gateway", chaosSites[0], 1)
		must(err)
		must(gw.enroll(ctx, token))
		running := []*Process{}
		p, err := gw.Start(ctx)
		must(err)
		running = append(running, p)
		time.Sleep(time.Second)
		token, err = c.Token(ctx, "device", chaosSites[0], chaosDevices)
		must(err)
		for _, a := range agents {
			must(a.Enroll(ctx, token))
			f.devices = append(f.devices, a.ID)
			p, err := a.Start(ctx)
			must(err)
			running = append([]*Process{p}, running...)
			path := "/v1/devices/" + a.ID
			must(c.Call(ctx, nil, http.MethodPatch, path, map[string]string{"heartbeat_interval": "2s"}))
			must(c.Call(ctx, nil, http.MethodPatch, path+"/tags", v1.SetTags{Set: map[string]string{"a": "", "b": ""}}))
		}
		time.Sleep(5 * time.Second)
		for _, p := range running {
			must(p.Stop())
		}
		time.Sleep(2 * time.Minute) // the presence of the devices is settled
		for _, k := range f.records() {
			rec, err := c.Core(1).Do(c.request(ctx, http.MethodGet, k.path, nil))
			must(err)
			f.base[k.key], err = k.show(rec)
			must(err)
		}
		var head v1.AuditHead
		must(c.Call(ctx, &head, http.MethodGet, "/v1/audit/head", nil))
		f.audit = int(head.Seq)
		for n := range chaosNodes {
			must(c.Core(n + 1).Process().Stop())
		}
		f.token, f.at = c.token, time.Now()
	})
	return f
}

// A record is a site or a device as clients use it.
type record struct {
	key    linear.Key
	path   string
	fields int // that clients write: 1 of a site, 3 of a device
	show   func(answered) (linear.State, error)
}

// records are all of the fleet's.
func (f *fleet) records() []record {
	var out []record
	for _, s := range chaosSites {
		out = append(out, record{linear.Key{Kind: linear.KindRecord, Name: "site/" + s}, "/v1/sites/" + s, 1, showSite})
	}
	for i, d := range f.devices {
		out = append(out, record{linear.Key{Kind: linear.KindRecord, Name: fmt.Sprintf("device/%d", i+1)}, "/v1/devices/" + d, linear.Fields, showDevice})
	}
	return out
}

// An answered is what a request was answered with; httptest.ResponseRecorder is one.
type answered interface {
	Header() http.Header
	Result() *http.Response
}

func showSite(a answered) (linear.State, error) {
	var s v1.Site
	st, err := show(a, &s)
	st.Fields[0] = millis(s.HeartbeatIntervalS)
	return st, err
}

func showDevice(a answered) (linear.State, error) {
	var d v1.Device
	st, err := show(a, &d)
	st.Fields = [linear.Fields]string{millis(d.HeartbeatIntervalS), d.Tags["a"], d.Tags["b"]}
	return st, err
}

func show(a answered, out any) (s linear.State, err error) {
	r := a.Result()
	defer r.Body.Close()
	if _, err := fmt.Sscanf(a.Header().Get("ETag"), `"r%d"`, &s.Revision); err != nil {
		return s, fmt.Errorf("ETag %q: %w", a.Header().Get("ETag"), err)
	}
	return s, json.NewDecoder(r.Body).Decode(out)
}

func millis(seconds float64) string { return strconv.Itoa(int(seconds*1000 + 0.5)) }

// gatewayAndAgents are the fleet's, always at the same addresses.
func (w *World) gatewayAndAgents() (*Gateway, []*Agent) {
	gw := w.newGateway("gw-a")
	var agents []*Agent
	for i := range chaosDevices {
		agents = append(agents, w.NewAgent(fmt.Sprintf("agent-%d", i+1), gw))
	}
	return gw, agents
}

// A place is a core node in a storm.
type place struct {
	*CoreNode
	busy atomic.Bool  // a fault has it in hands
	runs atomic.Int64 // how often it was started
	skew atomic.Int64 // ns that its clock is ahead
}

// chaos is one storm over one fleet.
type chaos struct {
	*World
	fleet *fleet
	t     *testing.T
	ctx   context.Context //nolint:containedctx // of the one test that it serves
	seed  uint64

	storm  context.Context //nolint:containedctx // ends with the storm
	faults sync.WaitGroup
	nodes  []*place
	hist   linear.History
	values atomic.Int64 // makes the values of writes
	names  atomic.Int64 // makes names and idempotency keys
	extra  []*Process   // gateway and agent, in the order in which they are stopped

	mu     sync.Mutex
	cuts   map[[2]int]int    // guarded by mu: how many faults cut one node from another
	fired  map[fault]int     // guarded by mu
	grants []*grant          // guarded by mu
	states map[uint64]sample // guarded by mu: by log index, what nodes were seen to have
}

// A verdict is what is left of a storm when it is over.
type verdict struct {
	ops, unknown int
	fired        map[fault]int
}

// weather runs one storm and everything that is checked of it.
func weather(t *testing.T, f *fleet, dir string, seed uint64) verdict {
	t.Helper()
	if err := os.CopyFS(dir, os.DirFS(f.dir)); err != nil {
		t.Fatal(err)
	}
	var c *chaos
	var end settled
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(f.at))
		r := rand.New(rand.NewPCG(seed, 0))
		calm := netsim.Weather{Latency: time.Millisecond + time.Duration(r.Int64N(int64(4*time.Millisecond)))}
		storm, over := context.WithCancel(t.Context())
		defer over()
		c = &chaos{
			World: New(dir, netsim.New(seed, calm)), fleet: f, t: t, ctx: t.Context(), seed: seed, storm: storm,
			cuts: make(map[[2]int]int), fired: make(map[fault]int), states: make(map[uint64]sample),
		}
		c.token, c.Tuning = f.token, chaosTuning
		if _, alone := fromEnv(t, "HOLDFAST_SEED"); alone {
			c.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
		}
		c.start()
		kinds := enabled(seed, r)
		if kinds[faultWeather] {
			c.startPlant()
		}
		var clients, watch sync.WaitGroup
		watching, stopWatch := context.WithCancel(t.Context())
		defer stopWatch()
		watch.Go(func() { c.watch(watching) })
		for i := range chaosClients {
			k := &client{chaos: c, n: i, r: rand.New(rand.NewPCG(seed, 100+uint64(i))), seen: make(map[linear.Key]uint64)}
			clients.Go(k.run)
		}
		c.blow(r, kinds, calm)
		over()
		clients.Wait()
		c.faults.Wait()
		end = c.settle(kinds)
		stopWatch()
		watch.Wait()
		c.stop()
	})
	if t.Failed() {
		return verdict{}
	}
	c.t = t
	return c.judge(end)
}

// start runs all nodes and waits until they serve.
func (c *chaos) start() {
	for n := range chaosNodes {
		p := &place{CoreNode: c.Core(n + 1)}
		p.Wall = func() time.Time { return time.Now().Add(time.Duration(p.skew.Load())) }
		c.nodes = append(c.nodes, p)
		c.boot(p)
	}
	for _, p := range c.nodes {
		if err := p.Serving(c.ctx); err != nil {
			c.t.Errorf("start %s: %v", p.Name, err)
		}
	}
}

// boot starts a node.
func (c *chaos) boot(p *place) {
	p.runs.Add(1)
	p.Start(c.ctx)
}

// startPlant runs the gateway and one agent.
func (c *chaos) startPlant() {
	gw, agents := c.gatewayAndAgents()
	for _, start := range []func(context.Context) (*Process, error){gw.Start, agents[0].Start} {
		p, err := start(c.ctx)
		if err != nil {
			c.t.Fatal(err)
		}
		c.extra = append([]*Process{p}, c.extra...)
	}
}

// stop ends everything in an orderly way.
func (c *chaos) stop() {
	for _, p := range c.extra {
		if err := p.Stop(); err != nil {
			c.t.Errorf("gateway or agent: %v", err)
		}
	}
	for _, p := range c.nodes {
		if err := p.Process().Stop(); err != nil {
			c.t.Errorf("stop %s: %v", p.Name, err)
		}
	}
}

// request makes a request with a body of JSON, or none.
func (c *chaos) request(ctx context.Context, method, path string, in any) *http.Request {
	r, err := newRequest(ctx, method, path, in)
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

// scratch is a directory for storms, in memory where there is such a disk: a storm makes some thousand fsyncs.
func scratch(t *testing.T) string {
	t.Helper()
	for _, dir := range []string{"/dev/shm", t.TempDir()} {
		if base, err := os.MkdirTemp(dir, "holdfast-storm-"); err == nil { //nolint:usetesting // not where TempDir is
			t.Cleanup(func() {
				if err := os.RemoveAll(base); err != nil {
					t.Error(err)
				}
			})
			return base
		}
	}
	t.Fatal("no directory can be made")
	return ""
}
