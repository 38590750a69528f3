// Command holdfast-core runs one node of the core.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-edge/holdfast/core"
	"github.com/holdfast-edge/holdfast/internal/daemon"
)

func main() {
	os.Exit(daemon.Main(root(), func(err error) bool { return errors.Is(err, core.ErrConfig) }))
}

func root() *cobra.Command {
	c := &cobra.Command{
		Use:   "holdfast-core",
		Short: "One node of the Holdfast core: the fleet's registry, the gateways' listener and the operators' API",
		Long: `One node of the Holdfast core.

Every flag can be set by the environment: --data-dir by HOLDFAST_DATA_DIR, and so on. Flags win over the environment, and
the environment over core.yaml in the data directory.

Exit codes: 0 stopped, 1 failure, 2 bad configuration.`,
		Version: daemon.Version(),
	}
	c.AddCommand(initCommand(), runCommand())
	return c
}

// flags that init and run share.
type flags struct {
	dir, level string
	s          core.Settings
}

func (f *flags) add(c *cobra.Command) {
	fs := c.Flags()
	fs.StringVar(&f.dir, "data-dir", "", "data directory of this node")
	fs.StringVar(&f.s.API, "api", "", "host:port of the operators' HTTPS API")
	fs.StringSliceVar(&f.s.APISAN, "api-san", nil, "further host name or address in the API's certificate (repeatable)")
	fs.StringVar(&f.s.Uplink, "uplink", "", "host:port (UDP) where gateways reach this node")
	fs.StringVar(&f.s.Cluster, "cluster", "", "host:port (TCP) where the other core nodes reach this node")
	fs.DurationVar(&f.s.ReportPeriod, "report-period", 0, "how often gateways report heartbeats, 1s to 10m (default 10s)")
	fs.StringVar(&f.level, "log-level", "info", "debug, info, warn or error")
	daemon.Require(c, "data-dir")
}

func initCommand() *cobra.Command {
	var f flags
	c := &cobra.Command{
		Use:   "init --data-dir D --fleet F --name core-1 --api A --uplink U --cluster C",
		Short: "Make a fleet, with this node as the first of its core",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return f.init(cmd) },
	}
	f.add(c)
	c.Flags().StringVar(&f.s.Fleet, "fleet", "", "name of the fleet, for ever: a domain-like name such as acme-plants")
	c.Flags().StringVar(&f.s.Name, "name", "", "name of this node")
	daemon.Require(c, "fleet", "name", "api", "uplink", "cluster")
	return c
}

func (f *flags) init(cmd *cobra.Command) error {
	log, err := daemon.Logger(cmd.ErrOrStderr(), "error")
	if err != nil {
		return err
	}
	if err := core.Init(cmd.Context(), core.Config{Settings: f.s, DataDir: f.dir, Version: daemon.Version(), Log: log}); err != nil {
		if errors.Is(err, core.ErrNotEmpty) {
			return &daemon.ConfigError{Err: err}
		}
		return err
	}
	p := func(name string) string { return filepath.Join(f.dir, name) }
	fmt.Fprintf(cmd.OutOrStdout(), `The fleet %s is made; %s is the first node of its core.

  %s   opens the API as administrator: keep it secret
  %s         the fleet's root certificate: not secret
  %s   opens the fleet's keys when all nodes are lost: move it off this machine now

Next:
  holdfast-core run --data-dir %s
  holdfast login https://%s --ca-file %s --token-file %s
`, f.s.Fleet, f.s.Name, p("admin.token"), p("ca.pem"), p("recovery.key"), f.dir, f.s.API, p("ca.pem"), p("admin.token"))
	return nil
}

func runCommand() *cobra.Command {
	var f flags
	c := &cobra.Command{
		Use:   "run --data-dir D",
		Short: "Run this node",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	f.add(c)
	return c
}

func (f *flags) run(cmd *cobra.Command) error {
	s, err := core.LoadSettings(f.dir)
	if err != nil {
		return err
	}
	override(&s, f.s)
	log, err := daemon.Logger(cmd.ErrOrStderr(), f.level)
	if err != nil {
		return err
	}
	c, err := core.New(cmd.Context(), core.Config{Settings: s, DataDir: f.dir, Version: daemon.Version(), Log: log})
	if err != nil {
		return err
	}
	return daemon.Serve(cmd.Context(), c.Run)
}

// override puts what flags and environment say over the settings of the file.
func override(s *core.Settings, by core.Settings) {
	for _, x := range []struct {
		to   *string
		from string
	}{{&s.API, by.API}, {&s.Uplink, by.Uplink}, {&s.Cluster, by.Cluster}} {
		if x.from != "" {
			*x.to = x.from
		}
	}
	if len(by.APISAN) > 0 {
		s.APISAN = by.APISAN
	}
	if by.ReportPeriod != time.Duration(0) {
		s.ReportPeriod = by.ReportPeriod
	}
}
