package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

func indent(s string) string {
	return "        " + strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n        ")
}

// story is the first part of what --once runs through once the fleet is up: each part of the fleet dies. Each step checks what it says.
func (d *demo) story() []func(context.Context) error {
	return []func(context.Context) error{d.profile, d.killAgent, d.restartAgent, d.killGateway, d.killLeader, d.killAll, d.history, d.audit}
}

func (d *demo) profile(ctx context.Context) error {
	d.say("the hardware that the first device detected:")
	if err := d.show(ctx, "devices", "get", d.ids[0]); err != nil {
		return err
	}
	dev, err := d.device(ctx, d.ids[0])
	if err != nil {
		return err
	}
	p := dev.Profile
	if p.Arch == nil || p.CPUCores == nil || *p.CPUCores == 0 || p.RAMBytes == nil || *p.RAMBytes == 0 || p.Kernel == nil {
		return fmt.Errorf("the profile lacks what every machine has: %+v", p)
	}
	return nil
}

// killAgent kills the first agent and holds the verdict against the rule: no earlier than 3 intervals after its last
// heartbeat, no later than 4, and some time to be told.
func (d *demo) killAgent(ctx context.Context) error {
	d.say("kill -9 %s: it is offline after 3 intervals of %v", agentName(0), interval)
	d.agents[0].Kill()
	killed := time.Now()
	var dev v1.Device
	err := d.Eventually(ctx, 10*interval, func() (err error) {
		if dev, err = d.device(ctx, d.ids[0]); err == nil && dev.Presence != "offline" {
			err = fmt.Errorf("device %s is %s", dev.ID, dev.Presence)
		}
		return err
	})
	if err != nil {
		return err
	}
	if dev.PresenceReason != "heartbeat_missed" {
		return fmt.Errorf("device %s is offline for the reason %q, want heartbeat_missed", dev.ID, dev.PresenceReason)
	}
	silent := dev.PresenceSince.Sub(*dev.LastHeartbeatAt)
	if silent < 3*interval || silent > 4*interval {
		return fmt.Errorf("the verdict fell %v after the last heartbeat, want 3 to 4 intervals of %v", silent, interval)
	}
	d.say("  offline/%s, %.1f s after its last heartbeat, %.1f s after the kill", dev.PresenceReason, silent.Seconds(), time.Since(killed).Seconds())
	return nil
}

func (d *demo) restartAgent(ctx context.Context) (err error) {
	d.say("start it again: it comes back as the same record")
	again := time.Now()
	if d.agents[0], err = d.StartAgent(agentName(0)); err != nil {
		return err
	}
	return d.allOnline(ctx, again)
}

func (d *demo) killGateway(ctx context.Context) error {
	d.say("kill -9 the gateway: the site is unreachable, and nobody claims to know more")
	d.gateway.proc.Kill()
	err := d.Eventually(ctx, 15*time.Second, func() error {
		for _, id := range d.ids {
			dev, err := d.device(ctx, id)
			if err != nil {
				return err
			}
			if dev.Presence != "offline" || dev.PresenceReason != "site_unreachable" {
				return fmt.Errorf("device %s: %s %s", dev.ID, dev.Presence, dev.PresenceReason)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	d.say("  offline/site_unreachable; start the gateway again: the devices return by themselves")
	again := time.Now()
	if err := d.run(d.gateway); err != nil {
		return err
	}
	return d.allOnline(ctx, again)
}

// killLeader kills the core's leader. The others go on: a new one leads, the API answers, and no device that lives is ever
// shown offline.
func (d *demo) killLeader(ctx context.Context) error {
	old, err := d.Leader(ctx)
	if err != nil {
		return err
	}
	d.say("kill -9 %s, which leads the core: another node takes over", old.Name)
	old.Proc.Kill()
	killed := time.Now()
	var wrong error // which no later look mends
	err = d.Eventually(ctx, 15*time.Second, func() error {
		if err := d.nobodyOffline(ctx); errors.Is(err, errOffline) {
			wrong = err
			return nil
		} else if err != nil {
			return err
		}
		now, err := d.Leader(ctx)
		if err == nil && now.Name == old.Name {
			err = fmt.Errorf("%s is still said to lead", old.Name)
		}
		if err == nil {
			_, err = d.CLI(ctx, "sites", "set", site, "--heartbeat-interval", interval.String())
		}
		return err
	})
	if err := errors.Join(err, wrong); err != nil {
		return err
	}
	d.say("  a change of the site was committed %.1f s after the kill; the devices:", time.Since(killed).Seconds())
	if err := d.allOnline(ctx, killed); err != nil {
		return err
	}
	if err := d.show(ctx, "devices", "list"); err != nil {
		return err
	}
	d.say("start %s again: it catches up and takes part", old.Name)
	n := int(old.Name[len(old.Name)-1] - '0')
	_, err = d.StartCoreNode(ctx, n)
	return err
}

// errOffline marks a device that is shown offline though it lives.
var errOffline = errors.New("a device that lives is shown offline")

func (d *demo) nobodyOffline(ctx context.Context) error {
	var l v1.List[v1.Device]
	if err := d.JSON(ctx, &l, "devices", "list"); err != nil {
		return err
	}
	for _, dev := range l.Items {
		if dev.Presence != "online" {
			return fmt.Errorf("%w: %s is %s %s", errOffline, dev.ID, dev.Presence, dev.PresenceReason)
		}
	}
	return nil
}

func (d *demo) killAll(ctx context.Context) error {
	d.say("kill -9 all %d core nodes and start them again: nothing that was accepted is gone", nodes)
	if err := d.cutCore(); err != nil {
		return err
	}
	again := time.Now()
	if err := d.startCoreNodes(ctx); err != nil {
		return err
	}
	return d.allOnline(ctx, again)
}

// audit verifies the audit trail, against its own chain, the signed head, and the heads that the gateway kept.
func (d *demo) audit(ctx context.Context) error {
	d.say("the audit trail, verified from its first record:")
	if err := d.show(ctx, "audit", "tail", "-n", "8"); err != nil {
		return err
	}
	heads, err := d.Run(ctx, "holdfast-gateway", "witness", "--data-dir", d.Path("gw-a"))
	if err != nil {
		return err
	}
	witness := d.Path("witness.jsonl")
	if err := os.WriteFile(witness, heads, 0o600); err != nil {
		return err
	}
	return d.show(ctx, "audit", "verify", "--witness", witness)
}

func (d *demo) history(ctx context.Context) error {
	for i, starts := range []int{2, 1, 1} {
		if err := d.registered(ctx, i, starts); err != nil {
			return err
		}
	}
	d.say("the restarted device registered twice, the others once; its timeline:")
	return d.show(ctx, "devices", "presence", d.ids[0])
}
