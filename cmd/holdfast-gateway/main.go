// Command holdfast-gateway runs the gateway of a plant.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/pflag"

	"github.com/holdfast-edge/holdfast/internal/config"
	"github.com/holdfast-edge/holdfast/internal/daemon"
	"github.com/holdfast-edge/holdfast/sitegw"
	"github.com/holdfast-edge/holdfast/sitegw/witness"
	"github.com/holdfast-edge/holdfast/wire/credential"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

func main() { os.Exit(program().Main()) }

func program() *daemon.Program {
	return &daemon.Program{
		Name: "holdfast-gateway",
		Long: `The gateway of a plant: terminates the devices' sessions and speaks for them with the core.

Every flag can be set by the environment: --data-dir by HOLDFAST_DATA_DIR, and so on. Flags win over the environment, and
the environment over gateway.yaml in the data directory.

Exit codes: 0 stopped, 1 failure, 2 bad configuration, 77 revoked, or another machine was enrolled under this name: it must not be
started again.`,
		Commands:  []daemon.Command{enrollCommand(), runCommand(run), witnessCommand()},
		IsRetired: func(err error) bool { return errors.Is(err, sitegw.ErrRetired) },
		IsConfig:  func(err error) bool { return errors.Is(err, sitegw.ErrConfig) || errors.Is(err, witness.ErrNone) },
	}
}

// flags that enroll and run share.
type flags struct {
	dir, level, token string
	timeout           time.Duration
	s                 sitegw.Settings
}

func (f *flags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.dir, "data-dir", "", "data directory of this gateway")
	fs.StringVar(&f.s.Listen, "listen", "", "host:port (UDP and TCP) where agents reach this gateway")
	fs.StringSliceVar(&f.s.Cores, "core", nil, "host:port (UDP and TCP) of a core node's uplink (repeatable, or with commas); tried beside those that the core told")
	fs.StringVar(&f.s.Ops, "ops", "", "host:port (TCP) for /metrics, /healthz and /readyz, which ask for no password: loopback or a management network; default none")
	fs.Uint32Var(&f.s.TargetBeats, "target-beats", 0, "heartbeats a second, beyond which devices are told longer intervals (default 1000)")
	fs.TextVar(&f.s.CacheQuota, "cache-quota", config.Bytes(0), "disk that content for devices may take, such as 1GiB; what was not used for the longest makes room (default 4GiB)")
	fs.TextVar(&f.s.SpoolQuota, "spool-quota", config.Bytes(0), "disk that statements may take while the core cannot be reached, such as 256MiB; beyond it devices hold theirs (default 1GiB)")
	fs.StringVar(&f.level, "log-level", "info", "debug, info, warn or error")
}

func enrollCommand() daemon.Command {
	var f flags
	return daemon.Command{
		Name: "enroll", Use: "enroll --data-dir G --name gw-a --listen L --core U --token-file T", Short: "Get this gateway its identity",
		Flags: func(fs *pflag.FlagSet) {
			f.add(fs)
			fs.StringVar(&f.s.Name, "name", "", "name of this gateway within its site")
			fs.StringVar(&f.token, "token-file", "", "file with the enrollment token; - for standard input")
			fs.DurationVar(&f.timeout, "timeout", time.Minute, "how long to try while the core cannot be reached")
		},
		Required: []string{"data-dir", "name", "listen", "core", "token-file"},
		Run:      f.enroll,
	}
}

func (f *flags) enroll(ctx context.Context, env daemon.Env) error {
	text, err := daemon.ReadSecret(f.token, env.In)
	if err != nil {
		return err
	}
	token, err := seal.ParseToken(text)
	if err != nil {
		return &daemon.ConfigError{Err: fmt.Errorf("token file %s: %w", f.token, err)}
	}
	log, err := daemon.Logger(env.Err, f.level)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	id, err := sitegw.Enroll(ctx, sitegw.Config{Settings: f.s, DataDir: f.dir, Log: log}, token)
	if errors.Is(err, credential.ErrEnrolled) {
		return &daemon.ConfigError{Err: fmt.Errorf("%w: use another directory", err)}
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(env.Out, "Enrolled as %s.\n\nNext:\n  holdfast-gateway run --data-dir %s\n", id, f.dir)
	return nil
}

// A start is how a gateway is run: tests look at what it is given.
type start func(ctx context.Context, env daemon.Env, s sitegw.Settings, dir, level string) error

func runCommand(run start) daemon.Command {
	var f flags
	return daemon.Command{
		Name: "run", Use: "run --data-dir G", Short: "Run this gateway", Flags: f.add, Required: []string{"data-dir"},
		Run: func(ctx context.Context, env daemon.Env) error {
			s, err := sitegw.LoadSettings(f.dir)
			if err != nil {
				return err
			}
			override(&s, &f.s)
			return run(ctx, env, s, f.dir, f.level)
		},
	}
}

// override puts what flags and environment say over the settings of the file.
func override(s, by *sitegw.Settings) {
	if by.Listen != "" {
		s.Listen = by.Listen
	}
	if len(by.Cores) > 0 {
		s.Cores = by.Cores
	}
	if by.Ops != "" {
		s.Ops = by.Ops
	}
	if by.TargetBeats != 0 {
		s.TargetBeats = by.TargetBeats
	}
	if by.SpoolQuota != 0 {
		s.SpoolQuota = by.SpoolQuota
	}
	if by.CacheQuota != 0 {
		s.CacheQuota = by.CacheQuota
	}
}

func run(ctx context.Context, env daemon.Env, s sitegw.Settings, dir, level string) error {
	log, err := daemon.Logger(env.Err, level)
	if err != nil {
		return err
	}
	g, err := sitegw.New(sitegw.Config{Settings: s, DataDir: dir, Version: daemon.Version(), Log: log})
	if err != nil {
		return err
	}
	return daemon.Serve(ctx, g.Run, g.Healthy)
}

func witnessCommand() daemon.Command {
	var dir string
	return daemon.Command{
		Name: "witness", Use: "witness --data-dir G > FILE", Short: "Print the heads of the core's audit trail that this gateway kept, for holdfast audit verify --witness FILE",
		Flags:    func(fs *pflag.FlagSet) { fs.StringVar(&dir, "data-dir", "", "data directory of this gateway") },
		Required: []string{"data-dir"},
		Run: func(_ context.Context, env daemon.Env) error {
			var authority []byte // without an identity the heads are printed all the same
			if id, err := credential.Load(dir); err == nil {
				authority = id.AuthorityCert()
			}
			return witness.Print(env.Out, dir, authority)
		},
	}
}
