package procs

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-edge/holdfast/agent"
	"github.com/holdfast-edge/holdfast/internal/backoff"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A crowd is many agents in one process: the real ones, each with a state directory and a socket of its own. Only their hardware
// is made up.
type crowd struct {
	Dir     string // state directories are made in it
	Gateway string // host:port
	Token   string // enrolls all of them
	From, N int    // which devices: their directories are named for their numbers
}

// crowdEnrolls is how many of them enroll at once: all crowds together stay below what a gateway takes on.
const crowdEnrolls = 8

// crowdStarts is the time from one start to the next: boxes that are switched on come by and by.
const crowdStarts = 10 * time.Millisecond

// crowdWord is what a crowd says of itself.
type crowdWord struct {
	Said   map[string]int // messages of the agents' logs above the level of information, by text and error
	Failed []string       // of an agent that ended by itself, at most 10
}

// run enrolls the crowd, says "enrolled" to out, runs it, and answers every line of in with a crowdWord, until in ends.
func (c crowd) run(ctx context.Context, in io.Reader, out io.Writer) error {
	token, err := seal.ParseToken(c.Token)
	if err != nil {
		return err
	}
	said := &tallyHandler{by: make(map[string]int)}
	eg, ectx := errgroup.WithContext(ctx)
	eg.SetLimit(crowdEnrolls)
	for i := range c.N {
		eg.Go(func() error {
			_, err := agent.Enroll(ectx, c.config(i, slog.New(slog.DiscardHandler)), token)
			return err
		})
	}
	if err := eg.Wait(); err != nil {
		return fmt.Errorf("enroll: %w", err)
	}
	if _, err := fmt.Fprintln(out, "enrolled"); err != nil {
		return err
	}
	lines := bufio.NewScanner(in)
	lines.Scan() // the start
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for i := range c.N {
		wg.Go(func() {
			if !backoff.Sleep(ctx, time.Duration(i)*crowdStarts) {
				return
			}
			if err := c.live(ctx, i, slog.New(said)); err != nil {
				said.failed(fmt.Sprintf("device %d: %v", c.From+i, err))
			}
		})
	}
	for enc := json.NewEncoder(out); lines.Scan(); {
		if err := enc.Encode(said.word()); err != nil {
			return err
		}
	}
	return lines.Err()
}

// live runs one agent.
func (c crowd) live(ctx context.Context, i int, log *slog.Logger) error {
	a, err := agent.New(c.config(i, log))
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

func (c crowd) config(i int, log *slog.Logger) agent.Config {
	return agent.Config{
		Settings: agent.Settings{Gateways: []string{c.Gateway}}, StateDir: filepath.Join(c.Dir, fmt.Sprintf("%05d", c.From+i)),
		Version: "crowd", Log: log, BootID: [16]byte{1}, Clock: func() seal.ClockQuality { return seal.ClockSynced },
		Profile: func() wire.Profile {
			return wire.Profile{
				Arch: wire.Known("arm64"), RAMBytes: wire.Known(uint64(2 << 30)), CPUCores: wire.Known(uint32(4)), OS: wire.Known("Crowd Linux"),
				Kernel: wire.Known("6.12.0"), Accelerators: wire.Absent[[]string](), Model: wire.Known("Crowd board"), SoC: wire.Absent[string](),
			}
		},
	}
}

// numbers are what differs in texts that mean the same: addresses, times.
var numbers = regexp.MustCompile(`[0-9][0-9.:]*`)

// A tallyHandler counts what is logged above the level of information, by its text and its error.
type tallyHandler struct {
	mu   sync.Mutex
	by   map[string]int
	died []string
}

// Enabled implements slog.Handler.
func (*tallyHandler) Enabled(_ context.Context, l slog.Level) bool { return l > slog.LevelInfo }

// Handle implements slog.Handler.
func (h *tallyHandler) Handle(_ context.Context, r slog.Record) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "err" {
			text += ": " + numbers.ReplaceAllString(a.Value.String(), "N")
		}
		return true
	})
	h.by[text]++
	return nil
}

// WithAttrs implements slog.Handler.
func (h *tallyHandler) WithAttrs([]slog.Attr) slog.Handler { return h }

// WithGroup implements slog.Handler.
func (h *tallyHandler) WithGroup(string) slog.Handler { return h }

func (h *tallyHandler) failed(why string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.died) < 10 {
		h.died = append(h.died, why)
	}
}

func (h *tallyHandler) word() crowdWord {
	h.mu.Lock()
	defer h.mu.Unlock()
	return crowdWord{Said: maps.Clone(h.by), Failed: slices.Clone(h.died)}
}

// runCrowd is a process of agents.
func runCrowd(config string) error {
	var c crowd
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return err
	}
	return c.run(context.Background(), os.Stdin, os.Stdout)
}
