package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/holdfast-edge/holdfast/internal/floor"
	"github.com/holdfast-edge/holdfast/internal/floor/proc"
)

// agentPackage is the shipped program.
const agentPackage = "github.com/holdfast-edge/holdfast/cmd/holdfast-agent"

// agentCeiling is what an agent may hold at rest, in bytes, whatever the floor.
const agentCeiling = 16 * mib

// agentPair is a reading of the smallest agent and one of ours, right after another.
type agentPair struct{ floor, own proc.Memory }

// agents measures the memory of the shipped agent at rest, next to that of the smallest program that holds a connection.
func agents(ctx context.Context, b *bench) error {
	smallest, err := floor.BuildAgent(ctx, b.world.dir)
	if err != nil {
		return err
	}
	program, err := buildAgent(ctx, b.world.dir)
	if err != nil {
		return err
	}
	state := filepath.Join(b.world.dir, "agent")
	enroll := exec.CommandContext(ctx, program, "enroll", "--state-dir", state, "--gateway", b.world.listen, "--token-file", b.world.tokenFile()) //nolint:gosec // G204: just built
	if out, err := enroll.CombinedOutput(); err != nil {
		return fmt.Errorf("enroll agent: %w: %s", err, out)
	}
	var pairs []agentPair
	for range b.size.agentRounds {
		cfg := floor.DefaultAgent(smallest)
		cfg.Settle = b.size.settle
		ref, err := floor.Agent(ctx, cfg)
		if err != nil {
			return err
		}
		own, err := restingAgent(ctx, program, state, b.size.settle)
		if err != nil {
			return fmt.Errorf("agent: %w", err)
		}
		pairs = append(pairs, agentPair{ref.Memory, own})
	}
	return reportAgents(b, pairs, program)
}

func reportAgents(b *bench, pairs []agentPair, program string) error {
	info, err := os.Stat(program)
	if err != nil {
		return fmt.Errorf("agent's program: %w", err)
	}
	own := median(pairs, func(p agentPair) float64 { return float64(p.own.RSS) }) / mib
	low := median(pairs, func(p agentPair) float64 { return float64(p.floor.RSS) }) / mib
	ratio := func(p agentPair) float64 { return float64(p.own.RSS) / float64(p.floor.RSS) }
	note := func(get func(agentPair) proc.Memory) string {
		return fmt.Sprintf("resident; anonymous %.1f MiB, file pages %.1f MiB",
			median(pairs, func(p agentPair) float64 { return float64(get(p).Anonymous) })/mib,
			median(pairs, func(p agentPair) float64 { return float64(get(p).File) })/mib)
	}
	b.add("agent.floor", low, "MiB", note(func(p agentPair) proc.Memory { return p.floor }))
	b.add("agent.rss", own, "MiB", note(func(p agentPair) proc.Memory { return p.own }))
	b.add("agent.binary", float64(info.Size())/mib, "MiB", "static, stripped")
	least, most := extremes(pairs, ratio)
	b.judge(verdict{
		name: "agent memory at rest", target: "at most 1.5 x the floor", unit: "MiB", floor: low, own: own, ratio: median(pairs, ratio), limit: 1.5,
		note: fmt.Sprintf("median of %d pairs, %.2f to %.2f", len(pairs), least, most),
	})
	b.judge(verdict{
		name: "agent memory at rest, absolute", target: "at most 16 MiB", unit: "MiB", own: own, ratio: own * mib / agentCeiling, limit: 1, note: "resident",
	})
	return nil
}

// buildAgent compiles the agent as it is shipped: static and stripped.
func buildAgent(ctx context.Context, dir string) (string, error) {
	path := filepath.Join(dir, "holdfast-agent")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, agentPackage) //nolint:gosec // G204: fixed but for the path
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build agent: %w: %s", err, out)
	}
	return path, nil
}

// killGrace is how long a killed agent may take to be gone.
const killGrace = 5 * time.Second

// restingAgent runs the agent until it has been attached for a while and reads its memory.
func restingAgent(ctx context.Context, program, state string, settle time.Duration) (m proc.Memory, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "run", "--state-dir", state) //nolint:gosec // G204: just built
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = killGrace
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return m, fmt.Errorf("pipe: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return m, fmt.Errorf("start: %w", err)
	}
	defer func() {
		cancel()
		_ = cmd.Wait() // says that it was killed
	}()
	log := bufio.NewReader(stderr)
	if err := attached(ctx, log); err != nil {
		return m, err
	}
	if err := rest(ctx, settle); err != nil {
		return m, err
	}
	return proc.MemoryOf(cmd.Process.Pid)
}

// attachTime bounds the wait for an agent's first session.
const attachTime = 20 * time.Second

// attached reads an agent's log until it says that a gateway has admitted it.
func attached(ctx context.Context, log *bufio.Reader) error {
	ctx, cancel := context.WithTimeout(ctx, attachTime)
	defer cancel()
	found := make(chan error, 1)
	go func() { // ends with the agent, whose end is the end of the log
		for {
			line, err := log.ReadBytes('\n')
			if err != nil {
				if errors.Is(err, io.EOF) {
					err = io.ErrUnexpectedEOF
				}
				found <- fmt.Errorf("await the first session: %w", err)
				return
			}
			var l struct {
				Msg string `json:"msg"`
			}
			if json.Unmarshal(line, &l) == nil && l.Msg == "attached" {
				found <- nil
				return
			}
		}
	}()
	select {
	case err := <-found:
		return err
	case <-ctx.Done():
		return fmt.Errorf("await the first session: %w", context.Cause(ctx))
	}
}
