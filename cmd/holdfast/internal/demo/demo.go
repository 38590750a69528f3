// Package demo runs a whole fleet of real processes on this machine and tells what it does: as a first look, and, with
// checks, as a test.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/sim/procs"
)

const (
	fleetName = "demo"

	site     = "plant-7"
	interval = time.Second // short, so that nobody waits long to see a device go offline
	agents   = 3
	nodes    = 3
)

// Command is `holdfast demo`.
func Command() *cobra.Command {
	var once, keep bool
	c := &cobra.Command{
		Use:   "demo",
		Short: "Run three core nodes, a gateway and three agents on this machine",
		Long: `Runs a whole fleet as real processes on free loopback ports, in a temporary directory, and stays up until interrupted.

With --once it runs through a story, with a second gateway, an outage of the core and artifacts that converge and roll back, checks every step, and ends with exit code 0, or says what was wrong.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), cmd.OutOrStdout(), once, keep) },
	}
	c.Flags().BoolVar(&once, "once", false, "run through the story with checks and end")
	c.Flags().BoolVar(&keep, "keep", false, "keep the directory with the data and the logs")
	return c
}

// A demo is one run.
type demo struct {
	*procs.Fleet
	out     io.Writer
	begun   time.Time
	gateway *plantGateway
	second  *plantGateway // nil before the story's second part
	ids     []string
	agents  []*procs.Proc

	publisher *procs.Publisher // nil before the story's third part
	good      v1.Artifact      // what is healthy in it
}

func run(ctx context.Context, out io.Writer, once, keep bool) (err error) {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "holdfast-demo-")
	if err != nil {
		return err
	}
	f, err := procs.New(dir, filepath.Dir(exe))
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	d := &demo{Fleet: f, out: out, begun: time.Now()}
	defer func() {
		f.Close()
		if keep || err != nil {
			fmt.Fprintf(out, "\nData and logs are in %s\n", dir)
			return
		}
		err = os.RemoveAll(dir)
	}()
	for _, step := range d.start() {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if !once {
		return d.stay(ctx)
	}
	for _, step := range slices.Concat(d.story(), d.outage(), d.artifacts()) {
		if err := step(ctx); err != nil {
			return err
		}
	}
	fmt.Fprintf(out, "\nDone in %.0f s: everything was as it should be.\n", time.Since(d.begun).Seconds())
	return nil
}

// say prints a step with the time since the begin.
func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.out, "%5.1fs  %s\n", time.Since(d.begun).Seconds(), fmt.Sprintf(format, args...))
}

// start is what it takes to have a fleet.
func (d *demo) start() []func(context.Context) error {
	return []func(context.Context) error{d.startCore, d.startGateway, d.enrollAgents, d.startAgents}
}

func (d *demo) startCore(ctx context.Context) error {
	d.say("make the fleet and start its core of %d nodes", nodes)
	if err := d.InitCore(ctx, fleetName); err != nil {
		return err
	}
	if err := d.StartCores(ctx, nodes); err != nil {
		return err
	}
	d.say("the API is at https://%s and at each other node:", d.API)
	if err := d.show(ctx, "cluster", "status"); err != nil {
		return err
	}
	_, err := d.CLI(ctx, "sites", "set", site, "--heartbeat-interval", interval.String())
	return err
}

func (d *demo) startGateway(ctx context.Context) (err error) {
	d.say("enroll a gateway for site %s with a one-time token, and start it", site)
	d.gateway, err = d.addGateway(ctx, "gw-a")
	return err
}

func agentName(i int) string { return fmt.Sprintf("agent-%d", i+1) }

func (d *demo) enrollAgents(ctx context.Context) error {
	d.say("enroll %d devices with a token of %d uses; each makes its own key", agents, agents)
	token, err := d.Token(ctx, "device", "device", site, agents)
	if err != nil {
		return err
	}
	for i := range agents {
		var id string
		// The gateway may still be on its way to the core: it then says so, and the device tries again.
		err := d.Eventually(ctx, 15*time.Second, func() (err error) {
			id, err = d.EnrollAgent(ctx, agentName(i), d.gateway.listen, token, "--tag", fmt.Sprintf("line=%d", i+1))
			return err
		})
		if err != nil {
			return err
		}
		d.ids = append(d.ids, id)
		d.say("  %s is device %s", agentName(i), id)
	}
	return nil
}

func (d *demo) startAgents(ctx context.Context) error {
	for i := range agents {
		p, err := d.StartAgent(agentName(i))
		if err != nil {
			return err
		}
		d.agents = append(d.agents, p)
	}
	if err := d.allOnline(ctx, time.Time{}); err != nil {
		return err
	}
	d.say("all are registered and online:")
	return d.show(ctx, "devices", "list")
}

// show prints what an operator's command prints.
func (d *demo) show(ctx context.Context, args ...string) error {
	b, err := d.CLI(ctx, args...)
	if err != nil {
		return err
	}
	fmt.Fprintf(d.out, "\n%s\n", indent(string(b)))
	return nil
}

// device reads one device.
func (d *demo) device(ctx context.Context, id string) (dev v1.Device, err error) {
	return dev, d.JSON(ctx, &dev, "devices", "get", id)
}

// allOnline waits until every device is online, registered, and heard after the given time.
func (d *demo) allOnline(ctx context.Context, after time.Time) error {
	return d.Eventually(ctx, 30*time.Second, func() error {
		var l v1.List[v1.Device]
		if err := d.JSON(ctx, &l, "devices", "list"); err != nil {
			return err
		}
		if len(l.Items) != agents {
			return fmt.Errorf("%d device records, want %d", len(l.Items), agents)
		}
		for _, dev := range l.Items {
			if dev.Presence != "online" || dev.PresenceReason != "" || dev.RegisteredAt == nil || dev.LastHeartbeatAt == nil || !dev.LastHeartbeatAt.After(after) {
				return fmt.Errorf("device %s: %s %s, last heartbeat %v", dev.ID, dev.Presence, dev.PresenceReason, dev.LastHeartbeatAt)
			}
		}
		return nil
	})
}

// stay keeps the fleet up until ctx ends.
func (d *demo) stay(ctx context.Context) error {
	fmt.Fprintf(d.out, `
The fleet stays up until you press Ctrl-C. To look at it from another terminal:

  export HOLDFAST_CONFIG=%s
  %s devices list
  %s devices get %s
  %s events

Data and logs are in %s
`, d.Path("operator.yaml"), d.exe(), d.exe(), d.ids[0][:8], d.exe(), d.Dir)
	<-ctx.Done()
	fmt.Fprintln(d.out, "\nStopping.")
	return nil
}

func (d *demo) exe() string { return filepath.Join(d.Bin, "holdfast") }
