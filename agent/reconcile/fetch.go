package reconcile

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// Content brings what is named by a digest or a number. An error that is no Error may pass with time.
type Content interface {
	// Release has check look at an artifact's sealed release, as one gateway after the other has it, until it finds nothing wrong with it.
	Release(ctx context.Context, d wire.Digest, check func([]byte) error) error
	// Manifest is an artifact's manifest, of size bytes, which have the digest.
	Manifest(ctx context.Context, d wire.Digest, size uint64) ([]byte, error)
}

// fetch stages the task's artifact. An order that wants something else ends it.
func (r *runner) fetch(ctx context.Context) {
	task := r.mem.Task
	r.before = Progress{Fetched: r.mem.Fetched, Saved: r.mem.Saved}
	inner, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-r.wake:
				if t := r.wanted(); t != nil && !t.same(task) {
					stop()
					return
				}
			case <-inner.Done():
				return
			}
		}
	})
	err := r.stage(inner, r)
	superseded := inner.Err() != nil
	stop()
	wg.Wait()
	switch {
	case ctx.Err() != nil:
	case err == nil:
		r.run.Done = true
	case superseded: // or was: Decide sees which
	default:
		r.troubled(err)
	}
}

// troubled notes why a fetch failed. What time may heal is tried again, and stated when it lasts.
func (r *runner) troubled(err error) {
	reason := reasonOf(err)
	r.log.Warn("artifact not fetched", "slot", r.name, "artifact", r.mem.Task.Artifact.Short(), "reason", reason, "err", err)
	now := time.Now()
	r.run.Reason, r.run.Detail, r.run.Final = reason, err.Error(), !passes(reason)
	wait := r.fetchWait.Next()
	if e, ok := errors.AsType[*wire.Error](err); ok {
		wait = max(wait, e.RetryAfter())
	}
	r.run.Wait = now.Add(max(fetchMin, wait))
	if r.run.Final {
		return
	}
	if r.trouble.IsZero() {
		r.trouble = now
	}
	if r.mem.Phase == Fetching && r.mem.Reason != reason && (reason != ReasonContent || now.Sub(r.trouble) >= troubleAfter) {
		r.word(reason, err.Error())
	}
}

// word states how far a download is, and what is in its way.
func (r *runner) word(reason, detail string) {
	if r.owed || !r.out.Room() {
		return
	}
	v, err := r.view()
	if err != nil {
		return
	}
	next := r.mem
	next.Reason, next.Detail = reason, clip(detail)
	if next, err = next.spoken(r.name, &v); err == nil {
		err = r.file.save(&next)
	}
	if err != nil {
		r.log.Warn("progress not stated", "slot", r.name, "err", err)
		return
	}
	r.mem, r.owed, r.worded = next, next.Word != nil, time.Now()
	r.say()
}

// progress notes how far a download is, and states it from time to time.
func (r *runner) progress(p Progress) {
	p.Fetched, p.Saved = r.before.Fetched+p.Fetched, r.before.Saved+p.Saved
	moved := p.Fetched != r.mem.Fetched
	r.mem.Total, r.mem.Fetched, r.mem.Saved = p.Total, p.Fetched, p.Saved
	if moved {
		r.trouble = time.Time{}
		r.fetchWait.Reset()
	}
	if moved && r.mem.Phase == Fetching && time.Since(r.worded) >= progressEvery {
		r.word("", "")
	}
}

// prepare brings the release and the manifest of the task's artifact and holds them against each other, against what was healthy here, and
// against the device. It is what everything else of an installation rests on.
func (r *Reconciler) prepare(ctx context.Context, n *runner) (*artifact.Manifest, []byte, error) {
	d := n.mem.Task.Artifact
	if err := r.sets.bringUp(ctx); err != nil {
		return nil, nil, err
	}
	var rel *seal.Release
	err := r.Content.Release(ctx, d, func(sealed []byte) (err error) {
		rel, err = r.sets.release(ctx, sealed, d)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	if rel.Size > wire.MaxManifest {
		return nil, nil, fail(ReasonManifest, "a manifest of %d bytes, at most %d", rel.Size, wire.MaxManifest)
	}
	b, err := r.Content.Manifest(ctx, d, rel.Size)
	if err != nil {
		return nil, nil, err
	}
	m, err := artifact.Decode(b)
	if err != nil {
		return nil, nil, &Error{ReasonManifest, err}
	}
	if m.Name != rel.Name || m.Version != rel.Version || m.Number != rel.Number {
		return nil, nil, fail(ReasonMismatch, "signed was release %d, %s@%s; the manifest is release %d, %s@%s", rel.Number, rel.Name, rel.Version, m.Number, m.Name, m.Version)
	}
	if floor := n.mem.floor(m.Name); m.Number < floor && !n.mem.Task.Downgrade && n.mem.Phase != Repairing {
		return nil, nil, fail(ReasonDowngrade, "release %d of %s; release %d was healthy here, and the order permits no downgrade", m.Number, m.Name, floor)
	}
	if err := r.Preflight(m); err != nil {
		return nil, nil, err
	}
	n.mem.Target = Named{d, m.Name, m.Version, m.Number}
	return m, b, nil
}
