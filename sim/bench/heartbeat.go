package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-edge/holdfast/internal/floor"
	"github.com/holdfast-edge/holdfast/internal/floor/proc"
)

// slice is what a number of processes did and used in one window.
type slice struct {
	Done, Failed uint64 // exchanges
	Elapsed      time.Duration
	CPU          []time.Duration // of the processes, in the order asked for
	P50, P99     time.Duration
	Foreign      float64 // what other processes took, in cores
}

// each is the CPU time of process i per exchange.
func (s *slice) each(i int) time.Duration {
	return time.Duration(float64(s.CPU[i]) / float64(max(s.Done, 1)))
}

func (s *slice) rate() float64 { return float64(s.Done) / s.Elapsed.Seconds() }

// errNoLoad says that a round ended without the exchanges that it was to measure.
var errNoLoad = errors.New("nothing was exchanged")

// measure loads a fleet, waits for the warm-up to pass, and measures one window. Its own processes are the fleet and pids.
func measure(ctx context.Context, fleet *floor.Child, what string, warmup, window time.Duration, pids ...int) (s slice, err error) {
	if err := fleet.Ask(ctx, commandStart+" "+what, nil); err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, fleet.Ask(ctx, commandStop, nil)) }()
	if err := rest(ctx, warmup); err != nil {
		return s, err
	}
	s, after, err := reckon(ctx, fleet, pids, func() error { return rest(ctx, window) })
	if err == nil && s.Done == 0 {
		err = fmt.Errorf("%w: %d failed, first: %s", errNoLoad, s.Failed, after.FirstFailure)
	}
	return s, err
}

// reckon measures what a fleet and the processes pids do and use while during runs.
func reckon(ctx context.Context, fleet *floor.Child, pids []int, during func() error) (s slice, after reading, err error) {
	pids = append([]int{fleet.PID()}, pids...)
	foreign, err := proc.StartForeign(pids...)
	if err != nil {
		return s, after, err
	}
	before, err := takeReading(ctx, fleet, pids)
	if err != nil {
		return s, after, err
	}
	if err := during(); err != nil {
		return s, after, err
	}
	if after, err = takeReading(ctx, fleet, pids); err != nil {
		return s, after, err
	}
	s = after.since(&before)
	s.Foreign, err = foreign.Share()
	return s, after, err
}

// reading is everything that a slice is the difference of.
type reading struct {
	counts
	at  time.Time
	cpu []time.Duration
}

// takeReading asks the fleet before the clocks: its answer waits for its turn on a saturated core.
func takeReading(ctx context.Context, fleet *floor.Child, pids []int) (r reading, err error) {
	if err := fleet.Ask(ctx, commandCount, &r.counts); err != nil {
		return r, err
	}
	r.at = time.Now()
	for _, pid := range pids {
		t, err := proc.CPUTime(pid)
		if err != nil {
			return r, err
		}
		r.cpu = append(r.cpu, t)
	}
	return r, nil
}

func (r *reading) since(before *reading) slice {
	s := slice{
		Done: r.Completed - before.Completed, Failed: r.Failed - before.Failed, Elapsed: r.at.Sub(before.at), P50: r.P50, P99: r.P99,
	}
	for i := range r.cpu {
		s.CPU = append(s.CPU, r.cpu[i]-before.cpu[i])
	}
	return s
}

// beatPair is a slice of the floor and one of the product, right after another.
type beatPair struct {
	floor floor.HeartbeatRound
	own   slice
}

// The processes of a slice of heartbeats.
const (
	beatDriver = iota
	beatGateway
	beatCore
)

// heartbeats measures what a heartbeat costs the gateway, in slices that alternate with the floor's.
func heartbeats(ctx context.Context, b *bench) (err error) {
	cfg, err := floor.DefaultHeartbeat()
	if err != nil {
		return err
	}
	cfg.Connections, cfg.Warmup, cfg.Window = b.size.devices, b.size.warmup, b.size.slice
	ref, err := floor.OpenHeartbeat(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ref.Close()) }()
	if err := b.world.restartGateway(ctx, cfg.ServerCPU); err != nil {
		return err
	}
	fleet, err := b.world.startDevices(ctx, roleFleet, cfg.ClientCPU, 0, b.size.devices)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fleet.Close()) }()
	round := func() (slice, error) {
		return measure(ctx, fleet, loadBeats, cfg.Warmup, cfg.Window, b.world.gateway.PID(), b.world.cores[0].child.PID())
	}
	pairs, stalled, err := beatPairs(ctx, b.size.rounds, ref, round)
	if err != nil {
		return err
	}
	reportHeartbeats(b, pairs)
	b.add("heartbeat.stalled", float64(stalled), "", "pairs measured anew because nothing was exchanged in a slice")
	return b.profile(ctx, "heartbeat", []hostedChild{{"gateway", b.world.gateway}}, func() error {
		_, err := measure(ctx, fleet, loadBeats, cfg.Warmup, b.size.profile)
		return err
	})
}

// maxStalled bounds how many pairs may be measured anew. On a machine whose cores others keep busy, a burst of lost packets
// stops a closed loop for as long as a slice lasts; such a slice says nothing about the cost of a heartbeat.
const maxStalled = 4

func beatPairs(ctx context.Context, n int, ref *floor.HeartbeatBench, round func() (slice, error)) (pairs []beatPair, stalled int, err error) {
	for len(pairs) < n {
		var p beatPair
		if p.floor, err = ref.Round(ctx); err == nil {
			p.own, err = round()
		}
		switch {
		case err == nil:
			pairs = append(pairs, p)
		case stalled < maxStalled && (errors.Is(err, errNoLoad) || errors.Is(err, floor.ErrNoLoad)):
			stalled++
		default:
			return nil, stalled, err
		}
	}
	return pairs, stalled, nil
}

func reportHeartbeats(b *bench, all []beatPair) {
	pairs := quieter(all, func(p beatPair) float64 { return max(p.floor.Foreign, p.own.Foreign) })
	own := median(pairs, func(p beatPair) float64 { return micros(p.own.each(beatGateway)) })
	low := median(pairs, func(p beatPair) float64 { return micros(p.floor.ServerCPUPerBeat()) })
	ratio := func(p beatPair) float64 {
		return float64(p.own.each(beatGateway)) / float64(p.floor.ServerCPUPerBeat())
	}
	best, worst := extremes(pairs, ratio)
	b.add("heartbeat.floor_cpu", low, "us", fmt.Sprintf("%d connections, saturated, %.0f/s", b.size.devices, median(pairs, func(p beatPair) float64 { return p.floor.Rate() })))
	b.add("heartbeat.gateway_cpu", own, "us", fmt.Sprintf("per heartbeat; %.0f/s, p50 %.0f ms, p99 %.0f ms; others took %.0f %% of a core",
		median(pairs, func(p beatPair) float64 { return p.own.rate() }), median(pairs, func(p beatPair) float64 { return micros(p.own.P50) / 1e3 }),
		median(pairs, func(p beatPair) float64 { return micros(p.own.P99) / 1e3 }), 100*median(pairs, func(p beatPair) float64 { return p.own.Foreign })))
	b.add("heartbeat.driver_cpu", median(pairs, func(p beatPair) float64 { return micros(p.own.each(beatDriver)) }), "us", fmt.Sprintf(
		"per heartbeat; the floor's driver %.1f", median(pairs, func(p beatPair) float64 { return micros(p.floor.ClientCPUPerBeat()) })))
	b.add("heartbeat.core_cpu", median(pairs, func(p beatPair) float64 { return micros(p.own.each(beatCore)) }), "us", "per heartbeat, on whichever core is free")
	b.judge(verdict{
		name: "gateway CPU per heartbeat", target: "at most 1.5 x the floor", unit: "us", floor: low, own: own, ratio: median(pairs, ratio), limit: 1.5,
		note: fmt.Sprintf("median of the quieter %d of %d pairs, %.2f to %.2f", len(pairs), len(all), best, worst),
	})
}
