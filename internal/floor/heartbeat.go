package floor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-edge/holdfast/internal/floor/pki"
	"github.com/holdfast-edge/holdfast/internal/floor/proc"
)

// ErrConfig says that a floor's configuration makes no sense.
var ErrConfig = errors.New("bad configuration")

// ErrNoLoad says that a round ended without the exchanges that it was to measure.
var ErrNoLoad = errors.New("nothing was exchanged")

// HeartbeatConfig is the regime of the heartbeat floor. DefaultHeartbeat gives the one to compare with.
type HeartbeatConfig struct {
	// Connections is the number of devices, each with a connection and a stream of its own; 1 or more.
	Connections int
	// Warmup is how long the load runs before a round is measured.
	Warmup time.Duration
	// Window is how long a round is measured; more than zero.
	Window time.Duration
	// Rounds is how many rounds Heartbeat measures; 1 or more.
	Rounds int
	// ServerCPU and ClientCPU are the cores that the two processes are pinned to, or proc.AnyCPU.
	ServerCPU, ClientCPU int
}

// DefaultHeartbeat returns 2,000 connections, saturated, in three rounds of two seconds, server and client each on a
// core of its own if there are two.
func DefaultHeartbeat() (HeartbeatConfig, error) {
	cfg := HeartbeatConfig{
		Connections: 2000, Warmup: 400 * time.Millisecond, Window: 2 * time.Second, Rounds: 3,
		ServerCPU: proc.AnyCPU, ClientCPU: proc.AnyCPU,
	}
	cpus, err := proc.AllowedCPUs()
	if err != nil {
		return cfg, fmt.Errorf("heartbeat floor: %w", err)
	}
	if len(cpus) >= 2 {
		cfg.ClientCPU, cfg.ServerCPU = cpus[0], cpus[1]
	}
	return cfg, nil
}

func (c *HeartbeatConfig) validate() error {
	if c.Connections < 1 || c.Warmup < 0 || c.Window <= 0 || c.Rounds < 1 {
		return fmt.Errorf("heartbeat floor: %w: %+v", ErrConfig, *c)
	}
	return nil
}

// HeartbeatRound is one measured window.
type HeartbeatRound struct {
	// Beats were answered, Failed were not.
	Beats, Failed uint64
	// Served is what the server counted. It differs from Beats by what was under way at either end of the window.
	Served uint64
	// Elapsed is the window as it turned out.
	Elapsed time.Duration
	// ServerCPU and ClientCPU are what the two processes used in the window.
	ServerCPU, ClientCPU time.Duration
	// P50 and P99 are percentiles of the time from a heartbeat to its answer.
	P50, P99 time.Duration
	// Foreign is what other processes took meanwhile, in cores.
	Foreign float64
}

// ServerCPUPerBeat is the figure that the floor is about.
func (r HeartbeatRound) ServerCPUPerBeat() time.Duration { return perBeat(r.ServerCPU, r.Beats) }

// ClientCPUPerBeat is what a heartbeat costs the client.
func (r HeartbeatRound) ClientCPUPerBeat() time.Duration { return perBeat(r.ClientCPU, r.Beats) }

// Rate is heartbeats per second.
func (r HeartbeatRound) Rate() float64 { return float64(r.Beats) / r.Elapsed.Seconds() }

func perBeat(total time.Duration, beats uint64) time.Duration {
	return time.Duration(float64(total) / float64(max(beats, 1)))
}

// HeartbeatBench is a server and its clients, connected and at rest between rounds, so that rounds can alternate with
// those of what the floor is compared with: a machine that slows down then slows both.
type HeartbeatBench struct {
	cfg    HeartbeatConfig
	server *Child
	client *Child
}

// OpenHeartbeat starts both processes and connects all devices. The processes live no longer than ctx. The caller must
// call Close.
func OpenHeartbeat(ctx context.Context, cfg HeartbeatConfig) (*HeartbeatBench, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	authority, err := newMaterial()
	if err != nil {
		return nil, fmt.Errorf("heartbeat floor: %w", err)
	}
	server, err := StartChild(ctx, ChildConfig{Role: roleHeartbeatServer, CPU: cfg.ServerCPU, Config: serverConfig{authority}})
	if err != nil {
		return nil, fmt.Errorf("heartbeat floor: %w", err)
	}
	client, err := startFleet(ctx, server, roleHeartbeatClient, cfg.ClientCPU, clientConfig{Authority: authority, Connections: cfg.Connections})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("heartbeat floor: %w", err), server.Close())
	}
	return &HeartbeatBench{cfg: cfg, server: server, client: client}, nil
}

func newMaterial() (pki.Material, error) {
	authority, err := pki.New()
	if err != nil {
		return pki.Material{}, err
	}
	return authority.Material()
}

// startFleet starts the clients of server, which is running.
func startFleet(ctx context.Context, server *Child, role string, cpu int, cfg clientConfig) (*Child, error) {
	if err := server.Ask(ctx, commandAddress, &cfg.Server); err != nil {
		return nil, err
	}
	return StartChild(ctx, ChildConfig{Role: role, CPU: cpu, Config: cfg})
}

// Round loads the server, waits for the warm-up to pass, measures one window and lets the load end.
func (b *HeartbeatBench) Round(ctx context.Context) (HeartbeatRound, error) {
	if err := b.client.Ask(ctx, commandStart, nil); err != nil {
		return HeartbeatRound{}, fmt.Errorf("heartbeat round: %w", err)
	}
	r, err := b.measure(ctx)
	if stopErr := b.client.Ask(ctx, commandStop, nil); err == nil {
		err = stopErr
	}
	if err != nil {
		return HeartbeatRound{}, fmt.Errorf("heartbeat round: %w", err)
	}
	return r, nil
}

func (b *HeartbeatBench) measure(ctx context.Context) (HeartbeatRound, error) {
	if err := wait(ctx, b.cfg.Warmup); err != nil {
		return HeartbeatRound{}, err
	}
	foreign, err := proc.StartForeign(b.server.PID(), b.client.PID())
	if err != nil {
		return HeartbeatRound{}, err
	}
	before, err := b.read(ctx)
	if err != nil {
		return HeartbeatRound{}, err
	}
	if err := wait(ctx, b.cfg.Window); err != nil {
		return HeartbeatRound{}, err
	}
	after, err := b.read(ctx)
	if err != nil {
		return HeartbeatRound{}, err
	}
	r := after.since(&before)
	if r.Foreign, err = foreign.Share(); err != nil {
		return HeartbeatRound{}, err
	}
	if r.Beats == 0 || r.Served == 0 {
		return HeartbeatRound{}, fmt.Errorf("%w: %d heartbeats failed, first: %s", ErrNoLoad, r.Failed, after.client.FirstFailure)
	}
	return r, nil
}

// reading is everything that a round is the difference of.
type reading struct {
	at                   time.Time
	client               clientCounts
	served               uint64
	serverCPU, clientCPU time.Duration
}

// read asks the client last but for the two clocks: its answer waits for its turn on a saturated core, and the clocks
// are to belong to its count.
func (b *HeartbeatBench) read(ctx context.Context) (reading, error) {
	var r reading
	err := b.server.Ask(ctx, commandCount, &r.served)
	if err != nil {
		return reading{}, err
	}
	if err := b.client.Ask(ctx, commandCount, &r.client); err != nil {
		return reading{}, err
	}
	r.at = time.Now()
	if r.serverCPU, err = proc.CPUTime(b.server.PID()); err != nil {
		return reading{}, err
	}
	if r.clientCPU, err = proc.CPUTime(b.client.PID()); err != nil {
		return reading{}, err
	}
	return r, nil
}

func (r *reading) since(before *reading) HeartbeatRound {
	return HeartbeatRound{
		Beats: r.client.Completed - before.client.Completed, Failed: r.client.Failed - before.client.Failed,
		Served: r.served - before.served, Elapsed: r.at.Sub(before.at),
		ServerCPU: r.serverCPU - before.serverCPU, ClientCPU: r.clientCPU - before.clientCPU,
		P50: r.client.P50, P99: r.client.P99,
	}
}

// Close ends both processes.
func (b *HeartbeatBench) Close() error { return errors.Join(b.client.Close(), b.server.Close()) }

// HeartbeatResult holds all rounds and, over the quieter half of them, the medians.
type HeartbeatResult struct {
	Connections int
	Rounds      []HeartbeatRound
	// ServerCPU and ClientCPU are per heartbeat.
	ServerCPU, ClientCPU time.Duration
	// Rate is heartbeats per second.
	Rate     float64
	P50, P99 time.Duration
	// Foreign is what other processes took, in cores.
	Foreign float64
}

// Heartbeat measures what a heartbeat costs a server that does nothing else: N mTLS QUIC connections, on each a stream
// on which one heartbeat is under way at any time, server and client in processes of their own.
func Heartbeat(ctx context.Context, cfg HeartbeatConfig) (res HeartbeatResult, err error) {
	ctx, cancel := context.WithTimeout(ctx, fleetLimit(cfg.Connections)+time.Duration(cfg.Rounds)*(cfg.Warmup+2*cfg.Window+10*time.Second))
	defer cancel()
	bench, err := OpenHeartbeat(ctx, cfg)
	if err != nil {
		return HeartbeatResult{}, err
	}
	defer func() { err = errors.Join(err, bench.Close()) }()
	rounds := make([]HeartbeatRound, 0, cfg.Rounds)
	for range cfg.Rounds {
		r, err := bench.Round(ctx)
		if err != nil {
			return HeartbeatResult{}, err
		}
		rounds = append(rounds, r)
	}
	return summarizeHeartbeat(cfg.Connections, rounds), nil
}

// fleetLimit bounds how long n devices may take to connect: a handshake costs both sides together some 4 ms of one
// core, and a slow shared machine is allowed ten times that.
func fleetLimit(n int) time.Duration { return 30*time.Second + time.Duration(n)*40*time.Millisecond }

func summarizeHeartbeat(connections int, rounds []HeartbeatRound) HeartbeatResult {
	quiet := quieterHalf(rounds, func(r HeartbeatRound) float64 { return r.Foreign })
	return HeartbeatResult{
		Connections: connections, Rounds: rounds,
		ServerCPU: medianOf(quiet, HeartbeatRound.ServerCPUPerBeat),
		ClientCPU: medianOf(quiet, HeartbeatRound.ClientCPUPerBeat),
		Rate:      medianOf(quiet, HeartbeatRound.Rate),
		P50:       medianOf(quiet, func(r HeartbeatRound) time.Duration { return r.P50 }),
		P99:       medianOf(quiet, func(r HeartbeatRound) time.Duration { return r.P99 }),
		Foreign:   medianOf(quiet, func(r HeartbeatRound) float64 { return r.Foreign }),
	}
}

// Figures renders the result as lines of a report.
func (r HeartbeatResult) Figures() []Figure {
	note := fmt.Sprintf("%d connections, saturated; others took %.0f %% of a core", r.Connections, 100*r.Foreign)
	return []Figure{
		{"heartbeat.server_cpu", micros(r.ServerCPU), "us", note},
		{"heartbeat.client_cpu", micros(r.ClientCPU), "us", ""},
		{"heartbeat.rate", r.Rate, "1/s", fmt.Sprintf("p50 %.0f us, p99 %.0f us", micros(r.P50), micros(r.P99))},
	}
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
