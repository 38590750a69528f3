package reconcile

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/holdfast-edge/holdfast/internal/backoff"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A Slot is what is installed in one slot of the device. Its errors are Errors. One goroutine uses it.
type Slot interface {
	// Current is the release that current points to; zero: none.
	Current() (wire.Digest, error)
	// Manifest is the manifest of a release that lies here, verified by its digest.
	Manifest(d wire.Digest) (*artifact.Manifest, error)
	// Stage makes a whole and verified release out of what lies here and what it fetches. It goes on where it was interrupted, and mends a
	// release that is there and not whole.
	Stage(ctx context.Context, d wire.Digest, m *artifact.Manifest, manifest []byte, progress func(Progress)) error
	// Switch has current point to a release, durably; zero: to none.
	Switch(d wire.Digest) error
	// Activate restarts what runs from a release.
	Activate(ctx context.Context, m *artifact.Manifest) error
	// Check is one round of all health checks.
	Check(ctx context.Context, m *artifact.Manifest) error
	// Verify reads a release and holds it against its manifest. The reason is ReasonDrift when it is not as it was installed.
	Verify(ctx context.Context, d wire.Digest) error
	// Prune removes all releases but some.
	Prune(keep ...wire.Digest) error
	Close() error
}

// Progress is how far a release is, in bytes of its files.
type Progress struct{ Total, Fetched, Saved uint64 }

// Outbox takes what the device states. It may be used from any goroutine.
type Outbox interface {
	// State states a body durably.
	State(t seal.StatementType, body []byte) error
	// Said is where the newest status of a slot is in the device's sequence.
	Said(slot string) (epoch, seq uint64)
	// Room tells whether there is room for more than ends.
	Room() bool
}

// Times of a slot.
const (
	progressEvery = 30 * time.Second // between two words on a download that goes on
	troubleAfter  = time.Minute      // a fetch that fails for so long is stated with its reason
	fetchMin      = 2 * time.Second  // back-off of fetching
	fetchMax      = 10 * time.Minute
	diskMin       = time.Second // of what the disk refuses
	diskMax       = time.Minute
	maxTries      = 5         // switches and activations that fail, before the release counts as one that does not run
	lookEvery     = time.Hour // for drift
	lookJitter    = 0.2       // of it, so that a plant's disks are not read at once
	retrySave     = 10 * time.Second
)

// A runner is the loop of one slot. It owns its fields, but for desired and shown.
type runner struct {
	name  string
	slot  Slot
	file  keeper
	out   Outbox
	stage func(ctx context.Context, r *runner) error // fetches and stages the task's artifact
	log   *slog.Logger
	tell  func() // what the slot shows has changed
	wake  chan struct{}

	mem       Memory
	run       Run
	owed      bool               // mem.Word is not stated yet
	manifest  *artifact.Manifest // of the release that proves itself
	before    Progress           // what earlier tries of the task had brought
	worded    time.Time          // when the newest word on a download was
	trouble   time.Time          // since when fetching fails; zero: it does not
	fetchWait backoff.Backoff
	diskWait  backoff.Backoff

	mu      sync.Mutex
	desired *Task
	shown   Named // what runs
}

// A keeper stores what a slot remembers, durably.
type keeper interface{ save(m *Memory) error }

// want sets what the order wants in the slot; nil: it does not name it.
func (r *runner) want(t *Task) {
	r.mu.Lock()
	r.desired = t
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *runner) wanted() *Task {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.desired
}

// loop works until ctx ends.
func (r *runner) loop(ctx context.Context) {
	r.fetchWait, r.diskWait = backoff.Backoff{Min: fetchMin, Max: fetchMax}, backoff.Backoff{Min: diskMin, Max: diskMax}
	r.worded = time.Now()
	if m := r.mem; m.Word != nil {
		r.owed = !m.Word.After.before(r.said())
	}
	for ctx.Err() == nil {
		r.say()
		v, err := r.view()
		if err != nil {
			r.log.Error("slot does not read", "slot", r.name, "err", err)
			r.wait(ctx, time.Now().Add(retrySave))
			continue
		}
		r.do(ctx, Decide(r.mem, v), v)
	}
}

func (r *runner) said() Place {
	epoch, seq := r.out.Said(r.name)
	return Place{epoch, seq}
}

// view looks at what is so now.
func (r *runner) view() (View, error) {
	running, err := r.slot.Current()
	if err != nil {
		return View{}, err
	}
	r.show(running)
	return View{
		Now: time.Now(), Desired: r.wanted(), Running: running, Room: r.out.Room(), Owed: r.owed, Said: r.said(), Run: r.run,
	}, nil
}

// show keeps what runs, for the registration and the heartbeats.
func (r *runner) show(running wire.Digest) {
	n := Named{Artifact: running}
	switch running {
	case r.mem.Good.Artifact:
		n = r.mem.Good
	case r.mem.Target.Artifact:
		n = r.mem.Target
	}
	r.mu.Lock()
	changed := r.shown != n
	r.shown = n
	r.mu.Unlock()
	if changed {
		r.tell()
	}
}

// say states the word that is owed. What cannot be stated now is tried again, and nothing else waits for it but the next task.
func (r *runner) say() {
	if !r.owed {
		return
	}
	if err := r.out.State(seal.StatementStatus, r.mem.Word.Body); err != nil {
		r.log.Error("status not stated, trying again later", "slot", r.name, "err", err)
		return
	}
	r.owed = false
}

// do performs an action and notes what came of it.
func (r *runner) do(ctx context.Context, a Action, v View) {
	switch a.Do {
	case Wait:
		r.wait(ctx, a.Until)
	case Enter:
		r.enter(ctx, a.Step, v)
	case Fetch:
		r.fetch(ctx)
	case Verify:
		r.noted(ctx, r.slot.Verify(ctx, a.Artifact), false)
	case Switch:
		err := r.slot.Switch(a.Artifact)
		if err == nil {
			r.run.Tries, r.run.Reason = 0, ""
			return
		}
		r.noted(ctx, err, r.run.Tries+1 >= maxTries && r.mem.Phase != Removing)
	case Activate:
		r.activate(ctx, a.Artifact)
	case Check:
		r.check(ctx)
	case Look:
		r.look(ctx, a.Artifact)
	case Tidy:
		r.run.Done = true
		if err := r.slot.Prune(r.keep(v)...); err != nil {
			r.log.Warn("releases that nobody needs were not removed", "slot", r.name, "err", err)
		}
	}
}

// keep are the releases that stay at rest.
func (r *runner) keep(v View) (all []wire.Digest) {
	for _, d := range []wire.Digest{r.mem.Good.Artifact, v.Running} {
		if !d.IsZero() {
			all = append(all, d)
		}
	}
	return all
}

// wait waits for a time, if there is one, or until something changes.
func (r *runner) wait(ctx context.Context, t time.Time) {
	var c <-chan time.Time
	if !t.IsZero() {
		timer := time.NewTimer(time.Until(t))
		defer timer.Stop()
		c = timer.C
	}
	select {
	case <-c:
	case <-r.wake:
	case <-ctx.Done():
	}
}

// enter takes a step: it is stored with its word, and only then taken.
func (r *runner) enter(ctx context.Context, s Step, v View) {
	next, err := r.mem.enter(r.name, s, &v)
	if err == nil {
		err = r.file.save(&next)
	}
	switch {
	case err != nil && s.Phase == Reverting:
		// Going back must not wait for a disk that takes nothing. An agent that dies now finds the release before the verdict and comes to it again.
		r.log.Error("slot goes back, and that could not be stored", "slot", r.name, "err", err)
	case err != nil:
		r.log.Error("slot state not stored, trying again", "slot", r.name, "err", err)
		backoff.Sleep(ctx, retrySave)
		return
	}
	r.log.Info("slot", "slot", r.name, "state", next.Phase.String(), "artifact", next.Task.Artifact.Short(), "order", next.Task.Order, "reason", next.Reason, "detail", next.Detail)
	if next.Phase != r.mem.Phase || next.Task != r.mem.Task {
		r.run, r.manifest, r.trouble = Run{}, nil, time.Time{}
		r.fetchWait.Reset()
		r.diskWait.Reset()
		if next.Phase == Healthy {
			r.run.Look = r.nextLook()
		}
	}
	r.mem, r.owed = next, next.Word != nil
	r.worded = time.Now()
	r.show(v.Running)
}

func (r *runner) nextLook() time.Time { return time.Now().Add(backoff.Jitter(lookEvery, lookJitter)) }

// noted notes what came of an action that can be tried again.
func (r *runner) noted(ctx context.Context, err error, final bool) {
	if ctx.Err() != nil {
		return // it was interrupted, and says nothing
	}
	if err == nil {
		r.run.Done, r.run.Reason, r.run.Tries = true, "", 0
		return
	}
	r.run.Reason, r.run.Detail, r.run.Final = reasonOf(err), err.Error(), final
	r.run.Tries++
	r.run.Wait = time.Now().Add(max(diskMin, r.diskWait.Next()))
	r.log.Warn("slot", "slot", r.name, "phase", r.mem.Phase.String(), "err", err)
}

// look sees whether the release is as it was installed.
func (r *runner) look(ctx context.Context, d wire.Digest) {
	running, err := r.slot.Current()
	if err == nil && running != d {
		err = fail(ReasonDrift, "current points to %s, healthy was %s", running.Short(), d.Short())
	}
	if err == nil {
		err = r.slot.Verify(ctx, d)
	}
	if ctx.Err() != nil {
		return
	}
	r.run.Look = r.nextLook()
	switch {
	case err == nil:
	case reasonOf(err) == ReasonDrift:
		r.run.Reason, r.run.Detail = ReasonDrift, err.Error()
	default:
		r.log.Warn("release not looked at", "slot", r.name, "err", err)
	}
}
