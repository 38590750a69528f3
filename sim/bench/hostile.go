package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-edge/holdfast/internal/floor"
	"github.com/holdfast-edge/holdfast/internal/floor/proc"
)

// pinned is what an attack made the gateway hold, in bytes per connection.
type pinned struct {
	name            string
	loose, retained float64 // before and after a collection
	sent            sent
}

// hostileCeiling is what one hostile connection may make a gateway hold, in bytes.
const hostileCeiling = 512 * kib

// hostiles measures what connections with genuine certificates and bad intentions make the gateway hold, each attack against
// a gateway without a past.
func hostiles(ctx context.Context, b *bench) error {
	var worst, worstLoose pinned
	for _, name := range []string{attackSilent, attackFill, attackCrumbs, attackTrickle, attackDeaf} {
		p, err := attackOnce(ctx, b, name)
		if err != nil {
			return err
		}
		b.add("hostile."+name, p.retained/kib, "KiB", fmt.Sprintf("per connection after a collection, %.0f before; %d connections, %.0f KiB written by each, %d ended by the gateway",
			p.loose/kib, p.sent.Connections, float64(p.sent.Bytes)/kib/float64(max(p.sent.Connections, 1)), p.sent.Ended))
		if p.retained > worst.retained {
			worst = p
		}
		if p.loose > worstLoose.loose {
			worstLoose = p
		}
	}
	b.judge(verdict{
		name: "memory pinned by a hostile connection", target: "at most 512 KiB", unit: "KiB", own: worst.retained / kib, ratio: worst.retained / hostileCeiling,
		limit: 1, note: fmt.Sprintf("the worst of the attacks, %s; before a collection the worst is %s with %.0f KiB", worst.name, worstLoose.name, worstLoose.loose/kib),
	})
	return nil
}

func attackOnce(ctx context.Context, b *bench, name string) (p pinned, err error) {
	if err := b.world.restartGateway(ctx, proc.AnyCPU); err != nil {
		return p, err
	}
	attackers, err := b.world.startDevices(ctx, roleHostile, proc.AnyCPU, b.size.devices, b.size.hostiles)
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, attackers.Close()) }()
	before, err := holdings(ctx, b.world.gateway)
	if err != nil {
		return p, err
	}
	if err := attackers.Ask(ctx, commandAttack+" "+name, nil); err != nil {
		return p, err
	}
	return p.after(ctx, b, attackers, before, name)
}

// after waits until the attack has done what it can, and reads the gateway.
func (p pinned) after(ctx context.Context, b *bench, attackers *floor.Child, before held, name string) (pinned, error) {
	p.name = name
	deadline := time.Now().Add(b.size.hostileTime)
	for before := int64(-1); time.Now().Before(deadline) && p.sent.Bytes != before; { // until its windows are full
		before = p.sent.Bytes
		if err := rest(ctx, b.size.hostileLook); err != nil {
			return p, err
		}
		if err := attackers.Ask(ctx, commandSent, &p.sent); err != nil {
			return p, err
		}
	}
	now, err := holdings(ctx, b.world.gateway)
	n := float64(b.size.hostiles)
	p.loose, p.retained = float64(now.loose-before.rss)/n, float64(now.rss-before.rss)/n
	return p, err
}
