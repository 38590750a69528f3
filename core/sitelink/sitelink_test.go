package sitelink

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

func TestWelcome(t *testing.T) {
	world(t, func(t *testing.T, c *core) {
		d, other := c.device("plant-7"), c.device("plant-8")
		g := c.dial("plant-7", "gw-a", true)
		defer g.hangUp()
		w := recv[wire.UplinkWelcome](g, wire.TypeUplinkWelcome)
		if w.Identity != g.id.String() || w.ReportPeriodMS != 10_000 || w.Capability != 1 {
			t.Errorf("welcome %+v", w)
		}
		s := recv[wire.Site](g, wire.TypeSite)
		v := c.View()
		if s.IntervalMS != 30_000 || s.UptoEpoch != 1 || s.Upto != v.Facts() {
			t.Errorf("site %+v", s)
		}
		es := c.entries(s)
		if len(es) != 1 || es[0].Device != d.id || es[0].Site != "plant-7" || len(es[0].Keys) != 1 || es[0].Keys[0] != d.kid || es[0].Device == other.id {
			t.Errorf("entries %+v", es)
		}
		if site, _ := v.Site("plant-7"); c.list(s).Number != site.List.Number || c.list(s).Gateways[0].Listen != "gw-a:4433" {
			t.Errorf("list %+v", c.list(s))
		}
		if _, connected := c.tracker.LastHeard("plant-7/gw-a", time.Now()); !connected {
			t.Error("not heard")
		}
	})
}

// Through whom a gateway comes shows until its next session, and is a name or nothing.
func TestRelayedGateway(t *testing.T) {
	world(t, func(t *testing.T, c *core) {
		id := ident.Gateway("acme", "plant-7", "gw-a")
		key, ep := c.endpoint(id)
		c.do(&command.Enroll{Token: c.token(seal.KindGateway, "plant-7").ID, Kind: seal.KindGateway, Name: "gw-a", SPKI: spkiOf(t, key)})
		open := func() *gateway {
			g := c.dialAs(id, key, ep)
			recv[wire.UplinkWelcome](g, wire.TypeUplinkWelcome)
			recv[wire.Site](g, wire.TypeSite)
			return g
		}
		c.via = "gw-b"
		relayed := open()
		if u := c.tracker.Uplink("plant-7/gw-a", time.Now()); !u.Connected || u.Relay != "gw-b" {
			t.Errorf("%+v", u)
		}
		c.via = ""
		direct := open()
		relayed.hangUp()
		synctest.Wait()
		if u := c.tracker.Uplink("plant-7/gw-a", time.Now()); !u.Connected || u.Relay != "" {
			t.Errorf("after the move: %+v", u)
		}
		direct.hangUp()
		c.via = "gw-b\n"
		g := c.dial("plant-7", "gw-c", true)
		defer g.hangUp()
		if e := recv[wire.Error](g, wire.TypeError); e.Code != wire.CodeMalformed {
			t.Errorf("a name that is none: %v", e)
		}
	})
}

func TestNotAdmitted(t *testing.T) {
	world(t, func(t *testing.T, c *core) {
		refused := func(g *gateway, want wire.Code) {
			t.Helper()
			defer g.hangUp()
			if e := recv[wire.Error](g, wire.TypeError); e.Code != want {
				t.Errorf("refused with %v, want %v", e.Code, want)
			}
		}
		refused(c.dial("plant-7", "gw-z", false), wire.CodeUnknownKey)
		id := ident.Gateway("acme", "plant-7", "gw-a")
		key, old := c.endpoint(id)
		c.do(&command.Enroll{Token: c.token(seal.KindGateway, "plant-7").ID, Kind: seal.KindGateway, Name: "gw-a", SPKI: spkiOf(t, key)})
		c.connect("plant-7", "gw-a").hangUp() // enrolled again: another key took the place of the first
		refused(c.dialAs(id, key, old), wire.CodeRetired)
	})
}

func TestSubmit(t *testing.T) {
	world(t, func(t *testing.T, c *core) {
		g := c.connect("plant-7", "gw-a")
		defer g.hangUp()
		a, b, stranger := c.device("plant-7"), c.device("plant-8"), c.device("plant-7")
		stranger.id = ident.NewDeviceID()
		foreign := c.device("plant-7")
		foreign.id = a.id // signs for a with a key of its own
		s1, s2, s3 := a.register("1"), a.register("2"), b.register("1")
		flipped := append([]byte(nil), s1...)
		flipped[len(flipped)-1] ^= 1
		g.send(wire.TypeSubmit, submit(7, s1, flipped, s2, []byte("junk"), s3, stranger.register("1"), foreign.register("1")))
		out := recv[wire.Submitted](g, wire.TypeSubmitted)
		want := []wire.Code{0, wire.CodeMalformed, 0, wire.CodeMalformed, 0, wire.CodeUnknownKey, wire.CodeUnknownKey}
		if out.ID != 7 || len(out.Results) != len(want) {
			t.Fatalf("answer %+v", out)
		}
		for i, r := range out.Results {
			if r.Code != want[i] {
				t.Errorf("statement %d: code %v, want %v", i, r.Code, want[i])
			}
		}
		got := g.receipts()
		if rec := got[a.id]; len(got) != 2 || rec == nil || rec.Seq != 2 || rec.Chain != a.chain || rec.ClusterEpoch != 1 {
			t.Errorf("receipts %+v", got)
		}
		if a.record().Registered().AgentVersion != "2" || b.record().Registered().AgentVersion != "1" {
			t.Errorf("records say %q and %q", a.record().Registered().AgentVersion, b.record().Registered().AgentVersion)
		}
	})
}

func TestSubmitLimitsAndFailures(t *testing.T) {
	world(t, func(t *testing.T, c *core) {
		g := c.connect("plant-7", "gw-a")
		defer g.hangUp()
		for id, n := range []int{0, wire.MaxBatch + 1} {
			g.send(wire.TypeSubmit, wire.Submit{ID: uint64(id + 1), Statements: make([][]byte, n), AfterMS: make([]int64, n)})
			if e := recv[wire.Error](g, wire.TypeError); e.Code != wire.CodeMalformed || e.ID != uint64(id+1) || e.Ref != wire.TypeSubmit {
				t.Errorf("%d statements: %+v", n, e)
			}
		}
		d := c.device("plant-7")
		s := d.register("1")
		c.mu.Lock()
		c.err = errors.New("no quorum")
		c.mu.Unlock()
		g.send(wire.TypeSubmit, submit(9, s))
		if e := recv[wire.Error](g, wire.TypeError); e.Code != wire.CodeUnavailable || e.RetryAfter() == 0 || e.ID != 9 {
			t.Errorf("not committed: %+v", e)
		}
		c.mu.Lock()
		c.err = nil
		c.mu.Unlock()
		g.send(wire.TypeSubmit, submit(10, s))
		if out := recv[wire.Submitted](g, wire.TypeSubmitted); out.Results[0].Code != 0 {
			t.Errorf("tried again: %+v", out)
		}
	})
}

// However much a device states, it gets one receipt at once and then one a period; a device that shows that it still holds what
// is committed gets one, too.
func TestReceiptsAreFew(t *testing.T) {
	world(t, func(t *testing.T, c *core) {
		g := c.connect("plant-7", "gw-a")
		defer g.hangUp()
		d, quiet := c.device("plant-7"), c.device("plant-7")
		began := time.Now()
		for id := range uint64(20) {
			g.send(wire.TypeSubmit, submit(id, d.register("1")))
		}
		if r := g.receipts(); r[d.id] == nil || time.Since(began) > time.Second {
			t.Errorf("after %v: %+v", time.Since(began), r)
		}
		g.send(wire.TypeSubmit, submit(99, quiet.register("1")))
		if r := g.receipts(); r[quiet.id] == nil || time.Since(began) > time.Second { // is not held up by the other
			t.Errorf("after %v: %+v", time.Since(began), r)
		}
		r := g.receipts()[d.id]
		if took := time.Since(began); r == nil || r.Seq != 20 || r.Chain != d.chain || took < period || took > period*3/2 {
			t.Errorf("after %v: %+v", took, r)
		}
		g.send(wire.TypePresence, wire.Presence{TimeMS: time.Now().UnixMilli(), Online: []wire.DeviceOnline{{
			Device: quiet.id, Attach: quiet.attach(g.id, 1), SinceMS: time.Now().UnixMilli(), IntervalMS: 30_000,
		}}})
		if r := g.receipts(); r[quiet.id] == nil || r[quiet.id].Seq != 1 {
			t.Errorf("after the attach: %+v", r)
		}
	})
}

func TestUnknownTypeGoesOn(t *testing.T) {
	world(t, func(t *testing.T, c *core) {
		g := c.connect("plant-7", "gw-a")
		defer g.hangUp()
		g.send(wire.Type(60), wire.Ask{})
		if e := recv[wire.Error](g, wire.TypeError); e.Code != wire.CodeUnsupported || e.Ref != wire.Type(60) {
			t.Errorf("answer %+v", e)
		}
		d := c.device("plant-7")
		g.send(wire.TypeSubmit, submit(1, d.register("1")))
		if out := recv[wire.Submitted](g, wire.TypeSubmitted); out.Results[0].Code != 0 {
			t.Errorf("after it: %+v", out)
		}
	})
}

func TestMalformedEndsTheSession(t *testing.T) {
	world(t, func(t *testing.T, c *core) {
		g := c.connect("plant-7", "gw-a")
		defer g.hangUp()
		g.send(wire.TypeSubmit, "no submit")
		_, _, err := g.RecvWithin(20 * time.Second)
		var e *wire.Error
		if !errors.As(err, &e) || e.Code != wire.CodeMalformed {
			t.Errorf("ended with %v", err)
		}
	})
}

func online(d *device, attach []byte) wire.Presence {
	now := time.Now().UnixMilli()
	return wire.Presence{TimeMS: now, Online: []wire.DeviceOnline{{Slot: 3, Device: d.id, Attach: attach, SinceMS: now, LastMS: now, IntervalMS: 30_000}}}
}

func (c *core) verdict(d *device) (online bool, reason string, last time.Time) {
	v := c.tracker.Verdict(c.View(), d.record(), time.Now())
	return v.Online, v.Reason, v.Last
}

func TestPresence(t *testing.T) {
	world(t, func(t *testing.T, c *core) {
		d := c.device("plant-7")
		g := c.connect("plant-7", "gw-a")
		defer g.hangUp()
		g.send(wire.TypePresence, online(d, d.attach(g.id, 1)))
		settle()
		if on, reason, _ := c.verdict(d); !on || reason != "" || d.record().Presence.Gateway != "plant-7/gw-a" {
			t.Errorf("online=%v, reason %q, record %+v", on, reason, d.record().Presence)
		}
		proposed := c.proposed
		time.Sleep(time.Minute)
		g.send(wire.TypePresence, wire.Presence{TimeMS: time.Now().UnixMilli(), Digest: true, Count: 1, Beats: beats(3, 300*time.Millisecond)})
		beat := time.Now().Add(-300 * time.Millisecond).Truncate(time.Millisecond)
		settle()
		if _, _, last := c.verdict(d); !last.Equal(beat) {
			t.Errorf("last heartbeat %v, want %v", last, beat)
		}
		if c.proposed != proposed {
			t.Error("a digest was written to the log")
		}
		now := time.Now().UnixMilli()
		g.send(wire.TypePresence, wire.Presence{TimeMS: now, Offline: []wire.DeviceOffline{{Device: d.id, LastMS: now, AtMS: now}}})
		settle()
		if on, reason, _ := c.verdict(d); on || reason != "heartbeat_missed" {
			t.Errorf("online=%v, reason %q", on, reason)
		}
	})
}

// A gateway's word about a device counts only with the device's own signature, made for that gateway.
func TestRoguePresence(t *testing.T) {
	world(t, func(t *testing.T, c *core) {
		d, other := c.device("plant-7"), c.device("plant-7")
		g, rogue := c.connect("plant-7", "gw-a"), c.connect("plant-8", "gw-r")
		defer g.hangUp()
		defer rogue.hangUp()
		first := d.attach(g.id, 1)
		g.send(wire.TypePresence, online(d, first))
		settle()
		before := *d.record()
		flipped := append([]byte(nil), d.attach(rogue.id, 2)...)
		flipped[len(flipped)-1] ^= 1
		for name, attach := range map[string][]byte{
			"no attach": nil, "junk": []byte("junk"), "made for another gateway": first, "another device's": other.attach(rogue.id, 9), "flipped": flipped,
		} {
			rogue.send(wire.TypePresence, online(d, attach))
			now := time.Now().UnixMilli()
			rogue.send(wire.TypePresence, wire.Presence{
				TimeMS: now, Digest: true, Beats: beats(3, 0),
				Offline: []wire.DeviceOffline{{Device: d.id, LastMS: now, AtMS: now}},
			})
			settle()
			if got := d.record(); got.Presence != before.Presence || got.Attach.Attach != before.Attach.Attach || got.State != before.State {
				t.Errorf("%s: record %+v", name, got)
			}
			on, reason, last := c.verdict(d)
			if !on || reason != "" || !last.Equal(time.UnixMilli(before.Presence.LastMS)) {
				t.Errorf("%s: online=%v, reason %q, last %v", name, on, reason, last)
			}
		}
	})
}

// A gateway that keeps an attach and tells it again after the device has moved on is not believed.
func TestStaleAttachToldAgain(t *testing.T) {
	world(t, func(t *testing.T, c *core) {
		d := c.device("plant-7")
		a, b := c.connect("plant-7", "gw-a"), c.connect("plant-7", "gw-b")
		defer a.hangUp()
		defer b.hangUp()
		kept := d.attach(a.id, 1)
		a.send(wire.TypePresence, online(d, kept))
		settle()
		b.send(wire.TypePresence, online(d, d.attach(b.id, 2)))
		settle()
		a.send(wire.TypePresence, online(d, kept))
		settle()
		if on, reason, _ := c.verdict(d); !on || reason != "" || d.record().Presence.Gateway != "plant-7/gw-b" {
			t.Errorf("online=%v, reason %q, record %+v", on, reason, d.record().Presence)
		}
	})
}

func TestTimesFromTheFuture(t *testing.T) {
	world(t, func(t *testing.T, c *core) {
		d := c.device("plant-7")
		g := c.connect("plant-7", "gw-a")
		defer g.hangUp()
		p := online(d, d.attach(g.id, 1))
		p.Online[0].SinceMS, p.Online[0].LastMS = p.TimeMS+1e10, p.TimeMS+1e10
		g.send(wire.TypePresence, p)
		settle()
		bound := time.Now().Add(ahead)
		if _, _, last := c.verdict(d); last.After(bound) || time.UnixMilli(d.record().Presence.SinceMS).After(bound) {
			t.Errorf("last heartbeat %v, record %+v", last, d.record().Presence)
		}
		g.send(wire.TypePresence, wire.Presence{TimeMS: p.TimeMS + 1e10, Digest: true, Beats: beats(3, 0)})
		settle()
		if _, _, last := c.verdict(d); last.After(bound) {
			t.Errorf("by a digest: %v", last)
		}
	})
}

func TestChangesAreTold(t *testing.T) {
	world(t, func(t *testing.T, c *core) {
		d, roamer := c.device("plant-7"), c.device("plant-8")
		g := c.connect("plant-7", "gw-a")
		defer g.hangUp()
		c.do(&command.SetSite{Site: "plant-8", IntervalMS: 9000}) // not this gateway's
		c.do(&command.SetSite{Site: "plant-7", IntervalMS: 2000})
		if s := recv[wire.Site](g, wire.TypeSite); s.IntervalMS != 2000 || len(s.Entries) != 0 {
			t.Errorf("site %+v", s)
		}
		c.do(&command.SetInterval{Device: d.id, IntervalMS: 5000})
		if s := recv[wire.Site](g, wire.TypeSite); len(s.Entries) != 1 || c.entries(s)[0].IntervalMS != 5000 {
			t.Errorf("device %+v", s)
		}
		g.send(wire.TypeAsk, wire.Ask{Device: roamer.id})
		if e := c.entries(recv[wire.Site](g, wire.TypeSite))[0]; e.Device != roamer.id || e.Site != "plant-8" || e.State != wire.DeviceActive {
			t.Errorf("asked: %+v", e)
		}
		g.send(wire.TypeAsk, wire.Ask{Device: ident.NewDeviceID()})
		if e := c.entries(recv[wire.Site](g, wire.TypeSite))[0]; e.State != wire.DeviceUnknown || e.Number != 0 || e.ClusterEpoch != 1 {
			t.Errorf("asked about nobody: %+v", e)
		}
	})
}

func TestRelays(t *testing.T) {
	world(t, func(t *testing.T, c *core) {
		g := c.connect("plant-7", "gw-a")
		defer g.hangUp()
		key, err := ident.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		csr, err := ident.NewCSR(key)
		if err != nil {
			t.Fatal(err)
		}
		request := func(site string) wire.Enroll {
			proof, err := seal.SealEnroll(c.token(seal.KindDevice, site), "acme", seal.KindDevice, spkiOf(t, key))
			if err != nil {
				t.Fatal(err)
			}
			return wire.Enroll{Capability: 1, CSR: csr, Proof: proof}
		}
		wrong := request("plant-8")
		g.send(wire.TypeRelayEnroll, wire.RelayEnroll{ID: 1, Enroll: wrong})
		if e := recv[wire.Error](g, wire.TypeError); e.Code != wire.CodeRefused || e.ID != 1 {
			t.Errorf("another site's token: %+v", e)
		}
		g.send(wire.TypeRelayEnroll, wire.RelayEnroll{ID: 2, Enroll: request("plant-7")})
		out := recv[wire.RelayEnrolled](g, wire.TypeRelayEnrolled)
		id, err := ident.Parse(out.Enrolled.Identity)
		if err != nil || out.ID != 2 {
			t.Fatalf("enrolled %+v, %v", out, err)
		}
		g.send(wire.TypeRelayRenew, wire.RelayRenew{ID: 3, Device: id.Device, Renew: wire.Renew{CSR: csr}})
		if r := recv[wire.RelayRenewed](g, wire.TypeRelayRenewed); r.ID != 3 || len(r.Renewed.Chain) != 2 {
			t.Errorf("renewed %+v", r.ID)
		}
		g.send(wire.TypeRelayRenew, wire.RelayRenew{ID: 4, Renew: wire.Renew{CSR: csr}}) // the gateway itself, with a device's key
		if e := recv[wire.Error](g, wire.TypeError); e.Code != wire.CodeUnknownKey || e.ID != 4 {
			t.Errorf("a key that is not the gateway's: %+v", e)
		}
		own, err := ident.NewCSR(g.key)
		if err != nil {
			t.Fatal(err)
		}
		g.send(wire.TypeRelayRenew, wire.RelayRenew{ID: 5, Renew: wire.Renew{CSR: own}})
		recv[wire.RelayRenewed](g, wire.TypeRelayRenewed)
	})
}

// When a report cannot be committed the session ends, so that the gateway tells everything again.
func TestPresenceNotCommitted(t *testing.T) {
	world(t, func(t *testing.T, c *core) {
		d := c.device("plant-7")
		g := c.connect("plant-7", "gw-a")
		defer g.hangUp()
		c.mu.Lock()
		c.err = errors.New("no quorum")
		c.mu.Unlock()
		g.send(wire.TypePresence, online(d, d.attach(g.id, 1)))
		if _, _, err := g.RecvWithin(20 * time.Second); err == nil {
			t.Error("the session goes on")
		}
		if d.record().Presence != (registry.Presence{}) {
			t.Errorf("record %+v", d.record().Presence)
		}
	})
}

// beats are those of one device.
func beats(slot uint32, age time.Duration) wire.Beats {
	var p wire.BeatPacker
	p.Add(slot, age)
	return p.Beats()
}
