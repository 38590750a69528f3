package roster

import (
	"context"
	"fmt"
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

func (p *peer) Receipt([]byte)      {}
func (p *peer) Refused(*wire.Error) {}

func (p *peer) Drop(e *wire.Error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dropped = append(p.dropped, e)
}

func device(n int) ident.DeviceID { return ident.DeviceID{byte(n), byte(n >> 8), byte(n >> 16), 1} }

// watched runs f in a bubble with a roster that decides. What must be done before that is done by first.
func watched(t *testing.T, f func(t *testing.T, r *Roster), first ...func(r *Roster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := New(time.Now)
		for _, prepare := range first {
			prepare(r)
		}
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
				uses, since := short, e.since
				run(r, e, func(d time.Duration, arrives bool) time.Duration {
					r.Told(device(1), d)
					if arrives {
						uses = d
					}
					return uses
				})
				if rep, _ := r.Transitions(); len(rep.Offline) != 0 || r.Online() != 1 || rep.Online[0].SinceMS != since.UnixMilli() {
					t.Errorf("it was offline meanwhile: %+v", rep)
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
		if s, tell := r.Told(device(1), 5*time.Second); tell != 5*time.Second || s != p {
			t.Errorf("session %v, %v", s, tell)
		}
		if _, tell := r.Told(device(1), 5*time.Second); tell != 0 {
			t.Error("told twice")
		}
		if got := r.Beat(e, beat(2, 30*time.Second)); got != 5*time.Second {
			t.Errorf("a telling that was lost is not repeated: %v", got)
		}
		if got := r.Beat(e, beat(3, 5*time.Second)); got != 0 {
			t.Errorf("told %v again", got)
		}
		if _, tell := r.Told(device(2), time.Second); tell != 0 {
			t.Error("told a stranger")
		}
		r.Detached(e, p)
		if _, tell := r.Told(device(1), time.Second); tell != 0 {
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

// A device that beats as fast as it can, or counts as far as numbers go, makes its gateway say nothing that cannot be.
func TestCountsThatCanBe(t *testing.T) {
	watched(t, func(t *testing.T, r *Roster) {
		e := r.Attached(device(1), new(peer), nil, time.Second, time.Second)
		for n := range uint64(1000) {
			sleep(10 * time.Millisecond)
			r.Beat(e, beat(1+n%2*(1<<63), time.Second))
		}
		if most := uint64(10*time.Second/minBeat) + spare; e.beats > most || e.missed > most || e.beats < 20 || e.missed < 20 {
			t.Errorf("%d heartbeats, %d missed, in 10 s", e.beats, e.missed)
		}
	})
}
