package link

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/agent/devstate"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// serve answers heartbeats until the session ends, which the test's end does.
func (g *gateway) serve(uplink bool) {
	var wg sync.WaitGroup
	g.w.t.Cleanup(func() {
		g.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			t, body, err := g.Recv()
			if err != nil {
				return
			}
			var h wire.Heartbeat
			if t == wire.TypeHeartbeat && wire.Unmarshal(body, &h) == nil {
				g.Send(wire.TypeHeartbeatAck, wire.HeartbeatAck{Number: h.Number, Uplink: uplink}) //nolint:errcheck // Recv sees the end, too
			}
		}
	})
}

// What a gateway withholds another one brings: an attached agent probes the others, and learns the list that they have. That one
// of them has an uplink, and its own gateway has none, moves it after three probes.
func TestProbesOtherGateways(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		g := w.admit(0, time.Minute)
		g.serve(false)
		begin := time.Now()
		if m := w.probe(1, wire.Probed{List: w.facts.List("plant-7", w.listed(0, w.keys[0]), w.listed(1, w.keys[1]))}); m.List != 0 {
			t.Errorf("claims the list %+v", m)
		}
		if d := time.Since(begin); d < firstProbeMin || d > firstProbeMax+time.Minute {
			t.Errorf("probes after %v", d)
		}
		settle()
		if got := w.lists.Stamp("plant-7"); got != w.facts.Stamp() {
			t.Errorf("holds the list %+v", got)
		}
		for i, uplink := range []bool{true, true, false, true, true, true} { // not three in a row, then three
			begin = time.Now()
			if m := w.probe(1, wire.Probed{Uplink: uplink}); m.ListEpoch != 1 || m.List != w.facts.N {
				t.Errorf("probe %d claims the list %+v", i, m)
			}
			if d := time.Since(begin); d < probeBeats*time.Minute/2 || d > probeBeats*time.Minute*3/2+time.Minute {
				t.Errorf("probe %d after %v", i, d)
			}
		}
		s, typ, _ := w.opened(1)
		if typ != wire.TypeAttach {
			t.Errorf("got %v, want an attach", typ)
		}
		if g.Context().Err() != nil {
			t.Error("the old session ended before there was another one")
		}
		s.Refuse(wire.Refuse(wire.CodeBusy, "full").After(time.Minute))
		settle()
		if g.Context().Err() != nil {
			t.Error("the old session ended though the other gateway is full")
		}
		for range betterRow {
			w.probe(1, wire.Probed{Uplink: true})
		}
		next := w.admit(1, time.Minute)
		settle()
		if g.Context().Err() == nil {
			t.Error("the old session goes on")
		}
		if next.attach.Session < 3 || next.attach.Gateway == g.attach.Gateway {
			t.Errorf("attach %+v", next.attach.Attach)
		}
		next.serve(true)
		for range betterRow { // the way back is not taken so soon
			w.probe(0, wire.Probed{Uplink: true})
		}
		if next.Context().Err() != nil {
			t.Error("left for what is not better")
		}
	})
}

func TestPreferred(t *testing.T) {
	const ms = time.Millisecond
	for _, tc := range []struct {
		there, here placement
		want        string
	}{
		{placement{rtt: 20 * ms}, placement{rtt: 80 * ms}, "nearer"},
		{placement{rtt: 20 * ms}, placement{rtt: 39 * ms}, ""},
		{placement{rtt: ms}, placement{rtt: 5 * ms}, ""},
		{placement{rtt: ms}, placement{rtt: 6 * ms}, "nearer"},
		{placement{rtt: 80 * ms}, placement{rtt: 20 * ms}, ""},
		{placement{rtt: 80 * ms, uplink: true}, placement{rtt: 20 * ms}, "uplink"},
		{placement{rtt: ms}, placement{rtt: 80 * ms, uplink: true}, ""},
		{placement{rtt: 80 * ms, home: true}, placement{rtt: 20 * ms, uplink: true}, "own site"},
		{placement{rtt: ms, uplink: true}, placement{rtt: 80 * ms, home: true}, ""},
	} {
		if got := tc.there.preferred(tc.here); got != tc.want {
			t.Errorf("%+v instead of %+v: %q, want %q", tc.there, tc.here, got, tc.want)
		}
	}
}

// Without a session the others are tried by site, then by round trip; one that was not measured is taken for one in between.
func TestOrderOfTheOthers(t *testing.T) {
	within(t, func(t *testing.T, w *world) {
		w.admit(0, time.Hour)
		list := func(site string, addrs ...string) []byte {
			var gws []seal.ListedGateway
			for _, a := range addrs {
				gws = append(gws, seal.ListedGateway{Name: "gw", Listen: a})
			}
			return w.facts.List(site, gws...)
		}
		for _, sealed := range [][]byte{list("plant-7", "home:1", "home:2"), list("plant-8", "away:1", "away:2", "away:3")} {
			if _, err := w.lists.Learn(sealed); err != nil {
				t.Fatal(err)
			}
		}
		st, err := devstate.Open(t.TempDir(), devstate.Signer{})
		if err != nil {
			t.Fatal(err)
		}
		if err := st.Belongs("plant-7"); err != nil {
			t.Fatal(err)
		}
		l := &Link{Config: Config{Lists: w.lists, State: st}, gateways: []string{"away:3", "away:2", "away:1", "home:1", "home:2"}}
		l.routes.to("away:3").measured(80 * time.Millisecond)
		l.routes.to("away:1").measured(2 * time.Millisecond)
		l.routes.to("home:1").measured(70 * time.Millisecond)
		want := func(first string, want ...string) {
			t.Helper()
			if l.prefer(first); !slices.Equal(l.gateways, want) {
				t.Errorf("tries %q, want %q", l.gateways, want)
			}
		}
		want("away:3", "away:3", "home:2", "home:1", "away:1", "away:2")
		want("", "home:2", "home:1", "away:1", "away:2", "away:3")
		want("gone:1", "home:2", "home:1", "away:1", "away:2", "away:3")
		l.putLast("gone:1") // it is on no list any more
		l.putLast("home:2")
		if !slices.Equal(l.gateways, []string{"home:1", "away:1", "away:2", "away:3", "home:2"}) {
			t.Errorf("tries %q", l.gateways)
		}
	})
}

// A fleet that beats seldom probes seldom.
func TestUntilProbe(t *testing.T) {
	for range 100 {
		if d := untilProbe(5 * time.Second); d < probeEvery/2 || d > probeEvery*3/2 {
			t.Fatalf("at 5 s after %v", d)
		}
		if d := untilProbe(100 * time.Second); d < 25*time.Minute || d > 75*time.Minute {
			t.Fatalf("at 100 s after %v", d)
		}
	}
}
