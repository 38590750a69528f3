package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-edge/holdfast/internal/floor"
	"github.com/holdfast-edge/holdfast/internal/floor/proc"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// clusterNodes is the size of the core.
const clusterNodes = 3

// clusterRound is what was measured right after another: the way through the gateway, the core alone with its sender at a
// follower and at the leader, and the floor.
type clusterRound struct {
	floor                    floor.RegistrationRound
	gateway, follower, atTop clusterSlice
	bytes                    int // mean size of a sealed statement
}

// foreign is the most that other processes took in any part of it, in cores.
func (r *clusterRound) foreign() float64 {
	return max(r.floor.Foreign, r.gateway.Foreign, r.follower.Foreign, r.atTop.Foreign)
}

// clusterSlice is a slice whose processes are the driver, the gateway where there is one, and the nodes of the core.
type clusterSlice struct {
	slice
	batch float64 // registrations per log entry
	first int     // place of the first node among the processes
	lead  int     // place of the leader among the nodes
	entry int     // place of the node among the nodes that the statements came to
}

// core is what all nodes use per registration, in microseconds.
func (s *clusterSlice) core() float64 {
	sum := 0.0
	for i := s.first; i < len(s.CPU); i++ {
		sum += micros(s.each(i))
	}
	return sum
}

// gateway is what the gateway uses per registration, in microseconds.
func (s *clusterSlice) gateway() float64 { return micros(s.each(1)) }

// node is what a node uses per registration, in microseconds.
func (s *clusterSlice) node(place int) float64 { return micros(s.each(s.first + place)) }

// other is what a node uses that neither leads nor got the statements, in microseconds; without a second such node.
func (s *clusterSlice) other() float64 {
	for i := range len(s.CPU) - s.first {
		if i != s.lead && i != s.entry {
			return s.node(i)
		}
	}
	return 0
}

// clusterRun is the measurement under way.
type clusterRun struct {
	b       *bench
	fleet   *floor.Child // behind the gateway
	uplink  *floor.Child // speaks to the core itself
	entry   int          // place of the gateway's node
	lead    int          // place of the leader: another one
	renewed int          // rounds measured anew because the leader changed
}

// clusterRegistrations measures how many registrations a core of three nodes commits: through a gateway, and alone.
func clusterRegistrations(ctx context.Context, b *bench) (err error) {
	r := &clusterRun{b: b}
	if err := r.open(ctx); err != nil {
		return errors.Join(err, r.close())
	}
	defer func() { err = errors.Join(err, r.close()) }()
	var rounds []clusterRound
	for len(rounds) < b.size.clusterRounds {
		round, err := r.round(ctx)
		switch {
		case err == nil:
			rounds = append(rounds, round)
		case errors.Is(err, errLeader) && r.renewed < maxStalled:
			r.renewed++
		default:
			return err
		}
	}
	if err := r.report(ctx, rounds); err != nil {
		return err
	}
	return r.profile(ctx)
}

// open starts the senders, and makes a node lead that is not the gateway's: with three nodes that is what most gateways meet.
func (r *clusterRun) open(ctx context.Context) (err error) {
	w := r.b.world
	if err := w.restartGateway(ctx, proc.AnyCPU); err != nil {
		return err
	}
	if r.entry, err = w.gatewayNode(ctx); err != nil {
		return err
	}
	r.lead = (r.entry + 1) % len(w.cores)
	if err := w.lead(ctx, r.lead); err != nil {
		return err
	}
	if r.fleet, err = w.startDevices(ctx, roleFleet, proc.AnyCPU, 0, r.b.size.devices); err != nil {
		return err
	}
	t, err := w.token(ctx, seal.KindGateway, 1)
	if err != nil {
		return err
	}
	r.uplink, err = w.startUplink(ctx, t.Reveal(), r.b.size.devices, r.b.size.direct(), r.b.size.clusterBatch)
	return err
}

func (r *clusterRun) close() error {
	var errs []error
	for _, c := range []*floor.Child{r.fleet, r.uplink} {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}

// round signs ahead, measures the product in its three ways, and then the floor with records and batches of the same size.
func (r *clusterRun) round(ctx context.Context) (out clusterRound, err error) {
	size := &r.b.size
	var signed prepared
	if err := r.fleet.Ask(ctx, fmt.Sprintf("%s %d", commandPrepare, size.ahead), &signed); err != nil {
		return out, err
	}
	out.bytes = signed.Bytes
	pids := append([]int{r.b.world.gateway.PID()}, r.b.world.corePIDs()...)
	if out.gateway, err = r.slice(ctx, 2, r.entry, func() (slice, float64, error) {
		return committed(ctx, r.b, r.fleet, signed.Ahead, pids...)
	}); err != nil {
		return out, fmt.Errorf("through the gateway: %w", err)
	}
	if out.follower, err = r.direct(ctx, r.entry); err != nil {
		return out, fmt.Errorf("at a follower: %w", err)
	}
	if out.atTop, err = r.direct(ctx, r.lead); err != nil {
		return out, fmt.Errorf("at the leader: %w", err)
	}
	cfg := floor.DefaultRegistration(clusterNodes)
	cfg.Batch, cfg.RecordBytes, cfg.Window, cfg.Rounds = size.clusterBatch, signed.Bytes, size.clusterWindow, 1
	ref, err := floor.Registration(ctx, cfg)
	if err != nil {
		return out, err
	}
	out.floor = ref.Rounds[0]
	return out, nil
}

// direct measures the core alone, with the sender at a node.
func (r *clusterRun) direct(ctx context.Context, node int) (s clusterSlice, err error) {
	if err := r.uplink.Ask(ctx, commandDial+" "+r.b.world.cores[node].Uplink, nil); err != nil {
		return s, err
	}
	if err := r.uplink.Ask(ctx, fmt.Sprintf("%s %d", commandPrepare, r.b.size.directAhead), nil); err != nil {
		return s, err
	}
	pids := r.b.world.corePIDs()
	return r.slice(ctx, 1, node, func() (slice, float64, error) {
		return registrationSlice(ctx, r.b, r.uplink, r.b.size.clusterWindow, pids...)
	})
}

// errLeader says that the core elected another leader.
var errLeader = errors.New("the leader changed")

// slice measures one way and looks that the leader stayed.
func (r *clusterRun) slice(ctx context.Context, first, entry int, run func() (slice, float64, error)) (s clusterSlice, err error) {
	s.first, s.lead, s.entry = first, r.lead, entry
	if s.slice, s.batch, err = run(); err != nil {
		return s, err
	}
	now, err := r.b.world.leader(ctx)
	if err != nil {
		return s, err
	}
	if now != r.lead {
		return s, errors.Join(errLeader, r.b.world.lead(ctx, r.lead))
	}
	return s, nil
}

func (r *clusterRun) report(ctx context.Context, all []clusterRound) error {
	b := r.b
	rounds := quieter(all, func(c clusterRound) float64 { return c.foreign() })
	med := func(f func(c clusterRound) float64) float64 { return median(rounds, f) }
	low, lowCPU := med(func(c clusterRound) float64 { return c.floor.Rate() }), med(func(c clusterRound) float64 { return micros(c.floor.CPUEach()) })
	b.add("cluster.floor_rate", low, "1/s", fmt.Sprintf("3 nodes, batch %d, %d B each; others took %.0f %% of a core",
		b.size.clusterBatch, rounds[0].bytes, 100*med(func(c clusterRound) float64 { return c.floor.Foreign })))
	b.add("cluster.floor_cpu", lowCPU, "us", "per registration, all three nodes")
	for _, way := range []struct {
		name, what string
		get        func(c *clusterRound) *clusterSlice
	}{
		{"cluster.gateway", "through a gateway whose node is a follower", func(c *clusterRound) *clusterSlice { return &c.gateway }},
		{"cluster.follower", "the core alone, its sender at a follower", func(c *clusterRound) *clusterSlice { return &c.follower }},
		{"cluster.leader", "the core alone, its sender at the leader", func(c *clusterRound) *clusterSlice { return &c.atTop }},
	} {
		r.reportWay(way.name, way.what, rounds, way.get)
	}
	var opened int
	if err := r.fleet.Ask(ctx, commandReceipts, &opened); err != nil {
		return err
	}
	var failed uint64
	for i := range all {
		failed += all[i].gateway.Failed + all[i].follower.Failed + all[i].atTop.Failed
	}
	b.add("cluster.receipts", float64(opened), "", fmt.Sprintf("devices whose newest receipt was opened and covers all that was answered; %d exchanges failed", failed))
	b.add("cluster.elections", float64(r.renewed), "", "rounds measured anew because the leader changed")
	r.judge("three nodes, through a gateway", rounds, len(all), func(c *clusterRound) (*clusterSlice, float64) {
		return &c.gateway, c.gateway.gateway() + c.gateway.core()
	})
	r.judge("three nodes, the core alone", rounds, len(all), func(c *clusterRound) (*clusterSlice, float64) { return &c.follower, c.follower.core() })
	return nil
}

// reportWay adds the figures of one of the ways.
func (r *clusterRun) reportWay(name, what string, rounds []clusterRound, get func(c *clusterRound) *clusterSlice) {
	b := r.b
	med := func(f func(s *clusterSlice) float64) float64 {
		return median(rounds, func(c clusterRound) float64 { return f(get(&c)) })
	}
	b.add(name+".rate", med(func(s *clusterSlice) float64 { return s.rate() }), "1/s", fmt.Sprintf("%s, driver on the same cores; p50 %.0f ms, p99 %.0f ms; others took %.0f %% of a core",
		what, med(func(s *clusterSlice) float64 { return micros(s.P50) / 1e3 }), med(func(s *clusterSlice) float64 { return micros(s.P99) / 1e3 }),
		100*med(func(s *clusterSlice) float64 { return s.Foreign })))
	b.add(name+".batch", med(func(s *clusterSlice) float64 { return s.batch }), "", "registrations per log entry, every entry counted")
	if get(&rounds[0]).first > 1 {
		b.add(name+".gateway_cpu", med((*clusterSlice).gateway), "us", "per registration, the gateway's")
	}
	b.add(name+".core_cpu", med((*clusterSlice).core), "us", fmt.Sprintf("per registration, all three nodes; the floor is %.0f %% of it",
		100*median(rounds, func(c clusterRound) float64 { return micros(c.floor.CPUEach()) / get(&c).core() })))
	b.add(name+".leader_cpu", med(func(s *clusterSlice) float64 { return s.node(s.lead) }), "us", "part of it, the leader's")
	if s := get(&rounds[0]); s.entry != s.lead {
		b.add(name+".entry_cpu", med(func(s *clusterSlice) float64 { return s.node(s.entry) }), "us", "part of it, the follower's that the statements come to: it verifies them and signs the receipts")
	}
	b.add(name+".other_cpu", med((*clusterSlice).other), "us", "part of it, a follower's that only follows")
	b.add(name+".driver_cpu", med(func(s *clusterSlice) float64 { return micros(s.each(0)) }), "us", "per registration, the driver's: neither product nor floor")
}

// judge holds one way against the floor, its throughput and its CPU time.
func (r *clusterRun) judge(name string, rounds []clusterRound, of int, get func(c *clusterRound) (*clusterSlice, float64)) {
	med := func(f func(c clusterRound) float64) float64 { return median(rounds, f) }
	rate := func(c clusterRound) float64 { s, _ := get(&c); return s.rate() }
	cpu := func(c clusterRound) float64 { _, us := get(&c); return us }
	lowRate, lowCPU := func(c clusterRound) float64 { return c.floor.Rate() }, func(c clusterRound) float64 { return micros(c.floor.CPUEach()) }
	ratio := func(c clusterRound) float64 { return rate(c) / lowRate(c) }
	worst, best := extremes(rounds, ratio)
	r.b.judge(verdict{
		name: name + ": throughput", target: "at least 60 % of the floor", unit: "1/s", floor: med(lowRate), own: med(rate), ratio: med(ratio), limit: 0.6, atLeast: true,
		note: fmt.Sprintf("as measured, the driver on the same cores; median of the quieter %d of %d rounds, %.2f to %.2f", len(rounds), of, worst, best),
	})
	ratio = func(c clusterRound) float64 { return lowCPU(c) / cpu(c) }
	worst, best = extremes(rounds, ratio)
	r.b.judge(verdict{
		name: name + ": CPU", target: "at least 60 % of the floor", unit: "us", floor: med(lowCPU), own: med(cpu), ratio: med(ratio), limit: 0.6, atLeast: true,
		note: fmt.Sprintf("floor's CPU over the product's, all nodes of both; %.2f to %.2f", worst, best),
	})
}

// profile takes profiles of the gateway and of each node under the load that comes through the gateway.
func (r *clusterRun) profile(ctx context.Context) error {
	b := r.b
	var signed prepared
	if err := r.fleet.Ask(ctx, fmt.Sprintf("%s %d", commandPrepare, b.size.ahead), &signed); err != nil {
		return err
	}
	all := []hostedChild{{"gateway", b.world.gateway}}
	for i, n := range b.world.cores {
		name := "follower"
		switch i {
		case r.lead:
			name = "leader"
		case r.entry:
			name = "follower with the uplink"
		}
		all = append(all, hostedChild{name, n.child})
	}
	return b.profile(ctx, "registration on three nodes", all, func() error {
		_, _, err := committed(ctx, b, r.fleet, signed.Ahead, b.world.gateway.PID())
		return err
	})
}
