package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// The releases of the tests.
var old, next, third = wire.Digest{1}, wire.Digest{2}, wire.Digest{3}

// A rig is a device with one slot: what is on its disk, which outlives a crash, and how its releases behave. Its operations are steps; the step
// with the number crash is the last one of a run of the agent.
type rig struct {
	t        *testing.T
	mu       sync.Mutex // guards what a test changes while the agent runs
	memory   []byte
	current  wire.Digest
	releases map[wire.Digest]bool // whether it is as it was installed
	said     []seal.Status
	from     int // those before it were looked at
	alarms   int

	healthy  map[wire.Digest]func(sinceActive time.Duration) bool // nil: always
	activate map[wire.Digest]error
	soak     time.Duration
	stage    func(ctx context.Context, d wire.Digest) error // nil: works
	full     func() bool                                    // whether the outbox is nearly full; nil: never
	fails    func(op string) error                          // nil: nothing fails

	rot error // what comes of verifying the next release; nil: what is so

	active    time.Time // when the release that runs was activated
	activated []wire.Digest
	tasks     *Task

	step, crash int
	steps       []string
	runner      *runner
}

func newRig(t *testing.T) *rig {
	return &rig{
		t: t, releases: make(map[wire.Digest]bool), healthy: make(map[wire.Digest]func(time.Duration) bool), activate: make(map[wire.Digest]error), soak: 12 * time.Second,
	}
}

type crashed struct{}

// op is a step of the agent with an effect on the disk. It may die before it and behind it.
func (r *rig) op(name string, effect func()) error {
	if r.fails != nil {
		if err := r.fails(name); err != nil {
			return err
		}
	}
	r.at("before " + name)
	r.locked(effect)
	r.at("behind " + name)
	return nil
}

func (r *rig) locked(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

func (r *rig) at(name string) {
	r.step++
	r.steps = append(r.steps, name)
	if r.step == r.crash {
		panic(crashed{})
	}
}

func (r *rig) Close() error { return nil }

func (r *rig) Current() (d wire.Digest, err error) {
	r.locked(func() { d = r.current })
	return d, nil
}

func (r *rig) Manifest(d wire.Digest) (*artifact.Manifest, error) {
	if _, ok := r.releases[d]; !ok {
		return nil, fail(ReasonDrift, "no release %s", d.Short())
	}
	return manifestOf(d, r.soak), nil
}

// manifestOf is the manifest of one of the tests' releases, which has its number.
func manifestOf(d wire.Digest, soak time.Duration) *artifact.Manifest {
	return &artifact.Manifest{Name: "app", Version: fmt.Sprint(d[0]), Number: uint64(d[0]), StartMS: 20_000, SoakMS: uint32(soak.Milliseconds())}
}

func (r *rig) Stage(context.Context, wire.Digest, *artifact.Manifest, []byte, func(Progress)) error {
	return nil
}

func (r *rig) Switch(d wire.Digest) error {
	return r.op("switch", func() {
		if _, ok := r.releases[d]; !ok && !d.IsZero() {
			r.t.Errorf("switched to %s, which is not there", d.Short())
		}
		r.current = d
	})
}

func (r *rig) Activate(_ context.Context, m *artifact.Manifest) error {
	d := wire.Digest{byte(m.Number)}
	if r.current != d {
		r.t.Errorf("activated %s, current is %s", d.Short(), r.current.Short())
	}
	if err := r.activate[d]; err != nil {
		return err
	}
	return r.op("activate", func() { r.active, r.activated = time.Now(), append(r.activated, d) })
}

func (r *rig) Check(_ context.Context, m *artifact.Manifest) error {
	d := wire.Digest{byte(m.Number)}
	r.at("check")
	if ok := r.healthy[d]; ok != nil && !ok(time.Since(r.active)) {
		return fail(ReasonHealth, "check 1: no answer")
	}
	return nil
}

func (r *rig) Verify(_ context.Context, d wire.Digest) error {
	if d == next && r.rot != nil {
		return r.rot
	}
	var whole bool
	if r.locked(func() { whole = r.releases[d] }); !whole {
		return fail(ReasonDrift, "a file is not as it was")
	}
	return nil
}

func (r *rig) Prune(keep ...wire.Digest) error {
	return r.op("prune", func() {
		for d := range r.releases {
			if d != r.current && !slices.Contains(keep, d) {
				delete(r.releases, d)
			}
		}
	})
}

func (r *rig) State(typ seal.StatementType, body []byte) error {
	if typ == seal.StatementAlarm {
		r.alarms++
		return nil
	}
	var s seal.Status
	if err := wire.Unmarshal(body, &s); err != nil {
		r.t.Fatal(err)
	}
	return r.op("state "+s.State.String(), func() { r.said = append(r.said, s) })
}

func (r *rig) Said(string) (epoch, seq uint64) { return 1, uint64(len(r.said)) }
func (r *rig) Room() bool                      { return r.full == nil || !r.full() }

func (r *rig) save(m *Memory) error {
	b, err := wire.Marshal(m)
	if err != nil {
		return err
	}
	return r.op("save "+m.Phase.String(), func() { r.memory = b })
}

// fetched is what stages: what Reconciler.stage does, without a link.
func (r *rig) fetched(ctx context.Context, n *runner) error {
	d := n.mem.Task.Artifact
	var stage func(context.Context, wire.Digest) error
	r.locked(func() { stage = r.stage })
	if stage != nil {
		if err := stage(ctx, d); err != nil {
			return err
		}
	}
	n.mem.Target = Named{d, "app", fmt.Sprint(d[0]), uint64(d[0])}
	n.progress(Progress{Total: 100, Fetched: 60, Saved: 40})
	return r.op("stage", func() { r.releases[d] = true })
}

// run has the agent run for a time, or until it dies. It tells whether it did not.
func (r *rig) run(d time.Duration) (alive bool) {
	r.t.Helper()
	var m Memory
	if r.memory != nil {
		if err := wire.Unmarshal(r.memory, &m); err != nil {
			r.t.Fatal(err)
		}
	}
	n := &runner{
		name: "app", slot: r, file: r, mem: m, out: r, log: slog.New(slog.DiscardHandler), tell: func() {}, stage: r.fetched, wake: make(chan struct{}, 1),
	}
	r.locked(func() { r.runner, n.desired = n, r.tasks })
	ctx, cancel := context.WithTimeout(r.t.Context(), d)
	defer cancel()
	done := make(chan bool)
	go func() {
		defer func() {
			e := recover()
			if _, ok := e.(crashed); e != nil && !ok {
				panic(e)
			}
			done <- e == nil
		}()
		n.loop(ctx)
	}()
	return <-done
}

// want has an order assign an artifact, now or before the next run.
func (r *rig) want(order uint64, d wire.Digest, attempt uint32) {
	r.assign(&Task{Order: order, Artifact: d, Attempt: attempt})
}

// assign is want with a task; nil: the order no longer names the slot.
func (r *rig) assign(t *Task) {
	r.locked(func() {
		r.tasks = t
		if r.runner != nil {
			r.runner.want(t)
		}
	})
}

// settled has installed the old release.
func (r *rig) settled() *rig {
	r.t.Helper()
	r.want(1, old, 0)
	if !r.run(10*time.Minute) || r.ended() != "healthy" || r.current != old {
		r.t.Fatalf("the old release: %q, current %s", r.states(), r.current.Short())
	}
	r.forget()
	return r
}

// forget begins to count anew.
func (r *rig) forget() {
	r.steps, r.step, r.activated, r.runner = nil, 0, nil, nil
	r.from = len(r.said)
}

// news are the statuses that were not looked at.
func (r *rig) news() []seal.Status { return r.said[r.from:] }

// states are their states, with the reasons.
func (r *rig) states() (all []string) {
	for _, s := range r.news() {
		all = append(all, strings.TrimSpace(s.State.String()+" "+s.Reason))
	}
	return all
}

// ended is the newest status; "": none.
func (r *rig) ended() string {
	if len(r.said) == 0 {
		return ""
	}
	return r.said[len(r.said)-1].State.String()
}

// bubble runs f in virtual time.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

var errTest = errors.New("for the test")
