// Command holdfast-core runs one node of the core.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"github.com/holdfast-edge/holdfast/core"
	"github.com/holdfast-edge/holdfast/internal/daemon"
)

func main() { os.Exit(program().Main()) }

func program() *daemon.Program {
	return &daemon.Program{
		Name: "holdfast-core",
		Long: `One node of the Holdfast core: the fleet's registry, the gateways' listener and the operators' API.

Every flag can be set by the environment: --data-dir by HOLDFAST_DATA_DIR, and so on. Flags win over the environment, and
the environment over core.yaml in the data directory.

Exit codes: 0 stopped, 1 failure, 2 bad configuration.`,
		Commands: []daemon.Command{initCommand(), runCommand()},
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
	fs.StringVar(&f.s.Uplink, "uplink", "", "host:port (UDP) where gateways reach this node")
	fs.StringVar(&f.s.Cluster, "cluster", "", "host:port (TCP) where the other core nodes reach this node")
	fs.DurationVar(&f.s.ReportPeriod, "report-period", 0, "how often gateways report heartbeats, 1s to 10m (default 10s)")
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

func runCommand() daemon.Command {
	var f flags
	return daemon.Command{
		Name: "run", Use: "run --data-dir D", Short: "Run this node", Flags: f.add, Required: []string{"data-dir"}, Run: f.run,
	}
}

func (f *flags) run(ctx context.Context, env daemon.Env) error {
	s, err := core.LoadSettings(f.dir)
	if err != nil {
		return err
	}
	override(&s, f.s)
	log, err := daemon.Logger(env.Err, f.level)
	if err != nil {
		return err
	}
	c, err := core.New(ctx, core.Config{Settings: s, DataDir: f.dir, Version: daemon.Version(), Log: log})
	if err != nil {
		return err
	}
	return daemon.Serve(ctx, c.Run)
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
