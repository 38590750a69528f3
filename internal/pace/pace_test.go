package pace

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestNeed(t *testing.T) {
	tests := []struct {
		name   string
		crowd  Crowd
		target float64
		want   time.Duration
	}{
		{"nobody", nil, 100, 0},
		{"few", Crowd{30 * time.Second: 3000}, 100, 0},
		{"one more than fits", Crowd{30 * time.Second: 3001}, 100, 30010 * time.Millisecond},
		{"ten thousand", Crowd{30 * time.Second: 10_000}, 100, 100 * time.Second},
		{"the slow ones are left alone", Crowd{time.Second: 100, time.Hour: 3_600_000}, 1001, 100 * time.Second},
		{"the slow ones are held back too", Crowd{time.Second: 100, 10 * time.Second: 900}, 10, 100 * time.Second},
		{"between two", Crowd{time.Second: 100, 10 * time.Second: 100}, 20, 10 * time.Second},
		{"beyond all measure", Crowd{time.Second: 1 << 30}, 1, Max},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.crowd.Need(tt.target); got != tt.want {
				t.Errorf("need %v, want %v", got, tt.want)
			}
		})
	}
}

// Need against its definition, with crowds of any kind: it keeps the rate, and a little less would not.
func TestNeedIsTheShortest(t *testing.T) {
	for range 3000 {
		c := Crowd{}
		for range 1 + rand.IntN(6) {
			c[time.Second*time.Duration(1+rand.IntN(3600))] += 1 + rand.IntN(5000)
		}
		target := 0.5 + rand.Float64()*1000
		need := c.Need(target)
		if need < Max && c.Rate(need) > target*1.000001 {
			t.Fatalf("%v at %v: %v makes %v a second", c, target, need, c.Rate(need))
		}
		if less := need - 2*time.Millisecond; need > 0 && c.Rate(less) < target*0.999999 {
			t.Fatalf("%v at %v: %v would do, need is %v", c, target, less, need)
		}
	}
}

func TestLadder(t *testing.T) {
	if !slices.IsSorted(steps) || steps[len(steps)-1] != Max {
		t.Fatal("the ladder is not one")
	}
	for i := 2; i < len(steps); i++ {
		if steps[i] > steps[i-1]*3/2 {
			t.Errorf("from %v to %v is more than half as much again", steps[i-1], steps[i])
		}
	}
	for d, want := range map[time.Duration]time.Duration{0: 0, 1: time.Second, 100 * time.Second: 2 * time.Minute, 2 * time.Minute: 2 * time.Minute, 2 * Max: Max} {
		if got := step(d); got != want {
			t.Errorf("step of %v is %v, want %v", d, got, want)
		}
	}
}

// A crowd that comes, stays away for a while, and leaves for good: widened at once, narrowed only after Hold, and told seldom.
func TestHysteresis(t *testing.T) {
	now := time.Unix(0, 0)
	var s State
	told := 0
	pass := func(n int, d time.Duration) time.Duration {
		for end := now.Add(d); now.Before(end); now = now.Add(time.Second) {
			next := s.Next(Input{Crowd: Crowd{30 * time.Second: n}, Target: 100, Now: now})
			if next.Least != s.Least {
				told++
			}
			s = next
		}
		return s.Least
	}
	for n := 0; n <= 10_000; n += 100 { // a hundred a second
		if least := pass(n, time.Second); (Crowd{30 * time.Second: n}).Rate(least) > 100 {
			t.Fatalf("%d members at %v", n, least)
		}
	}
	if s.Least != 2*time.Minute || told > 5 {
		t.Fatalf("least interval %v after %d changes", s.Least, told)
	}
	told = 0
	pass(100, Hold-10*time.Second)
	pass(10_000, time.Minute)
	if told != 0 {
		t.Errorf("a crowd that was away for a moment was told %d times", told)
	}
	pass(9_000, 3*Hold)
	if told != 0 {
		t.Errorf("a tenth less was told %d times", told)
	}
	for i := range 600 { // to and fro around the place where a step less would do, less than the margin apart
		pass(9000-(i%2)*1500, 20*time.Second)
	}
	if told != 0 {
		t.Errorf("to and fro was told %d times", told)
	}
	if pass(5_000, Hold-2*time.Second); s.Least != 2*time.Minute {
		t.Errorf("narrowed to %v before its time", s.Least)
	}
	if pass(5_000, 4*time.Second); s.Least != 90*time.Second || told != 1 {
		t.Errorf("narrowed to %v after %d changes", s.Least, told)
	}
	if pass(100, Hold+2*time.Second); s.Least != 0 {
		t.Errorf("nobody needs it, and it is still %v", s.Least)
	}
}

// A process that is busy with the messages is relieved, one that is busy with something else only so far.
func TestLoad(t *testing.T) {
	now := time.Unix(0, 0)
	crowd := Crowd{30 * time.Second: 3000}
	run := func(busy func(rate float64) float64, rounds int) (least time.Duration, told int) {
		var s State
		for range rounds {
			now = now.Add(time.Minute)
			next := s.Next(Input{Crowd: crowd, Target: 1000, Busy: busy(crowd.Rate(s.Least)), Now: now})
			if next.Least != s.Least {
				told++
			}
			s = next
		}
		return s.Least, told
	}
	if least, told := run(func(float64) float64 { return 0.7 }, 100); least != 0 || told != 0 {
		t.Errorf("an idle process widened to %v", least)
	}
	if least, told := run(func(rate float64) float64 { return min(1, rate/80) }, 300); crowd.Rate(least)/80 > MaxBusy || told > 2 {
		t.Errorf("least interval %v after %d changes: busy for %v", least, told, crowd.Rate(least)/80)
	}
	if least, _ := run(func(float64) float64 { return 1 }, 100); least != 2*time.Minute {
		t.Errorf("busy with something else: %v, want four times the interval at the most", least)
	}
}
