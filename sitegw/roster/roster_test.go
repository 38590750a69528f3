package roster

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

// A peer is a session that remembers what was done to it.
type peer struct {
	mu      sync.Mutex
	told    []time.Duration
	dropped []*wire.Error
}

func (p *peer) Tell(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told = append(p.told, d)
}

func (p *peer) Drop(e *wire.Error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dropped = append(p.dropped, e)
}

func device(n int) ident.DeviceID { return ident.DeviceID{byte(n), byte(n >> 8), byte(n >> 16), 1} }

// watched runs f in a bubble with a roster that decides.
func watched(t *testing.T, f func(t *testing.T, r *Roster)) {
	synctest.Test(t, func(t *testing.T) {
		r := New(time.Now)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { r.Watch(ctx) })
		defer wg.Wait()
		defer cancel()
		f(t, r)
	})
}

func beat(n uint64, interval time.Duration) *wire.Heartbeat {
	return &wire.Heartbeat{Run: 1, Number: n, Answered: n - 1, IntervalMS: uint32(interval.Milliseconds())}
}

// sleep passes virtual time and lets everybody come to rest.
func sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestOfflineInTime(t *testing.T) {
	for _, interval := range []time.Duration{time.Second, 2 * time.Second, 7 * time.Second, 30 * time.Second, time.Hour} {
		t.Run(interval.String(), func(t *testing.T) {
			watched(t, func(t *testing.T, r *Roster) {
				e := r.Attached(device(1), &peer{}, nil, interval, interval)
				for n := range uint64(5) {
					sleep(interval)
					r.Beat(e, beat(n+1, interval))
				}
				sleep(3*interval - time.Millisecond)
				if r.Online() != 1 {
					t.Fatalf("offline before three intervals")
				}
				sleep(interval + time.Millisecond)
				if r.Online() != 0 {
					t.Fatalf("online after four intervals")
				}
				p, _ := r.Transitions()
				if len(p.Offline) != 1 {
					t.Fatalf("report %+v", p)
				}
				o := p.Offline[0]
				if silence := time.Duration(o.AtMS-o.LastMS) * time.Millisecond; silence < 3*interval || silence > 4*interval {
					t.Errorf("verdict after %v", silence)
				}
				if o.Beats != 5 || o.Missed != 0 {
					t.Errorf("beats %d, missed %d", o.Beats, o.Missed)
				}
			})
		})
	}
}

// Whatever the order of tellings, losses and heartbeats: a device that keeps to an interval which it was told is online.
func TestChangedIntervalIsNeverOffline(t *testing.T) {
	const short, long = 2 * time.Second, 60 * time.Second
	steps := map[string]func(r *Roster, e *Entry, tell func(time.Duration, bool) time.Duration){
		"widened": func(r *Roster, e *Entry, tell func(time.Duration, bool) time.Duration) {
			uses := tell(long, true)
			beats(r, e, uses, 5)
		},
		"widened, telling lost": func(r *Roster, e *Entry, tell func(time.Duration, bool) time.Duration) {
			uses := tell(long, false)
			beats(r, e, uses, 5)
		},
		"narrowed": func(r *Roster, e *Entry, tell func(time.Duration, bool) time.Duration) {
			beats(r, e, tell(long, true), 2)
			beats(r, e, tell(short, true), 5)
		},
		"narrowed, telling lost": func(r *Roster, e *Entry, tell func(time.Duration, bool) time.Duration) {
			uses := tell(long, true)
			beats(r, e, uses, 2)
			tell(short, false)
			beats(r, e, uses, 5)
		},
		"widened, then narrowed before a heartbeat, the second lost": func(r *Roster, e *Entry, tell func(time.Duration, bool) time.Duration) {
			uses := tell(long, true)
			tell(short, false)
			beats(r, e, uses, 5)
		},
		"to and fro": func(r *Roster, e *Entry, tell func(time.Duration, bool) time.Duration) {
			uses := tell(long, true)
			for range 4 {
				tell(short, false)
				tell(long, false)
				tell(short, false)
				beats(r, e, uses, 1)
			}
		},
	}
	for name, run := range steps {
		t.Run(name, func(t *testing.T) {
			watched(t, func(t *testing.T, r *Roster) {
				p := new(peer)
				e := r.Attached(device(1), p, nil, short, short)
				uses := short
				run(r, e, func(d time.Duration, arrives bool) time.Duration {
					r.Told(device(1), d)
					if arrives {
						uses = d
					}
					return uses
				})
				if rep, _ := r.Transitions(); len(rep.Offline) != 0 || r.Online() != 1 || rep.Online[0].SinceMS != e.since.UnixMilli() || e.beats != e.number {
					t.Errorf("it was offline meanwhile: %+v, %d beats of %d", rep, e.beats, e.number)
				}
				uses = max(uses, e.told)
				sleep(4*uses + time.Second)
				if r.Online() != 0 {
					t.Error("silence after it is never noticed")
				}
			})
		})
	}
}

// beats lets the device beat n times at its interval, with the latest jitter it may have.
func beats(r *Roster, e *Entry, interval time.Duration, n int) {
	for range n {
		sleep(interval + interval/10)
		e.mu.Lock()
		number := e.number + 1
		e.mu.Unlock()
		r.Beat(e, beat(number, interval))
	}
}

func TestBeatAnswersTheInterval(t *testing.T) {
	watched(t, func(t *testing.T, r *Roster) {
		p := new(peer)
		e := r.Attached(device(1), p, nil, 30*time.Second, 30*time.Second)
		if got := r.Beat(e, beat(1, 30*time.Second)); got != 0 {
			t.Errorf("told %v, which it uses", got)
		}
		if s, tell := r.Told(device(1), 5*time.Second); !tell || s != p {
			t.Errorf("session %v, %v", s, tell)
		}
		if _, tell := r.Told(device(1), 5*time.Second); tell {
			t.Error("told twice")
		}
		if got := r.Beat(e, beat(2, 30*time.Second)); got != 5*time.Second {
			t.Errorf("a telling that was lost is not repeated: %v", got)
		}
		if got := r.Beat(e, beat(3, 5*time.Second)); got != 0 {
			t.Errorf("told %v again", got)
		}
		if _, tell := r.Told(device(2), time.Second); tell {
			t.Error("told a stranger")
		}
		r.Detached(e, p)
		if _, tell := r.Told(device(1), time.Second); tell {
			t.Error("told nobody")
		}
	})
}

func TestReattachContinuesTheSpan(t *testing.T) {
	watched(t, func(t *testing.T, r *Roster) {
		const interval = 10 * time.Second
		first := new(peer)
		e := r.Attached(device(1), first, []byte("one"), interval, interval)
		since := e.since
		r.Beat(e, beat(1, interval))
		r.Transitions()
		r.Detached(e, first)
		sleep(29 * time.Second)
		again := r.Attached(device(1), &peer{}, []byte("two"), interval, interval)
		if again != e || !e.since.Equal(since) || e.beats != 1 {
			t.Errorf("a span of its own: since %v, %d beats", e.since, e.beats)
		}
		sleep(29 * time.Second)
		p, _ := r.Transitions()
		if len(p.Offline) != 0 || len(p.Online) != 1 || string(p.Online[0].Attach) != "two" || p.Online[0].SinceMS != since.UnixMilli() {
			t.Errorf("report %+v", p)
		}
		sleep(20 * time.Second)
		e2 := r.Attached(device(1), &peer{}, []byte("three"), interval, interval)
		if e2.since.Equal(since) || e2.beats != 0 {
			t.Error("the span went on after the verdict")
		}
	})
}

func TestSessionTakeover(t *testing.T) {
	watched(t, func(t *testing.T, r *Roster) {
		first, second := new(peer), new(peer)
		e := r.Attached(device(1), first, nil, time.Minute, time.Minute)
		r.Attached(device(1), second, nil, time.Minute, time.Minute)
		if len(first.dropped) != 1 || len(second.dropped) != 0 {
			t.Errorf("dropped %v and %v", first.dropped, second.dropped)
		}
		r.Detached(e, first) // the end of the session that was replaced
		if s, ok := r.SessionOf(device(1)); !ok || s != second {
			t.Errorf("session %v, %v", s, ok)
		}
		if _, ok := r.SessionOf(device(2)); ok {
			t.Error("a session of nobody")
		}
	})
}

func TestHeardAfterTheVerdict(t *testing.T) {
	watched(t, func(t *testing.T, r *Roster) {
		e := r.Attached(device(1), &peer{}, nil, time.Second, time.Second)
		sleep(5 * time.Second)
		if p, _ := r.Transitions(); len(p.Offline) != 1 {
			t.Fatalf("report %+v", p)
		}
		r.Beat(e, beat(7, time.Second))
		p, _ := r.Transitions()
		if len(p.Online) != 1 || p.Online[0].Beats != 1 || p.Online[0].Missed != 0 || r.Online() != 1 {
			t.Errorf("report %+v", p)
		}
		sleep(5 * time.Second)
		if r.Online() != 0 {
			t.Error("the watch had gone to sleep")
		}
	})
}

func TestMissedBeatsAreCounted(t *testing.T) {
	watched(t, func(t *testing.T, r *Roster) {
		e := r.Attached(device(1), &peer{}, nil, time.Minute, time.Minute)
		for _, n := range []uint64{1, 2, 5, 6, 9} {
			r.Beat(e, beat(n, time.Minute))
		}
		p, _ := r.Transitions()
		if o := p.Online[0]; o.Beats != 5 || o.Missed != 4 {
			t.Errorf("beats %d, missed %d", o.Beats, o.Missed)
		}
	})
}

func TestTransitionsPage(t *testing.T) {
	watched(t, func(t *testing.T, r *Roster) {
		const n = 2*maxReport + 50
		for i := range n {
			r.Attached(device(i), &peer{}, []byte("attach"), time.Second, time.Second)
		}
		collect := func() (online, offline, pages int) {
			for {
				p, more := r.Transitions()
				pages++
				online, offline = online+len(p.Online), offline+len(p.Offline)
				if len(p.Online)+len(p.Offline) > maxReport {
					t.Errorf("%d entries in a report", len(p.Online)+len(p.Offline))
				}
				if !more {
					return online, offline, pages
				}
			}
		}
		if on, off, pages := collect(); on != n || off != 0 || pages != 3 {
			t.Errorf("%d online, %d offline in %d pages", on, off, pages)
		}
		if on, off, _ := collect(); on+off != 0 {
			t.Errorf("reported again: %d, %d", on, off)
		}
		r.Resync()
		if on, _, _ := collect(); on != n {
			t.Errorf("after resync %d", on)
		}
		sleep(4 * time.Second)
		if on, off, _ := collect(); on != 0 || off != n {
			t.Errorf("then %d online, %d offline", on, off)
		}
	})
}

func TestSlotsAreReused(t *testing.T) {
	watched(t, func(t *testing.T, r *Roster) {
		for round := range 5 {
			seen := map[uint32]bool{}
			for i := range 10 {
				s := new(peer)
				e := r.Attached(device(100*round+i), s, nil, time.Second, time.Second)
				seen[e.slot] = true
				r.Detached(e, s)
			}
			if len(seen) != 10 || len(r.slots) != 10 {
				t.Errorf("round %d: %d slots in use of %d", round, len(seen), len(r.slots))
			}
			sleep(4 * time.Second)
			r.Transitions()
			if left := r.Devices(); len(left) != 0 {
				t.Errorf("round %d: %d devices stay", round, len(left))
			}
		}
	})
}

func TestDigest(t *testing.T) {
	watched(t, func(t *testing.T, r *Roster) {
		const n = digestPage + 500
		entries := make([]*Entry, n)
		for i := range n {
			entries[i] = r.Attached(device(i), &peer{}, nil, time.Minute, time.Minute)
		}
		for i, e := range entries {
			if i != 7 {
				r.Beat(e, beat(1, time.Minute))
			}
		}
		r.Told(device(3), time.Hour)
		sleep(2 * time.Second)
		pages := r.Digest()
		if len(pages) != 2 || pages[0].Digest || !pages[1].Digest || pages[1].Count != n {
			t.Fatalf("%d pages, the last %v with %d", len(pages), pages[len(pages)-1].Digest, pages[len(pages)-1].Count)
		}
		var slots []uint32
		for _, p := range pages {
			slots = append(slots, p.Slots...)
			if len(p.Slots) > digestPage || len(p.AgesMS) != len(p.Slots) {
				t.Errorf("%d slots, %d ages", len(p.Slots), len(p.AgesMS))
			}
			for _, age := range p.AgesMS {
				if age != 2000 {
					t.Fatalf("age %d ms", age)
				}
			}
		}
		if len(slots) != n-1 || !slices.IsSorted(slots) || slices.Contains(slots, entries[7].slot) {
			t.Errorf("%d slots", len(slots))
		}
		if told := pages[0].Told; len(told) != 1 || told[0] != (wire.DeviceInterval{Slot: entries[3].slot, IntervalMS: 3_600_000}) {
			t.Errorf("told %+v", told)
		}
		if next := r.Digest(); len(next) != 1 || len(next[0].Slots)+len(next[0].Told) != 0 || next[0].Count != n {
			t.Errorf("the next digest repeats: %d", len(next[0].Slots))
		}
	})
}

func TestRefreshedIsReported(t *testing.T) {
	watched(t, func(t *testing.T, r *Roster) {
		e := r.Attached(device(1), &peer{}, []byte("one"), time.Minute, time.Minute)
		r.Transitions()
		<-r.Wake()
		r.Refreshed(e, []byte("two"))
		select {
		case <-r.Wake():
		default:
			t.Error("nobody was woken")
		}
		if p, _ := r.Transitions(); len(p.Online) != 1 || string(p.Online[0].Attach) != "two" {
			t.Errorf("report %+v", p)
		}
	})
}

// Everything at once, for the race detector; and at the end the books balance.
func TestConcurrentUse(t *testing.T) {
	watched(t, func(t *testing.T, r *Roster) {
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				for i := range 50 {
					d, s := device(i%10), &peer{}
					e := r.Attached(d, s, fmt.Append(nil, w), time.Second, time.Second)
					r.Beat(e, beat(uint64(i+1), time.Second))
					r.Told(d, time.Duration(1+i%3)*time.Second)
					r.Refreshed(e, nil)
					time.Sleep(time.Duration(w*137) * time.Millisecond)
					r.Detached(e, s)
				}
			})
		}
		wg.Go(func() {
			for range 100 {
				r.Digest()
				r.Transitions()
				r.Resync()
				r.Devices()
				time.Sleep(200 * time.Millisecond)
			}
		})
		wg.Wait()
		sleep(time.Minute)
		r.Transitions()
		if len(r.Devices()) != 0 || r.Online() != 0 || len(r.free) != len(r.slots) {
			t.Errorf("%d devices, %d online, %d of %d slots free", len(r.Devices()), r.Online(), len(r.free), len(r.slots))
		}
	})
}
