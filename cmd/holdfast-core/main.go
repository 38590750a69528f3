// Command holdfast-core runs one node of the core.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/holdfast-edge/holdfast/core"
	"github.com/holdfast-edge/holdfast/core/enroll"
	"github.com/holdfast-edge/holdfast/internal/daemon"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

func main() { os.Exit(program().Main()) }

func program() *daemon.Program {
	return &daemon.Program{
		Name: "holdfast-core",
		Long: `One node of the Holdfast core: the fleet's registry, the gateways' listener and the operators' API.

Every flag can be set by the environment: --data-dir by HOLDFAST_DATA_DIR, and so on. Flags win over the environment, and
the environment over core.yaml in the data directory.

Exit codes: 0 stopped, 1 failure, 2 bad configuration.`,
		Commands: []daemon.Command{initCommand(), joinCommand(), runCommand(run), recoverCommand(), verifyCommand()},
		IsConfig: func(err error) bool { return errors.Is(err, core.ErrConfig) },
	}
}

// flags that init and run share.
type flags struct {
	dir, level string
	s          core.Settings
}

func (f *flags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.dir, "data-dir", "", "data directory of this node")
	fs.StringVar(&f.s.API, "api", "", "host:port of the operators' HTTPS API")
	fs.StringSliceVar(&f.s.APISAN, "api-san", nil, "further host name or address in the API's certificate (repeatable)")
	fs.StringVar(&f.s.Uplink, "uplink", "", "host:port (UDP and TCP) where gateways reach this node")
	fs.StringVar(&f.s.Cluster, "cluster", "", "host:port (TCP) where the other core nodes reach this node")
	fs.DurationVar(&f.s.ReportPeriod, "report-period", 0, "how often gateways report heartbeats, 1s to 10m (default 10s)")
	fs.Uint32Var(&f.s.TargetBeats, "target-beats", 0, "heartbeats a second of the whole fleet, beyond which devices are told longer intervals; the same on all nodes (default 5000)")
	fs.TextVar(&f.s.ContentQuota, "content-quota", f.s.ContentQuota, "disk that the content of artifacts may take on this node, such as 64GiB (default 32GiB)")
	fs.StringVar(&f.level, "log-level", "info", "debug, info, warn or error")
}

func initCommand() daemon.Command {
	var f flags
	return daemon.Command{
		Name: "init", Use: "init --data-dir D --fleet F --name core-1 --api A --uplink U --cluster C",
		Short: "Make a fleet, with this node as the first of its core",
		Flags: func(fs *pflag.FlagSet) {
			f.add(fs)
			fs.StringVar(&f.s.Fleet, "fleet", "", "name of the fleet, for ever: a domain-like name such as acme-plants")
			fs.StringVar(&f.s.Name, "name", "", "name of this node")
		},
		Required: []string{"data-dir", "fleet", "name", "api", "uplink", "cluster"},
		Run:      f.init,
	}
}

func (f *flags) init(ctx context.Context, env daemon.Env) error {
	log, err := daemon.Logger(env.Err, "error")
	if err != nil {
		return err
	}
	if err := core.Init(ctx, core.Config{Settings: f.s, DataDir: f.dir, Version: daemon.Version(), Log: log}); err != nil {
		if errors.Is(err, core.ErrNotEmpty) {
			return &daemon.ConfigError{Err: err}
		}
		return err
	}
	p := func(name string) string { return filepath.Join(f.dir, name) }
	fmt.Fprintf(env.Out, `The fleet %s is made; %s is the first node of its core.

  %s   opens the API as administrator: keep it secret
  %s         the fleet's root certificate: not secret
  %s   opens the fleet's keys when all nodes are lost: move it off this machine now

Next:
  holdfast-core run --data-dir %s
  holdfast login https://%s --ca-file %s --token-file %s
`, f.s.Fleet, f.s.Name, p("admin.token"), p("ca.pem"), p("recovery.key"), f.dir, f.s.API, p("ca.pem"), p("admin.token"))
	return nil
}

func joinCommand() daemon.Command {
	var f flags
	var servers []string
	var token string
	var timeout time.Duration
	return daemon.Command{
		Name: "join", Use: "join --data-dir D --name core-2 --api A --uplink U --cluster C --join U1 --token-file T",
		Short: "Make this node a further one of a fleet's core",
		Flags: func(fs *pflag.FlagSet) {
			f.add(fs)
			fs.StringVar(&f.s.Name, "name", "", "name of this node, which no node had that was not removed")
			fs.StringSliceVar(&servers, "join", nil, "host:port (UDP and TCP) of the uplink of a core node that runs (repeatable)")
			fs.StringVar(&token, "token-file", "", "file with a token of kind core; - for standard input")
			fs.DurationVar(&timeout, "timeout", time.Minute, "how long to try while no core node can be reached")
		},
		Required: []string{"data-dir", "name", "api", "uplink", "cluster", "join", "token-file"},
		Run: func(ctx context.Context, env daemon.Env) error {
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			return f.join(ctx, env, servers, token)
		},
	}
}

func (f *flags) join(ctx context.Context, env daemon.Env, servers []string, tokenFile string) error {
	text, err := daemon.ReadSecret(tokenFile, env.In)
	if err != nil {
		return err
	}
	token, err := seal.ParseToken(text)
	if err != nil {
		return &daemon.ConfigError{Err: fmt.Errorf("token file %s: %w", tokenFile, err)}
	}
	log, err := daemon.Logger(env.Err, f.level)
	if err != nil {
		return err
	}
	if err := core.Join(ctx, core.Config{Settings: f.s, DataDir: f.dir, Version: daemon.Version(), Log: log}, servers, token); err != nil {
		if errors.Is(err, core.ErrNotEmpty) {
			return &daemon.ConfigError{Err: err}
		}
		return err
	}
	fmt.Fprintf(env.Out, `%s may take part in the core.

Next:
  holdfast-core run --data-dir %s
  holdfast cluster status
`, f.s.Name, f.dir)
	return nil
}

func recoverCommand() daemon.Command {
	var f flags
	var key string
	return daemon.Command{
		Name: "recover", Use: "recover --data-dir D --recovery-key F",
		Short: "Go on with this node alone after the majority of the core was lost for good",
		Flags: func(fs *pflag.FlagSet) {
			f.add(fs)
			fs.StringVar(&key, "recovery-key", "", "file with the recovery key that init wrote; - for standard input")
		},
		Required: []string{"data-dir", "recovery-key"},
		Run:      func(ctx context.Context, env daemon.Env) error { return f.recover(ctx, env, key) },
	}
}

func (f *flags) recover(ctx context.Context, env daemon.Env, keyFile string) error {
	text, err := daemon.ReadSecret(keyFile, env.In)
	if err != nil {
		return err
	}
	key, err := enroll.ParseHolderKey(text)
	if err != nil {
		return &daemon.ConfigError{Err: fmt.Errorf("recovery key %s: %w", keyFile, err)}
	}
	s, err := core.LoadSettings(f.dir)
	if err != nil {
		return err
	}
	s.Override(f.s)
	log, err := daemon.Logger(env.Err, f.level)
	if err != nil {
		return err
	}
	lost, err := core.Recover(ctx, core.Config{Settings: s, DataDir: f.dir, Version: daemon.Version(), Log: log}, key)
	if err != nil {
		return err
	}
	fmt.Fprintf(env.Out, `%s is the whole core of the fleet %s now.

`, s.Name, s.Fleet)
	if len(lost) > 0 {
		fmt.Fprintf(env.Out, `Members no more: %s
  Never start them again. Empty their data directories before they join anew.

`, strings.Join(lost, ", "))
	}
	fmt.Fprintf(env.Out, `Next:
  holdfast-core run --data-dir %s
  holdfast cluster status
  holdfast cluster invite     # once for each node that is to join
`, f.dir)
	return nil
}

// A start is how a node is run: tests look at what it is given.
type start func(ctx context.Context, env daemon.Env, s core.Settings, dir, level string) error

func runCommand(run start) daemon.Command {
	var f flags
	return daemon.Command{
		Name: "run", Use: "run --data-dir D", Short: "Run this node", Flags: f.add, Required: []string{"data-dir"},
		Run: func(ctx context.Context, env daemon.Env) error {
			s, err := core.LoadSettings(f.dir)
			if err != nil {
				return err
			}
			s.Override(f.s)
			return run(ctx, env, s, f.dir, f.level)
		},
	}
}

func run(ctx context.Context, env daemon.Env, s core.Settings, dir, level string) error {
	log, err := daemon.Logger(env.Err, level)
	if err != nil {
		return err
	}
	c, err := core.New(ctx, core.Config{Settings: s, DataDir: dir, Version: daemon.Version(), Log: log})
	if err != nil {
		if ctx.Err() != nil {
			return nil //nolint:nilerr // stopped while it waited for the others: an end that was asked for is no error
		}
		return err
	}
	return daemon.Serve(ctx, c.Run, c.Alive)
}

func verifyCommand() daemon.Command {
	var dir string
	return daemon.Command{
		Name: "verify", Use: "verify --data-dir D", Short: "Check the history and the audit trail on this node's disk, while the node is stopped",
		Flags:    func(fs *pflag.FlagSet) { fs.StringVar(&dir, "data-dir", "", "data directory of this node") },
		Required: []string{"data-dir"},
		Run: func(ctx context.Context, env daemon.Env) error {
			v, err := core.Verify(ctx, dir)
			if err != nil {
				return err
			}
			fmt.Fprintf(env.Out, "%d records of the history are sound; of the audit trail %d, whose head is %x\n", v.Records, v.Audit.Count, v.Audit.Head)
			return nil
		},
	}
}
