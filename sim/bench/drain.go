package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-edge/holdfast/internal/disk"
	"github.com/holdfast-edge/holdfast/internal/floor"
	"github.com/holdfast-edge/holdfast/internal/floor/proc"
	"github.com/holdfast-edge/holdfast/sitegw/custody"
	"github.com/holdfast-edge/holdfast/sitegw/spool"
)

// drains measures how fast what a gateway buffered in an outage comes to the core, and what the heartbeats of devices that are
// attached meanwhile take.
func drains(ctx context.Context, b *bench) (err error) {
	w := b.world
	if err := w.stopGateway(); err != nil {
		return err
	}
	bytes, err := b.buffer(ctx)
	if err != nil {
		return err
	}
	if err := w.startGateway(ctx, proc.AnyCPU); err != nil {
		return err
	}
	fleet, err := w.startDevices(ctx, roleFleet, proc.AnyCPU, 0, b.size.calm)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fleet.Close()) }()
	if err := fleet.Ask(ctx, fmt.Sprintf("%s %s %v", commandStart, loadCalm, b.size.drainEvery), nil); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fleet.Ask(ctx, commandStop, nil)) }()
	if err := rest(ctx, b.size.drainEvery); err != nil { // all have beaten
		return err
	}
	d, err := b.drain(ctx, fleet)
	if err != nil {
		return err
	}
	if err := rest(ctx, b.size.settle); err != nil {
		return err
	}
	var c counts
	if err := fleet.Ask(ctx, commandCount, &c); err != nil { // begins new percentiles
		return err
	}
	still, _, err := reckon(ctx, fleet, nil, func() error { return rest(ctx, b.size.drainRest) })
	if err != nil {
		return err
	}
	cfg := floor.DefaultRegistration(1)
	cfg.Batch, cfg.RecordBytes, cfg.Window, cfg.Rounds = floorBatch, bytes, b.size.regWindow, b.size.regRounds
	ref, err := floor.Registration(ctx, cfg)
	if err != nil {
		return err
	}
	reportDrain(b, d, still, ref)
	return nil
}

// draining is what a drain did, from the first look on.
type draining struct {
	slice
	records int
	batch   float64 // statements per log entry
}

// drain measures until the core has answered for everything. The percentiles are of the heartbeats.
func (b *bench) drain(ctx context.Context, fleet *floor.Child) (d draining, err error) {
	ctx, cancel := context.WithTimeout(ctx, drainTime)
	defer cancel()
	before, err := b.world.index(ctx)
	if err != nil {
		return d, err
	}
	if d.records, err = b.world.backlog(ctx); err != nil {
		return d, err
	}
	pids := append([]int{b.world.gateway.PID()}, b.world.corePIDs()...)
	if d.slice, _, err = reckon(ctx, fleet, pids, func() error { return b.drained(ctx) }); err != nil {
		return d, err
	}
	after, err := b.world.index(ctx)
	d.batch = float64(d.records) / float64(max(after-before, 1))
	return d, err
}

func (d *draining) rate() float64 { return float64(d.records) / d.Elapsed.Seconds() }

// cpu is what process i took for each statement, in microseconds.
func (d *draining) cpu(i int) float64 { return micros(d.CPU[i]) / float64(max(d.records, 1)) }

func reportDrain(b *bench, d draining, still slice, ref floor.RegistrationResult) {
	b.add("drain.floor_rate", ref.Rate, "1/s", fmt.Sprintf("1 node, batch %d, %d B each; others took %.0f %% of a core", ref.Config.Batch, ref.Config.RecordBytes, 100*ref.Foreign))
	b.add("drain.rate", d.rate(), "1/s", fmt.Sprintf("%d of %d statements, the rest went while devices attached; others took %.0f %% of a core", d.records, b.size.buffered, 100*d.Foreign))
	b.add("drain.batch", d.batch, "", "statements per log entry, every entry counted")
	b.add("drain.gateway_cpu", d.cpu(1), "us", "per statement, with the heartbeats")
	b.add("drain.core_cpu", d.cpu(2), "us", fmt.Sprintf("per statement; the floor takes %.1f", micros(ref.CPU)))
	b.add("drain.beats", float64(d.Done), "", fmt.Sprintf("heartbeats meanwhile, of %d devices each %v; %d failed", b.size.calm, b.size.drainEvery, d.Failed+still.Failed))
	b.judge(verdict{
		name: "draining a backlog", target: "at least 50 % of the floor", unit: "1/s", floor: ref.Rate, own: d.rate(), ratio: d.rate() / ref.Rate, limit: 0.5, atLeast: true,
		note: fmt.Sprintf("%d buffered statements, end to end, while %d devices beat", b.size.buffered, b.size.calm),
	})
	b.judge(verdict{
		name: "heartbeats during the drain, p99", target: "less than 2 x theirs at rest", unit: "us", floor: micros(still.P99), own: micros(d.P99),
		ratio: micros(d.P99) / math.Max(micros(still.P99), 1), limit: 2,
		note: fmt.Sprintf("p50 %.0f us, at rest %.0f us", micros(d.P50), micros(still.P50)),
	})
}

// buffer signs statements and puts them into the spool of the gateway, which does not run: the next one of each device in turn, as an
// outage leaves them. It returns their mean size.
func (b *bench) buffer(ctx context.Context) (bytes int, err error) {
	devices, _, err := readRegister(b.world.register(), b.size.devices+b.size.hostiles, b.size.drainers)
	if err != nil {
		return 0, err
	}
	players := make([]*player, len(devices))
	for i, d := range devices {
		players[i] = newPlayer(d, nil)
	}
	s, end, err := openSpool(ctx, filepath.Join(b.world.dir, "gateway", "spool"), disk.OS{})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, end()) }()
	what := profile()
	for left := b.size.buffered; left > 0; left -= len(players) {
		var g errgroup.Group
		g.SetLimit(runtime.GOMAXPROCS(0))
		for _, p := range players {
			g.Go(func() error { return p.sign(&what) })
		}
		if err := g.Wait(); err != nil {
			return 0, err
		}
		kept := make(chan error, len(players))
		for _, p := range players {
			s.Append(custody.KindStatement, time.Now().UnixMilli(), p.ready[0], func(_ uint64, err error) { kept <- err })
			bytes, p.ready = len(p.ready[0]), p.ready[:0]
		}
		for range players {
			if err := <-kept; err != nil {
				return 0, err
			}
		}
	}
	return bytes, nil
}

// openSpool opens a spool in a directory and runs it until end.
func openSpool(ctx context.Context, dir string, on disk.FS) (s *spool.Spool, end func() error, err error) {
	s, err = spool.Open(spool.Config{Dir: dir, FS: on, Quota: spoolQuota, Wall: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	return s, func() error { cancel(); return <-ended }, nil
}

// spoolQuota has room for a million statements.
const spoolQuota = 4 << 30
