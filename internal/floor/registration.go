package floor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/holdfast-edge/holdfast/internal/floor/proc"
)

// RegistrationConfig is the regime of the registration floor. DefaultRegistration gives the one to compare with.
type RegistrationConfig struct {
	// Nodes is the size of the Raft cluster, 1 to 7. All run in one process.
	Nodes int
	// Batch is the number of registrations in a log entry, 1 or more.
	Batch int
	// RecordBytes is the size of one registration in the log, 1 or more.
	RecordBytes int
	// Signatures is how many are verified per registration; 0 measures the commit alone.
	Signatures int
	// Appliers is how many batches are on their way at the same time, 1 or more.
	Appliers int
	// Window is how long a round is measured; more than zero.
	Window time.Duration
	// Rounds is how many rounds are measured, 1 or more.
	Rounds int
	// Dir is where the logs are written, in a directory of their own that is removed afterwards; empty means the
	// system's directory for temporary files. It must be on the disk in question: in memory a sync costs nothing.
	Dir string
}

// DefaultRegistration returns a cluster of the given size, four appliers with batches of 100 registrations of 700 bytes, one
// signature each, and three rounds of two seconds.
func DefaultRegistration(nodes int) RegistrationConfig {
	return RegistrationConfig{
		Nodes: nodes, Batch: 100, RecordBytes: 700, Signatures: 1, Appliers: 4, Window: 2 * time.Second, Rounds: 3,
	}
}

// A batch is one log entry in memory, several times over.
const maxEntryBytes = 16 << 20

func (c *RegistrationConfig) validate() error {
	if c.Nodes < 1 || c.Batch < 1 || c.RecordBytes < 1 || c.Signatures < 0 || c.Appliers < 1 || c.Window <= 0 || c.Rounds < 1 {
		return fmt.Errorf("registration floor: %w: %+v", ErrConfig, *c)
	}
	if c.RecordBytes > maxEntryBytes/c.Batch {
		return fmt.Errorf("registration floor: %w: an entry of %d x %d bytes is over %d", ErrConfig, c.Batch, c.RecordBytes, maxEntryBytes)
	}
	return nil
}

// RegistrationRound is one measured window.
type RegistrationRound struct {
	// Registrations were verified and committed.
	Registrations uint64
	// Verified is how many signatures were checked for them.
	Verified uint64
	// AppliedBytes is what reached the leader's state machine: Registrations times RecordBytes.
	AppliedBytes uint64
	// Elapsed is the window as it turned out: the last batches are waited for.
	Elapsed time.Duration
	// CPU is what the whole process used, all nodes and the verification.
	CPU time.Duration
	// CommitP50 and CommitP99 are percentiles of the time that one commit took.
	CommitP50, CommitP99 time.Duration
	// Foreign is what other processes took meanwhile, in cores.
	Foreign float64
}

// Rate is registrations per second.
func (r RegistrationRound) Rate() float64 { return float64(r.Registrations) / r.Elapsed.Seconds() }

// CPUEach is the CPU time per registration.
func (r RegistrationRound) CPUEach() time.Duration {
	return time.Duration(float64(r.CPU) / float64(max(r.Registrations, 1)))
}

// RegistrationResult holds all rounds and, over the quieter half of them, the medians.
type RegistrationResult struct {
	Config RegistrationConfig
	Rounds []RegistrationRound
	// Rate is the figure that the floor is about: registrations per second.
	Rate float64
	// CPU is what one registration took, on all nodes together.
	CPU                  time.Duration
	CommitP50, CommitP99 time.Duration
	// Foreign is what other processes took, in cores.
	Foreign float64
}

// registrationSetup bounds an election and the making of keys.
const registrationSetup = 40 * time.Second

// Registration measures how many registrations a bare cluster commits per second: each is one ES256 signature checked
// and a share of one Raft log entry, on disk at a majority. The appliers take turns with nothing else.
func Registration(ctx context.Context, cfg RegistrationConfig) (res RegistrationResult, err error) {
	if err := cfg.validate(); err != nil {
		return RegistrationResult{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, registrationSetup+time.Duration(cfg.Rounds)*(2*cfg.Window+20*time.Second))
	defer cancel()
	dir, err := os.MkdirTemp(cfg.Dir, "holdfast-floor-")
	if err != nil {
		return RegistrationResult{}, fmt.Errorf("registration floor: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	inDir := cfg
	inDir.Dir = dir
	child, err := StartChild(ctx, ChildConfig{Role: roleRegistration, CPU: proc.AnyCPU, Config: inDir})
	if err != nil {
		return RegistrationResult{}, fmt.Errorf("registration floor: %w", err)
	}
	defer func() { err = errors.Join(err, child.Close()) }()
	rounds := make([]RegistrationRound, 0, cfg.Rounds)
	for range cfg.Rounds {
		r, err := registrationRound(ctx, child)
		if err != nil {
			return RegistrationResult{}, fmt.Errorf("registration floor: %w", err)
		}
		rounds = append(rounds, r)
	}
	return summarizeRegistration(cfg, rounds), nil
}

func registrationRound(ctx context.Context, child *Child) (RegistrationRound, error) {
	foreign, err := proc.StartForeign(child.PID())
	if err != nil {
		return RegistrationRound{}, err
	}
	var r RegistrationRound
	if err := child.Ask(ctx, commandRound, &r); err != nil {
		return RegistrationRound{}, err
	}
	if r.Registrations == 0 {
		return RegistrationRound{}, ErrNoLoad
	}
	r.Foreign, err = foreign.Share()
	return r, err
}

func summarizeRegistration(cfg RegistrationConfig, rounds []RegistrationRound) RegistrationResult {
	quiet := quieterHalf(rounds, func(r RegistrationRound) float64 { return r.Foreign })
	return RegistrationResult{
		Config: cfg, Rounds: rounds,
		Rate:      medianOf(quiet, RegistrationRound.Rate),
		CPU:       medianOf(quiet, RegistrationRound.CPUEach),
		CommitP50: medianOf(quiet, func(r RegistrationRound) time.Duration { return r.CommitP50 }),
		CommitP99: medianOf(quiet, func(r RegistrationRound) time.Duration { return r.CommitP99 }),
		Foreign:   medianOf(quiet, func(r RegistrationRound) float64 { return r.Foreign }),
	}
}

// Figures renders the result as lines of a report.
func (r RegistrationResult) Figures() []Figure {
	prefix := fmt.Sprintf("registration.nodes%d.batch%d", r.Config.Nodes, r.Config.Batch)
	return []Figure{
		{prefix + ".rate", r.Rate, "1/s", fmt.Sprintf("%d appliers, %d B each, %d signature(s); commit p50 %.0f us, p99 %.0f us; others took %.0f %% of a core",
			r.Config.Appliers, r.Config.RecordBytes, r.Config.Signatures, micros(r.CommitP50), micros(r.CommitP99), 100*r.Foreign)},
		{prefix + ".cpu", micros(r.CPU), "us", "per registration, all nodes"},
	}
}
