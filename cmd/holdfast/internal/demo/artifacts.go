package demo

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/sim/procs"
)

const (
	slot     = "app"
	appBytes = 4 << 20
	converge = 30 * time.Second // bounds how long a device takes to what is assigned to it
)

// An app is a version of what the devices of the demo run.
type app struct {
	version string
	health  string // what its health check does
}

// artifacts is the story's third part: what is to run on the devices is published, assigned, and installed. Each step checks what it says.
func (d *demo) artifacts() []func(context.Context) error {
	return []func(context.Context) error{d.trust, d.publishGood, d.assignBoth, d.convergeInside, d.convergedAtCore, d.rollBack}
}

func (d *demo) trust(ctx context.Context) (err error) {
	d.say("make a publisher's key and have the fleet trust it; the root key that can change that stays with the operator")
	if d.publisher, err = d.NewPublisher(ctx, fleetName); err != nil {
		return err
	}
	return d.show(ctx, "publishers", "list")
}

// publish makes a version out of a directory: build, sign, push.
func (d *demo) publish(ctx context.Context, v app, release int) (a v1.Artifact, err error) {
	name := slot + "@" + v.version
	source := d.Path("source", v.version)
	data := make([]byte, appBytes)
	rand.NewChaCha8([32]byte{1}).Read(data) //nolint:errcheck // never fails
	for path, content := range map[string][]byte{"data/model.bin": data, "bin/health": []byte("#!/bin/sh\n" + v.health + "\n")} {
		path = filepath.Join(source, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // a release is for everybody
			return a, err
		}
		if err := os.WriteFile(path, content, 0o755); err != nil { //nolint:gosec // likewise
			return a, err
		}
	}
	description := fmt.Sprintf("name: %s\nversion: %s\nrelease: %d\nhealth:\n  - exec: [bin/health]\n    every: 500ms\nstart: 2s\nsoak: 1s\n", slot, v.version, release)
	_, a, err = d.publisher.Publish(ctx, name, source, description)
	return a, err
}

func (d *demo) publishGood(ctx context.Context) (err error) {
	d.say("build an artifact from a directory, sign it and push it to the core, which stores it on every node")
	if d.good, err = d.publish(ctx, app{"1.0.0", "exit 0"}, 1); err != nil {
		return err
	}
	return d.show(ctx, "artifacts", "list")
}

func (d *demo) assign(ctx context.Context, i int, name string) error {
	_, err := d.CLI(ctx, "devices", "assign", d.ids[i], "--slot", slot, "--artifact", name)
	return err
}

// assignBoth assigns to two devices of which one is off: what the other fetches is at the site then.
func (d *demo) assignBoth(ctx context.Context) error {
	d.say("assign it to %s, which is switched off, and to %s, which fetches, verifies, applies and checks it", agentName(1), agentName(0))
	d.agents[1].Kill()
	for _, i := range []int{1, 0} {
		if err := d.assign(ctx, i, slot+"@1.0.0"); err != nil {
			return err
		}
	}
	s, err := d.reaches(ctx, 0, d.good.Digest, "healthy")
	if err == nil {
		d.say("  %s is healthy; %d bytes came over the LAN", slot, s.FetchedBytes)
	}
	return err
}

// reaches waits until a device states that an artifact is in a state.
func (d *demo) reaches(ctx context.Context, i int, digest, state string) (s v1.Slot, err error) {
	err = d.Eventually(ctx, converge, func() error {
		dev, err := d.device(ctx, d.ids[i])
		if err == nil {
			s, err = procs.SlotOf(&dev, slot)
		}
		if err == nil && (s.Artifact != digest || s.State != state) {
			err = fmt.Errorf("%s: slot %s has %.12s %s (%s %s), want %.12s %s", agentName(i), slot, s.Artifact, s.State, s.Reason, s.Detail, digest, state)
		}
		return err
	})
	return s, err
}

func (d *demo) convergeInside(ctx context.Context) (err error) {
	d.say("the WAN is cut; switch %s on: the core's signed order and the content are at the site, so it converges", agentName(1))
	if err := d.cutCore(); err != nil {
		return err
	}
	if d.agents[1], err = d.StartAgent(agentName(1)); err != nil {
		return err
	}
	current := d.Path(agentName(1), "slots", slot, "current", "bin", "health")
	if err := d.Eventually(ctx, converge, func() error { _, err := os.Stat(current); return err }); err != nil {
		return err
	}
	d.say("  current points to the release on %s", agentName(1))
	return nil
}

// convergedAtCore holds what the devices stated against what was to be, when the core is back: healthy, once.
func (d *demo) convergedAtCore(ctx context.Context) error {
	d.say("the core is back: each device was healthy once")
	if err := d.startCoreNodes(ctx); err != nil {
		return err
	}
	for i := range 2 {
		if _, err := d.reaches(ctx, i, d.good.Digest, "healthy"); err != nil {
			return err
		}
		if err := d.once(ctx, i, d.good.Digest, "healthy"); err != nil {
			return err
		}
	}
	return d.show(ctx, "devices", "history", d.ids[1])
}

// once checks that a device stated a state of an artifact once.
func (d *demo) once(ctx context.Context, i int, digest, state string) error {
	var h v1.List[v1.HistoryItem]
	if err := d.JSON(ctx, &h, "devices", "history", d.ids[i]); err != nil {
		return err
	}
	n := 0
	for _, it := range h.Items {
		if it.Status != nil && it.Status.Artifact == digest && it.Status.State == state {
			n++
		}
	}
	if n != 1 {
		return fmt.Errorf("%s stated %d times that %.12s is %s, want once", agentName(i), n, digest, state)
	}
	return nil
}

func (d *demo) rollBack(ctx context.Context) error {
	d.say("push a version that is not healthy and assign it: %s goes back to the one before", agentName(0))
	bad, err := d.publish(ctx, app{"2.0.0", "echo the camera does not answer >&2; exit 1"}, 2)
	if err != nil {
		return err
	}
	if err := d.assign(ctx, 0, slot+"@2.0.0"); err != nil {
		return err
	}
	s, err := d.reaches(ctx, 0, bad.Digest, "rolled_back")
	if err != nil {
		return err
	}
	if s.Running != d.good.Digest {
		return fmt.Errorf("%s runs %.12s, want %.12s again", agentName(0), s.Running, d.good.Digest)
	}
	if err := d.once(ctx, 0, bad.Digest, "rolled_back"); err != nil {
		return err
	}
	return d.show(ctx, "devices", "explain", d.ids[0])
}
