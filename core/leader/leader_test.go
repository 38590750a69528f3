package leader

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/liveness"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/raftstore"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

const (
	period   = 10 * time.Second
	interval = 20 * time.Second
	gwA      = "plant-7/gw-a"
	gwB      = "plant-7/gw-b"
)

// A node is a registry that commits what is proposed, and a leadership that the test hands out.
type node struct {
	t  *testing.T
	tr *liveness.Tracker

	mu      sync.Mutex
	state   *registry.State
	index   uint64
	events  []registry.Event
	failing bool
	lead    raftstore.Leadership
	changed chan struct{}
}

// View implements Registry.
func (n *node) View() registry.View {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state.View()
}

var errNoQuorum = errors.New("no quorum")

// Propose implements Registry.
func (n *node) Propose(_ context.Context, c command.Command) (any, error) {
	b, err := command.Encode(c)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.failing {
		return nil, errNoQuorum
	}
	n.index++
	eff, err := n.state.Apply(n.index, time.Now(), [][]byte{b})
	if err != nil {
		return nil, err
	}
	n.events = append(n.events, eff.Events...)
	if err, refused := eff.Results[0].(error); refused {
		return nil, err
	}
	return eff.Results[0], nil
}

func (n *node) do(c command.Command) {
	n.t.Helper()
	if o, ok := c.(command.Operated); ok {
		o.Actor().Operator = "o1"
	}
	if _, err := n.Propose(n.t.Context(), c); err != nil {
		n.t.Fatalf("%T: %v", c, err)
	}
}

func (n *node) leadership() (raftstore.Leadership, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.lead, n.changed
}

// elect starts or ends this node's leadership.
func (n *node) elect(leads bool) {
	n.mu.Lock()
	n.lead = raftstore.Leadership{Leader: leads, Term: n.lead.Term + 1}
	close(n.changed)
	n.changed = make(chan struct{})
	n.mu.Unlock()
	synctest.Wait()
}

// count is how often an event of a type was told about a subject.
func (n *node) count(kind string, about registry.Subject) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(slices.DeleteFunc(slices.Clone(n.events), func(e registry.Event) bool { return e.Type != kind || e.Subject != about }))
}

// plant runs f in a bubble with a leader, the site plant-7 with two gateways, and devices.
func plant(t *testing.T, devices int, f func(t *testing.T, n *node)) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{t: t, tr: liveness.New(period), state: registry.New(), changed: make(chan struct{})}
		n.do(&command.Init{Fleet: "acme", IntervalMS: uint32(interval.Milliseconds()), Operator: command.Operator{ID: "o1", Role: "admin"}})
		n.do(&command.CreateToken{ID: seal.TokenID{1}, Kind: seal.KindDevice, Site: "plant-7", TTLMS: 1e9, Uses: 1e6})
		n.do(&command.CreateToken{ID: seal.TokenID{2}, Kind: seal.KindGateway, Site: "plant-7", TTLMS: 1e9, Uses: 9})
		n.do(&command.Enroll{Token: seal.TokenID{2}, Kind: seal.KindGateway, Name: "gw-a", SPKI: []byte("a")})
		n.do(&command.Enroll{Token: seal.TokenID{2}, Kind: seal.KindGateway, Name: "gw-b", SPKI: []byte("b")})
		n.do(&command.SetSite{Site: "plant-8"}) // which has no gateway
		for i := range devices {
			n.do(&command.Enroll{Token: seal.TokenID{1}, Kind: seal.KindDevice, Device: device(i), SPKI: []byte{9, byte(i)}})
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := Run(ctx, Config{Lead: n.leadership, Registry: n, Tracker: n.tr, Log: slog.New(slog.DiscardHandler)}); err != nil {
				t.Error(err)
			}
		})
		defer wg.Wait()
		defer cancel()
		f(t, n)
	})
}

func device(i int) ident.DeviceID { return ident.DeviceID{byte(i + 1)} }

func about(i int) registry.Subject {
	return registry.Subject{Device: device(i).String(), Site: "plant-7"}
}

var site = registry.Subject{Site: "plant-7"}

// A gateway reports devices as a real one does: all of them when its uplink opens, then a digest per period, until its
// context ends.
func (n *node) gateway(name string, session uint64, ids ...int) (stop func()) {
	ctx, cancel := context.WithCancel(n.t.Context())
	n.tr.Opened(name, session, time.Now())
	for _, i := range ids {
		ms := time.Now().UnixMilli()
		n.do(&command.Presence{Gateway: name, Items: []command.PresenceItem{{
			Device: device(i), Online: true, AtMS: ms, LastMS: ms, IntervalMS: uint32(interval.Milliseconds()),
			Attach: &command.Attach{Start: 1, Run: 1, Session: session},
		}}})
		n.tr.Online(name, session, &wire.DeviceOnline{Slot: uint32(i), Device: device(i), LastMS: ms, IntervalMS: uint32(interval.Milliseconds())}, time.Now(), time.Time{})
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for tick := time.NewTicker(period); ; {
			select {
			case <-tick.C:
				p := wire.Presence{TimeMS: time.Now().UnixMilli(), Digest: true}
				var beats wire.BeatPacker
				for _, i := range ids {
					beats.Add(uint32(i), 0)
				}
				p.Beats = beats.Beats()
				n.tr.Heard(name, session, time.Now())
				n.tr.Digest(name, session, &p, time.Now(), time.Now())
			case <-ctx.Done():
				tick.Stop()
				return
			}
		}
	}()
	return func() { cancel(); <-done }
}

func (n *node) want(i int, online bool, reason string) {
	n.t.Helper()
	v := n.View()
	d, ok := v.Device(device(i))
	if !ok {
		n.t.Fatalf("no device %d", i)
	}
	if got := n.tr.Verdict(v, d, time.Now()); got.Online != online || got.Reason != reason {
		n.t.Errorf("device %d: %+v, want online=%v, reason %q", i, got, online, reason)
	}
}

func sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestSiteUnreachable(t *testing.T) {
	plant(t, 2, func(t *testing.T, n *node) {
		n.elect(true)
		stopA := n.gateway(gwA, 1, 0)
		stopB := n.gateway(gwB, 2, 1)
		sleep(10 * time.Minute)
		n.want(0, true, liveness.ReasonNone)
		stopA()
		stopB() // both were heard at this very moment
		cut := time.Now()
		sleep(liveness.Silent*period - time.Second)
		n.want(0, true, liveness.ReasonNone)
		sleep(time.Second + period/4)
		for i := range 2 {
			n.want(i, false, liveness.ReasonSiteUnreachable)
		}
		sleep(24 * time.Hour)
		if got := n.count(registry.EventSiteUnreachable, site); got != 1 {
			t.Errorf("%d alerts", got)
		}
		if s, _ := n.View().Site("plant-7"); s.UnreachableMS != cut.UnixMilli() {
			t.Errorf("unreachable since %v, cut at %v", time.UnixMilli(s.UnreachableMS).UTC(), cut)
		}
		if got := n.count(registry.EventDeviceOffline, about(0)); got != 0 {
			t.Errorf("%d devices told offline: the site's silence says nothing of them", got)
		}

		defer n.gateway(gwA, 3, 0)()
		sleep(3*interval - time.Second) // the gateways need not come back in one moment
		n.want(0, true, liveness.ReasonNone)
		n.want(1, true, liveness.ReasonUnverified)
		if s, _ := n.View().Site("plant-7"); s.UnreachableMS != 0 || n.count(registry.EventSiteReachable, site) != 1 {
			t.Errorf("back: %+v", s)
		}
		sleep(5 * time.Minute)
		n.want(1, false, liveness.ReasonHeartbeatMissed) // its gateway never came back
	})
}

func TestOneOfTwoGatewaysDies(t *testing.T) {
	plant(t, 2, func(t *testing.T, n *node) {
		n.elect(true)
		stopA := n.gateway(gwA, 1, 0)
		defer n.gateway(gwB, 2, 1)()
		sleep(10 * time.Minute)
		stopA()
		sleep(3*interval - time.Second)
		n.want(0, true, liveness.ReasonNone)
		sleep(time.Second + period/4)
		n.want(0, false, liveness.ReasonHeartbeatMissed)
		n.want(1, true, liveness.ReasonNone)
		sleep(time.Hour)
		if got := n.count(registry.EventDeviceOffline, about(0)); got != 1 {
			t.Errorf("told offline %d times", got)
		}
		if n.count(registry.EventDeviceOffline, about(1)) != 0 || n.count(registry.EventSiteUnreachable, site) != 0 {
			t.Error("others were touched")
		}
		if s, _ := n.View().Site("plant-8"); s.UnreachableMS != 0 {
			t.Error("a site without gateways is not unreachable")
		}
	})
}

// A gateway that restarts has its devices' three intervals to hear them again.
func TestGatewayRestarts(t *testing.T) {
	plant(t, 2, func(t *testing.T, n *node) {
		n.elect(true)
		stop := n.gateway(gwA, 1, 0, 1)
		sleep(time.Minute)
		stop()
		sleep(5 * time.Second)
		defer n.gateway(gwA, 2, 0)() // device 1 does not come back
		n.want(0, true, liveness.ReasonNone)
		n.want(1, true, liveness.ReasonRecovering)
		sleep(3*interval - time.Second)
		n.want(1, true, liveness.ReasonRecovering)
		sleep(time.Second + period/4)
		n.want(1, false, liveness.ReasonHeartbeatMissed)
		n.want(0, true, liveness.ReasonNone)
		if n.count(registry.EventDeviceOffline, about(0)) != 0 {
			t.Error("a device that came back was told offline")
		}
	})
}

func TestNewLeaderWaits(t *testing.T) {
	plant(t, 1, func(t *testing.T, n *node) {
		n.elect(true)
		stop := n.gateway(gwA, 1, 0)
		sleep(time.Minute)
		stop()
		sleep(2 * period)
		n.elect(false)
		n.elect(true) // it knows nothing of who was heard
		sleep(liveness.Silent*period - time.Second)
		if n.count(registry.EventSiteUnreachable, site) != 0 {
			t.Error("a verdict within the grace")
		}
		sleep(time.Second + period/2)
		if n.count(registry.EventSiteUnreachable, site) != 1 {
			t.Error("no verdict after the grace")
		}
	})
}

func TestOnlyTheLeaderDecides(t *testing.T) {
	plant(t, 1, func(t *testing.T, n *node) {
		n.gateway(gwA, 1, 0)()
		sleep(time.Hour)
		n.elect(true)
		n.elect(false)
		sleep(time.Hour)
		if got := n.count(registry.EventSiteUnreachable, site); got != 0 {
			t.Errorf("%d verdicts by a follower", got)
		}
	})
}

// What does not commit is tried again at the next tick.
func TestProposalsThatFail(t *testing.T) {
	plant(t, 1, func(t *testing.T, n *node) {
		n.elect(true)
		n.gateway(gwA, 1, 0)()
		fail := func(f bool) { n.mu.Lock(); n.failing = f; n.mu.Unlock() }
		fail(true)
		sleep(time.Hour)
		if n.count(registry.EventSiteUnreachable, site) != 0 {
			t.Fatal("committed without a quorum")
		}
		fail(false)
		sleep(period / 4)
		if n.count(registry.EventSiteUnreachable, site) != 1 {
			t.Error("not tried again")
		}
	})
}
