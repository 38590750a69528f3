package content

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/internal/disk/simdisk"
	"github.com/holdfast-edge/holdfast/sitegw/cache"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
	"github.com/holdfast-edge/holdfast/wire/seal/sealtest"
)

// A plant is the gateways of a site, and the core, over pipes in memory.
type plant struct {
	t        *testing.T
	core     *core
	gateways []*gateway
	wg       sync.WaitGroup
}

// A gateway is one part of the site, with a disk and siblings that a test can turn off.
type gateway struct {
	*Site
	p     *plant
	name  string
	disk  *simdisk.Disk
	told  told
	stop  func()
	dials int // to siblings

	mu     sync.Mutex
	uplink bool
	dead   bool // nobody sees it, and it answers nobody
	mute   bool // it is seen, and answers no sibling
	lies   bool // it answers siblings with something else
}

type told struct {
	mu         sync.Mutex
	limit      wire.ContentLimit
	publishers uint64
}

func (t *told) Content() wire.ContentLimit {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.limit
}

// limited is another limit, told from now on.
func (t *told) limited(l wire.ContentLimit) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.limit = l
}

func (t *told) Publishers() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.publishers
}

func (g *gateway) set(f func(g *gateway)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f(g)
}

func (g *gateway) is(f func(g *gateway) bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return f(g)
}

// inPlant runs f in a bubble with n gateways of a site, all with an uplink.
func inPlant(t *testing.T, n int, f func(t *testing.T, p *plant)) {
	synctest.Test(t, func(t *testing.T) {
		p := &plant{t: t, core: &core{authority: sealtest.New(t, "acme"), has: make(map[cache.Key][]byte), asked: make(map[string]int), delay: 20 * time.Millisecond}}
		for i := range n {
			g := &gateway{p: p, name: fmt.Sprint("gw-", i), disk: simdisk.New(uint64(i)), uplink: true, stop: func() {}}
			p.gateways = append(p.gateways, g)
			g.start()
		}
		f(t, p)
		for _, g := range p.gateways {
			g.stop()
		}
		p.core.cut()
		p.wg.Wait()
	})
}

// start starts it, with what is on its disk.
func (g *gateway) start() {
	g.Site = New(Config{
		Self: g.name, Fleet: "acme", Authority: g.p.core.authority.Public(), Told: &g.told, Wall: time.Now, Log: slog.New(slog.DiscardHandler),
		Cache:  cache.Open(cache.Config{FS: g.disk, Dir: "content", Quota: 64 << 20, Log: slog.New(slog.DiscardHandler)}),
		Uplink: func() bool { return g.is(func(g *gateway) bool { return g.uplink }) }, Siblings: g.siblings, Dial: g.dial, Core: g.dialCore,
	})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	site := g.Site
	wg.Go(func() { site.Run(ctx) })
	g.stop = func() { cancel(); wg.Wait() }
}

func (g *gateway) siblings() (out []Sibling) {
	for _, o := range g.p.gateways {
		if o != g && o.is(func(o *gateway) bool { return !o.dead }) {
			out = append(out, Sibling{o.name, o.is(func(o *gateway) bool { return o.uplink })})
		}
	}
	return out
}

func (g *gateway) dial(_ context.Context, name string) (net.Conn, error) {
	for _, o := range g.p.gateways {
		if o.name != name || o.is(func(o *gateway) bool { return o.dead }) {
			continue
		}
		g.set(func(g *gateway) { g.dials++ })
		here, there := net.Pipe()
		switch {
		case o.is(func(o *gateway) bool { return o.mute }):
		case o.is(func(o *gateway) bool { return o.lies }):
			g.p.wg.Go(func() { lie(OnStream(there)) })
		default:
			g.p.wg.Go(func() { o.Sibling(context.Background(), g.name, there) }) //nolint:contextcheck // it is another gateway's
		}
		return here, nil
	}
	return nil, wire.Refuse(wire.CodeUnavailable, "%s is gone", name)
}

// lie answers each fetch with something else.
func lie(c Conn) {
	defer c.Close()
	for {
		if _, _, err := c.Recv(); err != nil {
			return
		}
		if send(c, &wire.Blob{Data: []byte("a lie"), Total: 5}) != nil {
			return
		}
	}
}

func send(c Conn, b *wire.Blob) error {
	frame, err := wire.AppendFrame(nil, wire.TypeBlob, b)
	if err != nil {
		return err
	}
	return c.SendFrame(wire.TypeBlob, frame)
}

func (g *gateway) dialCore(_ context.Context, tried map[string]bool) (Conn, string, error) {
	if !g.is(func(g *gateway) bool { return g.uplink }) {
		return nil, "", wire.Refuse(wire.CodeUnavailable, "no uplink").After(retryAfter)
	}
	return g.p.core.dial(g.p, tried)
}

// A core answers fetches, in order, each after a delay.
type core struct {
	authority *sealtest.Authority
	delay     time.Duration

	mu     sync.Mutex
	has    map[cache.Key][]byte
	asked  map[string]int // answers with content that arrived, by what
	conns  []net.Conn
	refuse *wire.Error // told instead of the first answer
	broken bool        // it answers with other bytes
	ways   []string    // that were dialled
}

func (c *core) dial(p *plant, tried map[string]bool) (Conn, string, error) {
	way := "core-1"
	if tried[way] {
		way = "core-2"
	}
	here, there := net.Pipe()
	c.mu.Lock()
	c.conns = append(c.conns, there)
	c.ways = append(c.ways, way)
	c.mu.Unlock()
	p.wg.Go(func() { c.serve(OnStream(there)) })
	return OnStream(here), way, nil
}

// cut ends all sessions.
func (c *core) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.conns {
		s.Close()
	}
	c.conns = nil
}

func (c *core) serve(s Conn) {
	defer s.Close()
	questions := make(chan wire.Fetch, wire.MaxFetches)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer s.Close()
	wg.Go(func() {
		defer close(questions)
		for {
			t, body, err := s.Recv()
			var f wire.Fetch
			if err != nil || t != wire.TypeFetch || wire.Unmarshal(body, &f) != nil {
				return
			}
			questions <- f
		}
	})
	for f := range questions {
		time.Sleep(c.delay)
		b, refused := c.answer(&f)
		if refused != nil {
			s.Refuse(refused)
			continue
		}
		if send(s, b) != nil {
			s.Close()
		} else if b.Code == wire.CodeNone {
			k, _ := keyOf(&f)
			c.with(func(c *core) { c.asked[fmt.Sprint(k, " at ", f.Offset)]++ })
		}
	}
}

func (c *core) answer(f *wire.Fetch) (*wire.Blob, *wire.Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.refuse; e != nil {
		c.refuse = nil
		return nil, e
	}
	k, _ := keyOf(f)
	b, ok := c.has[k]
	if !ok {
		return &wire.Blob{Code: wire.CodeNoContent, Detail: "nobody uploaded it"}, nil
	}
	out := &wire.Blob{Data: b}
	if f.Kind == wire.ContentManifest {
		out.Total = uint64(len(b))
		out.Data = b[min(int(f.Offset), len(b)):min(int(f.Offset)+wire.MaxPart, len(b))]
	}
	if c.broken {
		out.Data = append([]byte{^out.Data[0]}, out.Data[1:]...)
	}
	return out, nil
}

func (c *core) with(f func(c *core)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(c)
}

// times is how often the core was asked for each thing: the most, and in all.
func (c *core) times() (most, all int) {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.asked {
		most, all = max(most, n), all+n
	}
	return most, all
}

// chunks uploads n chunks of that size.
func (c *core) chunks(n, size int) (out []wire.Fetch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range n {
		b := make([]byte, size)
		copy(b, fmt.Sprint("chunk ", i, " of ", size))
		d := wire.DigestOf(b)
		c.has[cache.Key{Kind: wire.ContentChunk, Digest: d}] = b
		out = append(out, wire.Fetch{Kind: wire.ContentChunk, Digest: d})
	}
	return out
}

// manifest uploads a manifest of that size.
func (c *core) manifest(size int) (d wire.Digest, b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b = make([]byte, size)
	for i := range b {
		b[i] = byte(i * 7 / 3)
	}
	d = wire.DigestOf(b)
	c.has[cache.Key{Kind: wire.ContentManifest, Digest: d}] = b
	return d, b
}

// set uploads a set of publishers, signed by key, with root keys and publishers of the test's.
func (c *core) set(number uint64, root ed25519.PrivateKey, key ed25519.PrivateKey, publishers ...seal.Publisher) {
	one, err := seal.SignPublisherSet(&seal.PublisherSet{
		Format: seal.PublisherSetFormat, Fleet: "acme", Number: number, Roots: [][]byte{root.Public().(ed25519.PublicKey)}, Threshold: 1, Publishers: publishers,
	}, key)
	if err != nil {
		panic(err)
	}
	all, err := seal.JoinPublisherSet(one)
	if err != nil {
		panic(err)
	}
	c.with(func(c *core) { c.has[setKey(number)] = all })
}

// An agent downloads from a gateway.
type agent struct {
	*pipe
	p *plant
}

func (g *gateway) agent() *agent {
	here, there := net.Pipe()
	served := OnStream(there)
	g.p.wg.Go(func() {
		_, body, err := served.Recv()
		var f wire.Fetch
		if err != nil || wire.Unmarshal(body, &f) != nil {
			served.Close()
			return
		}
		g.Agent(context.Background(), served, f, func() *wire.Error { return nil })
	})
	return &agent{newPipe(OnStream(here), g.p.wg.Go), g.p}
}

// want fetches one, and fails the test unless it is what was uploaded.
func (a *agent) want(f wire.Fetch) *wire.Blob {
	a.p.t.Helper()
	b, err := a.ask(context.Background(), &f)
	if err != nil || b.Code != wire.CodeNone {
		a.p.t.Fatalf("%v: %v, %+v", f.Kind, err, b)
	}
	if f.Kind == wire.ContentChunk && wire.DigestOf(b.Data) != f.Digest {
		a.p.t.Fatal("another chunk")
	}
	return b
}

// refused fetches one that cannot be had, and returns why.
func (a *agent) refused(f wire.Fetch) *wire.Blob {
	a.p.t.Helper()
	b, err := a.ask(context.Background(), &f)
	if err != nil || b.Code == wire.CodeNone || len(b.Data) > 0 {
		a.p.t.Fatalf("%v: %v, %+v", f.Kind, err, b)
	}
	return b
}

// download fetches all, as many at a time as may be, and tries again what cannot be had, until within is over.
func (a *agent) download(all []wire.Fetch, within time.Duration) {
	a.p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, wire.MaxFetches)
	for _, f := range all {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			for {
				b, err := a.ask(ctx, &f)
				if err != nil {
					a.p.t.Errorf("%v: %v", f.Digest.Short(), err)
					return
				}
				if b.Code == wire.CodeNone {
					if wire.DigestOf(b.Data) != f.Digest {
						a.p.t.Error("another chunk")
					}
					return
				}
				time.Sleep(time.Duration(b.RetryAfterMS)*time.Millisecond + time.Second)
			}
		})
	}
}
