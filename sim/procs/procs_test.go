package procs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

// These are the real-process tests: the shipped programs on real sockets and files, in real time. Everything that can be
// shown in virtual time is shown in package sim instead.

var bin string

// TestMain builds the programs that the tests run, or is the control program of TestPowerCutIsNoticed, or a process of agents of
// TestCrowdComesBack.
func TestMain(m *testing.M) {
	if os.Getenv(controlFiles) != "" {
		fmt.Fprintln(os.Stderr, runControl(os.Stdout))
		os.Exit(1) // it ends by nothing but an error
	}
	if config := os.Getenv(crowdConfig); config != "" {
		if err := runCrowd(config); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	if bin = os.Getenv(netnsBin); bin != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "holdfast-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	bin = dir
	build := exec.Command("go", "build", "-o", dir, "../../cmd/...")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the programs: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

const site = "plant-7"

// A rig is a fleet with running core nodes and, most often, a running gateway.
type rig struct {
	*Fleet
	t       *testing.T
	ctx     context.Context //nolint:containedctx // of the one test that it serves
	listen  string
	ops     string // where the gateway shows its metrics; "": nowhere
	core    *Proc
	gateway *Proc
	api     *caller
}

// newRig is one core node and one gateway.
func newRig(t *testing.T, interval, report time.Duration) *rig {
	t.Helper()
	r := prepareRig(t, report)
	r.startCores(1)
	r.interval(interval)
	r.addGateway()
	return r
}

// prepareRig is a fleet of which nothing exists yet.
func prepareRig(t *testing.T, report time.Duration) *rig {
	t.Helper()
	f, err := New(t.TempDir(), bin)
	r := &rig{Fleet: f, t: t, ctx: t.Context()}
	r.must(err)
	f.ReportPeriod = report
	t.Cleanup(f.Close)
	t.Cleanup(r.explain)
	return r
}

// explain shows, when the test failed, what every process said last.
func (r *rig) explain() {
	if !r.t.Failed() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.procs {
		if out := p.Tail(); out != "" {
			r.t.Logf("%s (process %d):\n%s", p.Name, p.Pid(), out)
		}
	}
}

// startCores makes the fleet with n core nodes.
func (r *rig) startCores(n int) {
	r.t.Helper()
	r.must(r.InitCore(r.ctx, "rig"))
	r.must(r.StartCores(r.ctx, n))
	r.core = r.cores[0].Proc
	var err error
	r.api, err = r.caller()
	r.must(err)
	r.t.Cleanup(r.api.client.CloseIdleConnections)
}

func (r *rig) addGateway() {
	r.t.Helper()
	r.listen = r.enrollGateway("gw-a")
	var err error
	r.gateway, err = r.StartGateway("gw-a")
	r.must(err)
}

// enrollGateway gets a gateway its identity and an address.
func (r *rig) enrollGateway(name string) (listen string) {
	r.t.Helper()
	return r.enrollGatewayAt(site, name)
}

func (r *rig) enrollGatewayAt(site, name string) (listen string) {
	r.t.Helper()
	token, err := r.Token(r.ctx, name, "gateway", site, 1)
	r.must(err)
	listen, err = FreeAddr()
	r.must(err)
	r.must(r.EnrollGateway(r.ctx, name, listen, token))
	return listen
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) interval(d time.Duration) {
	r.t.Helper()
	_, err := r.CLI(r.ctx, "sites", "set", site, "--heartbeat-interval", d.String())
	r.must(err)
}

func (r *rig) device(id string) (d v1.Device) {
	r.t.Helper()
	r.must(r.JSON(r.ctx, &d, "devices", "get", id))
	return d
}

func (r *rig) devices() []v1.Device {
	r.t.Helper()
	var l v1.List[v1.Device]
	r.must(r.JSON(r.ctx, &l, "devices", "list"))
	return l.Items
}

func (r *rig) history(id string) []v1.HistoryItem {
	r.t.Helper()
	var l v1.List[v1.HistoryItem]
	r.must(r.JSON(r.ctx, &l, "devices", "history", id))
	return l.Items
}

// until waits until the device is as wanted.
func (r *rig) until(d time.Duration, id, presence, reason string) v1.Device {
	r.t.Helper()
	var dev v1.Device
	r.must(r.Eventually(r.ctx, d, func() error {
		dev = v1.Device{}
		if err := r.JSON(r.ctx, &dev, "devices", "get", id); err != nil {
			return err
		}
		if dev.Presence != presence || dev.PresenceReason != reason {
			return fmt.Errorf("device %s is %s/%q, want %s/%q", id, dev.Presence, dev.PresenceReason, presence, reason)
		}
		return nil
	}))
	return dev
}

// TestRealProfile holds what the device shows against what this machine says of itself by other means.
func TestRealProfile(t *testing.T) {
	t.Parallel()
	r := newRig(t, 2*time.Second, time.Second)
	token, err := r.Token(r.ctx, "device", "device", site, 1)
	r.must(err)
	id, err := r.EnrollAgent(r.ctx, "agent-1", r.listen, token)
	r.must(err)
	_, err = r.StartAgent("agent-1")
	r.must(err)
	r.registrations(id, 1) // which is not always committed before the device is known to be online
	d := r.until(15*time.Second, id, "online", "")
	sh := func(command string) string {
		out, err := exec.Command("sh", "-c", command).Output()
		r.must(err)
		return strings.TrimSpace(string(out))
	}
	p := d.Profile
	got := map[string]string{
		"arch": *p.Arch, "cores": fmt.Sprint(*p.CPUCores), "kernel": *p.Kernel, "os": *p.OS, "ram": fmt.Sprint(*p.RAMBytes / 1024),
	}
	want := map[string]string{
		"arch": runtime.GOARCH, "cores": sh("getconf _NPROCESSORS_ONLN"), "kernel": sh("uname -r"), "os": sh(`. /etc/os-release; echo "$PRETTY_NAME"`),
		"ram": sh("awk '/^MemTotal:/ {print $2}' /proc/meminfo"),
	}
	for k, w := range want {
		if got[k] != w {
			t.Errorf("%s is %q, this machine says %q", k, got[k], w)
		}
	}
}

// TestRestarts restarts an agent 20 times, with gateway and core killed and started in between: one record, 21 registrations.
func TestRestarts(t *testing.T) {
	t.Parallel()
	r := newRig(t, time.Second, time.Second)
	token, err := r.Token(r.ctx, "device", "device", site, 1)
	r.must(err)
	id, err := r.EnrollAgent(r.ctx, "agent-1", r.listen, token, "--tag", "line=3", "--tag", "rack=a")
	r.must(err)
	a, err := r.StartAgent("agent-1")
	r.must(err)
	r.registrations(id, 1)
	for i := range 20 {
		if i%2 == 0 {
			a.Kill()
		} else {
			r.must(a.Stop())
		}
		switch i % 7 {
		case 2:
			r.gateway.Kill()
			r.gateway, err = r.StartGateway("gw-a")
			r.must(err)
		case 5:
			r.core.Kill()
			r.core, err = r.StartCore(r.ctx)
			r.must(err)
		}
		args := []string{}
		if i == 19 {
			args = []string{"--tag", "line=9", "--tag", "rack=a"}
		}
		a, err = r.StartAgent("agent-1", args...)
		r.must(err)
		r.registrations(id, i+2)
	}
	if n := len(r.devices()); n != 1 {
		t.Errorf("%d records, want 1", n)
	}
	h := r.history(id)
	if len(h) != 21 {
		t.Fatalf("%d registrations, want 21", len(h))
	}
	if c := h[20].Changed; len(c) != 1 || c[0] != (v1.Change{Fact: "tags.line", From: "3", To: "9"}) {
		t.Errorf("changed facts of the last registration: %v", c)
	}
	if d := r.device(id); d.Tags["line"] != "9" || d.Tags["rack"] != "a" || d.Tags["site"] != site {
		t.Errorf("tags %v", d.Tags)
	}
	_, err = r.CLI(r.ctx, "devices", "tag", id, "line=operator")
	r.must(err)
	if d := r.device(id); d.Tags["line"] != "operator" {
		t.Errorf("the operator's tag does not win: %v", d.Tags)
	}
	if _, err := r.CLI(r.ctx, "devices", "tag", id, "site=elsewhere"); err == nil {
		t.Error("the reserved tag site could be set")
	}
}

// registrations waits until a device has made n of them.
func (r *rig) registrations(id string, n int) {
	r.t.Helper()
	r.must(r.Eventually(r.ctx, 40*time.Second, func() error {
		var l v1.List[v1.HistoryItem]
		if err := r.JSON(r.ctx, &l, "devices", "history", id); err != nil {
			return err
		}
		if len(l.Items) != n {
			return fmt.Errorf("%d registrations, want %d", len(l.Items), n)
		}
		return nil
	}))
}

// TestOfflineInTime kills a device and its gateway, and changes the interval in both directions before.
func TestOfflineInTime(t *testing.T) {
	t.Parallel()
	const interval = 2 * time.Second
	r := newRig(t, interval, 2*time.Second)
	token, err := r.Token(r.ctx, "device", "device", site, 2)
	r.must(err)
	var ids []string
	var agents []*Proc
	for i := range 2 {
		name := fmt.Sprintf("agent-%d", i+1)
		id, err := r.EnrollAgent(r.ctx, name, r.listen, token)
		r.must(err)
		a, err := r.StartAgent(name)
		r.must(err)
		r.until(15*time.Second, id, "online", "")
		ids, agents = append(ids, id), append(agents, a)
	}
	for _, d := range []time.Duration{6 * time.Second, time.Second, interval} {
		r.interval(d)
		end := time.Now().Add(4*d + time.Second)
		for time.Now().Before(end) {
			for _, id := range ids {
				if dev := r.device(id); dev.Presence != "online" {
					t.Fatalf("%s is %s/%s after a change of the interval to %v", id, dev.Presence, dev.PresenceReason, d)
				}
			}
		}
	}
	agents[0].Kill()
	killed := time.Now()
	dev := r.until(5*interval, ids[0], "offline", "heartbeat_missed")
	silent := dev.PresenceSince.Sub(*dev.LastHeartbeatAt)
	if silent < 3*interval || silent > 4*interval {
		t.Errorf("offline %v after the last heartbeat, want 3 to 4 × %v", silent, interval)
	}
	if seen := time.Since(killed); seen > 4*interval+time.Second {
		t.Errorf("the verdict was seen %v after the kill", seen)
	}
	r.gateway.Kill()
	r.until(20*time.Second, ids[1], "offline", "site_unreachable")
}

// TestParallelEnrollments races 100 devices for a token of 10 uses.
func TestParallelEnrollments(t *testing.T) {
	t.Parallel()
	r := newRig(t, 30*time.Second, time.Second)
	token, err := r.Token(r.ctx, "device", "device", site, 10)
	r.must(err)
	var mu sync.Mutex
	var names []string
	won := map[string]string{}
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			name := fmt.Sprintf("agent-%d", i)
			id, err := r.EnrollAgent(r.ctx, name, r.listen, token, "--timeout", "20s")
			mu.Lock()
			defer mu.Unlock()
			var exit *exec.ExitError
			switch {
			case err == nil:
				won[id] = name
				names = append(names, name)
			case !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(err.Error(), "refused"):
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	wg.Wait()
	if len(won) != 10 || len(r.devices()) != 10 {
		t.Errorf("%d enrolled, %d records, want 10", len(won), len(r.devices()))
	}
	// A retry, also with the answer lost, makes no further record and gets the same identity.
	for id, name := range won {
		for _, f := range []string{"identity.a", "identity.b"} {
			if err := os.Remove(r.Path(name, f)); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
		again, err := r.EnrollAgent(r.ctx, name, r.listen, token)
		r.must(err)
		if again != id {
			t.Errorf("%s is %s, after a retry %s", name, id, again)
		}
	}
	if n := len(r.devices()); n != 10 {
		t.Errorf("%d records after retries, want 10", n)
	}
	if !slices.ContainsFunc(names, func(n string) bool { return n != "" }) {
		t.Error("nobody enrolled")
	}
}

// TestBadStarts starts the daemons with what cannot work: each ends at once with a message that says what and where.
func TestBadStarts(t *testing.T) {
	t.Parallel()
	r := newRig(t, 30*time.Second, time.Second)
	write := func(path, text string) string {
		r.must(os.MkdirAll(filepath.Dir(path), 0o700))
		r.must(os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	good, err := r.Token(r.ctx, "good", "device", site, 1)
	r.must(err)
	otherFleet := write(r.Path("other.token"), "hf1_"+strings.Repeat("A", 96)+"\n")
	for name, c := range map[string]struct {
		program string
		args    []string
		code    int
		says    []string
	}{
		"no flags":       {"holdfast-core", []string{"run"}, 2, []string{"--data-dir"}},
		"unknown flag":   {"holdfast-agent", []string{"run", "--nope"}, 2, []string{"nope"}},
		"no data":        {"holdfast-core", []string{"run", "--data-dir", r.Path("nothing")}, 2, []string{"core.yaml", "init"}},
		"unknown key":    {"holdfast-core", []string{"run", "--data-dir", filepath.Dir(write(r.Path("bad-1", "core.yaml"), "fleet: x\ncolour: red\n"))}, 2, []string{"core.yaml", "colour"}},
		"bad address":    {"holdfast-core", []string{"run", "--data-dir", filepath.Dir(write(r.Path("bad-2", "core.yaml"), "fleet: x\nname: n\napi: here\nuplink: 127.0.0.1:1\ncluster: 127.0.0.1:2\n"))}, 2, []string{"core.yaml", "api", "host:port"}},
		"bad gateway":    {"holdfast-gateway", []string{"run", "--data-dir", filepath.Dir(write(r.Path("bad-3", "gateway.yaml"), "name: G W\nlisten: 127.0.0.1:1\ncores: [127.0.0.1:2]\n"))}, 2, []string{"gateway.yaml", "name"}},
		"bad agent":      {"holdfast-agent", []string{"run", "--state-dir", filepath.Dir(write(r.Path("bad-4", "agent.yaml"), "gateways: []\n"))}, 2, []string{"agent.yaml", "gateways"}},
		"init again":     {"holdfast-core", []string{"init", "--data-dir", r.Path("core-1"), "--fleet", "x", "--name", "n", "--api", "127.0.0.1:1", "--uplink", "127.0.0.1:2", "--cluster", "127.0.0.1:3"}, 2, []string{"not empty", "run"}},
		"two cores":      {"holdfast-core", []string{"run", "--data-dir", r.Path("core-1")}, 1, []string{"in use"}},
		"bad token":      {"holdfast-agent", []string{"enroll", "--state-dir", r.Path("a"), "--gateway", r.listen, "--token-file", write(r.Path("bad.token"), "hf1_hello")}, 2, []string{"bad.token", "damaged"}},
		"no token file":  {"holdfast-agent", []string{"enroll", "--state-dir", r.Path("a"), "--gateway", r.listen, "--token-file", r.Path("absent")}, 2, []string{"absent"}},
		"other fleet":    {"holdfast-agent", []string{"enroll", "--state-dir", r.Path("b"), "--gateway", r.listen, "--token-file", otherFleet}, 1, []string{"root", "token"}},
		"reserved tag":   {"holdfast-agent", []string{"enroll", "--state-dir", r.Path("c"), "--gateway", r.listen, "--token-file", good, "--tag", "site=x"}, 2, []string{"site", "reserved"}},
		"nobody there":   {"holdfast-agent", []string{"enroll", "--state-dir", r.Path("d"), "--gateway", "127.0.0.1:9", "--token-file", good, "--timeout", "1s"}, 1, []string{"127.0.0.1:9"}},
		"not enrolled":   {"holdfast-agent", []string{"run", "--state-dir", filepath.Dir(write(r.Path("e", "agent.yaml"), "gateways: ['127.0.0.1:9']\n"))}, 1, []string{"not enrolled"}},
		"bad log level":  {"holdfast-gateway", []string{"run", "--data-dir", r.Path("gw-a"), "--log-level", "loud"}, 2, []string{"log-level"}},
		"device token":   {"holdfast-gateway", []string{"enroll", "--data-dir", r.Path("f"), "--name", "gw-z", "--listen", "127.0.0.1:9", "--core", r.Uplink, "--token-file", good}, 1, []string{"refused"}},
		"strange period": {"holdfast-core", []string{"run", "--data-dir", r.Path("core-1"), "--report-period", "1ms"}, 2, []string{"report_period"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := r.Run(r.ctx, c.program, c.args...)
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != c.code {
				t.Fatalf("%v, want exit code %d", err, c.code)
			}
			for _, s := range c.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("the message does not say %q: %v", s, err)
				}
			}
			if strings.Contains(err.Error(), "panic") || strings.Contains(err.Error(), "goroutine ") {
				t.Errorf("it panicked: %v", err)
			}
		})
	}
}

// TestStopsInTime sends SIGTERM to everything under load: each ends with code 0 within 10 s.
func TestStopsInTime(t *testing.T) {
	t.Parallel()
	r := newRig(t, time.Second, time.Second)
	token, err := r.Token(r.ctx, "device", "device", site, 3)
	r.must(err)
	var all []*Proc
	for i := range 3 {
		name := fmt.Sprintf("agent-%d", i+1)
		id, err := r.EnrollAgent(r.ctx, name, r.listen, token)
		r.must(err)
		a, err := r.StartAgent(name)
		r.must(err)
		r.until(15*time.Second, id, "online", "")
		all = append(all, a)
	}
	for _, p := range append([]*Proc{r.gateway, r.core}, all...) {
		if err := p.Stop(); err != nil {
			t.Errorf("%s: %v\n%s", p.Name, err, p.Tail())
		}
	}
}
