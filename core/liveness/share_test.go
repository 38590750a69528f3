package liveness

import (
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

// tell carries what one tracker exports to another, whose clock is skewed and whose limit is far ahead.
func tell(t *testing.T, from, to *Tracker, name string, now time.Time) {
	t.Helper()
	for _, s := range from.Export(now) {
		b, err := wire.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var got GatewayState
		if err := wire.Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		to.Import(name, &got, now, now.Add(time.Hour))
	}
}

// What one node hears, another can answer for, as long as it is told; what is told late or twice changes nothing.
func TestShared(t *testing.T) {
	f := newFleet(t) // f.tr: the node that the gateway is connected to
	other := New(period)
	asOther := func(now time.Time, online bool, reason string) {
		t.Helper()
		mine := f.tr
		f.tr = other
		f.want(now, online, reason)
		f.tr = mine
	}
	f.tr.Opened(gwA, 1, start)
	f.online(gwA, 1, 1, start)
	asOther(start, true, ReasonRecovering)
	tell(t, f.tr, other, "core-1", start)
	asOther(start, true, ReasonNone)
	if s := f.tr.Export(start); s != nil {
		t.Errorf("told again without news: %+v", s)
	}
	at := start.Add(period)
	f.tr.Heard(gwA, 1, at)
	f.digest(gwA, 1, at, time.Second)
	late := f.tr.Export(at)
	tell(t, f.tr, other, "core-1", at)
	for i := range late {
		other.Import("core-1", &late[i], at, at.Add(time.Hour))
	}
	mine := f.tr
	f.tr = other
	if v := f.verdict(at); !v.Last.Equal(at.Add(-time.Second)) {
		t.Errorf("last heartbeat %v, want %v", v.Last, at.Add(-time.Second))
	}
	f.tr = mine
	if _, heard := other.LastHeard(gwA, at.Add(Silent*period)); heard {
		t.Error("a gateway that nobody told of for three periods counts as heard")
	}
}

// A gateway that moved to another node is believed there, whoever tells late.
func TestGatewayMovesBetweenNodes(t *testing.T) {
	f := newFleet(t)
	first, second, third := f.tr, New(period), New(period)
	first.Opened(gwA, 1, start)
	f.online(gwA, 1, 1, start)
	old := first.Export(start)
	third.Import("core-1", &old[0], start, start.Add(time.Hour))

	at := start.Add(time.Second)
	second.Opened(gwA, 2, at)
	f.tr = second
	f.online(gwA, 2, 2, at)
	for _, to := range []*Tracker{first, third} {
		for _, s := range second.Export(at) {
			to.Import("core-2", &s, at, at.Add(time.Hour))
		}
		second.Heard(gwA, 2, at) // so that it has news for the next
	}
	for name, tr := range map[string]*Tracker{"first": first, "third": third} {
		tr.Import("core-1", &old[0], at, at.Add(time.Hour)) // late
		f.tr = tr
		f.want(at, true, ReasonNone)
		if s := tr.Export(at); s != nil {
			t.Errorf("%s tells of a gateway that is connected elsewhere: %+v", name, s)
		}
	}
	// The second node falls silent for good; the first's gateway session is back with an older clock, and is believed then.
	silent := at.Add(Silent*period + time.Second)
	back := GatewayState{Name: gwA, Session: 3, OpenedMS: 1e9, HeardMS: 0}
	third.Import("core-1", &back, silent, silent)
	if _, heard := third.LastHeard(gwA, silent); !heard {
		t.Error("a gateway whose former node is silent is not believed")
	}
}

func TestImportIsBounded(t *testing.T) {
	f := newFleet(t)
	far := start.Add(48 * time.Hour).UnixMilli()
	f.tr.Import("core-2", &GatewayState{
		Name: gwA, Session: 9, OpenedMS: 1 << 63, HeardMS: 1 << 63, Devices: []DeviceState{{Device: dev, Online: true, LastMS: far, AttachedMS: 1 << 63}},
	}, start, start.Add(time.Minute))
	if v := f.tr.devices[dev]; v.last.UnixMilli() == far {
		t.Error("a heartbeat of the future was taken")
	}
	f.tr.Opened(gwB, 1, start)
	for i := range maxShared*2 + 10 {
		f.tr.Online(gwB, 1, &wire.DeviceOnline{Slot: uint32(i), Device: ident.DeviceID{1, byte(i), byte(i >> 8)}}, start, time.Time{})
	}
	states := f.tr.Export(start)
	n := 0
	for _, s := range states {
		if len(s.Devices) > maxShared || s.Name != gwB {
			t.Errorf("%s with %d devices", s.Name, len(s.Devices))
		}
		n += len(s.Devices)
	}
	if n != maxShared*2+10 || len(states) != 3 {
		t.Errorf("%d devices in %d parts", n, len(states))
	}
}

// TestSessionIsNotGivenUpForADeadOne: a gateway tried one node and stayed with another. What the first tells of its session,
// with an age that a slow call made look younger, must not make the second deaf to the session that goes on.
func TestSessionIsNotGivenUpForADeadOne(t *testing.T) {
	t.Parallel()
	const period = time.Second
	now := time.Now()
	live := New(period)
	live.Opened("plant/gw", 3, now)
	live.Import("core-2", &GatewayState{Name: "plant/gw", Session: 2}, now.Add(10*time.Millisecond), now.Add(time.Minute))
	third := New(period)
	third.Import("core-2", &GatewayState{Name: "plant/gw", Session: 2}, now.Add(20*time.Millisecond), now.Add(time.Minute))
	for range 20 {
		now = now.Add(period)
		live.Heard("plant/gw", 3, now)
		for _, s := range live.Export(now) {
			third.Import("core-3", &s, now.Add(5*time.Millisecond), now.Add(time.Minute))
		}
		for name, tr := range map[string]*Tracker{"the node that has the session": live, "a third node": third} {
			if _, connected := tr.LastHeard("plant/gw", now.Add(period/2)); !connected {
				t.Fatalf("%s takes the gateway for silent", name)
			}
		}
	}
	live.Closed("plant/gw", 3)
	live.Import("core-1", &GatewayState{Name: "plant/gw", Session: 4}, now.Add(time.Millisecond), now.Add(time.Minute))
	if len(live.Export(now.Add(time.Second))) != 0 {
		t.Error("a session that ended is told of, although the gateway is connected elsewhere")
	}
}
