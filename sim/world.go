// Package sim builds worlds: real core nodes, gateways and agents over a simulated network, in virtual time.
//
// Everything in a world runs in one process and, in tests, in one testing/synctest bubble. Files lie on a real disk.
package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-edge/holdfast/agent"
	"github.com/holdfast-edge/holdfast/core"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/sim/netsim"
	"github.com/holdfast-edge/holdfast/sitegw"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// Fixed addresses of the first core node.
const (
	coreHost    = "10.0.0.1"
	apiAddr     = coreHost + ":443"
	uplinkAddr  = coreHost + ":7444"
	clusterAddr = coreHost + ":7445"
)

// World is one fleet. Its methods are for one goroutine.
type World struct {
	Dir          string
	Net          *netsim.Net
	Log          *slog.Logger
	ReportPeriod time.Duration
	Tuning       core.Tuning // of the core nodes; zero: defaults
	TargetBeats  uint32      // of the core nodes; 0: the default

	cores []*CoreNode
	token string // the administrator's
	hosts int
}

// New prepares a world in dir.
func New(dir string, n *netsim.Net) *World {
	return &World{Dir: dir, Net: n, Log: slog.New(slog.DiscardHandler), ReportPeriod: core.DefaultReportPeriod}
}

// A Process is something that runs until it is stopped or killed.
type Process struct {
	cancel  context.CancelFunc
	done    chan struct{}
	err     error // set before done is closed
	sockets []*netsim.PacketConn
	host    netip.Addr // what a kill takes off the network
	net     *netsim.Net
	core    bool // its host stays off the network until the next start
}

// start runs a process of a host, with the sockets that it has opened.
func (w *World) start(ctx context.Context, host netip.Addr, sockets []*netsim.PacketConn, run func(context.Context) error) *Process {
	p := &Process{sockets: sockets, host: host, net: w.Net}
	p.begin(ctx, run)
	return p
}

func (p *Process) begin(ctx context.Context, run func(context.Context) error) {
	ctx, p.cancel = context.WithCancel(ctx)
	p.done = make(chan struct{})
	go func() {
		defer close(p.done)
		p.err = run(ctx)
	}()
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is what the process ended with. It may be called once Done is closed.
func (p *Process) Err() error { return p.err }

// Stop ends the process as SIGTERM does, and returns its error.
func (p *Process) Stop() error {
	p.cancel()
	<-p.done
	return p.err
}

// Kill ends the process without a word to anybody: its sockets are off the network before it notices.
func (p *Process) Kill() {
	p.net.Unplug(p.host)
	if !p.core {
		for _, s := range p.sockets {
			s.Unplug()
		}
	}
	p.cancel()
	<-p.done
	if !p.core {
		p.net.Plug(p.host)
	}
}

// host gives the next machine its address.
func (w *World) host() netip.Addr {
	w.hosts++
	return netip.AddrFrom4([4]byte{10, 1, byte(w.hosts >> 8), byte(w.hosts)}) //nolint:gosec // G115: the low byte is meant
}

// dialFrom opens streams from a host.
func (w *World) dialFrom(host netip.Addr) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) { return w.Net.DialFrom(ctx, host, addr) }
}

func (w *World) socket(addr string, sockets *[]*netsim.PacketConn) (*netsim.PacketConn, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	c, err := w.Net.ListenPacket(ap)
	if err == nil {
		*sockets = append(*sockets, c)
	}
	return c, err
}

// Init makes the fleet.
func (w *World) Init(ctx context.Context) error {
	c := w.Core(1)
	var sockets []*netsim.PacketConn
	if err := core.Init(ctx, c.config(&sockets)); err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(c.Dir(), "admin.token"))
	w.token = strings.TrimSpace(string(b))
	return err
}

// StartCore runs the first core node and waits until it serves.
func (w *World) StartCore(ctx context.Context) (*Process, error) {
	c := w.Core(1)
	p := c.Start(ctx)
	return p, c.Serving(ctx)
}

// A CoreNode is a core node's place in the world.
type CoreNode struct {
	w    *World
	N    int // from 1
	Name string
	Host netip.Addr
	Wall func() time.Time // nil: the world's time

	proc  *Process
	ready chan struct{}             // closed when node is set, or the process has ended
	node  atomic.Pointer[core.Core] // nil while the node does not serve
}

// Core is the place of the nth core node, from 1.
func (w *World) Core(n int) *CoreNode {
	for len(w.cores) < n {
		i := len(w.cores) + 1
		w.cores = append(w.cores, &CoreNode{
			w: w, N: i, Name: fmt.Sprintf("core-%d", i), Host: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), //nolint:gosec // G115: a handful
		})
	}
	return w.cores[n-1]
}

// Dir is the node's data directory.
func (c *CoreNode) Dir() string { return filepath.Join(c.w.Dir, c.Name) }

// Uplink is where gateways reach the node.
func (c *CoreNode) Uplink() string { return netip.AddrPortFrom(c.Host, 7444).String() }

func (c *CoreNode) config(sockets *[]*netsim.PacketConn) core.Config {
	at := func(port uint16) string { return netip.AddrPortFrom(c.Host, port).String() }
	return core.Config{
		Settings: core.Settings{Fleet: "sim", Name: c.Name, API: at(443), Uplink: at(7444), Cluster: at(7445), ReportPeriod: c.w.ReportPeriod, TargetBeats: c.w.TargetBeats},
		DataDir:  c.Dir(), Log: c.w.Log.With("node", c.Name), Wall: c.Wall, Tuning: c.w.Tuning,
		Net: core.Network{
			ListenPacket: func(addr string) (net.PacketConn, error) {
				if addr == ":0" {
					addr = at(0)
				}
				return c.w.socket(addr, sockets)
			},
			Listen: c.w.Net.Listen,
			Dial:   c.w.dialFrom(c.Host),
		},
	}
}

// Join gets the node its identity with a token made through a node that serves. It is not started.
func (c *CoreNode) Join(ctx context.Context, through *CoreNode) error {
	var t struct {
		Token string `json:"token"`
	}
	if err := through.Call(ctx, &t, http.MethodPost, "/v1/tokens", map[string]any{"kind": "core"}); err != nil {
		return err
	}
	return c.JoinWith(ctx, through, t.Token)
}

// JoinWith is Join with the text of a token that exists.
func (c *CoreNode) JoinWith(ctx context.Context, through *CoreNode, text string) error {
	token, err := seal.ParseToken(text)
	if err != nil {
		return err
	}
	var sockets []*netsim.PacketConn
	return core.Join(ctx, c.config(&sockets), []string{through.Uplink()}, token)
}

// Start runs the node. It serves once Serving returns.
func (c *CoreNode) Start(ctx context.Context) *Process {
	c.w.Net.Plug(c.Host)
	c.node.Store(nil)
	c.ready = make(chan struct{})
	ready := sync.OnceFunc(func() { close(c.ready) })
	p := &Process{host: c.Host, net: c.w.Net, core: true}
	c.proc = p
	p.begin(ctx, func(ctx context.Context) error {
		defer ready()
		n, err := core.New(ctx, c.config(&p.sockets))
		if err != nil {
			return err
		}
		defer c.node.Store(nil)
		c.node.Store(n)
		ready()
		return n.Run(ctx)
	})
	return p
}

// Serving waits until the node serves, or returns why it does not.
func (c *CoreNode) Serving(ctx context.Context) error {
	select {
	case <-c.ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	if c.node.Load() == nil {
		<-c.proc.done
		return c.proc.err
	}
	return nil
}

// Running tells whether the node has been started and has not ended.
func (c *CoreNode) Running() bool {
	if c.proc == nil {
		return false
	}
	select {
	case <-c.proc.done:
		return false
	default:
		return true
	}
}

// Process is the node's newest process; nil before Start.
func (c *CoreNode) Process() *Process { return c.proc }

// StartCores makes the core one of n nodes, all of them serving.
func (w *World) StartCores(ctx context.Context, n int) error {
	if _, err := w.StartCore(ctx); err != nil {
		return err
	}
	for i := 2; i <= n; i++ {
		c := w.Core(i)
		if err := c.Join(ctx, w.Core(1)); err != nil {
			return err
		}
		c.Start(ctx)
		if err := c.Serving(ctx); err != nil {
			return err
		}
	}
	return nil
}

// A Gateway is a gateway's place in the world.
type Gateway struct {
	w           *World
	Name        string
	Addr        netip.AddrPort
	TargetBeats uint32 // 0: the default
	// Stream changes the streams that it dials; nil: nothing does.
	Stream func(addr string, c net.Conn) net.Conn

	runs []*sitegw.Gateway
}

// EnrollGateway gets a new gateway its identity.
func (w *World) EnrollGateway(ctx context.Context, name, site string) (*Gateway, error) {
	g := w.newGateway(name)
	token, err := w.Token(ctx, "gateway", site, 1)
	if err != nil {
		return nil, err
	}
	return g, g.enroll(ctx, token)
}

// newGateway places a gateway.
func (w *World) newGateway(name string) *Gateway {
	return &Gateway{w: w, Name: name, Addr: netip.AddrPortFrom(w.host(), 7450)}
}

func (g *Gateway) enroll(ctx context.Context, token *seal.Token) error {
	var sockets []*netsim.PacketConn
	_, err := sitegw.Enroll(ctx, g.config(&sockets), token)
	return err
}

// Dir is the gateway's data directory.
func (g *Gateway) Dir() string { return filepath.Join(g.w.Dir, g.Name) }

func (g *Gateway) config(sockets *[]*netsim.PacketConn) sitegw.Config {
	return sitegw.Config{
		Settings: sitegw.Settings{Name: g.Name, Listen: g.Addr.String(), Cores: []string{uplinkAddr}, TargetBeats: g.TargetBeats},
		DataDir:  g.Dir(), Log: g.w.Log,
		Busy: func() float64 { return 0 }, // the machine's time is not the world's
		Packet: func(listen string) (net.PacketConn, error) {
			if listen == "" {
				listen = netip.AddrPortFrom(g.Addr.Addr(), 0).String()
			}
			return g.w.socket(listen, sockets)
		},
		StreamListen: g.w.Net.Listen, StreamDial: g.dial,
	}
}

// dial opens a stream from the gateway.
func (g *Gateway) dial(ctx context.Context, addr string) (net.Conn, error) {
	c, err := g.w.Net.DialFrom(ctx, g.Addr.Addr(), addr)
	if err == nil && g.Stream != nil {
		c = g.Stream(addr, c)
	}
	return c, err
}

// Start runs the gateway.
func (g *Gateway) Start(ctx context.Context) (*Process, error) {
	var sockets []*netsim.PacketConn
	gw, err := sitegw.New(g.config(&sockets))
	if err != nil {
		return nil, err
	}
	g.runs = append(g.runs, gw)
	return g.w.start(ctx, g.Addr.Addr(), sockets, gw.Run), nil
}

// OverWAN counts the bytes of content that all runs of the gateway had from the core.
func (g *Gateway) OverWAN() (n uint64) {
	for _, x := range g.runs {
		n += x.Content().WAN
	}
	return n
}

// Linger lets the time pass that the probes of stopped gateways take to give up: the library that they gossip with does not wait for
// its own, and a bubble must not end before they have.
func (w *World) Linger() { time.Sleep(10 * time.Second) }

// An Agent is a device's place in the world.
type Agent struct {
	w        *World
	Name     string
	Host     netip.Addr
	Gateways []string
	Tags     map[string]string
	Profile  func() wire.Profile // nil: a small machine
	Wall     func() time.Time    // nil: the world's time
	Facts    time.Duration       // how often it looks whether its profile changed; 0: as agents do
	Log      *slog.Logger        // nil: the world's
	ID       string              // set by Enroll

	runs []*agent.Agent
}

// NewAgent places a device that reaches the given gateways.
func (w *World) NewAgent(name string, gateways ...*Gateway) *Agent {
	a := &Agent{w: w, Name: name, Host: w.host()}
	for _, g := range gateways {
		a.Gateways = append(a.Gateways, g.Addr.String())
	}
	return a
}

// smallMachine is the profile of a device that says nothing else.
func smallMachine() wire.Profile {
	return wire.Profile{
		Arch: wire.Known("arm64"), RAMBytes: wire.Known(uint64(2 << 30)), CPUCores: wire.Known(uint32(4)), OS: wire.Known("Simulated Linux"),
		Kernel: wire.Known("6.12.0"), Accelerators: wire.Absent[[]string](), Model: wire.Known("Simulated board"), SoC: wire.Absent[string](),
	}
}

// Dir is the device's state directory.
func (a *Agent) Dir() string { return filepath.Join(a.w.Dir, a.Name) }

func (a *Agent) config(sockets *[]*netsim.PacketConn) agent.Config {
	profile := a.Profile
	if profile == nil {
		profile = smallMachine
	}
	log := a.Log
	if log == nil {
		log = a.w.Log
	}
	boot := time.Now()
	return agent.Config{
		Settings: agent.Settings{Gateways: a.Gateways, Tags: a.Tags}, StateDir: a.Dir(), Version: "sim", Log: log.With("agent", a.Name),
		Uptime: func() time.Duration { return time.Since(boot) }, BootID: [16]byte{1}, Clock: func() seal.ClockQuality { return seal.ClockSynced },
		Profile: profile, Wall: a.Wall, Facts: a.Facts,
		Packet: func() (net.PacketConn, error) {
			return a.w.socket(netip.AddrPortFrom(a.Host, 0).String(), sockets)
		},
		Stream: a.w.dialFrom(a.Host),
	}
}

// Enroll gets the device its identity.
func (a *Agent) Enroll(ctx context.Context, token *seal.Token) error {
	var sockets []*netsim.PacketConn
	id, err := agent.Enroll(ctx, a.config(&sockets), token)
	a.ID = id.Device.String()
	return err
}

// Start runs the device's agent.
func (a *Agent) Start(ctx context.Context) (*Process, error) {
	var sockets []*netsim.PacketConn
	x, err := agent.New(a.config(&sockets))
	if err != nil {
		return nil, err
	}
	a.runs = append(a.runs, x)
	return a.w.start(ctx, a.Host, sockets, x.Run), nil
}

// Answered counts the heartbeats of all runs of the device's agent that a gateway answered.
func (a *Agent) Answered() (n uint64) {
	for _, x := range a.runs {
		n += x.Answered()
	}
	return n
}

// Token makes an enrollment token.
func (w *World) Token(ctx context.Context, kind, site string, uses int) (*seal.Token, error) {
	var t struct {
		Token string `json:"token"`
	}
	in := map[string]any{"kind": kind, "site": site, "uses": uses}
	if err := w.Call(ctx, &t, http.MethodPost, "/v1/tokens", in); err != nil {
		return nil, err
	}
	return seal.ParseToken(t.Token)
}

// ErrStatus is an answer of the API that is no success.
var ErrStatus = errors.New("the API refused")

// Call asks the API of the first core node that serves. in and out may be nil.
func (w *World) Call(ctx context.Context, out any, method, path string, in any) error {
	for _, c := range w.cores {
		if c.Running() && c.node.Load() != nil {
			return c.Call(ctx, out, method, path, in)
		}
	}
	return fmt.Errorf("%s %s: no core node serves: %w", method, path, ErrStatus)
}

// View is the registry as the node knows it; false while the node does not serve.
func (c *CoreNode) View() (registry.View, bool) {
	n := c.node.Load()
	if n == nil {
		return registry.View{}, false
	}
	return n.View(), true
}

// newRequest makes a request to the API. in may be nil: no body.
func newRequest(ctx context.Context, method, path string, in any) (*http.Request, error) {
	if in == nil {
		return httptest.NewRequestWithContext(ctx, method, path, http.NoBody), nil
	}
	b, err := json.Marshal(in)
	if err != nil {
		return nil, fmt.Errorf("%s %s: encode the body: %w", method, path, err)
	}
	r := httptest.NewRequestWithContext(ctx, method, path, bytes.NewReader(b))
	r.Header.Set("Content-Type", "application/json")
	return r, nil
}

// Do has the node's API answer a request, which is the administrator's unless it says whose it is. The error is ErrStatus when
// the node does not serve; every answer of a node that serves is returned.
func (c *CoreNode) Do(r *http.Request) (*httptest.ResponseRecorder, error) {
	n := c.node.Load()
	if n == nil {
		return nil, fmt.Errorf("%s %s: %s does not serve: %w", r.Method, r.URL.Path, c.Name, ErrStatus)
	}
	if r.Header.Get("Authorization") == "" {
		r.Header.Set("Authorization", "Bearer "+c.w.token)
	}
	rec := httptest.NewRecorder()
	n.Handler().ServeHTTP(rec, r)
	return rec, nil
}

// Call asks the node's API. in and out may be nil.
func (c *CoreNode) Call(ctx context.Context, out any, method, path string, in any) error {
	r, err := newRequest(ctx, method, path, in)
	if err != nil {
		return err
	}
	rec, err := c.Do(r)
	if err != nil {
		return err
	}
	if rec.Code >= http.StatusMultipleChoices {
		return fmt.Errorf("%s %s: %d %s: %w", method, path, rec.Code, strings.TrimSpace(rec.Body.String()), ErrStatus)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(rec.Body.Bytes(), out)
}
