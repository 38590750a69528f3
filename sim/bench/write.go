package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/internal/floor"
	"github.com/holdfast-edge/holdfast/internal/floor/proc"
)

// asked is a window in which one client asked a node, the next question when the answer was there.
type asked struct {
	took    []time.Duration // sorted
	foreign float64         // what other processes took, in cores
}

// percentile is the least time within which so many of the answers came; 0 without any.
func (a *asked) percentile(p float64) time.Duration {
	if len(a.took) == 0 {
		return 0
	}
	return a.took[min(int(p*float64(len(a.took))), len(a.took)-1)]
}

// client asks as one operator does, in the names of several.
type client struct {
	w       *world
	bearers []string
	next    int
}

// ask asks a node and adds how long the answer took.
func (c *client) ask(ctx context.Context, a *asked, out any, node *coreNode, r request) error {
	bearer := c.bearers[c.next%len(c.bearers)]
	c.next++
	begin := time.Now()
	err := c.w.ask(ctx, out, node, bearer, r)
	a.took = append(a.took, time.Since(begin))
	return err
}

// window lets questions be asked until done says that it is enough. The first of them are not counted.
func (c *client) window(ctx context.Context, uncounted int, ask func(a *asked) (done bool, err error)) (a asked, err error) {
	for range uncounted {
		if _, err := ask(&asked{}); err != nil {
			return a, err
		}
	}
	foreign, err := proc.StartForeign(c.w.corePIDs()...)
	if err != nil {
		return a, err
	}
	for done := false; !done; {
		if err := ctx.Err(); err != nil {
			return a, err
		}
		if done, err = ask(&a); err != nil {
			return a, err
		}
	}
	a.foreign, err = foreign.Share()
	slices.Sort(a.took)
	return a, err
}

// writeWarmup is how many writes open connections and warm caches before those that count.
const writeWarmup = 20

// writeSite is the site that is changed: one without devices, so that nobody is to be told.
const writeSite = "plant-9"

// writes changes the interval of a site at a node for one window.
func (c *client) writes(ctx context.Context, node *coreNode, window time.Duration) (asked, error) {
	r := request{method: http.MethodPut, path: "/v1/sites/" + writeSite}
	end := time.Now().Add(time.Hour)
	return c.window(ctx, writeWarmup, func(a *asked) (bool, error) {
		if len(a.took) == 0 {
			end = time.Now().Add(window)
		}
		r.in = v1.SetSite{HeartbeatInterval: fmt.Sprintf("%ds", 30+c.next%2)} // each is a change
		err := c.ask(ctx, a, nil, node, r)
		return !time.Now().Before(end), err
	})
}

// writeRound is what was measured right after another.
type writeRound struct {
	floor            floor.RegistrationRound
	leader, follower asked
}

func (r *writeRound) foreign() float64 {
	return max(r.floor.Foreign, r.leader.foreign, r.follower.foreign)
}

// entryOverhead is what an entry of one command has beside the command, in bytes: docs/raft-log.md.
const entryOverhead = 35

// writePayload is the size of the log entry of one of the writes, in bytes.
func writePayload() (int, error) {
	b, err := command.Encode(&command.SetSite{
		By: command.Actor{Operator: "op-10", Request: "req-0123456789abcdef", Source: "127.0.0.1"}, Site: writeSite, IntervalMS: 31_000,
	})
	return len(b) + entryOverhead, err
}

// writes measures how long one client waits for a change of a site's interval, in rounds that alternate with bare commits of
// entries of the same size.
func writes(ctx context.Context, b *bench) error {
	size, err := writePayload()
	if err != nil {
		return err
	}
	bearers, err := b.world.operators(ctx)
	if err != nil {
		return err
	}
	lead, err := b.world.leader(ctx)
	if err != nil {
		return err
	}
	c := &client{w: b.world, bearers: bearers}
	cfg := floor.DefaultRegistration(clusterNodes)
	cfg.Batch, cfg.RecordBytes, cfg.Signatures, cfg.Appliers, cfg.Window, cfg.Rounds = 1, size, 0, 1, b.size.writeWindow, 1
	var rounds []writeRound
	for range b.size.writeRounds {
		var r writeRound
		if r.leader, err = c.writes(ctx, b.world.cores[lead], b.size.writeWindow); err != nil {
			return err
		}
		if r.follower, err = c.writes(ctx, b.world.cores[(lead+1)%clusterNodes], b.size.writeWindow); err != nil {
			return err
		}
		ref, err := floor.Registration(ctx, cfg)
		if err != nil {
			return err
		}
		r.floor = ref.Rounds[0]
		rounds = append(rounds, r)
	}
	reportWrites(b, rounds, size)
	return b.profile(ctx, "write", []hostedChild{{"leader", b.world.cores[lead].child}}, func() error {
		_, err := c.writes(ctx, b.world.cores[lead], b.size.profile)
		return err
	})
}

func reportWrites(b *bench, all []writeRound, size int) {
	rounds := quieter(all, func(r writeRound) float64 { return r.foreign() })
	low := func(r writeRound) float64 { return micros(r.floor.CommitP50) }
	b.add("write.floor_p50", median(rounds, low), "us", fmt.Sprintf("3 nodes, entries of %d B, one at a time; p99 %.0f us; others took %.0f %% of a core",
		size, median(rounds, func(r writeRound) float64 { return micros(r.floor.CommitP99) }), 100*median(rounds, func(r writeRound) float64 { return r.floor.Foreign })))
	for _, at := range []struct {
		name string
		get  func(r *writeRound) *asked
	}{
		{"leader", func(r *writeRound) *asked { return &r.leader }},
		{"follower", func(r *writeRound) *asked { return &r.follower }},
	} {
		p50 := func(r writeRound) float64 { return micros(at.get(&r).percentile(0.5)) }
		ratio := func(r writeRound) float64 { return p50(r) / low(r) }
		b.add("write."+at.name+"_p50", median(rounds, p50), "us", fmt.Sprintf("PUT of a site's interval at the %s, HTTPS on loopback, %d devices in the fleet; p99 %.0f us; others took %.0f %% of a core",
			at.name, b.world.devices+b.world.filled, median(rounds, func(r writeRound) float64 { return micros(at.get(&r).percentile(0.99)) }),
			100*median(rounds, func(r writeRound) float64 { return at.get(&r).foreign })))
		best, worst := extremes(rounds, ratio)
		b.judge(verdict{
			name: "API write at the " + at.name + ", p50", target: "at most 3 x the floor", unit: "us", floor: median(rounds, low), own: median(rounds, p50), ratio: median(rounds, ratio), limit: 3,
			note: fmt.Sprintf("one client, one request at a time; median of the quieter %d of %d rounds, %.2f to %.2f", len(rounds), len(all), best, worst),
		})
	}
}
