package corelink

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

// results gathers what became of statements.
type results struct {
	mu  sync.Mutex
	got []string
}

func (r *results) done(name string) func(wire.SubmitResult) {
	return func(res wire.SubmitResult) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.got = append(r.got, fmt.Sprint(name, " ", res.Code, " ", string(res.Receipt)))
	}
}

func (r *results) want(t *testing.T, want ...string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if fmt.Sprint(r.got) != fmt.Sprint(want) {
		t.Errorf("results %q, want %q", r.got, want)
	}
}

func TestSubmitAnswered(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		c := p.welcome()
		if !p.link.Status().Connected {
			t.Fatal("not connected")
		}
		r := new(results)
		p.link.Submit([]byte("a"), r.done("a"))
		first := recv[wire.Submit](c, wire.TypeSubmit)
		c.send(wire.TypeError, wire.Error{Code: wire.CodeUnavailable, ID: first.ID + 99}) // an answer to nothing
		c.send(wire.Type(60), wire.Ask{})                                                 // of a later build
		c.send(wire.TypeSubmitted, wire.Submitted{ID: first.ID, Results: []wire.SubmitResult{{Receipt: []byte("ra")}}})
		settle()
		r.want(t, "a none ra")

		p.link.Submit([]byte("b"), r.done("b"))
		second := recv[wire.Submit](c, wire.TypeSubmit)
		if second.ID == first.ID || string(second.Statements[0]) != "b" {
			t.Errorf("submit %+v", second)
		}
		c.send(wire.TypeError, wire.Error{Code: wire.CodeUnavailable, Ref: wire.TypeSubmit, ID: second.ID})
		settle()
		r.want(t, "a none ra", "b unavailable ")

		p.link.Submit([]byte("c"), r.done("c"))
		third := recv[wire.Submit](c, wire.TypeSubmit)
		c.send(wire.TypeSubmitted, wire.Submitted{ID: third.ID}) // an answer that answers too few
		settle()
		r.want(t, "a none ra", "b unavailable ", "c unavailable ")
	})
}

// While messages are under way others gather and share the next one, in order.
func TestStatementsShareMessages(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		c := p.welcome()
		r := new(results)
		for i := range maxUnderWay + 3 {
			name := string(rune('a' + i))
			p.link.Submit([]byte(name), r.done(name))
			settle()
		}
		var ids []uint64
		for range maxUnderWay {
			m := recv[wire.Submit](c, wire.TypeSubmit)
			if len(m.Statements) != 1 {
				t.Errorf("message of %d", len(m.Statements))
			}
			ids = append(ids, m.ID)
		}
		c.send(wire.TypeSubmitted, wire.Submitted{ID: ids[0], Results: make([]wire.SubmitResult, 1)})
		m := recv[wire.Submit](c, wire.TypeSubmit)
		if fmt.Sprintf("%s", m.Statements) != "[e f g]" {
			t.Errorf("gathered %s", m.Statements)
		}
	})
}

// When the session ends, whoever waits is told, under way or queued, and nobody twice.
func TestSessionLost(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		c := p.welcome()
		r := new(results)
		for i := range maxUnderWay + 2 {
			p.link.Submit([]byte{byte(i)}, r.done("s"))
			settle()
		}
		var renewed error
		var wg sync.WaitGroup
		wg.Go(func() { _, renewed = p.link.Renew(t.Context(), ident.NewDeviceID(), wire.Renew{}) })
		settle()
		c.CloseWith(wire.Refuse(wire.CodeInternal, "gone"))
		wg.Wait()
		synctest.Wait()
		wantUnavailable(t, "renew", renewed)
		r.want(t, slicesOf("s unavailable ", maxUnderWay+2)...)
		if p.link.Status().Connected {
			t.Error("still connected")
		}
		p.link.Submit([]byte("late"), r.done("late"))
		r.want(t, append(slicesOf("s unavailable ", maxUnderWay+2), "late unavailable ")...)

		again := p.welcome() // it comes back by itself
		p.link.Submit([]byte("new"), r.done("new"))
		if m := recv[wire.Submit](again, wire.TypeSubmit); string(m.Statements[0]) != "new" {
			t.Errorf("the new session begins with %q", m.Statements)
		}
	})
}

func slicesOf(s string, n int) (out []string) {
	for range n {
		out = append(out, s)
	}
	return out
}

func TestRequestsTimeOut(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		p.welcome()
		begin := time.Now()
		_, err := p.link.Enroll(t.Context(), wire.Enroll{})
		wantUnavailable(t, "enroll", err)
		if d := time.Since(begin); d != requestTime {
			t.Errorf("after %v", d)
		}
	})
}

func TestRelays(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		c := p.welcome()
		var wg sync.WaitGroup
		wg.Go(func() {
			out, err := p.link.Enroll(t.Context(), wire.Enroll{Name: "x"})
			if err != nil || out.Site != "plant-7" {
				t.Errorf("enrolled %+v, %v", out, err)
			}
		})
		m := recv[wire.RelayEnroll](c, wire.TypeRelayEnroll)
		c.send(wire.TypeRelayEnrolled, wire.RelayEnrolled{ID: m.ID, Enrolled: wire.Enrolled{Site: "plant-7"}})
		wg.Wait()
		d := ident.NewDeviceID()
		p.link.Ask(d)
		if a := recv[wire.Ask](c, wire.TypeAsk); a.Device != d {
			t.Errorf("asked about %v", a.Device)
		}
	})
}

func TestMirrorIsFed(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		c := p.welcome()
		d := ident.NewDeviceID()
		c.send(wire.TypeSite, wire.Site{Full: true, IntervalMS: 2000, Gateways: []string{"gw-a:1"}, Devices: []wire.SiteDevice{{Device: d, State: wire.DeviceActive}}})
		c.send(wire.TypeSite, wire.Site{Devices: []wire.SiteDevice{{Device: d, State: wire.DeviceActive, IntervalMS: 5000}}})
		settle()
		if got := p.mirror.Interval(d, 0); got != 5*time.Second {
			t.Errorf("interval %v", got)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if fmt.Sprint(p.changed) != "[1 true 1 false]" {
			t.Errorf("changed %q", p.changed)
		}
	})
}

// quiet is a device's session that nothing is expected of.
type quiet struct{}

func (quiet) Tell(time.Duration) {}
func (quiet) Drop(*wire.Error)   {}

func TestPresenceIsReported(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		d := ident.NewDeviceID()
		e := p.roster.Attached(d, quiet{}, []byte("attach"), 30*time.Second, 30*time.Second) // before there is an uplink
		c := p.welcome()
		if r := recv[wire.Presence](c, wire.TypePresence); len(r.Online) != 1 || r.Online[0].Device != d || string(r.Online[0].Attach) != "attach" {
			t.Errorf("report %+v", r)
		}
		p.roster.Beat(e, &wire.Heartbeat{Run: 1, Number: 1, IntervalMS: 30_000})
		if r := recv[wire.Presence](c, wire.TypePresence); !r.Digest || r.Count != 1 || len(r.Slots) != 1 {
			t.Errorf("digest %+v", r)
		}
		c.Close()
		again := p.welcome() // what the earlier session was told no longer counts
		if r := recv[wire.Presence](again, wire.TypePresence); len(r.Online) != 1 {
			t.Errorf("told anew: %+v", r)
		}
		for {
			if r := recv[wire.Presence](again, wire.TypePresence); len(r.Offline) == 1 {
				if r.Offline[0].Device != d {
					t.Errorf("offline %+v", r.Offline)
				}
				return
			}
		}
	})
}

func TestRefusedHello(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		begin := time.Now()
		c := p.accept()
		c.send(wire.TypeError, wire.Refuse(wire.CodeUnknownKey, "no").After(40*time.Second))
		p.welcome() // it tries again, and not before it was told to
		if d := time.Since(begin); d < 40*time.Second {
			t.Errorf("tried again after %v", d)
		}
	})
}
