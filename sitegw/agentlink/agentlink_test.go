package agentlink

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

func TestWelcome(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		a := p.agent().known(wire.DeviceActive, 12*time.Minute).dial(nil)
		defer a.hangUp()
		w := recv[wire.Welcome](a, wire.TypeWelcome)
		if w.Identity != ident.Device("acme", a.id).String() || w.IntervalMS != 720_000 || w.Site != "plant-7" || w.Capability != 1 {
			t.Errorf("welcome %+v", w)
		}
		if w.KeepAliveMS != 15_000 { // widened with the interval, to its bound
			t.Errorf("keep-alive %d ms", w.KeepAliveMS)
		}
		settle()
		if p.roster.Online() != 1 || p.srv.Sessions() != 1 || len(p.up.asked) != 0 {
			t.Errorf("%d online, %d sessions, asked %v", p.roster.Online(), p.srv.Sessions(), p.up.asked)
		}
		a.Close()
		settle()
		if p.roster.Online() != 1 || p.srv.Sessions() != 0 {
			t.Errorf("after its end: %d online, %d sessions", p.roster.Online(), p.srv.Sessions())
		}
	})
}

func TestAttachRefused(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		other := p.agent()
		defer other.hangUp()
		tests := map[string]struct {
			attach func(a *agent) []byte
			want   wire.Code
		}{
			"another device's id":   {func(a *agent) []byte { return a.attach(1, func(in *seal.Attach) { in.Device = other.id }) }, wire.CodeForbidden},
			"another's attach":      {func(*agent) []byte { return other.attach(1, nil) }, wire.CodeForbidden},
			"for another gateway":   {func(a *agent) []byte { return a.attach(1, func(in *seal.Attach) { in.Gateway += "x" }) }, wire.CodeMalformed},
			"signature flipped":     {func(a *agent) []byte { b := a.attach(1, nil); b[len(b)-1] ^= 1; return b }, wire.CodeForbidden},
			"key id of its own":     {func(a *agent) []byte { a.kid[0] ^= 1; return a.attach(1, nil) }, wire.CodeForbidden},
			"no attach":             {func(*agent) []byte { return []byte("junk") }, wire.CodeMalformed},
			"counts not from 1":     {func(a *agent) []byte { return a.attach(0, nil) }, wire.CodeMalformed},
			"holds what it has not": {func(a *agent) []byte { return a.attach(1, func(in *seal.Attach) { in.Lowest = 9 }) }, wire.CodeMalformed},
		}
		for name, tt := range tests {
			a := p.agent().known(wire.DeviceActive, 0)
			a.dial(tt.attach(a)).refused(tt.want)
			a.hangUp()
			settle()
			if p.roster.Online() != 0 {
				t.Fatalf("%s: online", name)
			}
		}
	})
}

func TestAdmission(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		for state, want := range map[wire.DeviceState]wire.Code{
			wire.DeviceDecommissioned: wire.CodeRetired, wire.DeviceUnknown: wire.CodeUnknownKey,
		} {
			a := p.agent().known(state, 0).dial(nil)
			a.refused(want)
			a.hangUp()
		}
		rekeyed := p.agent()
		kid := rekeyed.kid
		rekeyed.kid = ident.KeyID{1}
		rekeyed.known(wire.DeviceActive, 0)
		rekeyed.kid = kid
		rekeyed.dial(nil).refused(wire.CodeUnknownKey)
		rekeyed.hangUp()

		quarantined := p.agent().known(wire.DeviceQuarantined, 0).connect()
		defer quarantined.hangUp()
		stranger := p.agent().connect() // the core has not told of it: admitted by its certificate, and asked about
		defer stranger.hangUp()
		settle()
		// Whoever is refused for a key that is not known is asked about as well: it may have become known.
		if n := len(p.up.asked); n != 3 || p.up.asked[n-1] != stranger.id || p.up.asked[n-2] != rekeyed.id {
			t.Errorf("asked about %v", p.up.asked)
		}
	})
}

// An expired certificate admits whom the mirror knows, and nobody else.
func TestExpiredCertificate(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		known, stranger := p.agent().known(wire.DeviceActive, 0), p.agent()
		defer known.hangUp()
		defer stranger.hangUp()
		time.Sleep(ident.LeafLifetime + time.Hour)
		admit := func(a *agent) *agent {
			t.Helper()
			accept := func(ident.Peer) error { return nil }
			s, err := a.tr.Dial(t.Context(), p.addr, a.ep.Client(wire.ALPNAgent, ident.RoleGateway, accept), link.Options{})
			if err != nil {
				t.Fatal(err)
			}
			a.Session = s
			a.send(wire.TypeAttach, wire.Attach{Capability: 1, Sealed: a.attach(1, nil)})
			return a
		}
		recv[wire.Welcome](admit(known), wire.TypeWelcome)
		admit(stranger).refused(wire.CodeExpired)
	})
}

func TestUnknownTypeGoesOn(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		a := p.agent().known(wire.DeviceActive, 0).connect()
		defer a.hangUp()
		a.send(wire.Type(14), wire.Renew{})
		if e := recv[wire.Error](a, wire.TypeError); e.Code != wire.CodeUnsupported || e.Ref != wire.Type(14) {
			t.Errorf("answer %+v", e)
		}
		a.beat(1)
		if ack := recv[wire.HeartbeatAck](a, wire.TypeHeartbeatAck); ack.Number != 1 {
			t.Errorf("then %+v", ack)
		}
	})
}

func TestTooManyRefusals(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		a := p.agent().known(wire.DeviceActive, 0).connect()
		defer a.hangUp()
		for range maxRefusals {
			a.send(wire.TypeHeartbeat, wire.Heartbeat{})
		}
		a.ended(wire.CodeMalformed)
	})
}

func TestHeartbeatChecks(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		a := p.agent().known(wire.DeviceActive, 0).connect()
		defer a.hangUp()
		for name, m := range map[string]any{
			"number 0": wire.Heartbeat{Number: 0, IntervalMS: 30_000}, "interval below 1 s": wire.Heartbeat{Number: 1, IntervalMS: 999},
			"interval above 1 h": wire.Heartbeat{Number: 1, IntervalMS: 3_600_001}, "no heartbeat": "x",
		} {
			a.send(wire.TypeHeartbeat, m)
			if e := recv[wire.Error](a, wire.TypeError); e.Code != wire.CodeMalformed {
				t.Errorf("%s: %+v", name, e)
			}
		}
	})
}

func TestFloodIsCut(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		a := p.agent().known(wire.DeviceActive, 0).connect()
		defer a.hangUp()
		calm := p.agent().known(wire.DeviceActive, 0).connect()
		defer calm.hangUp()
		for n := range uint64(2 * burstFrames) {
			if a.Send(wire.TypeHeartbeat, wire.Heartbeat{Run: 1, Number: n + 1, IntervalMS: 30_000}) != nil {
				break
			}
		}
		a.ended(wire.CodeBusy)
		calm.beat(1)
		recv[wire.HeartbeatAck](calm, wire.TypeHeartbeatAck)
	})
}

func TestIntervalIsPushed(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		a := p.agent().known(wire.DeviceActive, 0).connect()
		defer a.hangUp()
		push := func(m *wire.Site, want uint32) {
			t.Helper()
			p.tell(m)
			if ack := recv[wire.HeartbeatAck](a, wire.TypeHeartbeatAck); ack.IntervalMS != want || ack.Number != 0 {
				t.Errorf("pushed %+v, want %d ms", ack, want)
			}
		}
		push(&wire.Site{IntervalMS: 5000}, 5000)
		push(&wire.Site{Entries: [][]byte{p.core.Entry(a.id, "plant-7", wire.DeviceActive, 2000, a.kid)}}, 2000)
		a.beat(1) // the device has not taken it in
		if ack := recv[wire.HeartbeatAck](a, wire.TypeHeartbeatAck); ack.Number != 1 || ack.IntervalMS != 2000 {
			t.Errorf("answer %+v", ack)
		}
	})
}

func TestDecommissionedIsCut(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		for state, want := range map[wire.DeviceState]wire.Code{
			wire.DeviceDecommissioned: wire.CodeRetired, wire.DeviceUnknown: wire.CodeUnknownKey,
		} {
			a := p.agent().known(wire.DeviceActive, 0).connect()
			settle()
			a.known(state, 0)
			a.ended(want)
			a.hangUp()
		}
	})
}

func TestAttachAgain(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		a := p.agent().known(wire.DeviceActive, 0).connect()
		defer a.hangUp()
		settle()
		p.roster.Transitions()
		newer := a.attach(1, func(in *seal.Attach) { in.Highest, in.Lowest = 5, 6 })
		a.send(wire.TypeAttach, wire.Attach{Capability: 1, Sealed: newer})
		settle()
		if r, _ := p.roster.Transitions(); len(r.Online) != 1 || string(r.Online[0].Attach) != string(newer) {
			t.Errorf("report %+v", r)
		}
		a.send(wire.TypeAttach, wire.Attach{Sealed: a.attach(1, func(in *seal.Attach) { in.Device = ident.NewDeviceID() })})
		if e := recv[wire.Error](a, wire.TypeError); e.Code != wire.CodeForbidden {
			t.Errorf("another's: %+v", e)
		}
		a.send(wire.TypeAttach, wire.Attach{Sealed: []byte("junk")})
		if e := recv[wire.Error](a, wire.TypeError); e.Code != wire.CodeMalformed {
			t.Errorf("junk: %+v", e)
		}
		if r, _ := p.roster.Transitions(); len(r.Online) != 0 {
			t.Errorf("what was refused is reported: %+v", r)
		}
	})
}

func TestSecondSessionTakesOver(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		a := p.agent().known(wire.DeviceActive, 0).connect()
		first := a.Session
		a.connect()
		defer a.hangUp()
		if _, _, err := first.RecvWithin(20 * time.Second); err == nil {
			t.Error("the first session goes on")
		}
		settle()
		if p.srv.Sessions() != 1 || p.roster.Online() != 1 {
			t.Errorf("%d sessions, %d online", p.srv.Sessions(), p.roster.Online())
		}
	})
}

// A device that opens one session after the other is told to wait, whoever else comes from its address, and is let in again.
func TestTooManySessionsOfADevice(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		a, calm := p.agent().known(wire.DeviceActive, 0), p.agent().known(wire.DeviceActive, 0)
		defer a.hangUp()
		defer calm.hangUp()
		for range openingsAtOnce {
			a.connect().Close()
		}
		a.dial(nil)
		if e := recv[wire.Error](a, wire.TypeError); e.Code != wire.CodeBusy || e.RetryAfter() != busyAfter {
			t.Errorf("one too many: %+v", e)
		}
		calm.connect()
		a.Close()
		time.Sleep(busyAfter)
		a.connect()
	})
}

// Of many agents each is told a moment of its own to come back.
func TestGoodbyeIsSpread(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		const n = 60
		var agents []*agent
		for range n {
			agents = append(agents, p.agent().known(wire.DeviceActive, 0).connect())
		}
		go p.stop()
		seen := map[uint32]bool{}
		for _, a := range agents {
			g := recv[wire.GoAway](a, wire.TypeGoAway)
			if after := g.RetryAfterMS; after < wire.Millis(goAwayAfter) || after > wire.Millis(goAwayAfter)+n*1000/comeBack {
				t.Errorf("told to come back after %d ms", after)
			}
			seen[g.RetryAfterMS] = true
			a.hangUp()
		}
		if len(seen) < n/4 {
			t.Errorf("%d agents come back at %d moments", n, len(seen))
		}
	})
}

func TestGoodbye(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		a := p.agent().known(wire.DeviceActive, 0).connect()
		defer a.hangUp()
		go p.stop()
		if g := recv[wire.GoAway](a, wire.TypeGoAway); g.RetryAfterMS != wire.Millis(goAwayAfter) {
			t.Errorf("goodbye %+v", g)
		}
		a.Close()
	})
}

func TestRenew(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		a := p.agent().known(wire.DeviceActive, 0).connect()
		defer a.hangUp()
		a.send(wire.TypeRenew, wire.Renew{CSR: []byte{1}})
		if r := recv[wire.Renewed](a, wire.TypeRenewed); len(r.Chain) != 2 {
			t.Errorf("renewed %+v", r)
		}
		p.up.err = wire.Refuse(wire.CodeUnavailable, "no uplink").After(5 * time.Second)
		a.send(wire.TypeRenew, wire.Renew{CSR: []byte{1}})
		if e := recv[wire.Error](a, wire.TypeError); e.Code != wire.CodeUnavailable || e.RetryAfter() != 5*time.Second || e.Ref != wire.TypeRenew {
			t.Errorf("without an uplink: %+v", e)
		}
		a.beat(1) // which does no harm to the identity that works
		recv[wire.HeartbeatAck](a, wire.TypeHeartbeatAck)
	})
}

func TestEnrollRelay(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		enroll := func(m any) *agent {
			t.Helper()
			a := p.agent()
			pin := ident.KeyIDOf(p.root.Cert)
			s, err := a.tr.Dial(t.Context(), p.addr, ident.FirstContact(pin, ident.RoleGateway, time.Now), link.Options{})
			if err != nil {
				t.Fatal(err)
			}
			a.Session = s
			a.send(wire.TypeEnroll, m)
			return a
		}
		p.up.enrolled = &wire.Enrolled{Identity: "spiffe://acme/device/x", Site: "plant-7"}
		a := enroll(wire.Enroll{Capability: 1})
		if out := recv[wire.Enrolled](a, wire.TypeEnrolled); out.Site != "plant-7" {
			t.Errorf("enrolled %+v", out)
		}
		a.hangUp()
		p.up.enrolled, p.up.err = nil, wire.Refuse(wire.CodeRefused, "enrollment refused")
		a = enroll(wire.Enroll{Capability: 1})
		a.refused(wire.CodeRefused)
		a.hangUp()
		p.up.err = errors.New("something of the gateway's own")
		a = enroll(wire.Enroll{Capability: 1})
		a.refused(wire.CodeInternal)
		a.hangUp()
		a = enroll("junk")
		a.refused(wire.CodeMalformed)
		a.hangUp()
		c := p.srv.Counters()
		if got := counted(&c.EnrollmentsRefused); c.Enrollments.Load() != 1 || got != "[malformed 1 refused 1 internal 1]" {
			t.Errorf("%d enrollments, refused %s", c.Enrollments.Load(), got)
		}
	})
}

// A list of gateways goes to every agent whose own is older, when it comes and when it changes, and to nobody else.
func TestListIsSent(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		first := p.core.List("plant-7", seal.ListedGateway{Name: "gw-a"})
		p.tell(&wire.Site{List: first})
		dial := func(epoch, number uint64) *agent {
			t.Helper()
			a := p.agent().known(wire.DeviceActive, 0)
			s, err := a.tr.Dial(t.Context(), p.addr, a.ep.Client(wire.ALPNAgent, ident.RoleGateway, nil), link.Options{})
			if err != nil {
				t.Fatal(err)
			}
			a.Session = s
			a.send(wire.TypeAttach, wire.Attach{Capability: 1, Sealed: a.attach(1, nil), ListEpoch: epoch, List: number})
			recv[wire.Welcome](a, wire.TypeWelcome)
			return a
		}
		old, current, ahead := dial(0, 0), dial(1, 1), dial(2, 1)
		for _, a := range []*agent{old, current, ahead} {
			defer a.hangUp()
		}
		if ack := recv[wire.HeartbeatAck](old, wire.TypeHeartbeatAck); !bytes.Equal(ack.List, first) || ack.Number != 0 {
			t.Errorf("sent %+v", ack)
		}
		second := p.core.List("plant-7")
		p.tell(&wire.Site{List: second})
		p.tell(&wire.Site{List: second})
		p.tell(&wire.Site{List: first})
		for _, a := range []*agent{old, current} {
			if ack := recv[wire.HeartbeatAck](a, wire.TypeHeartbeatAck); !bytes.Equal(ack.List, second) {
				t.Errorf("sent %+v", ack)
			}
		}
		for _, a := range []*agent{old, current, ahead} {
			a.beat(1)
			if ack := recv[wire.HeartbeatAck](a, wire.TypeHeartbeatAck); ack.Number != 1 || ack.List != nil {
				t.Errorf("sent %+v", ack)
			}
		}
		// An agent that could not store it says so with its next attach.
		current.send(wire.TypeAttach, wire.Attach{Capability: 1, Sealed: current.attach(1, nil), ListEpoch: 1, List: 1})
		if ack := recv[wire.HeartbeatAck](current, wire.TypeHeartbeatAck); !bytes.Equal(ack.List, second) {
			t.Errorf("sent %+v", ack)
		}
	})
}

// A probe is answered as an attach would be, and changes nothing.
func TestProbe(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		list := p.core.List("plant-7", seal.ListedGateway{Name: "gw-a"})
		p.tell(&wire.Site{List: list})
		probe := func(a *agent, m wire.Probe) {
			t.Helper()
			s, err := a.tr.Dial(t.Context(), p.addr, a.ep.Client(wire.ALPNAgent, ident.RoleGateway, nil), link.Options{})
			if err != nil {
				t.Fatal(err)
			}
			a.Session = s
			a.send(wire.TypeProbe, m)
		}
		for _, tc := range []struct {
			state wire.DeviceState
			want  wire.Code
		}{{wire.DeviceActive, wire.CodeNone}, {wire.DeviceQuarantined, wire.CodeNone}, {wire.DeviceUnknown, wire.CodeUnknownKey}, {wire.DeviceDecommissioned, wire.CodeRetired}} {
			a := p.agent().known(tc.state, 0)
			probe(a, wire.Probe{Capability: 1, ListEpoch: 1})
			if tc.want != wire.CodeNone {
				a.refused(tc.want)
			} else if m := recv[wire.Probed](a, wire.TypeProbed); m.Capability != 1 || !m.Uplink || !bytes.Equal(m.List, list) {
				t.Errorf("answered %+v", m)
			}
			a.hangUp()
		}
		p.up.mu.Lock()
		p.up.down = true
		p.up.mu.Unlock()
		stranger := p.agent() // admitted by its certificate
		defer stranger.hangUp()
		probe(stranger, wire.Probe{Capability: 1, ListEpoch: 1, List: p.core.N})
		if m := recv[wire.Probed](stranger, wire.TypeProbed); m.Uplink || m.List != nil {
			t.Errorf("answered %+v", m)
		}
		if len(p.roster.Devices()) != 0 || p.srv.Sessions() != 0 || len(p.up.asked) != 0 {
			t.Errorf("probes left %d devices and %d sessions, and %d questions for the core", len(p.roster.Devices()), p.srv.Sessions(), len(p.up.asked))
		}
		for range manyOpening + 1 {
			p.srv.opening <- struct{}{}
		}
		busy := p.agent().known(wire.DeviceActive, 0)
		defer busy.hangUp()
		probe(busy, wire.Probe{Capability: 1})
		busy.refused(wire.CodeBusy)
		if n := p.srv.Counters().Probes.Load(); n != 3 {
			t.Errorf("%d probes were answered", n)
		}
	})
}
