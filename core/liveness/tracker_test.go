package liveness

import (
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

const (
	period   = 10 * time.Second
	interval = 30 * time.Second
	gwA      = "plant-7/gw-a"
	gwB      = "plant-7/gw-b"
)

var (
	start = time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)
	dev   = ident.DeviceID{1}
)

// A fleet is a registry with the device dev, and two gateways.
type fleet struct {
	t     *testing.T
	state *registry.State
	index uint64
	tr    *Tracker
}

func newFleet(t *testing.T) *fleet {
	f := &fleet{t: t, state: registry.New(), tr: New(period)}
	f.apply(
		&command.Init{Fleet: "acme", IntervalMS: uint32(interval.Milliseconds()), Operator: command.Operator{ID: "o1", Role: "admin"}},
		&command.CreateToken{ID: seal.TokenID{1}, Kind: seal.KindDevice, Site: "plant-7", TTLMS: 1e6, Uses: 1},
		&command.CreateToken{ID: seal.TokenID{2}, Kind: seal.KindGateway, Site: "plant-7", TTLMS: 1e6, Uses: 9},
		&command.Enroll{Token: seal.TokenID{1}, Kind: seal.KindDevice, Device: dev, SPKI: []byte{1}},
		&command.Enroll{Token: seal.TokenID{2}, Kind: seal.KindGateway, Name: "gw-a", SPKI: []byte{2}},
		&command.Enroll{Token: seal.TokenID{2}, Kind: seal.KindGateway, Name: "gw-b", SPKI: []byte{3}},
	)
	return f
}

func (f *fleet) apply(cmds ...command.Command) {
	f.t.Helper()
	for _, c := range cmds {
		if o, ok := c.(command.Operated); ok {
			o.Actor().Operator = "o1"
		}
		b, err := command.Encode(c)
		if err != nil {
			f.t.Fatal(err)
		}
		f.index++
		eff, err := f.state.Apply(f.index, start, [][]byte{b})
		if err != nil {
			f.t.Fatal(err)
		}
		if err, refused := eff.Results[0].(error); refused {
			f.t.Fatalf("%T: %v", c, err)
		}
	}
}

// online commits and tracks that a gateway told the device online.
func (f *fleet) online(gw string, session, attach uint64, at time.Time) {
	f.t.Helper()
	ms := at.UnixMilli()
	f.apply(&command.Presence{Gateway: gw, Items: []command.PresenceItem{{
		Device: dev, Online: true, AtMS: ms, LastMS: ms, IntervalMS: uint32(interval.Milliseconds()),
		Attach: &command.Attach{Start: 1, Run: 1, Session: attach},
	}}})
	f.tr.Online(gw, session, &wire.DeviceOnline{Slot: 4, Device: dev, LastMS: ms, IntervalMS: uint32(interval.Milliseconds())}, at, time.Time{})
}

func (f *fleet) digest(gw string, session uint64, at time.Time, age time.Duration) {
	f.tr.Digest(gw, session, &wire.Presence{TimeMS: at.UnixMilli(), Beats: beats(4, age)}, start, start.Add(24*time.Hour))
}

func (f *fleet) verdict(now time.Time) Verdict {
	f.t.Helper()
	d, ok := f.state.View().Device(dev)
	if !ok {
		f.t.Fatal("no device")
	}
	return f.tr.Verdict(f.state.View(), d, now)
}

func (f *fleet) want(now time.Time, online bool, reason string) {
	f.t.Helper()
	if v := f.verdict(now); v.Online != online || v.Reason != reason {
		f.t.Errorf("at %v: %+v, want online=%v, reason %q", now.Sub(start), v, online, reason)
	}
}

func TestVerdicts(t *testing.T) {
	f := newFleet(t)
	f.want(start, false, ReasonNeverConnected)
	f.tr.Lead(true, start)
	f.tr.Opened(gwA, 1, start)
	f.online(gwA, 1, 1, start)
	f.want(start, true, ReasonNone)
	f.want(start.Add(2*time.Hour), true, ReasonNone)
	f.want(start.Add(2*time.Hour+time.Second), true, ReasonUnverified)
	f.online(gwA, 1, 1, start.Add(2*time.Hour)) // the attach was sent again
	f.want(start.Add(3*time.Hour), true, ReasonNone)

	f.tr.Opened(gwA, 2, start.Add(3*time.Hour)) // what an earlier session said no longer counts
	f.want(start.Add(3*time.Hour), true, ReasonRecovering)
	f.online(gwA, 2, 1, start.Add(3*time.Hour))
	f.want(start.Add(3*time.Hour), true, ReasonNone)

	f.apply(&command.SiteReach{Site: "plant-7", AtMS: start.Add(time.Hour).UnixMilli()})
	f.want(start.Add(3*time.Hour), false, ReasonSiteUnreachable)
	if v := f.verdict(start); !v.Since.Equal(start.Add(time.Hour)) {
		t.Errorf("since %v", v.Since)
	}
	f.apply(&command.Presence{Gateway: gwA, Items: []command.PresenceItem{{Device: dev, AtMS: start.UnixMilli()}}})
	f.want(start, false, ReasonHeartbeatMissed)
}

// A change of leader takes nothing from what this node was told, and a node that was told nothing says so.
func TestNewLeader(t *testing.T) {
	f := newFleet(t)
	f.tr.Lead(true, start)
	f.tr.Opened(gwA, 1, start)
	f.online(gwA, 1, 1, start)
	f.tr.Lead(false, start.Add(time.Minute))
	f.tr.Lead(true, start.Add(time.Minute))
	f.want(start.Add(time.Minute), true, ReasonNone)
	f.tr = New(period)
	f.tr.Lead(true, start)
	f.want(start, true, ReasonRecovering)
}

func TestLastNeverGoesBack(t *testing.T) {
	f := newFleet(t)
	f.tr.Opened(gwA, 1, start)
	f.online(gwA, 1, 1, start)
	last := func(want time.Duration) {
		t.Helper()
		if v := f.verdict(start); !v.Last.Equal(start.Add(want)) {
			t.Errorf("last heartbeat at %v, want %v", v.Last.Sub(start), want)
		}
	}
	f.digest(gwA, 1, start.Add(time.Minute), 3*time.Second)
	last(57 * time.Second)
	f.digest(gwA, 1, start.Add(30*time.Second), 0) // an older report
	last(57 * time.Second)
	f.digest(gwA, 9, start.Add(2*time.Minute), 0) // of a session that is over
	f.digest(gwB, 1, start.Add(2*time.Minute), 0) // of a gateway that is not there
	last(57 * time.Second)
	f.tr.Digest(gwA, 1, &wire.Presence{TimeMS: start.Add(time.Hour).UnixMilli(), Beats: beats(4, 0)}, start, start.Add(time.Hour-1))
	last(57 * time.Second) // from beyond the bound
	f.tr.Digest(gwA, 1, &wire.Presence{TimeMS: start.Add(time.Hour).UnixMilli(), Beats: beats(4, 0)}, start, start.Add(time.Hour))
	last(time.Hour)
	f.tr.Offline(gwA, 1, &wire.DeviceOffline{Device: dev, LastMS: start.UnixMilli()})
	last(time.Hour)
}

func TestGatewayWithoutAttachIsNotHeardOf(t *testing.T) {
	f := newFleet(t)
	f.tr.Opened(gwA, 1, start)
	f.tr.Opened(gwB, 2, start)
	f.online(gwA, 1, 1, start)
	f.digest(gwB, 2, start.Add(time.Hour), 0)
	f.tr.Offline(gwB, 2, &wire.DeviceOffline{Device: dev, LastMS: start.Add(time.Hour).UnixMilli()})
	if v := f.verdict(start); !v.Online || v.Reason != ReasonNone || !v.Last.Equal(start) {
		t.Errorf("verdict %+v", v)
	}
}

func TestLastHeard(t *testing.T) {
	f := newFleet(t)
	if _, ok := f.tr.LastHeard(gwA, start); ok {
		t.Error("heard of a gateway that never came")
	}
	if at := f.tr.SiteHeard("plant-7", start); !at.Equal(start) {
		t.Errorf("a site that never came was heard at %v", at)
	}
	f.tr.Opened(gwA, 1, start)
	f.tr.Heard(gwA, 1, start.Add(time.Second))
	f.tr.Heard(gwA, 7, start.Add(time.Hour)) // another session's
	f.tr.Opened("plant-70/gw-a", 2, start.Add(time.Hour))
	at, connected := f.tr.LastHeard(gwA, start.Add(Silent*period))
	if !at.Equal(start.Add(time.Second)) || !connected {
		t.Errorf("heard at %v, %v", at, connected)
	}
	if _, connected = f.tr.LastHeard(gwA, start.Add(Silent*period+time.Second)); connected {
		t.Error("connected after three periods of silence")
	}
	if at := f.tr.SiteHeard("plant-7", start); !at.Equal(start.Add(time.Second)) {
		t.Errorf("site heard at %v", at)
	}
}

// Only the leader gives verdicts.
func TestFollowerSurveysNothing(t *testing.T) {
	f := newFleet(t)
	f.tr.Opened(gwA, 1, start)
	f.online(gwA, 1, 1, start)
	if sites, expired := f.tr.Survey(f.state.View(), start.Add(time.Hour)); len(sites)+len(expired) != 0 {
		t.Errorf("%v, %v", sites, expired)
	}
}

// A device that was told a wide interval is given three of those.
func TestExpiryWaitsForTheInterval(t *testing.T) {
	f := newFleet(t)
	f.tr.Lead(true, start)
	f.tr.Opened(gwA, 1, start)
	f.tr.Opened(gwB, 2, start)
	f.online(gwA, 1, 1, start)
	f.tr.Digest(gwA, 1, &wire.Presence{Told: []wire.DeviceInterval{{Slot: 4, IntervalMS: 600_000}}}, start, start)
	for at := time.Duration(0); at < 2*time.Hour; at += time.Second {
		now := start.Add(at)
		f.tr.Heard(gwB, 2, now)
		_, expired := f.tr.Survey(f.state.View(), now)
		if early := at < 30*time.Minute; early != (len(expired) == 0) {
			t.Fatalf("after %v: %+v", at, expired)
		}
		if len(expired) == 1 {
			if e := expired[0]; e.Device != dev || e.Gateway != gwA || !e.Last.Equal(start) {
				t.Errorf("expiry %+v", e)
			}
			return
		}
	}
}

// When a site comes back after a silence, its gateways need not come in one moment: a device of one that is still away has
// three intervals from there. A gateway that died while the site was heard all along has no such grace.
func TestSiteComesBack(t *testing.T) {
	for name, tt := range map[string]struct {
		cut    bool // both were silent, then gw-b came back
		within time.Duration
	}{"after a cut": {true, Silent * interval}, "one of two": {false, 0}} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t)
			f.tr.Lead(true, start)
			f.tr.Opened(gwA, 1, start)
			f.tr.Opened(gwB, 2, start)
			f.online(gwA, 1, 1, start)
			back := start.Add(time.Hour)
			if tt.cut {
				f.tr.Opened(gwB, 3, back)
			} else {
				for at := start; !at.After(back); at = at.Add(period) {
					f.tr.Heard(gwB, 2, at)
				}
				f.tr.Opened(gwB, 3, back)
			}
			if _, expired := f.tr.Survey(f.state.View(), back); (len(expired) == 0) != tt.cut {
				t.Errorf("at once: %+v", expired)
			}
			late := back.Add(tt.within)
			for at := back; at.Before(late); at = at.Add(period) {
				f.tr.Heard(gwB, 3, at)
			}
			if _, expired := f.tr.Survey(f.state.View(), late); len(expired) != 1 {
				t.Errorf("after %v: %+v", tt.within, expired)
			}
		})
	}
}

// What a gateway told of its backlog stays when it is no longer heard, and with those whom it is shared with.
func TestBacklog(t *testing.T) {
	first, other := New(period), New(period)
	if u := first.Uplink(gwA, start); u != (Uplink{}) {
		t.Errorf("of a gateway that never came: %+v", u)
	}
	tell := func(at time.Time, b *wire.Backlog) {
		t.Helper()
		first.Heard(gwA, 1, at)
		first.Digest(gwA, 1, &wire.Presence{Digest: true, Backlog: b}, at, at)
		for _, s := range first.Export(at) {
			other.Import("core-1", &s, at, at)
		}
	}
	first.Opened(gwA, 1, start)
	first.Carried(gwA, 1, "tcp", "gw-b")
	tell(start, nil)
	at := start.Add(period)
	tell(at, &wire.Backlog{Bytes: 4096})
	full := at.Add(period)
	tell(full, &wire.Backlog{Statements: 3, Bytes: 8192, OldestMS: at.UnixMilli(), Holding: true})
	other.Opened(gwA, 2, full) // it changes the node, and has told nothing there yet
	for name, tr := range map[string]*Tracker{"": first, "by the other": other} {
		gone := tr.Uplink(gwA, full.Add(time.Hour))
		if gone.Connected || gone.Backlog == nil || gone.Backlog.Statements != 3 || !gone.Backlog.At.Equal(full) || !gone.Synced.Equal(at) {
			t.Errorf("%s %+v, %+v", name, gone, gone.Backlog)
		}
		if u := tr.Uplink(gwA, full); !u.Connected || u.Node != "" {
			t.Errorf("%s %+v", name, u)
		}
	}
	for _, s := range first.Export(full.Add(period)) {
		t.Errorf("told again without news: %+v", s)
	}
	first.Heard(gwA, 1, full.Add(period))
	third := New(period)
	for _, s := range first.Export(full.Add(period)) {
		third.Import("core-1", &s, full.Add(period), full.Add(period))
	}
	u := third.Uplink(gwA, full.Add(period))
	if u.Node != "core-1" || u.Carrier != "tcp" || u.Relay != "gw-b" || !u.Backlog.At.Equal(full) || !u.Synced.Equal(at) || !u.Opened.Equal(start) {
		t.Errorf("told by a node: %+v", u)
	}
	tell(full.Add(2*period), &wire.Backlog{Refused: 1})
	if u := first.Uplink(gwA, full); u.Backlog.Statements != 0 || !u.Synced.Equal(full.Add(2*period)) {
		t.Errorf("after the drain %+v", u)
	}
}

// beats are those of one device.
func beats(slot uint32, age time.Duration) wire.Beats {
	var p wire.BeatPacker
	p.Add(slot, age)
	return p.Beats()
}
