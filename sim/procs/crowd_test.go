package procs

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

const (
	// crowdSize says how many agents TestCrowdComesBack has. The figures that it is held to are for ten thousand.
	crowdSize    = "HOLDFAST_CROWD"
	usualCrowd   = 1000
	crowdConfig  = "HOLDFAST_TEST_CROWD" // makes the test program a crowd: a crowd as JSON
	crowdProcess = 2500                  // agents of one process: each needs two file descriptors

	crowdBack    = 120 * time.Second // all of them are attached again
	crowdFirst   = 5 * time.Minute   // for the first time, which is not what is measured: they register, too
	gatewayEach  = 128 << 10         // bytes of the gateway's memory for each agent at the most, while all of them come back
	gatewayAlone = 96 << 20          // and without any
)

// crowds are the processes of the agents.
type crowds struct {
	r    *rig
	dir  string
	in   []io.WriteCloser
	out  []*bufio.Scanner
	cmds []*exec.Cmd
}

// newCrowds starts the processes and waits until all agents are enrolled. Their state lies in memory where there is such a
// file system: ten thousand agents share no disk in a plant either.
func newCrowds(r *rig, n int, token string) *crowds {
	r.t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "holdfast-crowd-")
	if err != nil {
		dir = r.t.TempDir()
	}
	r.t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			r.t.Error(err)
		}
	})
	c := &crowds{r: r, dir: dir}
	r.t.Cleanup(c.end)
	for from := 0; from < n; from += crowdProcess {
		c.start(crowd{Dir: dir, Gateway: r.listen, Token: token, From: from, N: min(crowdProcess, n-from)})
	}
	for _, out := range c.out {
		if !out.Scan() || out.Text() != "enrolled" {
			r.t.Fatalf("the agents are not enrolled: %q, %v", out.Text(), out.Err())
		}
	}
	return c
}

func (c *crowds) start(cr crowd) {
	c.r.t.Helper()
	b, err := json.Marshal(cr)
	c.r.must(err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crowdConfig+"="+string(b))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	c.r.must(err)
	out, err := cmd.StdoutPipe()
	c.r.must(err)
	c.r.must(cmd.Start())
	c.cmds, c.in, c.out = append(c.cmds, cmd), append(c.in, in), append(c.out, bufio.NewScanner(out))
}

// say writes a line to each of them.
func (c *crowds) say() {
	c.r.t.Helper()
	for _, in := range c.in {
		_, err := fmt.Fprintln(in)
		c.r.must(err)
	}
}

// word is what all of them say together.
func (c *crowds) word() crowdWord {
	c.r.t.Helper()
	c.say()
	all := crowdWord{Said: make(map[string]int)}
	for _, out := range c.out {
		var w crowdWord
		if !out.Scan() {
			c.r.t.Fatalf("a process of agents says nothing: %v", out.Err())
		}
		c.r.must(json.Unmarshal(out.Bytes(), &w))
		for text, n := range w.Said {
			all.Said[text] += n
		}
		all.Failed = append(all.Failed, w.Failed...)
	}
	return all
}

func (c *crowds) end() {
	for _, in := range c.in {
		in.Close()
	}
	for _, cmd := range c.cmds {
		if err := cmd.Wait(); err != nil {
			c.r.t.Errorf("a process of agents: %v", err)
		}
	}
}

// unsent counts the statements that lie in outboxes.
func (c *crowds) unsent() int {
	c.r.t.Helper()
	files, err := filepath.Glob(filepath.Join(c.dir, "*", "outbox", "*"))
	c.r.must(err)
	return len(files)
}

// TestCrowdComesBack kills the gateway of a thousand agents, or of as many as HOLDFAST_CROWD says, and starts it again. All are
// back within two minutes and welcomed with the widened interval; their heartbeats stay at the target; nobody is shown offline;
// no statement is lost or refused for good; the gateway's memory is bounded.
func TestCrowdComesBack(t *testing.T) {
	n := usualCrowd
	if s := os.Getenv(crowdSize); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil || n < 1 || n > 10_000 {
			t.Fatalf("%s=%s: want a number up to 10000: one token enrolls no more", crowdSize, s)
		}
	}
	target := max(1, n/100) // ten thousand at a hundred a second: a hundred seconds
	r := newRig(t, 30*time.Second, 10*time.Second)
	ops, err := FreeAddr()
	r.must(err)
	r.gateway.Kill()
	startGateway := func() {
		r.gateway, err = r.StartGateway("gw-a", "--ops", ops, "--target-beats", strconv.Itoa(target), "--log-level", "error")
		r.must(err)
	}
	startGateway()
	file, err := r.Token(r.ctx, "device", "device", site, n)
	r.must(err)
	token, err := os.ReadFile(file)
	r.must(err)

	begin := time.Now()
	c := newCrowds(r, n, strings.TrimSpace(string(token)))
	t.Logf("%d agents enrolled in %v; processor time: %s", n, time.Since(begin).Round(time.Second), c.usage())
	begin = time.Now()
	c.say()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("turned away: %s; processor time: %s; the agents said %v", turnedAway(context.Background(), ops), c.usage(), c.word())
		}
	})
	r.must(r.looking(crowdFirst, func() error { return attached(r.ctx, ops, n) }))
	t.Logf("all attached for the first time after %v; turned away: %s; processor time: %s", time.Since(begin).Round(100*time.Millisecond), turnedAway(r.ctx, ops), c.usage())
	r.must(r.looking(crowdFirst, func() error {
		if left := c.unsent(); left > 0 {
			return fmt.Errorf("%d statements have no receipt", left)
		}
		return r.shown(n)
	}))
	t.Logf("all registered after %v", time.Since(begin).Round(100*time.Millisecond))
	before := c.word()

	kills := 1
	if n > usualCrowd {
		kills = 2 // in the second one the agents use the longer keep-alive that they were told in the first
	}
	for range kills {
		r.gateway.Kill()
		startGateway()
		r.comesBack(ops, n, target)
		t.Logf("processor time: %s", c.usage())
	}
	r.steady(c, ops, n, target, before)
}

// comesBack waits until all agents are attached to the gateway that has just been started.
func (r *rig) comesBack(ops string, n, target int) {
	r.t.Helper()
	begin := time.Now()
	peak := int64(0)
	r.must(r.looking(crowdBack, func() error {
		rss, err := resident(r.gateway.Pid())
		if err != nil {
			return err
		}
		peak = max(peak, rss)
		return errors.Join(attached(r.ctx, ops, n), r.nobodyOffline(n))
	}))
	back := time.Since(begin)
	beats, err := metric(r.ctx, ops, "holdfast_gateway_heartbeats_total")
	r.must(err)
	rate := beats / back.Seconds()
	r.t.Logf("all back after %v; %.1f heartbeats/s meanwhile; gateway resident %d MiB at the most; turned away: %s",
		back.Round(100*time.Millisecond), rate, peak>>20, turnedAway(r.ctx, ops))
	if rate > 1.2*float64(target) {
		r.t.Errorf("%.1f heartbeats a second while they came back, target %d", rate, target)
	}
	if most := int64(gatewayAlone + n*gatewayEach); peak > most {
		r.t.Errorf("the gateway took %d MiB, at most %d", peak>>20, most>>20)
	}
}

// looking tries f once a second until it succeeds, at most for d: to ask for what ten thousand do costs the programs some of
// the time that they are measured for.
func (r *rig) looking(d time.Duration, f func() error) error {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for begin := time.Now(); ; <-t.C {
		err := f()
		if err == nil {
			return nil
		}
		if time.Since(begin) > d {
			return fmt.Errorf("not within %v: %w", d, err)
		}
	}
}

// steady looks at the crowd after it is back: for a while, and at all that it said.
func (r *rig) steady(c *crowds, ops string, n, target int, before crowdWord) {
	r.t.Helper()
	const watch = 15 * time.Second
	from, err := metric(r.ctx, ops, "holdfast_gateway_heartbeats_total")
	r.must(err)
	t := time.NewTimer(watch)
	defer t.Stop()
	<-t.C
	to, err := metric(r.ctx, ops, "holdfast_gateway_heartbeats_total")
	r.must(err)
	if rate := (to - from) / watch.Seconds(); rate > 1.3*float64(target) {
		r.t.Errorf("%.1f heartbeats a second when all are back, target %d", rate, target)
	}
	r.must(r.nobodyOffline(n))
	least, err := metric(r.ctx, ops, `holdfast_gateway_least_interval_seconds{by="gateway"}`)
	r.must(err)
	r.must(r.Eventually(r.ctx, 20*time.Second, func() error { // with the next digest
		var devices v1.List[v1.Device]
		if err := r.api.get(r.ctx, r.cores[0], "/v1/devices?limit=1", &devices); err != nil {
			return err
		}
		if d := devices.Items[0]; d.HeartbeatIntervalS != least || least < 100 {
			return fmt.Errorf("interval shown %v s, told %v s, want at least 100", d.HeartbeatIntervalS, least)
		}
		return nil
	}))
	if left := c.unsent(); left > 0 {
		r.t.Errorf("%d statements without a receipt", left)
	}
	w := c.word()
	r.t.Logf("heartbeats %.1f/s at a least interval of %v s; the agents said before %v, and since %v", (to-from)/watch.Seconds(), least, before.Said, w.Said)
	for text := range w.Said {
		if strings.HasPrefix(text, "receipt not taken") || strings.HasPrefix(text, "gateway refused") {
			r.t.Errorf("agents complain: %s", text)
		}
	}
	if len(w.Failed) > 0 {
		r.t.Errorf("agents ended: %v", w.Failed)
	}
}

// attached tells whether n agents are attached to the gateway.
func attached(ctx context.Context, ops string, n int) error {
	got, err := metric(ctx, ops, "holdfast_gateway_sessions")
	if err == nil && int(got) != n {
		err = fmt.Errorf("%v of %d agents are attached", got, n)
	}
	return err
}

// shown tells whether the API shows all devices online and registered.
func (r *rig) shown(n int) error {
	devices, err := all[v1.Device](r.ctx, r.api, r.cores[0], "/v1/devices")
	if err != nil {
		return err
	}
	ready := 0
	for i := range devices {
		if devices[i].Presence == "online" && devices[i].RegisteredAt != nil {
			ready++
		}
	}
	if ready != n {
		return fmt.Errorf("%d of %d devices are online and registered", ready, n)
	}
	return nil
}

var errOffline = errors.New("devices are shown offline")

// nobodyOffline ends the test when the API shows a device offline whose gateway is only away for a moment.
func (r *rig) nobodyOffline(n int) error {
	var s v1.Site
	if err := r.api.get(r.ctx, r.cores[0], "/v1/sites/"+site, &s); err != nil {
		return err
	}
	if s.Online != n {
		r.t.Fatalf("%d of %d: %v", n-s.Online, n, errOffline)
	}
	return nil
}

// metric asks a gateway for one of its metrics, with its labels.
func metric(ctx context.Context, ops, name string) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+ops+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if v, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return strconv.ParseFloat(v, 64)
		}
	}
	return 0, fmt.Errorf("no metric %s: %w", name, errors.Join(lines.Err(), http.ErrMissingFile))
}

// turnedAway is whom the gateway refused, and why.
func turnedAway(ctx context.Context, ops string) string {
	var out []string
	for _, reason := range []string{"rate", "unfinished", "failures", "connections"} {
		n, err := metric(ctx, ops, fmt.Sprintf("holdfast_gateway_connections_refused_total{reason=%q}", reason))
		if err != nil {
			return err.Error()
		}
		out = append(out, fmt.Sprintf("%s %.0f", reason, n))
	}
	return strings.Join(out, ", ")
}

// cpu is what a process has used of the processors.
func cpu(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return err.Error()
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	ticks := int64(0)
	if f := strings.Fields(rest); len(f) > 12 {
		for _, n := range f[11:13] { // in user mode, in the kernel
			t, err := strconv.ParseInt(n, 10, 64)
			if err != nil {
				return err.Error()
			}
			ticks += t
		}
	}
	return (time.Duration(ticks) * 10 * time.Millisecond).Round(100 * time.Millisecond).String() // a hundred ticks a second, on every Linux
}

// usage is what everybody has used of the processors.
func (c *crowds) usage() string {
	out := []string{"core " + cpu(c.r.core.Pid()), "gateway " + cpu(c.r.gateway.Pid())}
	for _, cmd := range c.cmds {
		out = append(out, "agents "+cpu(cmd.Process.Pid))
	}
	return strings.Join(out, ", ")
}

// resident is the memory of a process, in bytes.
func resident(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0, fmt.Errorf("statm of process %d: %q: %w", pid, b, io.ErrUnexpectedEOF)
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}
