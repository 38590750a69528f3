// Package sim builds worlds: real core nodes, gateways and agents over a simulated network, in virtual time.
//
// Everything in a world runs in one process and, in tests, in one testing/synctest bubble. Files lie on a real disk.
package sim

import (
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
	"time"

	"github.com/holdfast-edge/holdfast/agent"
	"github.com/holdfast-edge/holdfast/core"
	"github.com/holdfast-edge/holdfast/sim/netsim"
	"github.com/holdfast-edge/holdfast/sitegw"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// Fixed addresses of the one core node.
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

	core  *Process
	node  *core.Core
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
	err     error
	sockets []*netsim.PacketConn
}

func start(ctx context.Context, sockets []*netsim.PacketConn, run func(context.Context) error) *Process {
	ctx, cancel := context.WithCancel(ctx)
	p := &Process{cancel: cancel, done: make(chan struct{}), sockets: sockets}
	go func() {
		defer close(p.done)
		p.err = run(ctx)
	}()
	return p
}

// Stop ends the process as SIGTERM does, and returns its error.
func (p *Process) Stop() error {
	p.cancel()
	<-p.done
	return p.err
}

// Kill ends the process without a word to anybody: its sockets are off the network before it notices.
func (p *Process) Kill() {
	for _, s := range p.sockets {
		s.Unplug()
	}
	p.cancel()
	<-p.done
}

// host gives the next machine its address.
func (w *World) host() netip.Addr {
	w.hosts++
	return netip.AddrFrom4([4]byte{10, 1, byte(w.hosts >> 8), byte(w.hosts)}) //nolint:gosec // G115: the low byte is meant
}

func (w *World) coreConfig(sockets *[]*netsim.PacketConn) core.Config {
	return core.Config{
		Settings: core.Settings{Fleet: "sim", Name: "core-1", API: apiAddr, Uplink: uplinkAddr, Cluster: clusterAddr, ReportPeriod: w.ReportPeriod},
		DataDir:  filepath.Join(w.Dir, "core-1"), Log: w.Log,
		Net: core.Network{
			ListenPacket: func(addr string) (net.PacketConn, error) { return w.socket(addr, sockets) },
			Listen:       w.Net.Listen, Dial: w.Net.Dial,
		},
	}
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
	var sockets []*netsim.PacketConn
	if err := core.Init(ctx, w.coreConfig(&sockets)); err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(w.Dir, "core-1", "admin.token"))
	w.token = strings.TrimSpace(string(b))
	return err
}

// StartCore runs the core node.
func (w *World) StartCore(ctx context.Context) (*Process, error) {
	var sockets []*netsim.PacketConn
	n, err := core.New(ctx, w.coreConfig(&sockets))
	if err != nil {
		return nil, err
	}
	w.node = n
	w.core = start(ctx, sockets, n.Run)
	return w.core, nil
}

// A Gateway is a gateway's place in the world.
type Gateway struct {
	w    *World
	Name string
	Addr netip.AddrPort
}

// EnrollGateway gets a new gateway its identity.
func (w *World) EnrollGateway(ctx context.Context, name, site string) (*Gateway, error) {
	g := &Gateway{w: w, Name: name, Addr: netip.AddrPortFrom(w.host(), 7450)}
	token, err := w.Token(ctx, "gateway", site, 1)
	if err != nil {
		return nil, err
	}
	var sockets []*netsim.PacketConn
	_, err = sitegw.Enroll(ctx, g.config(&sockets), token)
	return g, err
}

func (g *Gateway) config(sockets *[]*netsim.PacketConn) sitegw.Config {
	return sitegw.Config{
		Settings: sitegw.Settings{Name: g.Name, Listen: g.Addr.String(), Cores: []string{uplinkAddr}},
		DataDir:  filepath.Join(g.w.Dir, g.Name), Log: g.w.Log,
		Packet: func(listen string) (net.PacketConn, error) {
			if listen == "" {
				listen = netip.AddrPortFrom(g.Addr.Addr(), 0).String()
			}
			return g.w.socket(listen, sockets)
		},
	}
}

// Start runs the gateway.
func (g *Gateway) Start(ctx context.Context) (*Process, error) {
	var sockets []*netsim.PacketConn
	gw, err := sitegw.New(g.config(&sockets))
	if err != nil {
		return nil, err
	}
	return start(ctx, sockets, gw.Run), nil
}

// An Agent is a device's place in the world.
type Agent struct {
	w        *World
	Name     string
	Host     netip.Addr
	Gateways []string
	Tags     map[string]string
	Profile  func() wire.Profile // nil: a small machine
	Wall     func() time.Time    // nil: the world's time
	ID       string              // set by Enroll
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

func (a *Agent) config(sockets *[]*netsim.PacketConn) agent.Config {
	profile := a.Profile
	if profile == nil {
		profile = smallMachine
	}
	boot := time.Now()
	return agent.Config{
		Settings: agent.Settings{Gateways: a.Gateways, Tags: a.Tags}, StateDir: filepath.Join(a.w.Dir, a.Name), Version: "sim", Log: a.w.Log,
		Uptime: func() time.Duration { return time.Since(boot) }, BootID: [16]byte{1}, Clock: func() seal.ClockQuality { return seal.ClockSynced },
		Profile: profile, Wall: a.Wall,
		Packet: func() (net.PacketConn, error) {
			return a.w.socket(netip.AddrPortFrom(a.Host, 0).String(), sockets)
		},
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
	return start(ctx, sockets, x.Run), nil
}

// Token makes an enrollment token.
func (w *World) Token(ctx context.Context, kind, site string, uses int) (*seal.Token, error) {
	var t struct {
		Token string `json:"token"`
	}
	err := w.Call(ctx, &t, http.MethodPost, "/v1/tokens", map[string]any{"kind": kind, "site": site, "uses": uses})
	if err != nil {
		return nil, err
	}
	return seal.ParseToken(t.Token)
}

// ErrStatus is an answer of the API that is no success.
var ErrStatus = errors.New("the API refused")

// Call asks the core node's API. in and out may be nil.
func (w *World) Call(ctx context.Context, out any, method, path string, in any) error {
	body := ""
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = string(b)
	}
	r := httptest.NewRequestWithContext(ctx, method, path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+w.token)
	if in != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	rec := httptest.NewRecorder()
	w.node.Handler().ServeHTTP(rec, r)
	if rec.Code >= http.StatusMultipleChoices {
		return fmt.Errorf("%s %s: %d %s: %w", method, path, rec.Code, strings.TrimSpace(rec.Body.String()), ErrStatus)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(rec.Body.Bytes(), out)
}

// coreAddr is the core node's host.
func (*World) coreAddr() netip.Addr { return netip.MustParseAddr(coreHost) }
