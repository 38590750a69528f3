// Command bench measures Holdfast against the floors of internal/floor, in one run on one machine, and writes
// docs/performance.md.
//
// It prints one line per figure (name, value, unit, note) and one per target. Targets are reported and not enforced, because
// machines are shared: the exit code is 0 unless a measurement itself failed (1) or the arguments are wrong (2).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
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

// runTime bounds a whole run.
const runTime = 40 * time.Minute

// options are the flags.
type options struct {
	quick      bool
	only       string
	out        string
	profileDir string
}

// size is how much is measured.
type size struct {
	devices     int           // of heartbeats, memory and registrations
	rounds      int           // of heartbeats
	warmup      time.Duration // of the load, before every window
	slice       time.Duration // window of heartbeats
	settle      time.Duration // before memory is read
	regRounds   int
	regWindow   time.Duration
	ahead       int // statements signed for each device before a window
	profile     time.Duration
	agentRounds int
	hostiles    int           // connections of an attack
	hostileTime time.Duration // at most
	hostileLook time.Duration // how often it is asked how far it is; a silent connection must live that long
	uplink      time.Duration // after a gateway's start, so that it has its uplink and has heard of its devices

	calm       int           // devices at rest
	calmEvery  time.Duration // their interval
	calmWindow time.Duration

	buffered   int           // statements that a gateway has to drain
	drainers   int           // devices that stated them
	drainEvery time.Duration // interval of the devices at rest meanwhile
	drainRest  time.Duration // window of their heartbeats afterwards

	spoolRounds   int
	spoolTurn     int // batches of a turn
	custodyRounds int
	custodyEach   int // statements of each lane

	cutRounds      int
	cutBytes       int64 // of the file that is cut in chunks
	downloadRounds int
	downloaded     int // chunks of a download

	clusterRounds int
	clusterWindow time.Duration
	clusterBatch  int // statements in a message of the sender that speaks to the core itself, and in an entry of the floor
	directAhead   int // statements signed for each of its devices before a window
	writeRounds   int
	writeWindow   time.Duration
	filled        int // devices that nobody plays
	passed        int // entries before the heap is read: more than the 512 that the log keeps in memory
	listRounds    int
}

// direct is how many devices the sender that speaks to the core itself has: two messages for each of its lanes.
func (s *size) direct() int { return 2 * lanes * s.clusterBatch }

func fullSize() size {
	return size{
		devices: 2000, rounds: 15, warmup: 400 * time.Millisecond, slice: 700 * time.Millisecond, settle: 1500 * time.Millisecond,
		regRounds: 7, regWindow: 3 * time.Second, ahead: 20, profile: 3 * time.Second, agentRounds: 5, hostiles: 50, hostileTime: 15 * time.Second,
		hostileLook: 2 * time.Second, downloadRounds: 9, downloaded: 2000, uplink: time.Second, clusterRounds: 5, clusterWindow: 2 * time.Second, clusterBatch: 250, directAhead: 25, writeRounds: 5, writeWindow: time.Second,
		filled: 100_000, passed: 600, listRounds: 3, calm: 1000, calmEvery: 30 * time.Second, calmWindow: time.Minute, buffered: 1_000_000, drainers: 500, drainEvery: 5 * time.Second, drainRest: 20 * time.Second, spoolRounds: 15, spoolTurn: 40, custodyRounds: 9, custodyEach: 200,
		cutRounds: 15, cutBytes: 128 * mib,
	}
}

// quickSize is a smoke test. Its figures mean nothing.
func quickSize() size {
	return size{
		devices: 20, rounds: 2, warmup: 20 * time.Millisecond, slice: 200 * time.Millisecond, settle: 100 * time.Millisecond,
		regRounds: 1, regWindow: 300 * time.Millisecond, ahead: 60, profile: 100 * time.Millisecond, agentRounds: 1, hostiles: 8,
		hostileTime: 500 * time.Millisecond, hostileLook: 200 * time.Millisecond, downloadRounds: 1, downloaded: 20, uplink: 200 * time.Millisecond, clusterRounds: 1, clusterWindow: 300 * time.Millisecond, clusterBatch: 4,
		directAhead: 200, writeRounds: 1, writeWindow: 100 * time.Millisecond, filled: 500, passed: 20, listRounds: 1,
		calm: 20, calmEvery: 100 * time.Millisecond, calmWindow: 300 * time.Millisecond, buffered: 2000, drainers: 10, drainEvery: 50 * time.Millisecond, drainRest: 300 * time.Millisecond, spoolRounds: 1, spoolTurn: 2, custodyRounds: 1, custodyEach: 4,
		cutRounds: 1, cutBytes: 4 * mib,
	}
}

// bench is one run.
type bench struct {
	report
	opt   options
	size  size
	world *world
}

// measurement is one of the run's parts, by name, and where it takes place. They run in this order: devices must not attach
// with less stated than before, so nothing that attaches all of them comes after registration in the same world.
type measurement struct {
	name string
	in   func(s *size) setting
	run  func(ctx context.Context, b *bench) error
}

func measurements() []measurement {
	return []measurement{
		{"spool", noWorld, spools},
		{"custody", noWorld, custodies},
		{"artifact", noWorld, artifacts},
		{"memory", oneNode, memory},
		{"hostile", oneNode, hostiles},
		{"heartbeat", oneNode, heartbeats},
		{"download", oneNode, downloads},
		{"wan", oneNode, wan},
		{"drain", oneNode, drains},
		{"registration", oneNode, registrations},
		{"agent", oneNode, agents},
		{"cluster", threeNodes, clusterRegistrations},
		{"write", threeNodes, writes},
		{"heap", largeFleet, heaps},
		{"list", largeFleet, lists},
	}
}

// noWorld is for what is measured in this process.
func noWorld(*size) setting { return setting{} }

// oneNode is a core of one node with everything behind one gateway.
func oneNode(s *size) setting { return setting{nodes: 1, devices: s.devices + s.hostiles + s.drainers} }

// threeNodes is the core as it is meant to run, with devices behind a gateway and others whose statements need none.
func threeNodes(s *size) setting {
	return setting{nodes: clusterNodes, devices: s.devices + s.direct()}
}

// largeFleet is a core of three nodes with many devices that nobody plays.
func largeFleet(s *size) setting {
	return setting{nodes: clusterNodes, filled: s.filled, passed: s.passed}
}

func main() {
	floor.ChildMain(roles()...)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code) //nolint:gocritic // stop was called
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		complain(stderr, err)
		return exitUsage
	}
	b := &bench{report: report{out: stdout}, opt: o, size: fullSize()}
	if o.quick {
		b.size = quickSize()
	}
	if err := b.run(ctx); err != nil {
		complain(stderr, err)
		return exitFailure
	}
	return 0
}

// complain has nowhere to report that standard error is gone.
func complain(stderr io.Writer, err error) { _, _ = fmt.Fprintln(stderr, "bench:", err) }

// run measures what was asked for and writes the document.
func (b *bench) run(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, runTime)
	defer cancel()
	if b.opt.profileDir != "" {
		if err := os.MkdirAll(b.opt.profileDir, 0o750); err != nil {
			return fmt.Errorf("directory of the profiles: %w", err)
		}
	}
	defer func() { err = errors.Join(err, b.leave()) }()
	for _, m := range measurements() {
		if b.opt.only != "" && b.opt.only != m.name {
			continue
		}
		if err := b.enter(ctx, m.in(&b.size)); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		if err := m.run(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	if b.err != nil || b.opt.out == "" {
		return b.err
	}
	return b.writeDocument(b.opt.out)
}

// enter opens the world that a measurement needs, unless it is open.
func (b *bench) enter(ctx context.Context, want setting) error {
	if b.world != nil && b.world.setting == want {
		return nil
	}
	err := b.leave()
	if err == nil && want != (setting{}) {
		b.world, err = openWorld(ctx, want, b.size.uplink)
	}
	return err
}

// leave closes the world, if one is open.
func (b *bench) leave() error {
	if b.world == nil {
		return nil
	}
	w := b.world
	b.world = nil
	return w.close()
}

func parse(args []string, stderr io.Writer) (options, error) {
	var known []string
	for _, m := range measurements() {
		known = append(known, m.name)
	}
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.BoolVar(&o.quick, "quick", false, "a smoke test with few devices, whose figures mean nothing; writes no document unless -out is given")
	flags.StringVar(&o.only, "only", "", "measure one alone: "+strings.Join(known, ", ")+"; writes no document unless -out is given")
	flags.StringVar(&o.out, "out", "", "file for the document (default docs/performance.md for a whole run)")
	flags.StringVar(&o.profileDir, "profile", "", "directory in which the profiles are kept (default: they are removed)")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("argument %q: %w: there are only flags", flags.Arg(0), errUsage)
	}
	if o.only != "" && !strings.Contains(" "+strings.Join(known, " ")+" ", " "+o.only+" ") {
		return o, fmt.Errorf("-only %q: %w: want one of %s", o.only, errUsage, strings.Join(known, ", "))
	}
	if o.out == "" && o.only == "" && !o.quick {
		o.out = "docs/performance.md"
	}
	return o, nil
}
