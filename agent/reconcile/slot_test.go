package reconcile

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// meanwhile has the agent run for a time while f, which may sleep, does something.
func (r *rig) meanwhile(d time.Duration, f func()) {
	r.t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	if !r.run(d) {
		r.t.Fatal("died by itself")
	}
	<-done
}

// stated fails the test unless just these statuses were stated.
func (r *rig) stated(want ...string) {
	r.t.Helper()
	if got := r.states(); !slices.Equal(got, want) {
		r.t.Errorf("stated %q, want %q", got, want)
	}
}

// Timers run from the activation, and begin anew when the agent starts anew.
func TestTimers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t)
		r.soak = time.Minute
		r.want(1, next, 0)
		begin := time.Now()
		r.run(59 * time.Second)
		if r.ended() != "applying" {
			t.Fatalf("%q before the soak was over", r.states())
		}
		r.run(59 * time.Second)
		if r.ended() != "applying" {
			t.Fatalf("%q: an agent that started anew goes on with the soak of before", r.states())
		}
		r.run(2 * time.Minute)
		r.stated("downloading", "verifying", "applying", "healthy")
		if len(r.activated) != 2+1 || time.Since(begin) < 2*time.Minute {
			t.Errorf("activated %d times", len(r.activated))
		}
	})
}

// An order that comes while an older one is fetched takes its place at once; while a release proves itself it waits for the verdict, unless it
// wants the release before, or nothing.
func TestSuperseded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t).settled()
		r.from = len(r.said)
		r.stage = func(ctx context.Context, d wire.Digest) error {
			if d == next {
				<-ctx.Done() // it takes for ever
				return ctx.Err()
			}
			return nil
		}
		r.want(2, next, 0)
		r.meanwhile(10*time.Minute, func() {
			time.Sleep(time.Minute)
			r.want(3, third, 0)
		})
		r.stated("downloading", "downloading", "verifying", "applying", "healthy")
		if r.current != third || r.news()[0].Order != 2 || r.news()[1].Order != 3 {
			t.Errorf("current %s, stated %+v", r.current.Short(), r.said)
		}
	})
	for name, tt := range map[string]struct {
		order  wire.Digest
		stated []string
		runs   wire.Digest
	}{
		"another":    {third, []string{"downloading", "verifying", "applying", "healthy", "downloading", "verifying", "applying", "healthy"}, third},
		"the before": {old, []string{"downloading", "verifying", "applying", "rolled_back superseded", "applying", "healthy"}, old},
		"nothing":    {wire.Digest{}, []string{"downloading", "verifying", "applying", "removed"}, wire.Digest{}},
	} {
		bubble(t, func(t *testing.T) {
			r := newRig(t).settled()
			r.from, r.soak = len(r.said), 10*time.Minute
			r.want(2, next, 0)
			r.meanwhile(time.Hour/2, func() {
				time.Sleep(time.Minute)
				r.want(3, tt.order, 0)
			})
			r.stated(tt.stated...)
			if r.current != tt.runs {
				t.Errorf("%s: %s runs", name, r.current.Short())
			}
		})
	}
}

// A full disk is stated, once, while the old release runs; when there is space again the slot converges.
func TestNoSpace(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t).settled()
		r.from = len(r.said)
		tries, space := 0, time.Now().Add(time.Hour)
		r.stage = func(context.Context, wire.Digest) error {
			if tries++; time.Now().Before(space) {
				return fail(ReasonNoSpace, "no room")
			}
			return nil
		}
		r.want(2, next, 0)
		r.run(59 * time.Minute)
		r.stated("downloading", "downloading no_space")
		if r.current != old || tries > 300 {
			t.Errorf("current %s after %d tries", r.current.Short(), tries)
		}
		r.run(30 * time.Minute)
		if r.ended() != "healthy" || r.current != next {
			t.Errorf("stated %q, current %s", r.states(), r.current.Short())
		}
	})
}

// A disk that does not give back what it took is not believed for ever.
func TestDoesNotVerify(t *testing.T) {
	for _, reason := range []string{ReasonDrift, ReasonDisk} {
		bubble(t, func(t *testing.T) {
			r := newRig(t).settled()
			r.rot = fail(reason, "no")
			r.want(2, next, 0)
			r.run(30 * time.Minute)
			r.stated("downloading", "verifying", "downloading disk", "verifying", "downloading disk", "verifying", "downloading disk", "verifying", "failed disk")
			if r.current != old {
				t.Errorf("%s runs", r.current.Short())
			}
		})
	}
}

// A gateway that cannot be reached is stated when it lasts, and no sooner.
func TestTrouble(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t)
		back := time.Now().Add(10 * time.Second)
		r.stage = func(context.Context, wire.Digest) error {
			if time.Now().Before(back) {
				return wire.Refuse(wire.CodeUnavailable, "no uplink")
			}
			return nil
		}
		r.want(1, old, 0)
		r.run(30 * time.Minute)
		r.stated("downloading", "verifying", "applying", "healthy")
		back = time.Now().Add(20 * time.Minute)
		r.from = len(r.said)
		r.want(2, next, 0)
		r.run(19 * time.Minute)
		r.stated("downloading", "downloading content")
		if !strings.Contains(r.news()[1].Detail, "no uplink") {
			t.Errorf("detail %q", r.news()[1].Detail)
		}
	})
}

// What is refused for good is not tried again, whatever comes, before an operator says so.
func TestRefused(t *testing.T) {
	for _, reason := range []string{ReasonSignature, ReasonPublisher, ReasonMismatch, ReasonManifest, "incompatible_arch", "unit_not_allowed"} {
		bubble(t, func(t *testing.T) {
			r := newRig(t).settled()
			r.from = len(r.said)
			refuses(r, reason)
			r.want(2, next, 0)
			r.run(10 * time.Minute)
			r.want(3, old, 0)
			r.run(10 * time.Minute)
			r.stage = nil
			r.want(4, next, 0)
			r.run(10 * time.Minute)
			r.stated("downloading", "failed "+reason, "applying", "healthy", "failed remembered")
			r.want(5, next, 1)
			r.run(10 * time.Minute)
			if r.ended() != "healthy" || r.current != next {
				t.Errorf("tried again: %q, current %s", r.states(), r.current.Short())
			}
		})
	}
}

// When the outbox is nearly full no progress is stated and nothing begins; what was begun is stated to its end.
func TestOutboxIsFull(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t)
		full := false
		r.full = func() bool { return full }
		r.stage = func(context.Context, wire.Digest) error {
			full = true
			return nil
		}
		r.want(1, old, 0)
		r.run(10 * time.Minute)
		r.stated("downloading", "healthy")
		r.want(2, next, 0)
		r.run(10 * time.Minute)
		r.stated("downloading", "healthy")
		full, r.stage = false, nil
		r.run(10 * time.Minute)
		r.stated("downloading", "healthy", "downloading", "verifying", "applying", "healthy")
	})
}

// An end that cannot be stated is stated later, and nothing else begins before; what runs is watched all the same.
func TestEndIsOwed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t).settled()
		r.from = len(r.said)
		r.healthy[next] = never
		r.fails = func(op string) error {
			if strings.HasPrefix(op, "state ") {
				return errTest
			}
			return nil
		}
		r.want(2, next, 0)
		r.run(10 * time.Minute)
		if r.current != old {
			t.Fatal("going back waits for a statement")
		}
		r.want(3, third, 0)
		r.run(10 * time.Minute)
		r.stated()
		r.fails = nil
		r.run(10 * time.Minute)
		r.stated("rolled_back health", "downloading", "verifying", "applying", "healthy")
	})
}

// A disk that takes nothing more does not keep a release that is not healthy in its place.
func TestGoesBackOnAFullDisk(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t).settled()
		r.from = len(r.said)
		r.healthy[next] = never
		r.fails = func(op string) error {
			if r.current == next && strings.HasPrefix(op, "save ") {
				return errTest
			}
			return nil
		}
		r.want(2, next, 0)
		r.run(10 * time.Minute)
		r.stated("downloading", "verifying", "applying", "rolled_back health")
		if r.current != old {
			t.Errorf("%s runs", r.current.Short())
		}
	})
}

// What was changed on the disk is found at the start and within the hour, stated, and mended.
func TestDrift(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t).settled()
		r.from = len(r.said)
		r.releases[old] = false
		r.run(10 * time.Minute) // a start
		r.stated("drifted drift", "applying", "healthy")
		r.from, r.activated = len(r.said), nil
		r.meanwhile(2*time.Hour, func() {
			time.Sleep(2 * time.Minute)
			r.locked(func() { r.releases[old] = false })
		})
		r.stated("drifted drift", "applying", "healthy")
		if !r.releases[old] || len(r.activated) != 1 {
			t.Errorf("mended %v, activated %d times", r.releases[old], len(r.activated))
		}
		r.from, r.current = len(r.said), wire.Digest{} // somebody has removed the link
		r.run(time.Hour)
		r.stated("drifted drift", "applying", "healthy")
		if r.current != old {
			t.Errorf("%s runs", r.current.Short())
		}
	})
}

// Progress is stated from time to time while a download moves.
func TestProgress(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t)
		broke := false
		r.stage = func(context.Context, wire.Digest) error {
			for n := range uint64(150) {
				time.Sleep(time.Second)
				r.runner.progress(Progress{Total: 360, Fetched: n + 1})
			}
			if !broke { // the second try brings the rest
				broke = true
				return wire.Refuse(wire.CodeUnavailable, "")
			}
			return nil
		}
		r.want(1, old, 0)
		r.run(20 * time.Minute)
		n := 0
		for _, s := range r.news() {
			if s.State == seal.SlotDownloading {
				n++
			}
		}
		if n < 9 || n > 12 || r.ended() != "healthy" {
			t.Errorf("%d times in five minutes: %q", n, r.states())
		}
		if last := r.said[len(r.said)-1]; last.Fetched != 150+60 || last.Saved != 40 {
			t.Errorf("%d bytes were fetched, %d saved", last.Fetched, last.Saved)
		}
	})
}

// An agent that starts anew does not state at once where a download is: an agent that dies often would state little else.
func TestProgressAfterStart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t)
		r.stage = func(ctx context.Context, _ wire.Digest) error {
			r.runner.progress(Progress{Total: 300, Fetched: 1})
			<-ctx.Done()
			return ctx.Err()
		}
		r.want(1, old, 0)
		for range 5 {
			r.run(20 * time.Second)
		}
		r.stated("downloading")
	})
}

// A release that is lower than the highest that was healthy is refused, unless the order permits it.
func TestFloor(t *testing.T) {
	m := Memory{Highest: []Named{{Name: "app", Number: 3}, {Name: "other", Number: 9}}}
	if m.floor("app") != 3 || m.floor("none") != 0 {
		t.Error("floors")
	}
	m.Highest = raise(m.Highest, Named{Name: "app", Number: 2})
	if m.floor("app") != 3 || len(m.Highest) != 2 {
		t.Errorf("a permitted downgrade lowered the floor: %+v", m.Highest)
	}
	for i := range uint64(2 * maxNames) {
		m.Highest = raise(m.Highest, Named{Name: strings.Repeat("x", int(i)+1), Number: 1})
		m.Faults = note(m.Faults, Fault{Artifact: wire.Digest{byte(i)}})
		m.Faults = note(m.Faults, Fault{Artifact: wire.Digest{0, byte(i)}})
	}
	if len(m.Highest) != maxNames || len(m.Faults) != maxFaults {
		t.Errorf("%d names, %d faults", len(m.Highest), len(m.Faults))
	}
}

// An order that no longer names the slot leaves it as it is, also in the middle of a fetch that another order had ended.
func TestNotNamed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, left := newRig(t).settled(), false
		r.stage = func(ctx context.Context, d wire.Digest) error {
			if d != next {
				return nil
			}
			<-ctx.Done()
			time.Sleep(time.Second)
			if !left {
				left = true
				r.assign(nil)
			}
			return ctx.Err()
		}
		r.want(2, next, 0)
		r.meanwhile(10*time.Minute, func() {
			time.Sleep(time.Minute)
			r.want(3, third, 0)
			time.Sleep(time.Minute)
			r.locked(func() { r.stage = nil })
			r.want(4, third, 0)
		})
		if r.ended() != "healthy" || r.current != third {
			t.Errorf("%q, current %s", r.states(), r.current.Short())
		}
	})
}
