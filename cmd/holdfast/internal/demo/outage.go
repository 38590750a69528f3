package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/sim/procs"
)

// failover bounds how long a device takes to another gateway: until it takes its own for dead, and has tried it once more.
const failover = 30 * time.Second

// A plantGateway is one of the plant's gateways.
type plantGateway struct {
	name, listen, ops string
	proc              *procs.Proc
}

// addGateway enrolls a gateway with a one-time token and starts it. It tells what it does at its operations port: that is how
// one sees into a plant that is cut off.
func (d *demo) addGateway(ctx context.Context, name string) (*plantGateway, error) {
	token, err := d.Token(ctx, name, "gateway", site, 1)
	if err != nil {
		return nil, err
	}
	g := &plantGateway{name: name}
	for _, a := range []*string{&g.listen, &g.ops} {
		if *a, err = procs.FreeAddr(); err != nil {
			return nil, err
		}
	}
	if err := d.EnrollGateway(ctx, name, g.listen, token); err != nil {
		return nil, err
	}
	return g, d.run(g)
}

func (d *demo) run(g *plantGateway) (err error) {
	g.proc, err = d.StartGateway(g.name, "--ops", g.ops)
	return err
}

// metric reads one of the gateway's metrics, whose name is given with its labels.
func (g *plantGateway) metric(ctx context.Context, name string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+g.ops+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "holdfast_gateway_"+name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(v), 64)
		}
	}
	return 0, fmt.Errorf("%s has no metric %s", g.name, name)
}

// outage is the story's second part: the core cannot be reached, and the plant carries on. Each step checks what it says.
func (d *demo) outage() []func(context.Context) error {
	return []func(context.Context) error{d.secondGateway, d.cut, d.stateInside, d.gatewayDiesInside, d.restartInside, d.back, d.arrived}
}

func (d *demo) secondGateway(ctx context.Context) (err error) {
	d.say("enroll a second gateway: the devices learn of it by a list that the core signs")
	if d.second, err = d.addGateway(ctx, "gw-b"); err != nil {
		return err
	}
	for i := range agents {
		err := d.Eventually(ctx, 20*time.Second, func() error { return knows(d.Path(agentName(i)), d.second.listen) })
		if err != nil {
			return err
		}
	}
	// What it must know to admit them without the core.
	return d.Eventually(ctx, 20*time.Second, func() error { return d.second.shows(ctx, `mirror_devices{site="own"}`, agents, agents) })
}

// knows tells whether one of the files in a device's directory names a gateway.
func knows(dir, gateway string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return err
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && bytes.Contains(b, []byte(gateway)) { //nolint:gosec // the demo's own directory
			return nil
		}
	}
	return fmt.Errorf("%s does not know the gateway at %s", dir, gateway)
}

// cutCore kills all nodes of the core.
func (d *demo) cutCore() error {
	for n := 1; n <= nodes; n++ {
		c, err := d.Core(n)
		if err != nil {
			return err
		}
		c.Proc.Kill()
	}
	return nil
}

// startCoreNodes starts them again.
func (d *demo) startCoreNodes(ctx context.Context) error {
	for n := 1; n <= nodes; n++ {
		if _, err := d.LaunchCoreNode(n); err != nil {
			return err
		}
	}
	for n := 1; n <= nodes; n++ {
		if err := d.Ready(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// cut takes the core away. From within the plant that looks as a WAN that is cut.
func (d *demo) cut(ctx context.Context) error {
	d.say("the core cannot be reached: all %d nodes are killed, which from within the plant looks as a cut WAN", nodes)
	if err := d.cutCore(); err != nil {
		return err
	}
	for _, g := range []*plantGateway{d.gateway, d.second} {
		err := d.Eventually(ctx, 20*time.Second, func() error { return g.shows(ctx, "uplink_connected", 0, 0) })
		if err != nil {
			return err
		}
	}
	before, err := d.gateway.metric(ctx, "heartbeats_total")
	if err != nil {
		return err
	}
	if err := d.Eventually(ctx, 10*interval, func() error {
		return d.gateway.shows(ctx, "heartbeats_total", before+2*agents, before+1e6)
	}); err != nil {
		return err
	}
	d.say("  inside the plant heartbeats go on")
	return d.gateway.shows(ctx, "devices_online", agents, agents)
}

// shows checks that a metric lies between two bounds.
func (g *plantGateway) shows(ctx context.Context, name string, least, most float64) error {
	v, err := g.metric(ctx, name)
	if err == nil && (v < least || v > most) {
		err = fmt.Errorf("%s: %s is %v, want %v to %v", g.name, name, v, least, most)
	}
	return err
}

// stateInside restarts a device: what it then registers is in its gateway's custody.
func (d *demo) stateInside(ctx context.Context) error {
	d.say("restart %s: it registers, and its gateway keeps that for the core", agentName(0))
	if err := d.restart(0); err != nil {
		return err
	}
	return d.kept(ctx, d.gateway, 1)
}

func (d *demo) restart(i int) (err error) {
	d.agents[i].Kill()
	d.agents[i], err = d.StartAgent(agentName(i))
	return err
}

// kept waits until a gateway has so many statements in custody.
func (d *demo) kept(ctx context.Context, g *plantGateway, n float64) error {
	if err := d.Eventually(ctx, failover, func() error { return g.shows(ctx, "spool_records", n, n) }); err != nil {
		return err
	}
	bytes, err := g.metric(ctx, "spool_bytes")
	if err != nil {
		return err
	}
	age, err := g.metric(ctx, "spool_oldest_age_seconds")
	d.say("  %s has %.0f on its disk, %.0f bytes, the oldest %.1f s old", g.name, n, bytes, age)
	return err
}

func (d *demo) gatewayDiesInside(ctx context.Context) error {
	d.say("kill -9 %s, which has the backlog: its devices go to %s", d.gateway.name, d.second.name)
	d.gateway.proc.Kill()
	killed := time.Now()
	if err := d.Eventually(ctx, failover, func() error { return d.second.shows(ctx, "sessions", agents, agents) }); err != nil {
		return err
	}
	d.say("  all %d are there, %.1f s after the kill", agents, time.Since(killed).Seconds())
	return nil
}

// restartInside restarts a device that the second gateway never saw start: it is admitted by what the core signed of it. What
// the first device registered is in two spools now, as its outbox holds it until the core's receipt comes.
func (d *demo) restartInside(ctx context.Context) error {
	d.say("restart %s: the core's signed word on %s's disk admits it", agentName(1), d.second.name)
	if err := d.restart(1); err != nil {
		return err
	}
	return d.kept(ctx, d.second, 2)
}

func (d *demo) back(ctx context.Context) error {
	d.say("the core is back, and so is %s with what it had taken", d.gateway.name)
	again := time.Now()
	if err := d.run(d.gateway); err != nil {
		return err
	}
	if err := d.startCoreNodes(ctx); err != nil {
		return err
	}
	if err := d.Eventually(ctx, 30*time.Second, func() error { return d.drained(ctx) }); err != nil {
		return err
	}
	if err := d.allOnline(ctx, again); err != nil {
		return err
	}
	d.say("  nothing waits in the plant:")
	return d.show(ctx, "gateways", "list")
}

// drained tells whether every gateway says, in a session with the core, that nothing waits.
func (d *demo) drained(ctx context.Context) error {
	var l v1.List[v1.Gateway]
	if err := d.JSON(ctx, &l, "gateways", "list"); err != nil {
		return err
	}
	if len(l.Items) != 2 {
		return fmt.Errorf("%d gateways, want 2", len(l.Items))
	}
	for _, g := range l.Items {
		if !g.Connected || g.Backlog == nil || g.Backlog.Statements != 0 || g.Backlog.Lost != 0 || g.Backlog.Refused != 0 {
			return fmt.Errorf("gateway %s/%s: connected %v, backlog %+v", g.Site, g.Name, g.Connected, g.Backlog)
		}
	}
	return nil
}

// arrived holds the history against what the devices stated: one registration for each start, each once, in order.
func (d *demo) arrived(ctx context.Context) error {
	d.say("every statement arrived, once, although that of %s came from both gateways:", agentName(0))
	for i, starts := range []int{3, 2, 1} {
		if err := d.registered(ctx, i, starts); err != nil {
			return err
		}
	}
	if err := d.show(ctx, "devices", "history", d.ids[0]); err != nil {
		return err
	}
	d.say("the timeline of %s, which was heard inside the plant throughout:", agentName(2))
	return d.show(ctx, "devices", "presence", d.ids[2])
}

// registered checks that the core has one registration for each start of a device, without a gap and none twice.
func (d *demo) registered(ctx context.Context, i, starts int) error {
	var h v1.List[v1.HistoryItem]
	if err := d.JSON(ctx, &h, "devices", "history", d.ids[i]); err != nil {
		return err
	}
	if len(h.Items) != starts {
		return fmt.Errorf("device %s has %d registrations, want %d", d.ids[i], len(h.Items), starts)
	}
	for n, it := range h.Items {
		if it.Type != "register" || it.Late || it.Seq != uint64(n+1) || it.Epoch != h.Items[0].Epoch {
			return fmt.Errorf("device %s: statement %d is %s with epoch %d, seq %d, late %v", d.ids[i], n+1, it.Type, it.Epoch, it.Seq, it.Late)
		}
	}
	return nil
}
