package liveness

import (
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
)

// beats has a gateway say at a time that the device beat so long before.
func (f *fleet) beats(gw string, at time.Time, age time.Duration) string {
	f.t.Helper()
	p := &wire.Presence{TimeMS: 1, Beats: beats(4, age)} // whatever its clock says
	if lie := f.tr.Digest(gw, 1, p, at, at); lie != nil {
		return lie.Reason
	}
	return ""
}

func TestLies(t *testing.T) {
	f := newFleet(t)
	at := func(d time.Duration) time.Time { return start.Add(d) }
	f.tr.Opened(gwA, 1, start)
	f.tr.Opened(gwB, 1, start)
	f.online(gwA, 1, 1, start)
	for _, c := range []struct {
		at   time.Duration
		age  time.Duration
		want string
	}{
		{time.Minute, 0, ""},
		{2 * time.Hour, 0, ""},
		{2*time.Hour + LieSlack, 0, ""},
		{3 * time.Hour, time.Hour, ""},
		{2*time.Hour + LieSlack + time.Second, 0, LieUnsigned},
		{3 * time.Hour, 30 * time.Minute, LieUnsigned},
	} {
		if got := f.beats(gwA, at(c.at), c.age); got != c.want {
			t.Errorf("at %v, %v ago: %q, want %q", c.at, c.age, got, c.want)
		}
	}
	moved := 4 * time.Hour
	f.online(gwB, 1, 2, at(moved))
	for _, c := range []struct {
		at   time.Duration
		age  time.Duration
		want string
	}{
		{moved + time.Second, 0, ""}, {moved + LieSlack, 0, ""}, {moved + time.Hour, time.Hour, ""}, {moved + LieSlack + time.Second, 0, LieElsewhere},
	} {
		if got := f.beats(gwA, at(c.at), c.age); got != c.want {
			t.Errorf("elsewhere, %v after it moved, %v ago: %q, want %q", c.at-moved, c.age, got, c.want)
		}
	}
}

// What a device's next attach says of the time before holds against the gateway that claimed the last heartbeat in it, and nobody else.
func TestSilence(t *testing.T) {
	f := newFleet(t)
	f.tr.Opened(gwA, 1, start)
	f.tr.Opened(gwB, 1, start)
	if c := f.tr.Claimed(dev); c.Gateway != "" || c.Silent(dev, time.Hour, start) != nil {
		t.Errorf("nobody said anything: %+v", c)
	}
	f.online(gwA, 1, 1, start)
	f.beats(gwA, start.Add(time.Hour), time.Minute) // claims one 59 minutes after the start
	came := start.Add(2 * time.Hour)
	c := f.tr.Claimed(dev)
	for silent, lie := range map[time.Duration]bool{0: false, time.Minute: false, 61 * time.Minute: false, 62 * time.Minute: false, 63 * time.Minute: true, 2 * time.Hour: true} {
		if got := c.Silent(dev, silent, came); (got != nil) != lie || got != nil && (got.Gateway != gwA || got.Reason != LieSilent) {
			t.Errorf("silent for %v: %+v, want a lie: %v", silent, got, lie)
		}
	}
	f.online(gwB, 1, 2, came)
	if c := f.tr.Claimed(dev); c.Silent(dev, 24*time.Hour, came.Add(time.Minute)) != nil {
		t.Errorf("what the attach settled is held against the next gateway: %+v", c)
	}
}

// A gateway that puts a device into one slot after the other has one.
func TestOneSlotForADevice(t *testing.T) {
	f := newFleet(t)
	f.tr.Opened(gwA, 1, start)
	for slot := range uint32(100) {
		f.tr.Online(gwA, 1, &wire.DeviceOnline{Slot: slot, Device: dev}, start, start)
	}
	if g := f.tr.gateways[gwA]; len(g.slots) != 1 || len(g.slotOf) != 1 || g.slots[99] != dev {
		t.Errorf("slots %v of %v", g.slots, g.slotOf)
	}
}
