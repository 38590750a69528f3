package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-edge/holdfast/internal/floor"
	"github.com/holdfast-edge/holdfast/internal/floor/proc"
)

// floorBatch is the batch of the floor, the least that the target speaks of.
const floorBatch = 100

// The processes of a slice of registrations.
const (
	regDriver = iota
	regGateway
	regCore
)

// regPair is a round of the floor and one of the product, right after another.
type regPair struct {
	floor floor.RegistrationRound
	own   slice
	batch float64 // registrations per log entry
	bytes int     // mean size of a sealed statement
}

// ownCPU is what gateway and core use per registration, in microseconds.
func (p *regPair) ownCPU() float64 {
	return micros(p.own.each(regGateway)) + micros(p.own.each(regCore))
}

// registrations measures how many registrations gateway and core commit together, in rounds that alternate with the floor's.
func registrations(ctx context.Context, b *bench) (err error) {
	if err := b.world.restartGateway(ctx, proc.AnyCPU); err != nil {
		return err
	}
	fleet, err := b.world.startDevices(ctx, roleFleet, proc.AnyCPU, 0, b.size.devices)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fleet.Close()) }()
	var pairs []regPair
	for range b.size.regRounds {
		p, err := registrationPair(ctx, b, fleet)
		if err != nil {
			return err
		}
		pairs = append(pairs, p)
	}
	var opened int
	if err := fleet.Ask(ctx, commandReceipts, &opened); err != nil {
		return err
	}
	reportRegistrations(b, pairs, opened)
	var signed prepared
	if err := fleet.Ask(ctx, fmt.Sprintf("%s %d", commandPrepare, b.size.ahead), &signed); err != nil {
		return err
	}
	both := []hostedChild{{"gateway", b.world.gateway}, {"core", b.world.cores[0].child}}
	return b.profile(ctx, "registration", both, func() error {
		_, _, err := committed(ctx, b, fleet, signed.Ahead, b.world.gateway.PID())
		return err
	})
}

// registrationPair signs ahead, measures the product, and then the floor with records of the same size.
func registrationPair(ctx context.Context, b *bench, fleet *floor.Child) (p regPair, err error) {
	var signed prepared
	if err := fleet.Ask(ctx, fmt.Sprintf("%s %d", commandPrepare, b.size.ahead), &signed); err != nil {
		return p, err
	}
	p.bytes = signed.Bytes
	if p.own, p.batch, err = committed(ctx, b, fleet, signed.Ahead, b.world.gateway.PID(), b.world.cores[0].child.PID()); err != nil {
		return p, err
	}
	cfg := floor.DefaultRegistration(1)
	cfg.Batch, cfg.RecordBytes, cfg.Window, cfg.Rounds = floorBatch, signed.Bytes, b.size.regWindow, 1
	ref, err := floor.Registration(ctx, cfg)
	if err != nil {
		return p, err
	}
	p.floor = ref.Rounds[0]
	return p, nil
}

// Times of a measurement that ends when everything is committed.
const (
	drainPoll = 20 * time.Millisecond
	drainTime = 15 * time.Minute
)

// committed lets a fleet state the n statements that are signed, and measures until the core has answered for the last of them:
// the gateway has none left. It says how many shared a log entry. The first of pids, the product's processes, is the gateway's.
func committed(ctx context.Context, b *bench, fleet *floor.Child, n int, pids ...int) (s slice, batch float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, drainTime)
	defer cancel()
	before, err := b.world.index(ctx)
	if err != nil {
		return s, 0, err
	}
	defer func() { err = errors.Join(err, fleet.Ask(ctx, commandStop, nil)) }()
	var c counts
	s, _, err = reckon(ctx, fleet, pids, func() error {
		if err := fleet.Ask(ctx, commandStart+" "+loadStatements, nil); err != nil {
			return err
		}
		for {
			if err := fleet.Ask(ctx, commandSum, &c); err != nil {
				return err
			}
			if c.Completed >= uint64(n) { //nolint:gosec // G115: a number of statements
				return b.drained(ctx)
			}
			if err := rest(ctx, drainPoll); err != nil {
				return fmt.Errorf("%d of %d statements in custody, %d refused, first: %s: %w", c.Completed, n, c.Failed, c.FirstFailure, err)
			}
		}
	})
	if err != nil {
		return s, 0, err
	}
	s.Done, s.Failed = c.Completed, c.Failed
	after, err := b.world.index(ctx)
	return s, float64(n) / float64(max(after-before, 1)), err
}

// drained waits until the gateway has nothing that the core has not answered for.
func (b *bench) drained(ctx context.Context) error {
	for {
		left, err := b.world.backlog(ctx)
		if err != nil || left == 0 {
			return err
		}
		if err := rest(ctx, drainPoll); err != nil {
			return fmt.Errorf("%d records wait at the gateway: %w", left, err)
		}
	}
}

// registrationSlice measures one window of a sender, and how many registrations shared a log entry in it. pids are the
// product's processes.
func registrationSlice(ctx context.Context, b *bench, sender *floor.Child, window time.Duration, pids ...int) (s slice, batch float64, err error) {
	before, err := b.world.index(ctx)
	if err != nil {
		return s, 0, err
	}
	var was, is counts
	if err := sender.Ask(ctx, commandCount, &was); err != nil {
		return s, 0, err
	}
	s, err = measure(ctx, sender, loadStatements, b.size.warmup, window, pids...)
	if err != nil {
		return s, 0, err
	}
	if err := sender.Ask(ctx, commandCount, &is); err != nil {
		return s, 0, err
	}
	after, err := b.world.index(ctx)
	return s, float64(is.Completed-was.Completed) / float64(max(after-before, 1)), err
}

func reportRegistrations(b *bench, all []regPair, opened int) {
	pairs := quieter(all, func(p regPair) float64 { return max(p.floor.Foreign, p.own.Foreign) })
	med := func(f func(p regPair) float64) float64 { return median(pairs, f) }
	low, own := med(func(p regPair) float64 { return p.floor.Rate() }), med(func(p regPair) float64 { return p.own.rate() })
	lowCPU, ownCPU := med(func(p regPair) float64 { return micros(p.floor.CPUEach()) }), med(func(p regPair) float64 { return p.ownCPU() })
	var failed uint64
	for i := range all {
		failed += all[i].own.Failed
	}
	b.add("registration.floor_rate", low, "1/s", fmt.Sprintf("1 node, batch %d, %d B each; others took %.0f %% of a core",
		floorBatch, pairs[0].bytes, 100*med(func(p regPair) float64 { return p.floor.Foreign })))
	b.add("registration.rate", own, "1/s", fmt.Sprintf("from the first statement to the commit of the last, driver on the same cores; custody p50 %.0f ms, p99 %.0f ms; others took %.0f %% of a core",
		med(func(p regPair) float64 { return micros(p.own.P50) / 1e3 }), med(func(p regPair) float64 { return micros(p.own.P99) / 1e3 }),
		100*med(func(p regPair) float64 { return p.own.Foreign })))
	b.add("registration.batch", med(func(p regPair) float64 { return p.batch }), "", "registrations per log entry, every entry counted")
	b.add("registration.floor_cpu", lowCPU, "us", "per registration")
	b.add("registration.cpu", ownCPU, "us", "per registration, gateway and core")
	b.add("registration.gateway_cpu", med(func(p regPair) float64 { return micros(p.own.each(regGateway)) }), "us", "part of it")
	b.add("registration.core_cpu", med(func(p regPair) float64 { return micros(p.own.each(regCore)) }), "us", fmt.Sprintf(
		"part of it, and what can be held against the floor directly: the floor is %.0f %% of it", 100*med(func(p regPair) float64 { return micros(p.floor.CPUEach()) / micros(p.own.each(regCore)) })))
	b.add("registration.driver_cpu", med(func(p regPair) float64 { return micros(p.own.each(regDriver)) }), "us",
		"per registration, the driver's: neither product nor floor, but on the same cores")
	b.add("registration.receipts", float64(opened), "", fmt.Sprintf("devices whose newest receipt was opened and covers all that was answered; %d exchanges failed", failed))
	rate := func(p regPair) float64 { return p.own.rate() / p.floor.Rate() }
	cpu := func(p regPair) float64 { return micros(p.floor.CPUEach()) / p.ownCPU() }
	worst, best := extremes(pairs, rate)
	b.judge(verdict{
		name: "registrations: throughput", target: "at least 60 % of the floor", unit: "1/s", floor: low, own: own, ratio: med(rate), limit: 0.6, atLeast: true,
		note: fmt.Sprintf("as measured, the driver on the same cores; median of the quieter %d of %d pairs, %.2f to %.2f", len(pairs), len(all), worst, best),
	})
	worst, best = extremes(pairs, cpu)
	b.judge(verdict{
		name: "registrations: CPU", target: "at least 60 % of the floor", unit: "us", floor: lowCPU, own: ownCPU, ratio: med(cpu), limit: 0.6, atLeast: true,
		note: fmt.Sprintf("floor's CPU over gateway's and core's, which is the throughput that saturated cores without a driver would give; %.2f to %.2f", worst, best),
	})
}
