// Package procs builds a fleet out of real processes on this machine's loopback: the shipped programs, real sockets, real
// files. The demo and the real-process tests stand on it.
//
// It speaks to the fleet as an operator does, through the holdfast command.
package procs

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

// A Fleet is core nodes and whatever gateways and agents are added to them. Its methods are for one goroutine, but for those that start
// a process.
type Fleet struct {
	Dir string // everything lies in it
	Bin string // where the programs are

	API, Uplink, Cluster string // addresses of the first core node
	cores                []*CoreNode
	ReportPeriod         time.Duration
	groups               map[string]uint32 // of processes that do not run in this one's group, by name, so that a firewall knows them

	mu    sync.Mutex
	procs []*Proc
}

// New prepares a fleet in dir with the programs in bin, on free loopback ports.
func New(dir, bin string) (*Fleet, error) {
	for _, p := range []string{"holdfast", "holdfast-core", "holdfast-gateway", "holdfast-agent"} {
		if _, err := os.Stat(filepath.Join(bin, p)); err != nil {
			return nil, fmt.Errorf("program %s is not in %s: build it first with make build: %w", p, bin, err)
		}
	}
	f := &Fleet{Dir: dir, Bin: bin, ReportPeriod: time.Second}
	for _, a := range []*string{&f.API, &f.Uplink, &f.Cluster} {
		var err error
		if *a, err = FreeAddr(); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// Ports of a fleet's processes lie below those that Linux gives to outgoing connections (from 32768 on, unless configured
// otherwise): a port of that kind can be taken by somebody's connection while its process is being restarted.
const (
	firstPort = 10000
	ports     = 20000
)

// FreeAddr is a loopback address whose port was free, for TCP and for UDP, when it was asked for.
func FreeAddr() (string, error) {
	for range 100 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(firstPort+rand.IntN(ports))) //nolint:gosec // a port is no secret
		pc, err := net.ListenPacket("udp", addr)
		if err != nil {
			continue
		}
		ln, err := net.Listen("tcp", addr)
		if err == nil {
			err = ln.Close()
		}
		if err := errors.Join(err, pc.Close()); err == nil {
			return addr, nil
		}
	}
	return "", fmt.Errorf("no loopback port from %d to %d was found that is free for both TCP and UDP", firstPort, firstPort+ports-1)
}

// Path is a path within the fleet's directory.
func (f *Fleet) Path(elem ...string) string {
	return filepath.Join(append([]string{f.Dir}, elem...)...)
}

// A Proc is one running program. Its output goes to a file.
type Proc struct {
	Name string
	Log  string // path of its output
	from int64  // where in Log its own output begins: the file is that of all processes of this name
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // set before done is closed
}

// Start runs a program of the fleet until it is stopped. What it prints is appended to name.log.
func (f *Fleet) Start(name, program string, args ...string) (*Proc, error) {
	return f.start(name, filepath.Join(f.Bin, program), args...)
}

// start is Start for any program.
func (f *Fleet) start(name, path string, args ...string) (*Proc, error) {
	p := &Proc{Name: name, Log: f.Path(name + ".log"), done: make(chan struct{})}
	out, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	if p.from, err = out.Seek(0, io.SeekEnd); err != nil {
		return nil, errors.Join(err, out.Close())
	}
	p.cmd = exec.Command(path, args...) //nolint:noctx,gosec // it ends by Kill or Stop, and its name is ours
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if gid, ok := f.groups[name]; ok {
		p.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(os.Getuid()), Gid: gid} //nolint:gosec // G115: it is none on Windows alone
	}
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(err, out.Close())
	}
	go func() {
		p.err = errors.Join(p.cmd.Wait(), out.Close())
		close(p.done)
	}()
	f.mu.Lock()
	f.procs = append(f.procs, p)
	f.mu.Unlock()
	return p, nil
}

// Pid is the process id.
func (p *Proc) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Proc) Done() <-chan struct{} { return p.done }

// Exit waits until the process has ended by itself and returns its exit code. The error is ErrRuns when it has not ended
// within d.
func (p *Proc) Exit(d time.Duration) (int, error) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-t.C:
		return 0, fmt.Errorf("%s after %v: %w", p.Name, d, ErrRuns)
	}
}

// signaled tells whether the process, which has ended, was ended by a signal.
func (p *Proc) signaled() bool {
	w, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && w.Signaled()
}

// ErrRuns says that a process goes on although it should have ended.
var ErrRuns = errors.New("the process still runs")

// Kill ends the process as a power cut would end it: SIGKILL, no goodbye.
func (p *Proc) Kill() {
	p.cmd.Process.Kill() //nolint:errcheck // it has ended already
	<-p.done
}

// ErrStuck says that a process did not end in time.
var ErrStuck = errors.New("did not end within 10 s of SIGTERM")

// Stop asks the process to end and waits. The error is its exit, or ErrStuck, after which it was killed.
func (p *Proc) Stop() error {
	p.cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it has ended already
	t := time.NewTimer(10 * time.Second)
	defer t.Stop()
	select {
	case <-p.done:
		return p.err
	case <-t.C:
		p.Kill()
		return fmt.Errorf("%s: %w", p.Name, ErrStuck)
	}
}

// Output is what the process has printed so far. Where that cannot be read, it is why.
func (p *Proc) Output() string {
	b, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	return string(b[min(p.from, int64(len(b))):])
}

// Tail is the end of the process's output.
func (p *Proc) Tail() string {
	b := p.Output()
	lines := strings.Split(strings.TrimSpace(b), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}

// Close kills everything that still runs.
func (f *Fleet) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.procs {
		p.Kill()
	}
}

// Run runs a program of the fleet to its end and returns what it printed.
func (f *Fleet) Run(ctx context.Context, program string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(f.Bin, program), args...) //nolint:gosec // the programs are ours
	var out, msg bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &msg
	cmd.Env = append(os.Environ(), "HOLDFAST_CONFIG="+f.Path("operator.yaml"))
	if err := cmd.Run(); err != nil {
		return out.Bytes(), fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, strings.TrimSpace(msg.String()))
	}
	return out.Bytes(), nil
}

// CLI runs the operator's command.
func (f *Fleet) CLI(ctx context.Context, args ...string) ([]byte, error) {
	return f.Run(ctx, "holdfast", args...)
}

// JSON runs the operator's command with -o json and decodes what it prints into v.
func (f *Fleet) JSON(ctx context.Context, v any, args ...string) error {
	b, err := f.CLI(ctx, append(args, "-o", "json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("holdfast %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// A CoreNode is one node of the core.
type CoreNode struct {
	Name                 string
	API, Uplink, Cluster string
	Proc                 *Proc // the newest; nil before the first start
}

// Core is the nth core node, from 1. Its ports were free when it was first asked for.
func (f *Fleet) Core(n int) (*CoreNode, error) {
	for len(f.cores) < n {
		c := &CoreNode{Name: fmt.Sprintf("core-%d", len(f.cores)+1), API: f.API, Uplink: f.Uplink, Cluster: f.Cluster}
		if len(f.cores) > 0 {
			for _, a := range []*string{&c.API, &c.Uplink, &c.Cluster} {
				var err error
				if *a, err = FreeAddr(); err != nil {
					return nil, err
				}
			}
		}
		f.cores = append(f.cores, c)
	}
	return f.cores[n-1], nil
}

// What init writes for the operator. The fleet's directory has it too, as a node's directory may be lost.
const (
	caFile       = "ca.pem"
	adminFile    = "admin.token"
	recoveryFile = "recovery.key"
)

// InitCore makes the fleet and takes what init wrote for the operator into the fleet's directory; the recovery key is moved
// there, as operators are told to.
func (f *Fleet) InitCore(ctx context.Context, name string) error {
	_, err := f.Run(ctx, "holdfast-core", "init", "--data-dir", f.Path("core-1"), "--fleet", name, "--name", "core-1", "--api", f.API,
		"--uplink", f.Uplink, "--cluster", f.Cluster, "--report-period", f.ReportPeriod.String())
	if err != nil {
		return err
	}
	for _, name := range []string{caFile, adminFile, recoveryFile} {
		b, err := os.ReadFile(f.Path("core-1", name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(f.Path(name), b, 0o600); err != nil { //nolint:gosec // the fleet's own directory
			return err
		}
	}
	return os.Remove(f.Path("core-1", recoveryFile))
}

// StartCore runs the first core node, waits until it serves and logs the operator in there.
func (f *Fleet) StartCore(ctx context.Context) (*Proc, error) {
	p, err := f.StartCoreNode(ctx, 1)
	if err != nil {
		return p, err
	}
	return p, f.Login(ctx)
}

// Login makes the operator's command use the first node's address, and those of the others that this one tells.
func (f *Fleet) Login(ctx context.Context) error { return f.LoginAt(ctx, 1) }

// LoginAt is Login at the nth core node.
func (f *Fleet) LoginAt(ctx context.Context, n int) error {
	c, err := f.Core(n)
	if err != nil {
		return err
	}
	_, err = f.CLI(ctx, "login", "https://"+c.API, "--ca-file", f.Path(caFile), "--token-file", f.Path(adminFile))
	return err
}

// StartCoreNode runs the nth core node and waits until it serves.
func (f *Fleet) StartCoreNode(ctx context.Context, n int) (*Proc, error) {
	c, err := f.LaunchCoreNode(n)
	if err != nil {
		return nil, err
	}
	return c.Proc, f.Ready(ctx, n)
}

// LaunchCoreNode runs the nth core node and waits for nothing.
func (f *Fleet) LaunchCoreNode(n int) (*CoreNode, error) {
	c, err := f.Core(n)
	if err != nil {
		return nil, err
	}
	c.Proc, err = f.Start(c.Name, "holdfast-core", "run", "--data-dir", f.Path(c.Name))
	return c, err
}

// Ready waits until the nth core node serves and knows a leader.
func (f *Fleet) Ready(ctx context.Context, n int) error {
	c, err := f.Core(n)
	if err != nil {
		return err
	}
	client, err := f.client()
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	return f.Eventually(ctx, 30*time.Second, func() error {
		select {
		case <-c.Proc.done:
			return fmt.Errorf("%s ended: %s", c.Name, c.Proc.Tail())
		default:
		}
		return get(ctx, client, "https://"+c.API+"/readyz")
	})
}

// client trusts the fleet's root alone.
func (f *Fleet) client() (*http.Client, error) {
	pem, err := os.ReadFile(f.Path(caFile))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	return &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots}}}, nil
}

func get(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	if err := resp.Body.Close(); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return nil
}

// JoinCore makes the nth core node's directory with a one-time token. The node is not started.
func (f *Fleet) JoinCore(ctx context.Context, n int) error {
	c, err := f.Core(n)
	if err != nil {
		return err
	}
	token, err := f.Token(ctx, c.Name, "core", "", 1)
	if err != nil {
		return err
	}
	_, err = f.Run(ctx, "holdfast-core", "join", "--data-dir", f.Path(c.Name), "--name", c.Name, "--api", c.API, "--uplink", c.Uplink,
		"--cluster", c.Cluster, "--report-period", f.ReportPeriod.String(), "--join", strings.Join(f.uplinks(), ","), "--token-file", token)
	return err
}

// uplinks are where gateways reach the core nodes whose process runs.
func (f *Fleet) uplinks() []string {
	var out []string
	for _, c := range f.cores {
		if c.Proc == nil {
			continue
		}
		select {
		case <-c.Proc.done:
		default:
			out = append(out, c.Uplink)
		}
	}
	return out
}

// StartCores makes the core one of n nodes, all of them voters.
func (f *Fleet) StartCores(ctx context.Context, n int) error {
	if _, err := f.StartCore(ctx); err != nil {
		return err
	}
	for i := 2; i <= n; i++ {
		if err := f.JoinCore(ctx, i); err != nil {
			return err
		}
		if _, err := f.StartCoreNode(ctx, i); err != nil {
			return err
		}
	}
	return f.Voters(ctx, n)
}

// Voters waits until the core has a leader and n voters, all of which are members.
func (f *Fleet) Voters(ctx context.Context, n int) error {
	return f.Eventually(ctx, 30*time.Second, func() error {
		st, err := f.Status(ctx)
		if err != nil {
			return err
		}
		voters := 0
		for _, node := range st.Nodes {
			if node.Voter && node.Member {
				voters++
			}
		}
		if voters != n || len(st.Nodes) != n || st.Leader == "" {
			return fmt.Errorf("%d voters of %d nodes, want %d; leader %q", voters, len(st.Nodes), n, st.Leader)
		}
		return nil
	})
}

// Status is the core as the node that answers the operator's command sees it.
func (f *Fleet) Status(ctx context.Context) (st v1.Cluster, err error) {
	return st, f.JSON(ctx, &st, "cluster", "status")
}

// Leader is the node that leads, if the one that answers knows.
func (f *Fleet) Leader(ctx context.Context) (*CoreNode, error) {
	st, err := f.Status(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range f.cores {
		if c.Name == st.Leader {
			return c, nil
		}
	}
	return nil, fmt.Errorf("leader %q is none of this fleet's %d nodes", st.Leader, len(f.cores))
}

// Token makes an enrollment token and stores it in a file, whose path it returns.
func (f *Fleet) Token(ctx context.Context, name, kind, site string, uses int) (string, error) {
	var t struct {
		Token string `json:"token"`
	}
	args := []string{"tokens", "create", "--kind", kind}
	if kind != "core" {
		args = append(args, "--site", site, "--uses", fmt.Sprint(uses))
	}
	if err := f.JSON(ctx, &t, args...); err != nil {
		return "", err
	}
	path := f.Path(name + ".token")
	return path, os.WriteFile(path, []byte(t.Token+"\n"), 0o600)
}

// EnrollGateway gets a gateway its identity. listen is where it will run.
func (f *Fleet) EnrollGateway(ctx context.Context, name, listen, tokenFile string) error {
	_, err := f.Run(ctx, "holdfast-gateway", "enroll", "--data-dir", f.Path(name), "--name", name, "--listen", listen, "--core", f.Uplink,
		"--token-file", tokenFile)
	return err
}

// StartGateway runs a gateway.
func (f *Fleet) StartGateway(name string, args ...string) (*Proc, error) {
	return f.Start(name, "holdfast-gateway", append([]string{"run", "--data-dir", f.Path(name)}, args...)...)
}

// EnrollAgent gets a device its identity and returns the device's id.
func (f *Fleet) EnrollAgent(ctx context.Context, name, gateway, tokenFile string, args ...string) (string, error) {
	out, err := f.Run(ctx, "holdfast-agent", append([]string{
		"enroll", "--state-dir", f.Path(name), "--gateway", gateway, "--token-file", tokenFile,
	}, args...)...)
	if err != nil {
		return "", err
	}
	_, id, ok := strings.Cut(string(out), "/device/")
	if !ok || len(id) < 36 {
		return "", fmt.Errorf("holdfast-agent enroll names no device: %s", out)
	}
	return id[:36], nil
}

// StartAgent runs a device's agent.
func (f *Fleet) StartAgent(name string, args ...string) (*Proc, error) {
	return f.Start(name, "holdfast-agent", append([]string{"run", "--state-dir", f.Path(name)}, args...)...)
}

// poll is how often Eventually looks.
const poll = 50 * time.Millisecond

// Eventually tries f until it succeeds, at most for d, and returns the last error. This is real time: it is for the named
// real-process tests and the demo alone.
func (*Fleet) Eventually(ctx context.Context, d time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	t := time.NewTicker(poll)
	defer t.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return fmt.Errorf("not within %v: %w", d, err)
		}
	}
}
