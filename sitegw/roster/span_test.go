package roster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
)

// A shelf is a sink that tests look into.
type shelf struct {
	mu   sync.Mutex
	full bool
	all  []wire.Span
}

func (s *shelf) KeepSpan(sp *wire.Span, done func(error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.full {
		done(errors.New("full"))
		return
	}
	s.all = append(s.all, *sp)
	done(nil)
}

func (s *shelf) setFull(full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.full = full
}

// take is what came since the last call, as "from-last-to beats/missed attach", in seconds since began.
func (s *shelf) take(began time.Time) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, x := range s.all {
		sec := func(ms int64) int64 { return (ms - began.UnixMilli()) / 1000 }
		out = append(out, fmt.Sprintf("%d-%d-%d %d/%d %s", sec(x.FromMS), sec(x.LastMS), sec(x.ToMS), x.Beats, x.Missed, x.Attach))
	}
	s.all = nil
	return strings.Join(out, ", ")
}

// A keeping is a roster with its book in a directory, running.
type keeping struct {
	*Roster
	stop func()
}

func keepIn(t *testing.T, dir string, sink Sink) *keeping {
	t.Helper()
	r := New(time.Now)
	r.Kept(filepath.Join(dir, "presence"), slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { r.Watch(ctx) })
	wg.Go(func() { r.Keep(ctx, sink) })
	return &keeping{r, func() { cancel(); wg.Wait() }}
}

// beatFor beats every interval, from a number on, and returns the next number.
func (k *keeping) beatFor(e *Entry, from uint64, n int, interval time.Duration) uint64 {
	for range n {
		sleep(interval)
		k.Beat(e, beat(from, interval))
		from++
	}
	return from
}

func TestSpansThatEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, sink := time.Now(), new(shelf)
		k := keepIn(t, t.TempDir(), sink)
		defer k.stop()
		s := new(peer)
		e := k.Attached(device(1), s, []byte("one"), 10*time.Second, 10*time.Second)
		next := k.beatFor(e, 1, 5, 10*time.Second)
		k.Detached(e, s)
		e = k.Attached(device(1), s, []byte("two"), 10*time.Second, 10*time.Second) // another session ends no span
		next = k.beatFor(e, next, 1, 10*time.Second)
		k.beatFor(e, next+2, 1, 10*time.Second) // two did not arrive
		if got := sink.take(began); got != "" {
			t.Errorf("while it goes on: %s", got)
		}
		sleep(40 * time.Second)
		if got := sink.take(began); got != "0-70-100 7/2 two" {
			t.Errorf("span %q", got)
		}
		k.Beat(e, beat(9, 10*time.Second)) // heard again on the session that the verdict had outrun
		sleep(time.Minute)
		if got := sink.take(began); got != "110-110-140 1/0 two" {
			t.Errorf("then %q", got)
		}
		p, _ := k.Transitions()
		if len(p.Offline) != 1 || p.Offline[0].AtMS != began.Add(140*time.Second).UnixMilli() {
			t.Errorf("live, the newest is told: %+v", p)
		}
	})
}

// Killed, a gateway has lost at most what it counted since the last checkpoint; stopped, nothing.
func TestSpansOutliveTheGateway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, began, sink := t.TempDir(), time.Now(), new(shelf)
		k := keepIn(t, dir, sink)
		e := k.Attached(device(1), &peer{}, []byte("one"), 10*time.Second, 10*time.Second)
		k.beatFor(e, 1, 7, 10*time.Second)
		sleep(5 * time.Second)
		k.stop() // without Checkpoint: killed at 75 s, the last checkpoint was at 60 s

		k = keepIn(t, dir, sink)
		sleep(time.Second)
		got := sink.take(began)
		if got != "0-60-60 6/0 one" && got != "0-50-50 5/0 one" { // the heartbeat at 60 s may come before or after
			t.Errorf("after it was killed %q", got)
		}
		e = k.Attached(device(1), &peer{}, []byte("two"), 10*time.Second, 10*time.Second)
		k.beatFor(e, 8, 4, 10*time.Second)
		k.stop()
		k.Checkpoint()

		k = keepIn(t, dir, sink)
		defer func() { k.stop() }()
		sleep(time.Second)
		if got := sink.take(began); got != "76-116-116 4/0 two" {
			t.Errorf("after it was stopped %q", got)
		}
		sleep(time.Minute)
		k.stop()
		k = keepIn(t, dir, sink)
		sleep(time.Second)
		if got := sink.take(began); got != "" {
			t.Errorf("told again: %q", got)
		}
	})
}

// A full spool takes no spans: they wait, across a restart, and the oldest are given up when they are too many.
func TestSpansWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, began, sink := t.TempDir(), time.Now(), &shelf{full: true}
		k := keepIn(t, dir, sink)
		k.Attached(device(1), &peer{}, []byte("one"), time.Second, time.Second)
		sleep(40 * time.Second)
		k.stop()
		k = keepIn(t, dir, sink)
		sleep(time.Second)
		sink.setFull(false)
		sleep(bookEvery)
		if got := sink.take(began); got != "0-0-3 0/0 one" {
			t.Errorf("spans %q", got)
		}
		sink.setFull(true)
		for range maxOver + 5 {
			k.over.add(wire.Span{Device: device(2), Attach: []byte("x")})
		}
		if n := len(k.over.spans()); n != maxOver || k.SpansLost() != 5 {
			t.Errorf("%d wait, %d are lost", n, k.SpansLost())
		}
		k.stop()
	})
}

// A heartbeat costs no write, however long nothing else happens; what is counted is about fifty bytes a device.
func TestCheckpointIsSmall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 1000
		dir := t.TempDir()
		k := keepIn(t, dir, new(shelf))
		defer k.stop()
		entries := make([]*Entry, n)
		for i := range n {
			entries[i] = k.Attached(device(i), &peer{}, make([]byte, 300), 10*time.Minute, 10*time.Minute)
		}
		sleep(bookEvery + time.Second)
		stat := func(name string) (int64, time.Time) {
			fi, err := os.Stat(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			return fi.Size(), fi.ModTime()
		}
		size, at := stat("presence.a")
		if size > 100*n {
			t.Errorf("%d bytes for %d devices", size, n)
		}
		_, attachesAt := stat("presence.attaches.a")
		sleep(3 * bookEvery)
		if _, now := stat("presence.a"); !now.Equal(at) {
			t.Error("written although nothing changed")
		}
		for _, e := range entries {
			k.Beat(e, beat(1, 10*time.Minute))
		}
		sleep(2 * bookEvery)
		stat("presence.b")
		if _, now := stat("presence.attaches.a"); !now.Equal(attachesAt) {
			t.Error("the attaches were written again")
		}
	})
}

// A checkpoint that does not read costs what it counted, and nothing else.
func TestDamagedCheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, sink := t.TempDir(), new(shelf)
		k := keepIn(t, dir, sink)
		k.Attached(device(1), &peer{}, []byte("one"), 10*time.Second, 10*time.Second)
		k.Checkpoint()
		k.stop()
		if err := os.WriteFile(filepath.Join(dir, "presence.attaches.a"), []byte("junk"), 0o600); err != nil {
			t.Fatal(err)
		}
		k = keepIn(t, dir, sink)
		defer k.stop()
		sleep(time.Second)
		if len(sink.all) != 0 {
			t.Errorf("spans without a proof: %+v", sink.all)
		}
	})
}

// A clock that is set moves what is told; the time between two readings of it does not.
func TestSteady(t *testing.T) {
	var told int64
	for _, step := range []struct{ now, want int64 }{{50_000, 50_000}, {50_001, 50_000}, {49_999, 50_000}, {51_001, 51_001}, {20, 20}} {
		if got := steady(&told, step.now); got != step.want {
			t.Errorf("at %d: %d, want %d", step.now, got, step.want)
		}
	}
}
