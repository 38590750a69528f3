package sim

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/agent/devstate"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/credential"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// nameAgain is how long the core does not name a gateway again for the same thing.
const nameAgain = 10 * time.Minute

// A forger is a plant with an honest gateway and two devices, and a gateway of another site that says whatever a test wants it to.
type forger struct {
	*plant
	rogue *rogue
	own   *Agent // a device that did attach to the rogue
	self  *credential.Credential
	honest,
	mine []byte // attaches of the first device to its gateway, and of own to the rogue
}

func inForger(t *testing.T, hello wire.UplinkHello, f func(f *forger)) {
	t.Helper()
	inPlant(t, 2, 30*time.Second, func(p *plant) {
		p.rogue = true
		gw, err := p.EnrollGateway(p.ctx, "gw-r", "plant-8")
		p.must(err)
		token, err := p.Token(p.ctx, "device", "plant-7", 1)
		p.must(err)
		own := p.NewAgent("own", p.gw)
		p.must(own.Enroll(p.ctx, token))
		p.sleep(10 * time.Minute) // so that nothing is so young that few heartbeats fit
		tr := p.transport(gw.Addr.Addr())
		defer tr.Close()
		hello.Capability, hello.Run = wire.Capability, 1
		x := &forger{plant: p, rogue: rogueAs(p, tr, gw, hello), own: own}
		defer x.rogue.up.Close()
		x.rogue.listen()
		x.self, err = credential.Load(own.Dir())
		p.must(err)
		first, err := credential.Load(p.devices[0].Dir())
		p.must(err)
		x.honest = x.attach(first, ident.Gateway("sim", "plant-7", "gw-a"), 1<<20)
		x.mine = x.attach(x.self, x.rogue.cred.ID, 1)
		x.rogue.say(wire.TypePresence, online(1, x.self.ID.Device, x.mine))
		p.sleep(time.Second)
		f(x)
	})
}

func (f *forger) attach(c *credential.Credential, gateway ident.ID, session uint64) []byte {
	f.t.Helper()
	b, err := seal.SealAttach(&seal.Attach{
		Version: 1, Device: c.ID.Device, Gateway: gateway.String(), Start: 1, Run: 1, Session: session, Epoch: 1, Lowest: 1, IntervalMS: 5000,
	}, c.KeyID, c.Key)
	f.must(err)
	return b
}

// A tale is something that a gateway should not say.
type tale struct {
	name   string
	reason string
	tell   func(f *forger)
}

const (
	noAttach    = "it reported a device that did not attach to it"
	noStatement = "it brought statements that no device made"
	noNumber    = "it said a number that cannot be"
	noClock     = "its times are ahead of the core's clock"
	noStamp     = "it says that it knows what the authority has not signed"
)

// presence makes a tale of a report about the rogue's own device.
func presence(name, reason string, change func(p *wire.Presence)) tale {
	return tale{name, reason, func(f *forger) {
		p := online(1, f.self.ID.Device, f.mine)
		p.Digest = true
		change(&p)
		f.rogue.say(wire.TypePresence, p)
	}}
}

// span makes a tale of a span of the rogue's own device.
func span(name, reason string, change func(f *forger, s *wire.Span)) tale {
	return tale{name, reason, func(f *forger) {
		now := time.Now().UnixMilli()
		s := wire.Span{Device: f.self.ID.Device, Attach: f.mine, FromMS: now - 9000, LastMS: now - 4000, ToMS: now - 1000, Beats: 2}
		change(f, &s)
		f.rogue.say(wire.TypeSubmit, wire.Submit{ID: 7, TimeMS: now, Spans: []wire.Span{s}})
	}}
}

func tales() []tale {
	const huge, past = math.MaxInt64, math.MinInt64
	out := []tale{
		{"a device of another site, by the attach to its own gateway", noAttach, func(f *forger) {
			f.rogue.say(wire.TypePresence, online(2, deviceID(f.t, f.devices[0]), f.honest))
		}},
		{"a device without an attach", noAttach, func(f *forger) {
			f.rogue.say(wire.TypePresence, online(2, deviceID(f.t, f.devices[0]), nil))
		}},
		{"a device by another one's attach", noAttach, func(f *forger) {
			f.rogue.say(wire.TypePresence, online(2, deviceID(f.t, f.devices[0]), f.mine))
		}},
		{"a device that there is not", noAttach, func(f *forger) {
			f.rogue.say(wire.TypePresence, online(2, ident.NewDeviceID(), f.honest))
		}},
		span("a span of a device of another site", noAttach, func(f *forger, s *wire.Span) {
			s.Device, s.Attach = deviceID(f.t, f.devices[0]), f.honest
		}),
		span("a span by an attach that is altered", noAttach, func(f *forger, s *wire.Span) {
			s.Attach = append([]byte(nil), s.Attach...)
			s.Attach[len(s.Attach)-1] ^= 1
		}),
		{"a statement for a device of another site", noStatement, func(f *forger) {
			body, err := wire.Marshal(seal.Register{AgentVersion: "forged"})
			f.must(err)
			first, err := credential.Load(f.devices[0].Dir())
			f.must(err)
			st, err := seal.SealStatement(&seal.Statement{
				Version: 1, Type: seal.StatementRegister, Device: first.ID.Device, Epoch: 1 << 63, Seq: 1 << 63, EpochID: seal.RandomID{1}, Body: body,
			}, first.KeyID, f.self.Key)
			f.must(err)
			f.rogue.say(wire.TypeSubmit, wire.Submit{ID: 8, TimeMS: time.Now().UnixMilli(), Statements: [][]byte{st.Sealed}, AfterMS: []int64{0}})
		}},
		{"no statement at all", noStatement, func(f *forger) {
			f.rogue.say(wire.TypeSubmit, wire.Submit{ID: 9, TimeMS: time.Now().UnixMilli(), Statements: [][]byte{[]byte("junk")}, AfterMS: []int64{0}})
		}},
		presence("times of reports", noClock, func(p *wire.Presence) { p.TimeMS = huge }),
		presence("negative times of reports", noNumber, func(p *wire.Presence) { p.TimeMS = past }),
		presence("since the future", noClock, func(p *wire.Presence) { p.Online[0].SinceMS = huge }),
		presence("since before all time", noNumber, func(p *wire.Presence) { p.Online[0].SinceMS = past }),
		presence("heartbeats in the future", noClock, func(p *wire.Presence) { p.Online[0].LastMS = huge }),
		presence("heartbeats before all time", noNumber, func(p *wire.Presence) { p.Online[0].LastMS = past }),
		presence("interval of weeks", noNumber, func(p *wire.Presence) { p.Online[0].IntervalMS = math.MaxUint32 }),
		presence("interval of weeks, told", noNumber, func(p *wire.Presence) {
			p.Told = []wire.DeviceInterval{{Slot: 1, IntervalMS: math.MaxUint32}, {Slot: math.MaxUint32, IntervalMS: math.MaxUint32}}
		}),
		presence("least interval of weeks", noNumber, func(p *wire.Presence) { p.LeastMS = math.MaxUint32 }),
		presence("more devices than there are", noNumber, func(p *wire.Presence) { p.Count = math.MaxUint32 }),
		presence("backlog of everything", noNumber, func(p *wire.Presence) {
			p.Backlog = &wire.Backlog{Statements: math.MaxUint64, Bytes: math.MaxUint64, Refused: math.MaxUint64, Lost: math.MaxUint64}
		}),
		presence("backlog from the future", noClock, func(p *wire.Presence) { p.Backlog = &wire.Backlog{Statements: 1, OldestMS: huge} }),
		presence("backlog before all time", noNumber, func(p *wire.Presence) { p.Backlog = &wire.Backlog{Statements: 1, OldestMS: past} }),
		presence("offline with too many heartbeats", noNumber, func(p *wire.Presence) {
			p.Offline = []wire.DeviceOffline{{Device: p.Online[0].Device, LastMS: past, AtMS: huge, Beats: math.MaxUint64, Missed: math.MaxUint64}}
			p.Online = nil
		}),
		span("a span with too many heartbeats", noNumber, func(_ *forger, s *wire.Span) { s.Beats = math.MaxUint64 }),
		span("a span with too many missed", noNumber, func(_ *forger, s *wire.Span) { s.Missed = 1 << 63 }),
		span("a span of all time", noNumber, func(_ *forger, s *wire.Span) { s.FromMS, s.LastMS, s.ToMS, s.Beats = past, huge, huge, 1<<40 }),
		span("a span in the future", noClock, func(_ *forger, s *wire.Span) { s.FromMS, s.LastMS, s.ToMS = huge-9, huge-5, huge }),
	}
	for _, sum := range []struct {
		name        string
		at, after   int64
		wantsReason string
	}{{"in the future", huge, 0, noClock}, {"in the future by the sum", huge, huge, noClock}, {"before all time", past, past, noNumber}} {
		out = append(out, tale{"a statement received " + sum.name, sum.wantsReason, func(f *forger) {
			f.rogue.say(wire.TypeSubmit, wire.Submit{ID: 10, TimeMS: sum.at, Statements: [][]byte{f.state()}, AfterMS: []int64{sum.after}})
		}})
	}
	return out
}

// state makes a genuine statement of the rogue's own device.
func (f *forger) state() []byte {
	f.t.Helper()
	body, err := wire.Marshal(seal.Register{AgentVersion: "own"})
	f.must(err)
	st, err := devstate.Open(f.own.Dir(), devstate.Signer{Device: f.self.ID.Device, KeyID: f.self.KeyID, Key: f.self.Key})
	f.must(err)
	s, err := st.State(seal.Statement{Type: seal.StatementRegister, Body: body})
	f.must(err)
	return s.Sealed
}

// same holds that all is as it was with the two devices of the honest gateway.
func (f *forger) same(name string, before [2]v1.Device) {
	f.t.Helper()
	for i, was := range before {
		d := f.want(i, "online", "")
		if d.Gateway != was.Gateway || !d.PresenceSince.Equal(*was.PresenceSince) || d.State != "active" || d.HeartbeatIntervalS != was.HeartbeatIntervalS {
			f.t.Errorf("%s: device %d: %+v, was %+v", name, i, d, was)
		}
		if age := time.Since(*d.LastHeartbeatAt); age < -5*time.Minute || age > 90*time.Second {
			f.t.Errorf("%s: device %d: last heartbeat %v ago", name, i, age)
		}
		if h := f.history(i); len(h) != 1 {
			f.t.Errorf("%s: device %d: %d registrations", name, i, len(h))
		}
		if tl := f.timeline(i); len(tl) > 2 {
			f.t.Errorf("%s: device %d: %s", name, i, text(tl, *was.PresenceSince))
		}
	}
}

// TestGatewayThatTellsTales has a gateway claim devices of another site, by every kind of message and proof, and claim numbers that are as
// large or as small as the protocol can carry. Each time it is named within three report periods; what is of others stays as it is.
func TestGatewayThatTellsTales(t *testing.T) {
	t.Parallel()
	inForger(t, wire.UplinkHello{}, func(f *forger) {
		before := [2]v1.Device{f.device(0), f.device(1)}
		for _, tale := range tales() {
			f.sleep(nameAgain + time.Second)
			had := len(f.doubted())
			tale.tell(f)
			f.sleep(3 * f.ReportPeriod)
			fresh := f.doubted()[had:]
			if !strings.Contains(fresh, tale.reason) || strings.Contains(fresh, "plant-7/gw-a") {
				f.t.Errorf("%s: named %q, want %q", tale.name, fresh, tale.reason)
			}
			f.same(tale.name, before)
			var own v1.Device
			f.must(f.Call(f.ctx, &own, "GET", "/v1/devices/"+f.own.ID, nil))
			if own.HeartbeatIntervalS > 3600 || own.PresenceReason == "never_connected" {
				f.t.Errorf("%s: its own device: %+v", tale.name, own)
			}
		}
	})
}

// TestGatewayThatKnowsTooMuch has a gateway say in its hello that it holds entries which were never signed: it is named and told all.
func TestGatewayThatKnowsTooMuch(t *testing.T) {
	t.Parallel()
	for _, known := range []wire.UplinkHello{{KnownEpoch: 1, Known: math.MaxUint64}, {KnownEpoch: math.MaxUint64, Known: 1}} {
		inForger(t, known, func(f *forger) {
			f.sleep(3 * f.ReportPeriod)
			if said := f.doubted(); !strings.Contains(said, noStamp) || !strings.Contains(said, "plant-8/gw-r") {
				f.t.Errorf("named: %q", said)
			}
		})
	}
}

// TestDeviceThatTellsTales has a modified device claim numbers of 2^63 and more to an honest gateway: it hurts itself, and its gateway is not
// blamed.
func TestDeviceThatTellsTales(t *testing.T) {
	t.Parallel()
	inPlant(t, 2, 5*time.Second, func(p *plant) {
		p.sleep(10 * time.Minute)
		token, err := p.Token(p.ctx, "device", "plant-7", 1)
		p.must(err)
		own := p.NewAgent("own", p.gw)
		p.must(own.Enroll(p.ctx, token))
		cred, err := credential.Load(own.Dir())
		p.must(err)
		tr := p.transport(own.Host)
		defer tr.Close()
		s := attachAs(p, tr, cred, math.MaxUint64)
		defer s.Close()
		go func() {
			for {
				if _, _, err := s.Recv(); err != nil {
					return
				}
			}
		}()
		body, err := wire.Marshal(seal.Register{AgentVersion: "sim"})
		p.must(err)
		for i, at := range [][2]uint64{{1 << 63, 1 << 63}, {1 << 63, math.MaxUint64}, {math.MaxUint64, math.MaxUint64}, {math.MaxUint64, 1}, {1, 1}, {2, math.MaxUint64}, {3, 1}, {4, 1}} {
			st := &seal.Statement{
				Version: 1, Type: seal.StatementRegister, Device: cred.ID.Device, Epoch: at[0], EpochID: seal.RandomID{byte(at[0])}, Seq: at[1],
				TimeMS: math.MinInt64, UptimeMS: math.MaxUint64, Body: body,
			}
			if at[1] > 1 {
				st.Prev = seal.Chain{byte(i + 1)}
			}
			sealed, err := seal.SealStatement(st, cred.KeyID, cred.Key)
			p.must(err)
			p.must(s.Send(wire.TypeStatement, wire.Statement{Sealed: sealed.Sealed}))
		}
		for i, n := range []uint64{1, math.MaxUint64, 1, 1 << 63, 2, 3} {
			p.must(s.Send(wire.TypeHeartbeat, wire.Heartbeat{Run: uint64(i / 2), Number: n, Answered: math.MaxUint64, UptimeMS: math.MaxUint64, IntervalMS: 5000}))
			p.sleep(time.Second)
		}
		for range 500 { // as fast as its gateway lets it
			p.must(s.Send(wire.TypeHeartbeat, wire.Heartbeat{Run: 9, Number: 1, IntervalMS: 1000}))
			p.sleep(25 * time.Millisecond)
		}
		p.sleep(5 * time.Minute)
		for i := range p.devices {
			if d := p.want(i, "online", ""); d.State != "active" || len(p.history(i)) != 1 {
				t.Errorf("device %d: %+v", i, d)
			}
		}
		if said := p.doubted(); said != "" {
			t.Errorf("named: %s", said)
		}
		p.devices = append(p.devices, own)
		for _, it := range p.timeline(2) {
			if it.Beats > 100 || it.Missed > 100 {
				t.Errorf("its timeline: %+v", it)
			}
		}
		p.history(2)
	})
}
