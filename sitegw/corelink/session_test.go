package corelink

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/sitegw/custody"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
	"github.com/holdfast-edge/holdfast/wire/seal/sealtest"
)

// keep puts a record into custody and waits until it is on disk.
func (p *plant) keep(data string) {
	p.t.Helper()
	done := make(chan error, 1)
	p.custody.Spool.Append(custody.KindStatement, time.Now().UnixMilli(), []byte(data), func(_ uint64, err error) { done <- err })
	if err := <-done; err != nil {
		p.t.Fatal(err)
	}
}

func (p *plant) inCustody() uint64 { return p.custody.Spool.Status().Records }

func TestSubmitAnswered(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		c := p.welcome()
		if !p.link.Status().Connected || !p.link.Connected() || p.link.Period() != 10*time.Second {
			t.Fatal("not connected")
		}
		p.keep("a")
		first := recv[wire.Submit](c, wire.TypeSubmit)
		c.send(wire.TypeError, wire.Error{Code: wire.CodeUnavailable, ID: first.ID + 99}) // an answer to nothing
		c.send(wire.Type(60), wire.Ask{})                                                 // of a later build
		settle()
		if p.inCustody() != 1 {
			t.Error("let go of without an answer")
		}
		c.send(wire.TypeSubmitted, wire.Submitted{ID: first.ID, Results: make([]wire.SubmitResult, 1)})
		settle()
		if p.inCustody() != 0 {
			t.Error("kept after the answer")
		}
		p.keep("b")
		second := recv[wire.Submit](c, wire.TypeSubmit)
		if second.ID == first.ID || string(second.Statements[0]) != "b" {
			t.Errorf("submit %+v", second)
		}
		c.send(wire.TypeError, wire.Error{Code: wire.CodeUnavailable, Ref: wire.TypeSubmit, ID: second.ID})
		again := recv[wire.Submit](c, wire.TypeSubmit)
		if string(again.Statements[0]) != "b" {
			t.Errorf("again %+v", again)
		}
		c.send(wire.TypeSubmitted, wire.Submitted{ID: again.ID, Results: []wire.SubmitResult{{Code: wire.CodeConflict, Detail: "other content"}}})
		settle()
		p.mu.Lock()
		if len(p.refused) != 1 || string(p.refused[0].Sealed) != "b" || p.inCustody() != 0 {
			t.Errorf("refused %+v", p.refused)
		}
		p.mu.Unlock()
		c.send(wire.TypeReceipts, wire.Receipts{Items: []wire.DeviceReceipt{{Device: ident.NewDeviceID(), Receipt: []byte("r")}}})
		settle()
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.receipts) != 1 || string(p.receipts[0].Receipt) != "r" {
			t.Errorf("receipts %+v", p.receipts)
		}
	})
}

// An answer to another number of statements ends the session, and nothing is let go of.
func TestAnswerOfAnotherSize(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		c := p.welcome()
		p.keep("c")
		m := recv[wire.Submit](c, wire.TypeSubmit)
		c.send(wire.TypeSubmitted, wire.Submitted{ID: m.ID})
		settle()
		if p.inCustody() != 1 {
			t.Error("let go of")
		}
		again := p.welcome()
		if m := recv[wire.Submit](again, wire.TypeSubmit); string(m.Statements[0]) != "c" {
			t.Errorf("the new session begins with %q", m.Statements)
		}
	})
}

// When the session ends, whoever waits is told, and what is in custody is sent in the next one.
func TestSessionLost(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		c := p.welcome()
		for i := range 6 {
			p.keep(string(rune('a' + i)))
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
		if p.link.Status().Connected || p.link.Connected() {
			t.Error("still connected")
		}
		p.keep("late")
		again := p.welcome() // it comes back by itself
		if m := recv[wire.Submit](again, wire.TypeSubmit); fmt.Sprintf("%s", m.Statements) != "[a b c d e f late]" {
			t.Errorf("the new session begins with %q", m.Statements)
		}
	})
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
		list := p.facts.List("plant-7", seal.ListedGateway{Name: "gw-a"})
		c.send(wire.TypeSite, wire.Site{IntervalMS: 2000, List: list, Entries: [][]byte{p.facts.Entry(d, "plant-7", wire.DeviceActive, 0)}, UptoEpoch: 1, Upto: 2})
		c.send(wire.TypeSite, wire.Site{Entries: [][]byte{p.facts.Entry(d, "plant-7", wire.DeviceActive, 5000)}})
		c.send(wire.TypeSite, wire.Site{Entries: [][]byte{sealtest.New(t, "acme").Entry(d, "plant-7", wire.DeviceActive, 9000)}}) // of another authority
		settle()
		if got := p.mirror.Interval(d, 0); got != 5*time.Second {
			t.Errorf("interval %v", got)
		}
		p.mu.Lock()
		if fmt.Sprint(p.changed) != "[1 true 1 false]" {
			t.Errorf("changed %q", p.changed)
		}
		p.mu.Unlock()
		c.Close()
		c = p.acceptRaw()
		if hello := recv[wire.UplinkHello](c, wire.TypeUplinkHello); hello.KnownEpoch != 1 || hello.Known != 2 {
			t.Errorf("says that it knows %+v", hello)
		}
	})
}

// quiet is a device's session that nothing is expected of.
type quiet struct{}

func (quiet) Tell(time.Duration)  {}
func (quiet) Receipt([]byte)      {}
func (quiet) Refused(*wire.Error) {}
func (quiet) Drop(*wire.Error)    {}

func TestPresenceIsReported(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		d := ident.NewDeviceID()
		e := p.roster.Attached(d, quiet{}, []byte("attach"), 30*time.Second, 30*time.Second) // before there is an uplink
		c := p.welcome()
		if r := recv[wire.Presence](c, wire.TypePresence); len(r.Online) != 1 || r.Online[0].Device != d || string(r.Online[0].Attach) != "attach" {
			t.Errorf("report %+v", r)
		}
		p.roster.Beat(e, &wire.Heartbeat{Run: 1, Number: 1, IntervalMS: 30_000})
		if r := recv[wire.Presence](c, wire.TypePresence); !r.Digest || r.Count != 1 || len(r.Beats) != 2 {
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
