package procs

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"
)

// gatewayCutsFor is how long TestGatewayPowerCut cuts, unless HOLDFAST_CUTS says how often.
const gatewayCutsFor = 6 * time.Second

// TestGatewayPowerCut takes the power from a gateway's disk again and again while a device states: every other time with the core
// out of reach, so that what is in custody is nowhere else. Nothing of it is lost. TestPowerCutIsNoticed is the control: the
// same cut takes from a program that acknowledges before it syncs. Root.
func TestGatewayPowerCut(t *testing.T) {
	t.Parallel()
	needRoot(t, "mkfs.ext4", "mount", "losetup")
	want := cutsAsked(t)
	r := prepareRig(t, time.Second)
	r.startCores(1)
	d := r.newDisk(r.Path("gw-a"))
	r.addGateway()
	r.uplinked(r.gateway)
	b := r.newBox("box", r.listen)
	began, cuts, alone := time.Now(), 0, uint64(0)
	for ; cuts < want || want == 0 && (cuts < 2 || time.Since(began) < gatewayCutsFor); cuts++ {
		before := b.kept
		r.powerCut(d, b, cuts%2 == 0)
		if cuts%2 == 0 {
			alone += b.kept - before
		}
		r.settled(b)
	}
	r.must(r.conserved(b))
	t.Logf("%d cuts in %.0f s; %d statements were in custody, %d of them nowhere but on the disk that was cut; each is in the history once",
		cuts, time.Since(began).Seconds(), b.kept, alone)
	if alone == 0 {
		t.Error("nothing was in custody that the core did not have: this proves nothing")
	}
}

// powerCut cuts the disk of the gateway while the box states, with the core frozen or not, and brings all of them back.
func (r *rig) powerCut(d *disk, b *box, frozen bool) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.ctx, boxPatience)
	defer cancel()
	s, err := b.open(ctx)
	r.must(err)
	if frozen {
		r.freeze()
	}
	r.must(b.state(s, 1))
	load := make(chan error, 1)
	go func() { load <- b.state(s, 1<<20) }() // ends with the session
	pause(r.ctx, time.Duration(rand.IntN(150))*time.Millisecond)
	// What is said from here on nobody would have heard: a power cut takes the process with the disk. An fsync that is under way
	// while ext4 is shut down can come back without an error and without having been written.
	b.deaf.Store(true)
	err = cut(d)
	r.gateway.Kill()
	s.Close()
	if <-load == nil {
		r.t.Error("the load ended before the session did")
	}
	b.deaf.Store(false)
	r.must(err)
	if frozen {
		r.thaw()
	}
	d.replug()
	r.gateway, err = r.StartGateway("gw-a")
	r.must(err)
}

// settled waits until the core has all that is in custody of the running gateway, and one statement more: its receipt covers
// those whose own went to a gateway that is no more.
func (r *rig) settled(b *box) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.ctx, boxPatience)
	defer cancel()
	s, err := b.open(ctx)
	r.must(err)
	defer s.Close()
	if err := errors.Join(b.state(s, 1), b.settle(s)); err != nil {
		r.t.Fatal(errors.Join(err, r.conserved(b)))
	}
}
