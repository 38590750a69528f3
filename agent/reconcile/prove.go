package reconcile

import (
	"context"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
)

// minEvery bounds how often a release is checked.
const minEvery = 100 * time.Millisecond

// proofOf is what a release has to do to count as healthy.
func proofOf(m *artifact.Manifest) Proof {
	p := Proof{Start: ms(m.StartMS), Soak: ms(m.SoakMS)}
	if p.Start == 0 {
		p.Start = artifact.DefaultStart
	}
	for i := range m.Health {
		every := ms(m.Health[i].EveryMS)
		if every == 0 {
			every = artifact.DefaultEvery
		}
		if p.Every == 0 || every < p.Every {
			p.Every = max(every, minEvery)
		}
	}
	if p.Every == 0 {
		p.Every = artifact.DefaultEvery
	}
	return p
}

func ms(n uint32) time.Duration { return time.Duration(n) * time.Millisecond }

// activate restarts what runs from a release that has just been switched to, and begins its proof.
func (r *runner) activate(ctx context.Context, d wire.Digest) {
	m, err := r.slot.Manifest(d)
	if err != nil {
		r.noted(ctx, err, true)
		return
	}
	if !r.mem.Quiet || r.mem.Phase == Reverting {
		// One that is not there yet has to start at the first try; for the one before everything is tried.
		if err := r.slot.Activate(ctx, m); err != nil {
			r.noted(ctx, err, r.mem.Phase != Reverting || r.run.Tries+1 >= maxTries)
			return
		}
	}
	if n := (Named{d, m.Name, m.Version, m.Number}); r.mem.Target.Artifact == d {
		r.mem.Target = n // it is not known of one that runs when the memory was damaged
	}
	r.manifest = m
	r.run = Run{Proof: proofOf(m), Activated: time.Now()}
}

// check is one round of health checks.
func (r *runner) check(ctx context.Context) {
	err := r.slot.Check(ctx, r.manifest)
	if ctx.Err() != nil {
		return
	}
	now := time.Now()
	r.run.Checked = now
	if err != nil {
		r.run.Passing = time.Time{}
		r.run.Reason, r.run.Detail = ReasonHealth, err.Error()
		return
	}
	if r.run.Passing.IsZero() {
		r.run.Passing = now
	}
	r.run.Passed = true
}
