package reconcile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-edge/holdfast/agent/devstate"
	"github.com/holdfast-edge/holdfast/internal/backoff"
	"github.com/holdfast-edge/holdfast/internal/durable"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// setsWithin is within which time a device fetches a set of publishers that it was told of, so that a fleet does not at once.
const setsWithin = 2 * time.Minute

// Config of a Reconciler. All fields are required.
type Config struct {
	Dir       string // of the slots: one directory for each
	Open      func(dir string) (Slot, error)
	Orders    *devstate.Orders
	Trusted   *devstate.Publishers
	Content   Content
	Sets      Sets
	Outbox    Outbox
	Preflight func(*artifact.Manifest) error // whether an artifact fits this device; the errors are Errors
	Log       *slog.Logger
}

// A Reconciler keeps the slots of a device at what is ordered. A device without slots pays one goroutine for it.
type Reconciler struct {
	Config
	sets *publishers
	wake chan struct{} // capacity 1: there is another order, or a set of publishers
	turn chan struct{} // has room for the one slot that stages: what it takes of memory and of the link, it takes once

	mu      sync.Mutex
	slots   map[string]*runner
	running []byte // what heartbeats tell; nil: no slot runs anything
	alarms  map[string]time.Time
}

// New reads the slots of the state directory.
func New(c Config) (*Reconciler, error) {
	r := &Reconciler{Config: c, wake: make(chan struct{}, 1), turn: make(chan struct{}, 1)}
	r.sets = &publishers{held: c.Trusted, sets: c.Sets, alarm: r.alarm, turn: make(chan struct{}, 1)}
	entries, err := os.ReadDir(c.Dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("slots: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() || seal.CheckSlot(e.Name()) != nil {
			continue
		}
		if err := r.open(e.Name()); err != nil {
			c.Log.Error("slot is left alone", "slot", e.Name(), "err", err)
		}
	}
	return r, nil
}

// open opens a slot, and makes it if it is not there. There is no runner for the name yet.
func (r *Reconciler) open(name string) error {
	dir := filepath.Join(r.Dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	slot, err := r.Open(dir)
	if err != nil {
		return err
	}
	current, err := slot.Current()
	if err != nil {
		return errors.Join(err, slot.Close())
	}
	f, mem, err := load(dir)
	if errors.Is(err, durable.ErrDamaged) {
		r.Log.Error("what the slot remembered is damaged: what runs is taken for good", "slot", name, "err", err)
		mem, err = Memory{Good: Named{Artifact: current}}, nil
	}
	if err != nil {
		return errors.Join(err, slot.Close())
	}
	n := &runner{
		name: name, slot: slot, file: f, mem: mem, out: r.Outbox, log: r.Log, tell: r.tell, stage: r.stage, wake: make(chan struct{}, 1),
	}
	r.mu.Lock()
	if r.slots == nil {
		r.slots = make(map[string]*runner)
	}
	r.slots[name] = n
	r.mu.Unlock()
	n.show(current)
	return nil
}

// Close lets go of the slots. Run has ended, or was never called.
func (r *Reconciler) Close() error {
	var errs []error
	for _, n := range r.runners() {
		errs = append(errs, n.slot.Close())
	}
	return errors.Join(errs...)
}

// Run works until ctx ends.
func (r *Reconciler) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	started := make(map[string]bool)
	sets := time.NewTimer(0)
	defer sets.Stop()
	b, behind, number := backoff.Backoff{Min: setsWithin, Max: time.Hour}, false, r.Trusted.Number()
	for {
		var later <-chan time.Time
		if !r.start(ctx, &wg, started) {
			later = time.After(retrySlot)
		}
		if n := r.Trusted.Number(); n > number { // otherwise whoever tells of a set that nobody has may go on doing so
			number = n
			b.Reset()
		}
		if now := r.sets.behind(); now != behind { // there is news, or it was taken with an artifact
			if behind = now; behind {
				sets.Reset(b.Next())
			}
		}
		select {
		case <-r.wake:
		case <-later:
		case <-sets.C:
			if !behind {
				continue
			}
			if err := r.sets.bringUp(ctx); err != nil && ctx.Err() == nil {
				r.Log.Warn("set of publishers not fetched, trying again later", "err", err)
			}
			sets.Reset(b.Next())
		case <-ctx.Done():
			return nil
		}
	}
}

// retrySlot is when to try again to open a slot.
const retrySlot = time.Minute

// start gives the slots what the order wants, and has those run that do not yet. It tells whether all of them do.
func (r *Reconciler) start(ctx context.Context, wg *sync.WaitGroup, started map[string]bool) bool {
	wanted := make(map[string]*Task)
	if o := r.Orders.Held(); o != nil {
		d, err := o.Desired()
		if err != nil {
			r.Log.Error("order does not read", "number", o.Number, "err", err)
			return true
		}
		for _, a := range d.Assignments {
			wanted[a.Slot] = &Task{Order: o.Number, Artifact: a.Artifact, Attempt: a.Attempt, Downgrade: a.Downgrade}
		}
	}
	all := true
	for name := range wanted {
		if r.runner(name) == nil {
			if err := r.open(name); err != nil {
				r.Log.Error("slot cannot be opened, trying again later", "slot", name, "err", err)
				all = false
			}
		}
	}
	for _, n := range r.runners() {
		n.want(wanted[n.name])
		if !started[n.name] {
			started[n.name] = true
			wg.Go(func() { n.loop(ctx) })
		}
	}
	return all
}

func (r *Reconciler) runner(name string) *runner {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.slots[name]
}

// runners are those of all slots, in order of name.
func (r *Reconciler) runners() []*runner {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.SortedFunc(maps.Values(r.slots), func(a, b *runner) int { return cmp.Compare(a.name, b.name) })
}

// Installed is what runs in the slots, as a registration tells it: in order of slot, without those that run nothing.
func (r *Reconciler) Installed() (all []seal.Installed) {
	for _, n := range r.runners() {
		n.mu.Lock()
		shown := n.shown
		n.mu.Unlock()
		if !shown.Artifact.IsZero() && len(all) < seal.MaxSlots {
			all = append(all, seal.Installed{Slot: n.name, Artifact: shown.Artifact, Name: shown.Name, Version: shown.Version})
		}
	}
	return all
}

// tell takes in that a slot shows something else.
func (r *Reconciler) tell() {
	var running []byte
	if all := r.Installed(); len(all) > 0 {
		var b []byte
		for _, i := range all {
			b = fmt.Appendf(b, "%s %s\n", i.Slot, i.Artifact)
		}
		d := wire.DigestOf(b)
		running = d[:]
	}
	r.mu.Lock()
	r.running = running
	r.mu.Unlock()
}

// stage has a slot stage its artifact, one slot at a time.
func (r *Reconciler) stage(ctx context.Context, n *runner) error {
	select {
	case r.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-r.turn }()
	m, b, err := r.prepare(ctx, n)
	if err != nil {
		return err
	}
	return n.slot.Stage(ctx, n.mem.Task.Artifact, m, b, n.progress)
}
