package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-edge/holdfast/internal/floor"
	"github.com/holdfast-edge/holdfast/internal/floor/proc"
)

const (
	kib = 1 << 10
	mib = 1 << 20
)

// memory measures what an attached device takes of the gateway's memory: over a gateway of a fleet without devices, so that
// what the gateway must know of a device is in it.
func memory(ctx context.Context, b *bench) (err error) {
	ref, err := floor.Idle(ctx, floor.IdleConfig{Connections: b.size.devices, Settle: b.size.settle})
	if err != nil {
		return err
	}
	if err := b.world.restartGateway(ctx, proc.AnyCPU); err != nil {
		return err
	}
	enrolled, err := holdings(ctx, b.world.gateway)
	if err != nil {
		return err
	}
	fleet, err := b.world.startDevices(ctx, roleFleet, proc.AnyCPU, 0, b.size.devices)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fleet.Close()) }()
	if err := rest(ctx, b.size.settle); err != nil {
		return err
	}
	full, err := holdings(ctx, b.world.gateway)
	if err != nil {
		return err
	}
	base := b.world.base
	each := func(after, before int64) float64 { return float64(after-before) / float64(b.size.devices) / kib }
	own, low := each(full.rss, base.rss), ref.ServerRSS/kib
	b.add("memory.floor", low, "KiB", fmt.Sprintf("per idle connection, %d of them, after a collection; heap %.1f, stack %.1f KiB, %.2f goroutines",
		b.size.devices, ref.ServerHeap/kib, ref.ServerStack/kib, ref.ServerGoroutines))
	b.add("memory.gateway", own, "KiB", fmt.Sprintf("per attached device, after a collection; heap %.1f, stack %.1f KiB, %.2f goroutines",
		each(full.heap.Heap, base.heap.Heap), each(full.heap.Stack, base.heap.Stack),
		float64(full.heap.Goroutines-base.heap.Goroutines)/float64(b.size.devices)))
	b.add("memory.gateway_uncollected", each(full.loose, base.rss), "KiB", "the same before the collection: what the machine sees")
	b.add("memory.enrolled", each(enrolled.rss, base.rss), "KiB", "per device that is enrolled and not attached, part of the above")
	b.judge(verdict{
		name: "gateway memory per attached device", target: "at most 1.3 x the floor", unit: "KiB", floor: low, own: own, ratio: own / low, limit: 1.3,
		note: "resident, after a collection",
	})
	return b.heapProfile(ctx, "memory", hostedChild{"gateway", b.world.gateway})
}
