package floor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/holdfast-edge/holdfast/internal/floor/pki"
	"github.com/holdfast-edge/holdfast/internal/floor/proc"
)

// agentPackage is the program of the smallest agent.
const agentPackage = "github.com/holdfast-edge/holdfast/internal/floor/minagent"

// AgentConfig is the regime of the agent floor. DefaultAgent gives the one to compare with.
type AgentConfig struct {
	// Binary is the path of the agent's program, as BuildAgent makes it.
	Binary string
	// Interval is the time from one heartbeat to the next; longer than Settle for an idle agent; more than zero.
	Interval time.Duration
	// Settle is how long the agent rests after its first heartbeat before its memory is read.
	Settle time.Duration
	// Env is added to the agent's environment, as "NAME=value": GOGC, GOMEMLIMIT, GOMAXPROCS.
	Env []string
}

// DefaultAgent returns an agent that beats every 30 s, looked at a second and a half after its first heartbeat.
func DefaultAgent(binary string) AgentConfig {
	return AgentConfig{Binary: binary, Interval: 30 * time.Second, Settle: 1500 * time.Millisecond}
}

// AgentResult is what the smallest agent takes.
type AgentResult struct {
	Memory proc.Memory
	// BinaryBytes is the size of the program.
	BinaryBytes int64
	// Beats is how many heartbeats the agent's peer has answered.
	Beats uint64
	// StartCPU is the CPU time from the start until the first heartbeat was answered and memory given back.
	StartCPU time.Duration
}

// BuildAgent compiles the smallest agent, static and stripped, into the directory dir and returns its path. It needs the Go
// toolchain, and a working directory inside this module.
func BuildAgent(ctx context.Context, dir string) (string, error) {
	path := filepath.Join(dir, "minagent")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, agentPackage) //nolint:gosec // G204: fixed but for the path
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build smallest agent: %w: %s", err, out)
	}
	return path, nil
}

// Agent measures the smallest agent: a static program that holds one mTLS QUIC connection with one stream, on which it
// has had one heartbeat answered. Its peer runs in this process.
func Agent(ctx context.Context, cfg AgentConfig) (res AgentResult, err error) {
	if cfg.Interval <= 0 || cfg.Settle < 0 {
		return AgentResult{}, fmt.Errorf("agent floor: %w: %+v", ErrConfig, cfg)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout+cfg.Settle+10*time.Second)
	defer cancel()
	info, err := os.Stat(cfg.Binary)
	if err != nil {
		return AgentResult{}, fmt.Errorf("agent floor: %w", err)
	}
	peer, dir, err := newAgentPeer()
	if err != nil {
		return AgentResult{}, fmt.Errorf("agent floor: %w", err)
	}
	defer func() { err = errors.Join(err, peer.Close(), os.RemoveAll(dir)) }()
	res, err = observeAgent(ctx, cfg, peer.address(), dir)
	if err != nil {
		return AgentResult{}, fmt.Errorf("agent floor: %w", err)
	}
	res.BinaryBytes, res.Beats = info.Size(), peer.beats.Load()
	return res, nil
}

// agentPeer answers the agent's heartbeats.
type agentPeer struct {
	*streamServer
	beats atomic.Uint64
}

// newAgentPeer listens, and writes the agent's credentials into a new directory.
func newAgentPeer() (*agentPeer, string, error) {
	authority, err := pki.New()
	if err != nil {
		return nil, "", err
	}
	tlsConf, err := authority.ServerTLS()
	if err != nil {
		return nil, "", err
	}
	dir, err := os.MkdirTemp("", "holdfast-floor-")
	if err != nil {
		return nil, "", err
	}
	p := &agentPeer{}
	if err = authority.WriteDevice(dir, 0); err == nil {
		p.streamServer, err = newStreamServer(tlsConf, &quic.Config{MaxIdleTimeout: idleTimeout}, p.answerAll)
	}
	if err != nil {
		return nil, "", errors.Join(err, os.RemoveAll(dir))
	}
	return p, dir, nil
}

func (p *agentPeer) answerAll(stream io.ReadWriter) { answerBeats(stream, &p.beats) }

// observeAgent runs the agent until it has rested, reads what it takes and kills it: it never ends by itself.
func observeAgent(ctx context.Context, cfg AgentConfig, address, dir string) (AgentResult, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stderr := &tail{}
	cmd := exec.CommandContext(ctx, cfg.Binary, address, dir, cfg.Interval.String()) //nolint:gosec // G204: the caller's program
	cmd.Env = append(os.Environ(), cfg.Env...)
	cmd.Stderr = stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = closeGrace
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return AgentResult{}, fmt.Errorf("pipe: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return AgentResult{}, fmt.Errorf("start: %w", err)
	}
	res, err := readAgent(ctx, cfg.Settle, cmd.Process.Pid, stdout)
	if err == nil {
		cancel()
		_ = cmd.Wait() // says that it was killed
		return res, nil
	}
	err = contextFirst(ctx, err)
	cancel()
	// Only now is standard error complete. If the agent ended by itself, Wait knows its exit code.
	return AgentResult{}, errors.Join(err, fmt.Errorf("agent: %w%s", cmd.Wait(), stderr.note()))
}

// readAgent waits for the agent to be up and at rest.
func readAgent(ctx context.Context, settle time.Duration, pid int, stdout io.Reader) (res AgentResult, err error) {
	if _, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		return AgentResult{}, fmt.Errorf("await first heartbeat: %w", err)
	}
	if res.StartCPU, err = proc.CPUTime(pid); err != nil {
		return AgentResult{}, err
	}
	if err := wait(ctx, settle); err != nil {
		return AgentResult{}, err
	}
	res.Memory, err = proc.MemoryOf(pid)
	return res, err
}

// Figures renders the result as lines of a report.
func (r AgentResult) Figures() []Figure {
	const mib = 1 << 20
	return []Figure{
		{"agent.rss", float64(r.Memory.RSS) / mib, "MiB", fmt.Sprintf("anonymous %.1f MiB, file pages %.1f MiB, %d threads",
			float64(r.Memory.Anonymous)/mib, float64(r.Memory.File)/mib, r.Memory.Threads)},
		{"agent.binary", float64(r.BinaryBytes) / mib, "MiB", "static, stripped"},
		{"agent.start_cpu", micros(r.StartCPU) / 1e3, "ms", "until the first heartbeat was answered and memory given back"},
	}
}
