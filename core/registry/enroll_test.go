package registry

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

func TestEnrollDevice(t *testing.T) {
	l := newLog(t)
	l.ok(token(1, 1))
	m := newMachine(t)
	eff := l.apply(m.enroll(1))
	res := eff.Results[0].(*Enrolled)
	if res.Again || res.Device.ID != m.id || string(res.Cert) != "leaf of "+m.id.String() {
		t.Errorf("result %+v", res)
	}
	if got := eventTypes(eff); !slices.Equal(got, []string{EventDeviceEnrolled}) {
		t.Errorf("events %v", got)
	}
	d, ok := l.state.View().DeviceByKey(m.kid)
	if !ok || d.ID != m.id || d.Site != "plant-7" || d.State != wire.DeviceActive || d.EnrolledMS != start.UnixMilli() {
		t.Errorf("record %+v", d)
	}
	if k, ok := d.ActiveKey(m.kid); !ok || k.State.String() != "active" {
		t.Errorf("key %+v", k)
	}
}

// Every reason why a token does not permit an enrollment gives the same refusal, and no use of a token is spent on one.
func TestEnrollRefused(t *testing.T) {
	l := newLog(t)
	l.ok(token(1, 1))
	l.ok(newMachine(t).enroll(1))
	l.ok(token(2, 5))
	l.ok(&command.RevokeToken{ID: seal.TokenID{2}})
	gw := token(3, 5)
	gw.Kind = seal.KindGateway
	l.ok(gw)
	node := token(4, 1)
	node.Kind = seal.KindCore
	l.ok(node)
	short := token(5, 5)
	short.TTLMS = 1000
	l.ok(short)
	l.ok(token(6, 5))

	m := newMachine(t)
	l.refused(m.enroll(9), ErrRefused) // unknown
	l.refused(m.enroll(1), ErrRefused) // used up
	l.refused(m.enroll(2), ErrRefused) // revoked
	l.refused(m.enroll(3), ErrRefused) // for gateways
	core := m.enroll(4)
	core.Kind = seal.KindCore
	l.refused(core, ErrInvalid) // without a node
	other := m.enroll(6)
	other.Kind = "toaster"
	l.refused(other, ErrRefused)
	l.now = start.Add(time.Second)
	l.refused(m.enroll(5), ErrRefused) // expired to the millisecond
	taken := m.enroll(6)
	taken.Device = ident.DeviceID{}
	l.refused(taken, ErrRetry)
	l.ok(m.enroll(6))
}

func TestEnrollExpiresByLogTime(t *testing.T) {
	l := newLog(t)
	short := token(1, 2)
	short.TTLMS = 1000
	l.ok(short)
	l.now = start.Add(999 * time.Millisecond)
	l.ok(newMachine(t).enroll(1))
	l.now = start.Add(time.Second)
	l.apply() // log time has reached the end
	l.now = start
	l.refused(newMachine(t).enroll(1), ErrRefused) // whatever the proposer's clock says
}

// A retry after a lost reply gets what the first try got, until a day past the token's end.
func TestEnrollAgain(t *testing.T) {
	l := newLog(t)
	l.ok(token(1, 1))
	m := newMachine(t)
	first := l.ok(m.enroll(1)).(*Enrolled)
	again := func() *command.Enroll { // another try issues another certificate and draws another id
		c := m.enroll(1)
		c.Device, c.Cert = ident.NewDeviceID(), []byte("another leaf")
		c.NotAfter += 1000
		return c
	}
	last := start.Add(48*time.Hour - time.Millisecond)
	for _, at := range []time.Time{start, start.Add(24 * time.Hour), last} {
		l.now = at
		eff := l.apply(again())
		res, ok := eff.Results[0].(*Enrolled)
		if !ok || !res.Again || res.Device.ID != first.Device.ID || res.NotAfterMS != first.NotAfterMS || res.Cert != nil || len(eff.Events) != 0 {
			t.Errorf("at %v: %+v", at, eff)
		}
	}
	if tok, _ := l.state.View().Token(seal.TokenID{1}); tok.Used != 1 {
		t.Errorf("used %d times", tok.Used)
	}
	l.now = last.Add(time.Millisecond)
	l.refused(again(), ErrRefused)
}

func TestEnrollAgainAfterRevocation(t *testing.T) {
	l := newLog(t)
	l.ok(token(1, 2))
	m := newMachine(t)
	l.ok(m.enroll(1))
	l.ok(&command.RevokeToken{ID: seal.TokenID{1}})
	l.refused(m.enroll(1), ErrRefused)
}

// The key is the identity: enrolled by another token it keeps its record, its site and its first token's tags.
func TestKnownKeyKeepsItsRecord(t *testing.T) {
	l := newLog(t)
	m := l.enrolled(1)
	l.ok(m.submit(m.register(seal.Register{AgentVersion: "1"})))
	elsewhere := token(2, 5)
	elsewhere.Site, elsewhere.Tags = "plant-8", map[string]string{"line": "8"}
	l.ok(elsewhere)

	wrong := m.enroll(2)
	wrong.Device = ident.NewDeviceID()
	l.refused(wrong, ErrRetry) // its certificate would name a record that is not the key's

	again := m.enroll(2)
	again.NotAfter += 1000
	res := l.ok(again).(*Enrolled)
	if res.Again || res.Device.ID != m.id {
		t.Errorf("result %+v", res)
	}
	d := l.record(m)
	if d.Site != "plant-7" || d.Registered().AgentVersion != "1" || d.TokenTags["line"] != "" || d.Keys[0].NotAfterMS != again.NotAfter || len(d.Keys) != 1 {
		t.Errorf("record %+v", d)
	}
	if n := l.state.View().DeviceCount(); n != 1 {
		t.Errorf("%d devices", n)
	}
	if tok, _ := l.state.View().Token(seal.TokenID{2}); tok.Used != 1 {
		t.Errorf("used %d times", tok.Used)
	}
}

func TestDrawnIDIsTaken(t *testing.T) {
	l := newLog(t)
	m := l.enrolled(1)
	l.ok(token(2, 1))
	c := newMachine(t).enroll(2)
	c.Device = m.id
	l.refused(c, ErrRetry)
}

func TestHundredEnrollmentsWithTenUses(t *testing.T) {
	l := newLog(t)
	l.ok(token(1, 10))
	var cmds []command.Command
	for range 100 {
		cmds = append(cmds, newMachine(t).enroll(1))
	}
	admitted := 0
	for _, res := range l.apply(cmds...).Results {
		if err, refused := res.(error); !refused {
			admitted++
		} else if !errors.Is(err, ErrRefused) {
			t.Errorf("refused with %v", err)
		}
	}
	if tok, _ := l.state.View().Token(seal.TokenID{1}); admitted != 10 || l.state.View().DeviceCount() != 10 || tok.Used != 10 {
		t.Errorf("%d admitted, %d devices, %d uses", admitted, l.state.View().DeviceCount(), tok.Used)
	}
}

func gatewayToken(n byte, site string) *command.CreateToken {
	c := token(n, 5)
	c.Kind, c.Site = seal.KindGateway, site
	return c
}

func (m *machine) enrollGateway(n byte, name string) *command.Enroll {
	c := m.enroll(n)
	c.Kind, c.Device, c.Name, c.Listen, c.Via = seal.KindGateway, ident.DeviceID{}, name, name+":4433", ""
	return c
}

func TestEnrollGateway(t *testing.T) {
	l := newLog(t)
	l.ok(gatewayToken(1, "plant-7"))
	l.ok(gatewayToken(2, "plant-8"))
	a, b := newMachine(t), newMachine(t)
	l.ok(a.enrollGateway(1, "gw-a"))
	if g, ok := l.state.View().Gateway("plant-7/gw-a"); !ok || g.Listen != "gw-a:4433" {
		t.Fatalf("gateway %+v", g)
	}
	l.refused(a.enrollGateway(2, "gw-a"), ErrRefused) // one key is not two gateways
	l.refused(a.enrollGateway(2, "gw-b"), ErrRefused)

	l.now = start.Add(time.Hour)
	l.ok(b.enrollGateway(1, "gw-a"))
	g, _ := l.state.View().Gateway("plant-7/gw-a")
	if _, old := g.ActiveKey(a.kid); old || g.Keys[0].State != KeySuperseded || g.Keys[0].SinceMS != l.now.UnixMilli() {
		t.Errorf("the old key: %+v", g.Keys)
	}
	if _, active := g.ActiveKey(b.kid); !active || g.EnrolledMS != start.UnixMilli() {
		t.Errorf("the new key: %+v", g)
	}
	l.refused(a.enrollGateway(1, "gw-a"), ErrRefused) // a retry for a key that was superseded meanwhile
	if again := l.ok(b.enrollGateway(1, "gw-a")).(*Enrolled); !again.Again || again.Gateway == nil {
		t.Errorf("retry %+v", again)
	}
	l.ok(&command.Renewed{Gateway: "plant-7/gw-a", Key: b.kid, NotAfter: start.Add(1e6 * time.Hour).UnixMilli()})
	if g, _ := l.state.View().Gateway("plant-7/gw-a"); g.Keys[1].NotAfterMS != start.Add(1e6*time.Hour).UnixMilli() {
		t.Errorf("renewed: %+v", g.Keys)
	}
}

// A key enrolled as a gateway never becomes a device, nor the other way round.
func TestKeyKeepsItsKind(t *testing.T) {
	l := newLog(t)
	m := l.enrolled(1)
	l.ok(gatewayToken(2, "plant-7"))
	l.refused(m.enrollGateway(2, "gw-a"), ErrRefused)
	g := newMachine(t)
	l.ok(g.enrollGateway(2, "gw-a"))
	l.ok(token(3, 1))
	l.refused(g.enroll(3), ErrRefused)
}

// Uses are forgotten, and only once no retry is answered any more.
func TestUsesAreForgotten(t *testing.T) {
	l := newLog(t)
	m := l.enrolled(1)
	long := token(2, 1)
	long.TTLMS *= 30
	l.ok(long)
	other := newMachine(t)
	l.ok(other.enroll(2))
	has := func(n byte, m *machine) bool { _, ok := l.state.View().UseOf(seal.TokenID{n}, m.kid); return ok }
	l.now = start.Add(47 * time.Hour)
	l.ok(token(3, 1))
	if !has(1, m) {
		t.Error("forgotten while retries are answered")
	}
	l.now = start.Add(49 * time.Hour)
	l.ok(token(4, 1))
	if has(1, m) || !has(2, other) {
		t.Errorf("kept %v, %v; want false, true", has(1, m), has(2, other))
	}
}
