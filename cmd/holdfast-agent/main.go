// Command holdfast-agent runs the agent of a device.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-edge/holdfast/agent"
	"github.com/holdfast-edge/holdfast/internal/daemon"
	"github.com/holdfast-edge/holdfast/wire/credential"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

func main() {
	os.Exit(daemon.Main(root(), func(err error) bool { return errors.Is(err, agent.ErrConfig) }))
}

func root() *cobra.Command {
	c := &cobra.Command{
		Use:   "holdfast-agent",
		Short: "The agent of a device: proves its identity, reports its hardware, keeps a live connection",
		Long: `The agent of a device.

Every flag can be set by the environment: --state-dir by HOLDFAST_STATE_DIR, and so on. Flags win over the environment, and
the environment over agent.yaml in the state directory.

Exit codes: 0 stopped, 1 failure, 2 bad configuration, 77 retired (not used yet).`,
		Version: daemon.Version(),
	}
	c.AddCommand(enrollCommand(), runCommand())
	return c
}

// flags that enroll and run share.
type flags struct {
	dir, level, token string
	timeout           time.Duration
	s                 agent.Settings
}

func (f *flags) add(c *cobra.Command) {
	fs := c.Flags()
	fs.StringVar(&f.dir, "state-dir", "", "state directory of this device's agent")
	fs.StringSliceVar(&f.s.Gateways, "gateway", nil, "host:port (UDP) of a gateway (repeatable)")
	fs.StringToStringVar(&f.s.Tags, "tag", nil, "tag of this device, k=v (repeatable)")
	fs.StringVar(&f.level, "log-level", "info", "debug, info, warn or error")
	daemon.Require(c, "state-dir")
}

func enrollCommand() *cobra.Command {
	var f flags
	c := &cobra.Command{
		Use:   "enroll --state-dir S --gateway L --token-file T [--tag k=v]...",
		Short: "Get this device its identity",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return f.enroll(cmd) },
	}
	f.add(c)
	c.Flags().StringVar(&f.token, "token-file", "", "file with the enrollment token; - for standard input")
	c.Flags().DurationVar(&f.timeout, "timeout", time.Minute, "how long to try while the gateway or the core cannot be reached")
	daemon.Require(c, "gateway", "token-file")
	return c
}

func (f *flags) enroll(cmd *cobra.Command) error {
	text, err := daemon.ReadSecret(f.token, cmd.InOrStdin())
	if err != nil {
		return err
	}
	token, err := seal.ParseToken(text)
	if err != nil {
		return &daemon.ConfigError{Err: fmt.Errorf("token file %s: %w", f.token, err)}
	}
	log, err := daemon.Logger(cmd.ErrOrStderr(), f.level)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
	defer cancel()
	id, err := agent.Enroll(ctx, agent.Config{Settings: f.s, StateDir: f.dir, BuildTime: daemon.BuildTime(), Log: log}, token)
	if errors.Is(err, credential.ErrEnrolled) {
		return &daemon.ConfigError{Err: fmt.Errorf("%w: use another directory", err)}
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "Enrolled as %s.\n\nNext:\n  holdfast-agent run --state-dir %s\n", id, f.dir)
	return nil
}

func runCommand() *cobra.Command {
	var f flags
	c := &cobra.Command{
		Use:   "run --state-dir S",
		Short: "Run this device's agent",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	f.add(c)
	return c
}

func (f *flags) run(cmd *cobra.Command) error {
	s, err := agent.LoadSettings(f.dir)
	if err != nil {
		return err
	}
	if len(f.s.Gateways) > 0 {
		s.Gateways = f.s.Gateways
	}
	if cmd.Flags().Changed("tag") {
		s.Tags = f.s.Tags
	}
	log, err := daemon.Logger(cmd.ErrOrStderr(), f.level)
	if err != nil {
		return err
	}
	a, err := agent.New(agent.Config{
		Settings: s, StateDir: f.dir, Version: daemon.Version(), BuildTime: daemon.BuildTime(), Log: log,
	})
	if err != nil {
		return err
	}
	return daemon.Serve(cmd.Context(), a.Run)
}
