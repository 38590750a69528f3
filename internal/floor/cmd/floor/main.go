// Command floor prints what the raw mechanisms under Holdfast cost on this machine, one figure to a line: name, value,
// unit, note. Without arguments it measures all; arguments name what to measure.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-edge/holdfast/internal/floor"
)

// Exit codes, as of all our programs.
const (
	exitFailure = 1
	exitUsage   = 2
)

var errUnknownFloor = errors.New("unknown floor")

// options are the flags.
type options struct {
	connections int
	window      time.Duration
	rounds      int
	batch       int
	recordBytes int
	signatures  int
	dir         string
	agent       string
	names       []string
}

// measurement is one floor by name.
type measurement struct {
	name string
	run  func(ctx context.Context, o *options) ([]floor.Figure, error)
}

func measurements() []measurement {
	return []measurement{
		{"verification", verification},
		{"heartbeat", heartbeat},
		{"idle", idle},
		{"registration1", func(ctx context.Context, o *options) ([]floor.Figure, error) { return registration(ctx, o, 1) }},
		{"registration3", func(ctx context.Context, o *options) ([]floor.Figure, error) { return registration(ctx, o, 3) }},
		{"agent", agent},
	}
}

func main() {
	floor.ChildMain()
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		complain(stderr, err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := measure(ctx, o, stdout); err != nil {
		complain(stderr, err)
		return exitFailure
	}
	return 0
}

// complain has nowhere to report that standard error is gone.
func complain(stderr io.Writer, err error) { _, _ = fmt.Fprintln(stderr, "floor:", err) }

// measure prints the figures of each floor as soon as it has them.
func measure(ctx context.Context, o *options, stdout io.Writer) error {
	for _, m := range measurements() {
		if len(o.names) > 0 && !slices.Contains(o.names, m.name) {
			continue
		}
		figures, err := m.run(ctx, o)
		if err != nil {
			return err
		}
		for _, f := range figures {
			if _, err := fmt.Fprintln(stdout, f); err != nil {
				return fmt.Errorf("print figures: %w", err)
			}
		}
	}
	return nil
}

func parse(args []string, stderr io.Writer) (*options, error) {
	var known []string
	for _, m := range measurements() {
		known = append(known, m.name)
	}
	o := &options{}
	flags := flag.NewFlagSet("floor", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		_, _ = fmt.Fprintf(stderr, "usage: floor [flags] [%s]...\n", strings.Join(known, "|"))
		flags.PrintDefaults()
	}
	flags.IntVar(&o.connections, "connections", 2000, "devices of the heartbeat and idle floors")
	flags.DurationVar(&o.window, "window", 2*time.Second, "length of a measured round")
	flags.IntVar(&o.rounds, "rounds", 3, "measured rounds")
	flags.IntVar(&o.batch, "batch", 100, "registrations in a log entry")
	flags.IntVar(&o.recordBytes, "record-bytes", 700, "size of one registration")
	flags.IntVar(&o.signatures, "signatures", 1, "signatures checked per registration")
	flags.StringVar(&o.dir, "dir", "", "directory on the disk to measure (default: the system's for temporary files)")
	flags.StringVar(&o.agent, "agent", "", "program of the smallest agent (default: built anew, inside the module)")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	o.names = flags.Args()
	for _, name := range o.names {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("%w %q, want one of %s", errUnknownFloor, name, strings.Join(known, ", "))
		}
	}
	return o, nil
}

func verification(ctx context.Context, o *options) ([]floor.Figure, error) {
	cfg := floor.DefaultVerification()
	cfg.RecordBytes = o.recordBytes
	r, err := floor.Verification(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return r.Figures(), nil
}

func heartbeat(ctx context.Context, o *options) ([]floor.Figure, error) {
	cfg, err := floor.DefaultHeartbeat()
	if err != nil {
		return nil, err
	}
	cfg.Connections, cfg.Window, cfg.Rounds = o.connections, o.window, o.rounds
	r, err := floor.Heartbeat(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return r.Figures(), nil
}

func idle(ctx context.Context, o *options) ([]floor.Figure, error) {
	cfg := floor.DefaultIdle()
	cfg.Connections = o.connections
	r, err := floor.Idle(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return r.Figures(), nil
}

func registration(ctx context.Context, o *options, nodes int) ([]floor.Figure, error) {
	cfg := floor.DefaultRegistration(nodes)
	cfg.Batch, cfg.RecordBytes, cfg.Signatures = o.batch, o.recordBytes, o.signatures
	cfg.Window, cfg.Rounds, cfg.Dir = o.window, o.rounds, o.dir
	r, err := floor.Registration(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return r.Figures(), nil
}

func agent(ctx context.Context, o *options) ([]floor.Figure, error) {
	if o.agent == "" {
		return builtAgent(ctx)
	}
	r, err := floor.Agent(ctx, floor.DefaultAgent(o.agent))
	if err != nil {
		return nil, err
	}
	return r.Figures(), nil
}

// builtAgent measures the smallest agent as it is in the source tree.
func builtAgent(ctx context.Context) (figures []floor.Figure, err error) {
	dir, err := os.MkdirTemp("", "holdfast-floor-")
	if err != nil {
		return nil, fmt.Errorf("directory for the smallest agent: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	binary, err := floor.BuildAgent(ctx, dir)
	if err != nil {
		return nil, err
	}
	return agent(ctx, &options{agent: binary})
}
