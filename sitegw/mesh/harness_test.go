package mesh

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/sitegw/mirror"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A site is gateways in virtual time whose sessions are pipes.
type site struct {
	t         *testing.T
	authority ed25519.PrivateKey
	number    uint64 // of the newest fact
	packets   atomic.Int64

	mu       sync.Mutex
	gateways []*gateway
	listed   []string
	list     []byte
	cut      func(a, b string) bool // nothing passes between them
	pipes    map[net.Conn][2]string
}

// A gateway is a mesh with what it stands on.
type gateway struct {
	*Mesh
	site   *site
	name   string
	log    lockedBuffer
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu      sync.Mutex
	up      Uplink
	load    Load
	ctx     context.Context //nolint:containedctx // while it runs
	told    []ident.DeviceID
	asks    int                                           // it was asked for facts
	handler func(from string, p wire.Purpose, c net.Conn) // instead of the mesh
}

// lockedBuffer is a log that may be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// inSite runs f in a bubble with n gateways gw-0, gw-1, … that are listed, know the site key of generation 1, and run.
func inSite(t *testing.T, n int, f func(t *testing.T, s *site)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		s := &site{t: t, authority: key, pipes: make(map[net.Conn][2]string)}
		for i := range n {
			s.listed = append(s.listed, fmt.Sprintf("gw-%d", i))
		}
		s.relist()
		for _, name := range s.listed {
			g := s.add(name)
			g.Keys.Told(siteKey(1, 'a'))
			g.start()
		}
		defer func() {
			for _, g := range s.gateways {
				g.stop()
			}
			time.Sleep(time.Minute) // the library's probes end by their own time
		}()
		f(t, s)
	})
}

func (s *site) ok(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// fact is the number of the next fact.
func (s *site) fact() uint64 {
	s.number++
	return s.number
}

// relist signs a list of who is listed.
func (s *site) relist() {
	s.t.Helper()
	l := &seal.GatewayList{Version: 1, Fleet: "acme", Site: "plant-7", ClusterEpoch: 1, Number: s.fact()}
	for _, n := range s.listed {
		l.Gateways = append(l.Gateways, seal.ListedGateway{Name: n, Listen: n + ":1"})
	}
	b, err := seal.SealGatewayList(l, s.authority)
	s.ok(err)
	s.list = b
}

// entry signs an entry of a device with the next number.
func (s *site) entry(edit ...func(*seal.DeviceEntry)) []byte {
	s.t.Helper()
	e := &seal.DeviceEntry{
		Version: 1, Fleet: "acme", Device: ident.NewDeviceID(), Site: "plant-7", ClusterEpoch: 1, Number: s.fact(), State: wire.DeviceActive,
	}
	for _, f := range edit {
		f(e)
	}
	b, err := seal.SealDeviceEntry(e, s.authority)
	s.ok(err)
	return b
}

// order is the first order of the device of an entry.
func (s *site) order(entry []byte) []byte {
	s.t.Helper()
	e, err := seal.OpenDeviceEntry(entry, "acme", s.public())
	s.ok(err)
	b, err := seal.SealOrder(&seal.Order{Version: 1, Fleet: "acme", Device: e.Device, ClusterEpoch: 1, Number: 1, Kind: seal.OrderDesired, Body: []byte{0xa1, 1, 0x80}}, s.authority)
	s.ok(err)
	return b
}

func (s *site) public() ed25519.PublicKey { return s.authority.Public().(ed25519.PublicKey) }

// add makes a gateway that knows the list and no key.
func (s *site) add(name string) *gateway {
	s.t.Helper()
	dir := s.t.TempDir()
	g := &gateway{site: s, name: name}
	log := slog.New(slog.NewTextHandler(&g.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	m := mirror.Open(mirror.Config{Path: filepath.Join(dir, "mirror"), Fleet: "acme", Site: "plant-7", Authority: s.public(), Log: log})
	m.Apply(&wire.Site{List: s.list})
	g.Mesh = New(Config{
		Self: ident.Gateway("acme", "plant-7", name), Keys: OpenKeys(filepath.Join(dir, "sitekey"), log), Mirror: m, Log: log,
		Names: func() []string { return namesOf(s, m) }, Dial: g.dialAs,
		Uplink: func() Uplink { g.mu.Lock(); defer g.mu.Unlock(); return g.up }, Load: func() Load { g.mu.Lock(); defer g.mu.Unlock(); return g.load },
		Changed: func(d []ident.DeviceID, site bool) {
			g.mu.Lock()
			g.told = append(g.told, d...)
			g.mu.Unlock()
			if site {
				g.ListChanged()
			}
		},
	})
	s.mu.Lock()
	s.gateways = append(s.gateways, g)
	s.mu.Unlock()
	return g
}

// namesOf are the names on the list that a mirror has.
func namesOf(s *site, m *mirror.Mirror) (out []string) {
	b, _ := m.List()
	if b == nil {
		return nil
	}
	l, err := seal.OpenGatewayList(b, "acme", s.public())
	s.ok(err)
	for _, g := range l.Gateways {
		out = append(out, g.Name)
	}
	return out
}

func (g *gateway) start() {
	ctx, cancel := context.WithCancel(g.site.t.Context())
	g.mu.Lock()
	g.ctx, g.cancel = ctx, cancel
	g.mu.Unlock()
	g.done.Go(func() { g.Run(ctx) })
}

// stop ends it as a service manager does, and waits for that.
func (g *gateway) stop() {
	g.cancel()
	g.done.Wait()
}

func (g *gateway) set(up Uplink, l Load) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.up, g.load = up, l
}

func (g *gateway) heard() []ident.DeviceID {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.told)
}

func (s *site) named(name string) *gateway {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.gateways, func(g *gateway) bool { return g.name == name })
	if i < 0 {
		return nil
	}
	return s.gateways[i]
}

// asked is how often siblings asked it for facts.
func (g *gateway) asked() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.asks
}

var errAway = errors.New("nobody answers")

// dialAs is how one gateway's mesh dials another one.
func (g *gateway) dialAs(ctx context.Context, name string, p wire.Purpose) (net.Conn, error) {
	s, to := g.site, g.site.named(name)
	time.Sleep(2 * time.Millisecond)
	s.mu.Lock()
	away := to == nil || s.cut != nil && s.cut(g.name, name)
	s.mu.Unlock()
	if !away {
		to.mu.Lock()
		away = to.ctx == nil || to.ctx.Err() != nil
		to.mu.Unlock()
	}
	if away {
		<-ctx.Done()
		return nil, errAway
	}
	return s.connect(g.name, to, p), nil //nolint:contextcheck // who is dialled has a context of his own
}

// connect opens a session with a gateway, by a name that its certificate proves.
func (s *site) connect(from string, to *gateway, p wire.Purpose) net.Conn {
	a, b := net.Pipe()
	s.mu.Lock()
	s.pipes[a], s.pipes[b] = [2]string{from, to.name}, [2]string{from, to.name}
	s.mu.Unlock()
	to.mu.Lock()
	ctx, handler := to.ctx, to.handler
	if p == wire.PurposeMirror {
		to.asks++
	}
	to.mu.Unlock()
	to.done.Go(func() {
		defer func() {
			b.Close()
			s.mu.Lock()
			delete(s.pipes, a)
			delete(s.pipes, b)
			s.mu.Unlock()
		}()
		stop := context.AfterFunc(ctx, func() { b.Close() })
		defer stop()
		if handler != nil {
			handler(from, p, b)
			return
		}
		switch p {
		case wire.PurposeGossip:
			to.Gossip(ctx, from, b)
		case wire.PurposePackets:
			to.Packets(ctx, from, counted{b, &s.packets})
		case wire.PurposeMirror:
			to.Facts(ctx, from, b)
		case wire.PurposeRelay:
		}
	})
	return a
}

// counted counts the packets that are read.
type counted struct {
	net.Conn
	n *atomic.Int64
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if len(p) == 2 && err == nil { // a packet's length
		c.n.Add(1)
	}
	return n, err
}

// divide lets nothing pass between two gateways for which cut is true; nil: everything passes.
func (s *site) divide(cut func(a, b string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cut = cut
	for c, ends := range s.pipes {
		if cut != nil && cut(ends[0], ends[1]) {
			c.Close()
		}
	}
}

// alive are the names of the siblings that a gateway takes for members.
func (g *gateway) alive() (out []string) {
	for _, s := range g.Siblings() {
		if s.Said {
			out = append(out, s.Name)
		}
	}
	slices.Sort(out)
	return out
}

// others are the listed names without one.
func (s *site) others(name string) []string {
	return slices.DeleteFunc(slices.Clone(s.listed), func(n string) bool { return n == name })
}

// until waits until f is true, and fails the test when it is not after d.
func (s *site) until(d time.Duration, what string, f func() bool) {
	s.t.Helper()
	start := time.Now()
	for !f() {
		if time.Since(start) > d {
			for _, g := range s.gateways {
				s.t.Logf("%s sees %v", g.name, g.alive())
			}
			s.t.Fatalf("%s: not after %v", what, d)
		}
		time.Sleep(50 * time.Millisecond)
	}
	s.t.Logf("%s after %v", what, time.Since(start))
}

// whole tells whether every one of the gateways sees exactly the others of them.
func (s *site) whole(names ...string) func() bool {
	return func() bool {
		for _, n := range names {
			want := slices.DeleteFunc(slices.Clone(names), func(o string) bool { return o == n })
			if !slices.Equal(s.named(n).alive(), want) {
				return false
			}
		}
		return true
	}
}

var _ io.Writer = (*lockedBuffer)(nil)

// other is a key that is not the authority's.
func (s *site) other() ed25519.PrivateKey {
	s.t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	s.ok(err)
	return key
}
