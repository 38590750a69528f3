package floor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-edge/holdfast/internal/floor/proc"
)

func TestMain(m *testing.M) {
	ChildMain(testRole)
	goleak.VerifyTestMain(m)
}

const (
	smokeConnections = 16
	smokeWindow      = 200 * time.Millisecond
)

func smokeHeartbeat() HeartbeatConfig {
	return HeartbeatConfig{
		Connections: smokeConnections, Warmup: 20 * time.Millisecond, Window: smokeWindow, Rounds: 1,
		ServerCPU: proc.AnyCPU, ClientCPU: proc.AnyCPU,
	}
}

func TestHeartbeat(t *testing.T) {
	cfg, err := DefaultHeartbeat() // pinned, where there are two cores
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Connections != 2000 {
		t.Errorf("%d connections by default", cfg.Connections)
	}
	cfg.Connections, cfg.Warmup, cfg.Window, cfg.Rounds = smokeConnections, 20*time.Millisecond, smokeWindow, 2
	res, err := Heartbeat(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Rounds) != 2 {
		t.Fatalf("%d rounds", len(res.Rounds))
	}
	for _, r := range res.Rounds {
		checkHeartbeatRound(t, r)
	}
	if res.ServerCPU <= 0 || res.ClientCPU <= 0 || res.Rate <= 0 || res.P50 <= 0 || res.P99 < res.P50 {
		t.Errorf("%+v", res)
	}
	for _, f := range res.Figures() {
		if f.Value <= 0 {
			t.Errorf("figure %s", f)
		}
	}
}

func checkHeartbeatRound(t *testing.T, r HeartbeatRound) {
	t.Helper()
	// The two counts are read one after the other, which on a busy machine takes its time: only a rough comparison is
	// safe here. TestHeartbeatBenchRestsBetweenRounds compares exactly.
	if r.Served < r.Beats/4 || r.Served > 4*r.Beats {
		t.Errorf("server counts %d, clients count %d", r.Served, r.Beats)
	}
	if r.Beats < smokeConnections || r.Failed != 0 || r.Elapsed < smokeWindow {
		t.Errorf("%+v", r)
	}
	// Neither process has more than one core's time per core.
	if limit := r.Elapsed * 8; r.ServerCPU <= 0 || r.ClientCPU <= 0 || r.ServerCPU > limit || r.ClientCPU > limit {
		t.Errorf("cpu of server %v, client %v in %v", r.ServerCPU, r.ClientCPU, r.Elapsed)
	}
}

func TestHeartbeatBenchRestsBetweenRounds(t *testing.T) {
	bench, err := OpenHeartbeat(t.Context(), smokeHeartbeat())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := bench.Close(); err != nil {
			t.Error(err)
		}
	}()
	for range 2 {
		r, err := bench.Round(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		checkHeartbeatRound(t, r)
		var served uint64
		var sent clientCounts
		if err := bench.server.Ask(t.Context(), commandCount, &served); err != nil {
			t.Fatal(err)
		}
		if err := wait(t.Context(), 20*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		if err := bench.client.Ask(t.Context(), commandCount, &sent); err != nil {
			t.Fatal(err)
		}
		if served != sent.Completed || sent.Failed != 0 {
			t.Errorf("at rest the server has served %d heartbeats, later the clients have sent %+v", served, sent)
		}
	}
}

func TestIdle(t *testing.T) {
	res, err := Idle(t.Context(), IdleConfig{Connections: 20, Settle: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if res.Exchanges < 20 || res.Connections != 20 {
		t.Errorf("%d exchanges on %d connections", res.Exchanges, res.Connections)
	}
	// With so few connections, and perhaps under the race detector, only the order of magnitude can be told.
	if res.ServerRSS < 1<<10 || res.ServerRSS > 4<<20 || res.ClientRSS <= 0 || res.ServerHeap <= 0 {
		t.Errorf("%+v", res)
	}
	if res.ServerGoroutines < 2 || res.ServerGoroutines > 5 {
		t.Errorf("%.2f goroutines per connection", res.ServerGoroutines)
	}
}

func TestRegistration(t *testing.T) {
	for _, nodes := range []int{1, 3} {
		t.Run(fmt.Sprint(nodes), func(t *testing.T) {
			cfg := DefaultRegistration(nodes)
			cfg.Batch, cfg.Window, cfg.Rounds, cfg.Dir = 10, smokeWindow, 1, t.TempDir()
			res, err := Registration(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			r := res.Rounds[0]
			if r.Registrations < 10 || r.Verified != r.Registrations || r.AppliedBytes != 700*r.Registrations {
				t.Errorf("%+v", r)
			}
			if res.Rate <= 0 || res.CPU <= 0 || res.CommitP50 <= 0 || res.CommitP99 < res.CommitP50 || r.Elapsed < smokeWindow {
				t.Errorf("%+v", res)
			}
			if left, err := os.ReadDir(cfg.Dir); err != nil || len(left) != 0 {
				t.Errorf("left behind %v, %v", left, err)
			}
		})
	}
}

func TestRegistrationWithoutSignatures(t *testing.T) {
	cfg := DefaultRegistration(1)
	cfg.Signatures, cfg.Window, cfg.Rounds = 0, 50*time.Millisecond, 1
	res, err := Registration(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if r := res.Rounds[0]; r.Verified != 0 || r.Registrations < 100 {
		t.Errorf("%+v", r)
	}
}

func TestVerification(t *testing.T) {
	cfg := DefaultVerification()
	cfg.Window, cfg.Rounds = 20*time.Millisecond, 2
	res, err := Verification(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if res.Checks < 2*checksPerLook || res.CPU < time.Microsecond || res.CPU > 50*time.Millisecond {
		t.Errorf("%+v", res)
	}
}

func TestVerifyFindsForgeries(t *testing.T) {
	record, err := newSignedRecord(700)
	if err != nil {
		t.Fatal(err)
	}
	if !record.verify() {
		t.Error("own signature is refused")
	}
	record.body[350] ^= 1
	if record.verify() {
		t.Error("changed record is accepted")
	}
}

func TestConfigurationsThatMakeNoSense(t *testing.T) {
	for i, change := range []func(*HeartbeatConfig){
		func(c *HeartbeatConfig) { c.Connections = 0 },
		func(c *HeartbeatConfig) { c.Warmup = -1 },
		func(c *HeartbeatConfig) { c.Window = 0 },
		func(c *HeartbeatConfig) { c.Rounds = 0 },
	} {
		cfg := smokeHeartbeat()
		change(&cfg)
		if _, err := Heartbeat(t.Context(), cfg); !errors.Is(err, ErrConfig) {
			t.Errorf("heartbeat %d: %v, want ErrConfig", i, err)
		}
	}
	for i, change := range []func(*RegistrationConfig){
		func(c *RegistrationConfig) { c.Nodes = 0 },
		func(c *RegistrationConfig) { c.Batch = 0 },
		func(c *RegistrationConfig) { c.RecordBytes = 0 },
		func(c *RegistrationConfig) { c.Signatures = -1 },
		func(c *RegistrationConfig) { c.Appliers = 0 },
		func(c *RegistrationConfig) { c.Window = 0 },
		func(c *RegistrationConfig) { c.Rounds = 0 },
		func(c *RegistrationConfig) { c.RecordBytes = maxEntryBytes },
	} {
		cfg := DefaultRegistration(1)
		change(&cfg)
		if _, err := Registration(t.Context(), cfg); !errors.Is(err, ErrConfig) {
			t.Errorf("registration %d: %v, want ErrConfig", i, err)
		}
	}
	if _, err := Idle(t.Context(), IdleConfig{}); !errors.Is(err, ErrConfig) {
		t.Errorf("idle: %v, want ErrConfig", err)
	}
	if _, err := Verification(t.Context(), VerificationConfig{}); !errors.Is(err, ErrConfig) {
		t.Errorf("verification: %v, want ErrConfig", err)
	}
	if _, err := Agent(t.Context(), AgentConfig{}); !errors.Is(err, ErrConfig) {
		t.Errorf("agent: %v, want ErrConfig", err)
	}
}

func TestFloorsEndWithTheirContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	registration := DefaultRegistration(1)
	registration.Dir = dir
	for name, run := range map[string]func() error{
		"heartbeat":    func() error { _, err := Heartbeat(ctx, smokeHeartbeat()); return err },
		"idle":         func() error { _, err := Idle(ctx, DefaultIdle()); return err },
		"registration": func() error { _, err := Registration(ctx, registration); return err },
		"verification": func() error { _, err := Verification(ctx, DefaultVerification()); return err },
	} {
		if err := run(); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, want context.Canceled", name, err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind %v, %v", left, err)
	}
}

// TestHeartbeatRoundMidway ends the context while a round is being measured.
func TestHeartbeatRoundMidway(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	cfg := smokeHeartbeat()
	cfg.Window = time.Hour
	bench, err := OpenHeartbeat(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	roundCtx, cancelRound := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancelRound()
	if _, err := bench.Round(roundCtx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want context.DeadlineExceeded", err)
	}
	if err := bench.Close(); err != nil {
		t.Error(err)
	}
}

func TestHeartbeatClientCommands(t *testing.T) {
	server, client := servicePair(t)
	for _, s := range []Service{server, client} {
		if _, err := s.Do(t.Context(), "dance"); !errors.Is(err, ErrUnknownCommand) {
			t.Errorf("%v, want ErrUnknownCommand", err)
		}
	}
	do := func(command string) (any, error) { return client.Do(t.Context(), command) }
	if _, err := do(commandStop); err != nil {
		t.Errorf("stop at rest: %v", err)
	}
	for range 2 {
		if _, err := do(commandStart); err != nil {
			t.Fatal(err)
		}
		if _, err := do(commandStart); !errors.Is(err, errRunning) {
			t.Errorf("second start: %v, want errRunning", err)
		}
		if err := wait(t.Context(), 30*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		if _, err := do(commandStop); err != nil {
			t.Fatal(err)
		}
	}
	answer, err := do(commandCount)
	counts, ok := answer.(clientCounts)
	if err != nil || !ok || counts.Completed == 0 || counts.Failed != 0 || counts.P50 <= 0 {
		t.Errorf("%+v, %v", answer, err)
	}
	if answer, err = do(commandCount); err != nil || answer.(clientCounts).P50 != 0 {
		t.Errorf("percentiles of a second without load: %+v, %v", answer, err)
	}
}

// TestHeartbeatClientCountsFailures drops the server's connections under load and sees the failures told.
func TestHeartbeatClientCountsFailures(t *testing.T) {
	_, client := servicePair(t)
	if _, err := client.Do(t.Context(), commandStart); err != nil {
		t.Fatal(err)
	}
	if err := client.(*heartbeatClient).fleet.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Do(t.Context(), commandStop); err != nil {
		t.Fatal(err)
	}
	answer, err := client.Do(t.Context(), commandCount)
	if counts, ok := answer.(clientCounts); err != nil || !ok || counts.Failed == 0 || counts.FirstFailure == "" {
		t.Errorf("%+v, %v", answer, err)
	}
}

// servicePair opens a server and four clients of it in this process.
func servicePair(t *testing.T) (server, client Service) {
	t.Helper()
	authority, err := newMaterial()
	if err != nil {
		t.Fatal(err)
	}
	open := func(open func(context.Context, json.RawMessage) (Service, error), cfg any) Service {
		config, err := json.Marshal(cfg)
		if err != nil {
			t.Fatal(err)
		}
		s, err := open(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = s.Close() // a test may have closed its sockets already; what counts is that it ends
		})
		return s
	}
	server = open(openHeartbeatServer, serverConfig{authority})
	address, err := server.Do(t.Context(), commandAddress)
	if err != nil {
		t.Fatal(err)
	}
	return server, open(openHeartbeatClient, clientConfig{Authority: authority, Server: address.(string), Connections: 4})
}
