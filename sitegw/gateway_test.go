package sitegw

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/holdfast-edge/holdfast/internal/ops"
	"github.com/holdfast-edge/holdfast/sitegw/cores"
	"github.com/holdfast-edge/holdfast/sitegw/witness"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/ident/identtest"
	"github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/link/linktest"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

const fleetName = "acme"

// A core is one node that enrolls a gateway and welcomes it.
type core struct {
	t     *testing.T
	fleet *identtest.Fleet
	tr    *link.Transport
	told  []string // Enrolled.Cores
	up    chan *link.Session
}

// newCore serves until the returned function is called.
func newCore(t *testing.T, pc net.PacketConn) (*core, func()) {
	t.Helper()
	c := &core{t: t, fleet: identtest.New(t, fleetName, time.Now()), tr: link.NewTransport(pc, nil), up: make(chan *link.Session, 8)}
	cert := c.fleet.Certificate(ident.Core(fleetName, "core-1"), time.Now())
	ln, err := c.tr.Listen(c.fleet.Endpoint(cert).Server(
		ident.Protocol{ALPN: wire.ALPNUplink, Roles: []ident.Role{ident.RoleGateway}}, ident.Protocol{ALPN: wire.ALPNEnroll},
	), link.Options{Limits: link.UplinkLimits})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			p, err := ln.Accept(ctx)
			if err != nil {
				return
			}
			s, err := p.Session(ctx, time.Minute)
			if err != nil {
				continue // the gateway stopped meanwhile, or chose another node
			}
			c.serve(p.Protocol(), s)
		}
	})
	return c, func() {
		cancel()
		wg.Wait()
		if err := c.tr.Close(); err != nil {
			t.Error(err)
		}
	}
}

func (c *core) serve(protocol string, s *link.Session) {
	_, body, err := s.RecvWithin(time.Minute)
	if err != nil {
		c.t.Error(err)
		return
	}
	if protocol == wire.ALPNUplink {
		if err := s.Send(wire.TypeUplinkWelcome, wire.UplinkWelcome{Capability: 1, ReportPeriodMS: 7000}); err != nil {
			c.t.Error(err)
		}
		c.up <- s
		return
	}
	var e wire.Enroll
	if err := wire.Unmarshal(body, &e); err != nil {
		c.t.Error(err)
		return
	}
	id := ident.Gateway(fleetName, "plant-7", e.Name)
	csr, err := ident.ParseCSR(e.CSR)
	if err != nil {
		c.t.Error(err)
		return
	}
	err = s.Send(wire.TypeEnrolled, wire.Enrolled{
		Identity: id.String(), Chain: c.fleet.Chain(id, csr.Key, time.Now()), Root: c.fleet.Root.Cert.Raw, Authority: c.fleet.AuthCert, Cores: c.told,
	})
	if err != nil {
		c.t.Error(err)
	}
	s.Finish(time.Second)
	s.Close()
}

// enroll enrolls the gateway of a configuration.
func (c *core) enroll(cfg Config) {
	c.t.Helper()
	if _, err := Enroll(c.t.Context(), cfg, seal.NewToken(c.fleet.Pin())); err != nil {
		c.t.Fatal(err)
	}
}

// run runs a gateway until the returned function is called.
func run(t *testing.T, cfg Config) (*Gateway, func()) {
	t.Helper()
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := g.Run(ctx); err != nil {
			t.Errorf("the gateway ended with %v", err)
		}
	})
	return g, func() { cancel(); wg.Wait() }
}

// inPlant runs f in a bubble with a core, and a configuration for a gateway.
func inPlant(t *testing.T, f func(t *testing.T, c *core, cfg Config)) {
	synctest.Test(t, func(t *testing.T) {
		n := linktest.New(t)
		c, stop := newCore(t, n.Socket(1))
		defer stop()
		host := byte(10)
		f(t, c, Config{
			Settings: Settings{Name: "gw-a", Listen: "10.0.0.200:4433", Cores: []string{c.tr.Addr().String()}},
			DataDir:  t.TempDir(), Version: "v1", Log: slog.New(slog.DiscardHandler),
			Packet: func(string) (net.PacketConn, error) {
				host++
				return n.Socket(host), nil
			},
			StreamListen: n.Listen, StreamDial: n.Dial,
		})
	})
}

func (c *core) stored(dir string) []string {
	return cores.Open(filepath.Join(dir, coresFile), nil, slog.New(slog.DiscardHandler)).All()
}

// The list of core nodes is that of the enrollment; a core that does not tell one is reached where the enrollment was.
func TestEnrollStoresTheCores(t *testing.T) {
	for name, told := range map[string][]string{"told": {"10.0.1.1:7400", "10.0.1.2:7400"}, "not told": nil, "nonsense": {"nowhere"}} {
		inPlant(t, func(t *testing.T, c *core, cfg Config) {
			c.told = told
			c.enroll(cfg)
			want := told
			switch name {
			case "not told":
				want = cfg.Cores
			case "nonsense":
				want = nil // the configuration still has the address
			}
			if got := c.stored(cfg.DataDir); !slices.Equal(got, want) {
				t.Errorf("%s: stored %q, want %q", name, got, want)
			}
			s, err := LoadSettings(cfg.DataDir)
			if err != nil || !slices.Equal(s.Cores, cfg.Cores) {
				t.Errorf("%s: settings %+v, %v", name, s, err)
			}
			c.told = []string{"10.0.1.9:7400"}
			c.enroll(cfg) // again: nothing is asked
			if got := c.stored(cfg.DataDir); !slices.Equal(got, want) {
				t.Errorf("%s: enrolled again: stored %q, want %q", name, got, want)
			}
		})
	}
}

func get(c ops.Config, path string) (int, string) {
	w := httptest.NewRecorder()
	ops.Handler(c).ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, http.NoBody))
	return w.Code, w.Body.String()
}

func settle() {
	time.Sleep(time.Second)
	synctest.Wait()
}

// wantMetrics checks that each line is told.
func wantMetrics(t *testing.T, c ops.Config, want ...string) {
	t.Helper()
	_, body := get(c, "/metrics")
	for _, line := range want {
		if !strings.Contains(body, "\n"+line+"\n") {
			t.Errorf("no %q among\n%s", line, gatewaysOwn(body))
		}
	}
}

func gatewaysOwn(metrics string) string {
	var out []string
	for line := range strings.SplitSeq(metrics, "\n") {
		if strings.HasPrefix(line, "holdfast_") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "\n")
}

// A gateway is ready with its uplink and without it, and not after its end; the metrics tell which.
func TestWatched(t *testing.T) {
	inPlant(t, func(t *testing.T, c *core, cfg Config) {
		c.enroll(cfg)
		g, stop := run(t, cfg)
		watched := g.watched()
		s := <-c.up
		settle()
		wantMetrics(t, watched,
			"holdfast_gateway_uplink_connected 1", `holdfast_gateway_uplink_node_info{address="`+cfg.Cores[0]+`",carrier="quic",node="core-1"} 1`,
			"holdfast_gateway_uplink_reconnects_total 0", "holdfast_gateway_report_period_seconds 7",
			"holdfast_gateway_sessions 0", "holdfast_gateway_devices_online 0", "holdfast_gateway_heartbeats_total 0",
			"holdfast_gateway_statements_passed_total 0", `holdfast_gateway_statements_refused_total{code="unavailable"} 0`,
			`holdfast_gateway_agents_refused_total{code="other"} 0`, "holdfast_gateway_enrollments_total 0",
			`holdfast_gateway_enrollments_refused_total{code="refused"} 0`, "holdfast_gateway_witness_alarms_total 0",
			"holdfast_gateway_uplink_relayed 0", "holdfast_gateway_relays 0", "holdfast_gateway_relays_total 0", "holdfast_gateway_relayed_bytes_total 0",
		)
		s.Close()
		<-c.up
		settle()
		wantMetrics(t, watched, "holdfast_gateway_uplink_reconnects_total 1")
		if err := g.Healthy(t.Context()); err != nil {
			t.Errorf("with an uplink: %v", err)
		}
		if err := c.tr.Close(); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		wantMetrics(t, watched, "holdfast_gateway_uplink_connected 0")
		_, body := get(watched, "/metrics")
		if strings.Contains(body, "uplink_node_info{") || strings.Contains(body, "report_period_seconds ") {
			t.Errorf("a node is named without an uplink:\n%s", gatewaysOwn(body))
		}
		for _, path := range []string{"/readyz", "/healthz"} {
			if code, body := get(watched, path); code != http.StatusOK {
				t.Errorf("%s without an uplink: %d %s", path, code, body)
			}
		}
		stop()
		for _, path := range []string{"/readyz", "/healthz"} {
			if code, body := get(watched, path); code != http.StatusServiceUnavailable || !strings.Contains(body, "accept loop") {
				t.Errorf("%s after the end: %d %s", path, code, body)
			}
		}
	})
}

// Every metric has a help text and a name as is usual.
func TestMetricsLint(t *testing.T) {
	inPlant(t, func(t *testing.T, c *core, cfg Config) {
		c.enroll(cfg)
		g, stop := run(t, cfg)
		defer stop()
		<-c.up
		settle()
		_, body := get(g.watched(), "/metrics")
		problems, err := promlint.New(strings.NewReader(body)).Lint()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			if strings.HasPrefix(p.Metric, "holdfast_") {
				t.Errorf("%s: %s", p.Metric, p.Text)
			}
		}
		if n := strings.Count(body, "# HELP holdfast_gateway_"); n != 45 {
			t.Errorf("%d metrics with help", n)
		}
	})
}

// What the core tells in a session is kept: its nodes, and the heads of its audit trail, by the authority of the enrollment.
func TestWhatIsToldIsKept(t *testing.T) {
	inPlant(t, func(t *testing.T, c *core, cfg Config) {
		c.enroll(cfg)
		g, stop := run(t, cfg)
		s := <-c.up
		head := func(fleet *identtest.Fleet) []byte {
			b, err := seal.SealAuditHead(&seal.AuditHead{Version: 1, Fleet: fleetName, ClusterEpoch: 1, Seq: 5, LogTimeMS: time.Now().UnixMilli()}, fleet.Authority)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		tell := func(m wire.Site) {
			if err := s.Send(wire.TypeSite, m); err != nil {
				t.Fatal(err)
			}
			settle()
		}
		told := []string{"10.0.1.1:7400", "10.0.1.2:7400"}
		tell(wire.Site{Cores: told, AuditHead: head(c.fleet)})
		tell(wire.Site{AuditHead: head(identtest.New(t, fleetName, time.Now()))}) // of another authority
		wantMetrics(t, g.watched(), "holdfast_gateway_witness_seq 5", "holdfast_gateway_witness_alarms_total 1")
		if got := c.stored(cfg.DataDir); !slices.Equal(got, append(told, cfg.Cores...)) { // the one that works is not forgotten
			t.Errorf("stored %q", got)
		}
		stop()
		var out bytes.Buffer
		if err := witness.Print(&out, cfg.DataDir, []byte("authority")); err != nil || !strings.HasPrefix(out.String(), `{"seq":5,"hash":"00`) {
			t.Errorf("printed %q, %v", out.String(), err)
		}
	})
}

func TestSettings(t *testing.T) {
	good := Settings{Name: "gw-a", Listen: "gw:1", Cores: []string{"core:1"}}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for names, spoil := range map[string]func(*Settings){
		"name": func(s *Settings) { s.Name = "G W" }, "listen": func(s *Settings) { s.Listen = ":1" }, "cores": func(s *Settings) { s.Cores = nil },
		"cores: bad configuration: bad list": func(s *Settings) { s.Cores = []string{"core:1", "core"} },
		"ops":                                func(s *Settings) { s.Ops = "9090" }, "ops: bad": func(s *Settings) { s.Ops = ":9090" },
	} {
		s := good
		spoil(&s)
		if err := s.Check(); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), names) {
			t.Errorf("%s: %v", names, err)
		}
	}
}

// The operations port on a real socket, beside a real gateway. It opens before the gateway runs and closes with it.
func TestOpsPort(t *testing.T) {
	socket := func(string) (net.PacketConn, error) { return net.ListenPacket("udp", "127.0.0.1:0") }
	pc, err := socket("")
	if err != nil {
		t.Fatal(err)
	}
	c, stopCore := newCore(t, pc)
	defer stopCore()
	cfg := Config{
		Settings: Settings{Name: "gw-a", Listen: "127.0.0.1:1", Cores: []string{c.tr.Addr().String()}, Ops: "127.0.0.1:0"},
		DataDir:  t.TempDir(), Version: "v1", Log: slog.New(slog.DiscardHandler), Packet: socket,
		StreamListen: func(string) (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") },
	}
	c.enroll(cfg)
	g, stop := run(t, cfg)
	addr := g.ops.Addr().String()
	resp, err := http.Get(fmt.Sprintf("http://%s/metrics", addr))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil || !strings.Contains(string(body), `holdfast_build_info{goversion="`) {
		t.Errorf("metrics %.300q, %v", body, err)
	}
	stop()
	taken, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatalf("the port is still taken: %v", err)
	}
	cfg.Ops = addr
	if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "ops") {
		t.Errorf("on a port that is taken: %v", err)
	}
	if err := taken.Close(); err != nil {
		t.Error(err)
	}
	g, err = New(cfg) // the attempt before let everything go
	if err != nil {
		t.Fatal(err)
	}
	if err := g.close(); err != nil {
		t.Error(err)
	}
}
