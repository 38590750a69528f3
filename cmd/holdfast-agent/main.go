// Command holdfast-agent runs the agent of a device.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/pflag"

	"github.com/holdfast-edge/holdfast/agent"
	"github.com/holdfast-edge/holdfast/internal/daemon"
	"github.com/holdfast-edge/holdfast/wire/credential"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

func main() { os.Exit(program().Main()) }

func program() *daemon.Program {
	return &daemon.Program{
		Name: "holdfast-agent",
		Long: `The agent of a device: proves its identity, reports its hardware, keeps a live connection.

Every flag can be set by the environment: --state-dir by HOLDFAST_STATE_DIR, and so on. Flags win over the environment, and
the environment over agent.yaml in the state directory.

Exit codes: 0 stopped, 1 failure, 2 bad configuration.`,
		Commands: []daemon.Command{enrollCommand(), runCommand()},
		IsConfig: func(err error) bool { return errors.Is(err, agent.ErrConfig) },
	}
}

// flags that enroll and run share.
type flags struct {
	dir, level, token string
	timeout           time.Duration
	s                 agent.Settings
}

func (f *flags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.dir, "state-dir", "", "state directory of this device's agent")
	fs.StringSliceVar(&f.s.Gateways, "gateway", nil, "host:port (UDP and TCP) of a gateway (repeatable)")
	fs.StringToStringVar(&f.s.Tags, "tag", nil, "tag of this device, k=v (repeatable)")
	fs.StringVar(&f.level, "log-level", "info", "debug, info, warn or error")
}

func enrollCommand() daemon.Command {
	var f flags
	return daemon.Command{
		Name: "enroll", Use: "enroll --state-dir S --gateway L --token-file T [--tag k=v]...", Short: "Get this device its identity",
		Flags: func(fs *pflag.FlagSet) {
			f.add(fs)
			fs.StringVar(&f.token, "token-file", "", "file with the enrollment token; - for standard input")
			fs.DurationVar(&f.timeout, "timeout", time.Minute, "how long to try while the gateway or the core cannot be reached")
		},
		Required: []string{"state-dir", "gateway", "token-file"},
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
	id, err := agent.Enroll(ctx, agent.Config{Settings: f.s, StateDir: f.dir, BuildTime: daemon.BuildTime(), Log: log}, token)
	if errors.Is(err, credential.ErrEnrolled) {
		return &daemon.ConfigError{Err: fmt.Errorf("%w: use another directory", err)}
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(env.Out, "Enrolled as %s.\n\nNext:\n  holdfast-agent run --state-dir %s\n", id, f.dir)
	return nil
}

func runCommand() daemon.Command {
	var f flags
	return daemon.Command{
		Name: "run", Use: "run --state-dir S", Short: "Run this device's agent", Flags: f.add, Required: []string{"state-dir"}, Run: f.run,
	}
}

func (f *flags) run(ctx context.Context, env daemon.Env) error {
	s, err := agent.LoadSettings(f.dir)
	if err != nil {
		return err
	}
	if len(f.s.Gateways) > 0 {
		s.Gateways = f.s.Gateways
	}
	if env.Flags.Changed("tag") {
		s.Tags = f.s.Tags
	}
	log, err := daemon.Logger(env.Err, f.level)
	if err != nil {
		return err
	}
	a, err := agent.New(agent.Config{
		Settings: s, StateDir: f.dir, Version: daemon.Version(), BuildTime: daemon.BuildTime(), Log: log,
	})
	if err != nil {
		return err
	}
	return daemon.Serve(ctx, a.Run)
}
