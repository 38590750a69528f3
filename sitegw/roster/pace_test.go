package roster

import (
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/internal/pace"
)

// idle is a process that never says that it is busy.
func idle() float64 { return 0 }

// A crowd is devices that beat as agents do: at what they were told last, ten percent to either side, from a random moment on.
type crowd struct {
	t     *testing.T
	r     *Roster
	asked time.Duration
	lost  float64 // of the answers, and of what is pushed

	wg   sync.WaitGroup
	stop chan struct{}

	mu    sync.Mutex
	beats int
}

// come brings devices from on, n of them, one after the other over the given time.
func (c *crowd) come(from, n int, over time.Duration) {
	for i := range n {
		at := time.Duration(int64(over) * int64(i) / int64(n))
		c.wg.Go(func() {
			select {
			case <-time.After(at):
				c.live(from + i)
			case <-c.stop:
			}
		})
	}
}

// live is one device: it attaches, is told what it is told, and beats until the crowd is stopped.
func (c *crowd) live(n int) {
	uses := c.r.InForce(c.asked) // the welcome
	e := c.r.Attached(device(n), &peer{}, nil, uses, c.asked)
	c.r.Told(device(n), c.asked)
	wait := rand.N(uses)
	for number := uint64(1); ; number++ {
		select {
		case <-time.After(wait):
		case <-c.stop:
			return
		}
		told := c.r.Beat(e, beat(number, uses))
		if told != 0 && rand.Float64() >= c.lost {
			uses = told
		}
		c.mu.Lock()
		c.beats++
		c.mu.Unlock()
		wait = time.Duration(float64(uses) * (0.9 + 0.2*rand.Float64()))
	}
}

// rate passes time and counts what was beaten in it, a second.
func (c *crowd) rate(d time.Duration) float64 {
	c.mu.Lock()
	c.beats = 0
	c.mu.Unlock()
	sleep(d)
	c.mu.Lock()
	defer c.mu.Unlock()
	return float64(c.beats) / d.Seconds()
}

// nobodyOffline holds that no verdict was given, and takes what there is to report.
func (c *crowd) nobodyOffline(when string) {
	c.t.Helper()
	for more := true; more; {
		p, again := c.r.Transitions()
		if more = again; len(p.Offline) > 0 {
			c.t.Fatalf("%s: %d devices offline, the first %+v", when, len(p.Offline), p.Offline[0])
		}
	}
}

func (c *crowd) end() {
	close(c.stop)
	c.wg.Wait()
}

// Four thousand devices come back at once to a gateway that is to hear 40 heartbeats a second; most of them leave; a third of
// all answers is lost. The rate is kept, and nobody is offline while the interval is widened and narrowed.
func TestPaceOfACrowd(t *testing.T) {
	watched(t, func(t *testing.T, r *Roster) {
		few := &crowd{t: t, r: r, asked: 10 * time.Second, lost: 0.3, stop: make(chan struct{})}
		defer few.end()
		few.come(0, 300, 10*time.Second)
		few.nobodyOffline("few")
		sleep(time.Minute)
		if p := r.Pace(); p.Own != 0 {
			t.Fatalf("300 devices are held back: %+v", p)
		}
		many := &crowd{t: t, r: r, asked: 10 * time.Second, lost: 0.3, stop: make(chan struct{})}
		many.come(1000, 3700, 20*time.Second)
		for range 60 {
			sleep(10 * time.Second)
			many.nobodyOffline("widening")
		}
		if p := r.Pace(); p.Own != 2*time.Minute {
			t.Fatalf("pace %+v, want 2m0s for 4000 devices at 40 a second", p)
		}
		if got := few.rate(5*time.Minute) + many.rate(5*time.Minute); got > 40 {
			t.Errorf("%.1f heartbeats a second, target 40", got)
		}
		many.end()
		// Nobody of the many says goodbye: they count until the verdict, three intervals later.
		for i := range 240 {
			sleep(10 * time.Second)
			p, _ := r.Transitions()
			for _, o := range p.Offline {
				if n := int(o.Device[0]) | int(o.Device[1])<<8; n < 1000 {
					t.Fatalf("narrowing: device %d offline after %v", n, time.Duration(i)*10*time.Second)
				}
			}
			for more := true; more; {
				_, more = r.Transitions()
			}
		}
		if p := r.Pace(); p.Own != 0 || r.Online() != 300 {
			t.Errorf("then pace %+v, %d online", p, r.Online())
		}
		if got := few.rate(time.Minute); got < 27 || got > 33 {
			t.Errorf("then %.1f heartbeats a second of 300 devices at 10s", got)
		}
	}, func(r *Roster) { r.Paced(40, Pace{}, idle) })
}

// A gateway that restarts welcomes its crowd with the interval of before, and narrows only once they had time to be back.
func TestPaceOutlivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(time.Now)
		r.Paced(10, Pace{Own: 2 * time.Minute, Core: 45 * time.Second}, idle)
		if got := r.InForce(30 * time.Second); got != 2*time.Minute {
			t.Fatalf("the first of them is welcomed with %v", got)
		}
		now := time.Now()
		for s := range int(pace.Hold / time.Second) {
			r.measure(now.Add(time.Duration(s)*time.Second), pace.Crowd{30 * time.Second: min(10*s, 1000)})
		}
		if got := r.Pace(); got != (Pace{Own: 2 * time.Minute, Core: 45 * time.Second}) {
			t.Errorf("pace %+v after they came back", got)
		}
	})
}

// The core's pace and the gateway's: the longer one is in force, and a device that is asked for more keeps to that.
func TestPaceOfTheCore(t *testing.T) {
	watched(t, func(t *testing.T, r *Roster) {
		p := new(peer)
		e := r.Attached(device(1), p, nil, 30*time.Second, 30*time.Second)
		r.Told(device(1), 30*time.Second)
		r.CorePace(time.Minute)
		<-r.Repaced()
		if got := r.Beat(e, beat(1, 30*time.Second)); got != time.Minute {
			t.Errorf("told %v", got)
		}
		if got := r.Digest(); got[0].LeastMS != 60_000 || len(got[0].Told) != 1 || got[0].Told[0].IntervalMS != 60_000 {
			t.Errorf("digest %+v", got[0])
		}
		if s, tell := r.Told(device(1), 2*time.Second); tell != 0 {
			t.Errorf("asked for less: told %v, %v", tell, s)
		}
		if _, tell := r.Told(device(1), 5*time.Minute); tell != 5*time.Minute {
			t.Errorf("asked for more: told %v", tell)
		}
		r.Told(device(1), 30*time.Second)
		r.CorePace(time.Second)
		if got := r.Pace(); got != (Pace{}) || r.Digest()[0].LeastMS != 0 {
			t.Errorf("the core holds nobody back any more: %+v", got)
		}
		if got := r.Beat(e, beat(2, 5*time.Minute)); got != 30*time.Second {
			t.Errorf("told %v", got)
		}
		if got := e.inForce(); got != 5*time.Minute {
			t.Errorf("in force %v, before it echoed the new one", got)
		}
		r.Beat(e, beat(3, 30*time.Second))
		if got := e.inForce(); got != 30*time.Second {
			t.Errorf("in force %v", got)
		}
		// One of whom the core has said nothing keeps to what it is told, and is held back like everybody.
		e = r.Attached(device(2), p, nil, 10*time.Second, 10*time.Second)
		if got := r.Beat(e, beat(1, 10*time.Second)); got != 0 {
			t.Errorf("told %v", got)
		}
		r.CorePace(45 * time.Second)
		if got := r.Beat(e, beat(2, 10*time.Second)); got != 45*time.Second {
			t.Errorf("told %v", got)
		}
	})
}
