package sim

import (
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/core/liveness"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// doubted are the events that name a gateway, one a line.
func (p *plant) doubted() string {
	p.t.Helper()
	var out []string
	for line := range strings.Lines(p.events("gateway.doubted")) {
		if strings.HasPrefix(line, "data:") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "")
}

// say sends the core something as the gateway.
func (r *rogue) say(t wire.Type, m any) {
	r.p.t.Helper()
	r.p.must(r.up.Send(t, m))
}

// listen takes what the core says, and keeps orders for devices and the newest receipt, until the session ends.
func (r *rogue) listen() {
	go func() {
		for {
			typ, body, err := r.up.Recv()
			if err != nil {
				return
			}
			r.mu.Lock()
			switch typ {
			case wire.TypeSite:
				var m wire.Site
				if wire.Unmarshal(body, &m) == nil {
					r.orders = append(r.orders, m.Orders...)
				}
			case wire.TypeReceipts:
				var m wire.Receipts
				if wire.Unmarshal(body, &m) == nil && len(m.Items) > 0 {
					r.receipt = m.Items[len(m.Items)-1].Receipt
				}
			}
			r.mu.Unlock()
		}
	}()
}

// digest says that the devices in the slots have just beaten.
func (r *rogue) digest(slots ...uint32) {
	r.p.t.Helper()
	var beats wire.BeatPacker
	for _, s := range slots {
		beats.Add(s, 0)
	}
	r.say(wire.TypePresence, wire.Presence{TimeMS: time.Now().UnixMilli(), Digest: true, Count: uint32(len(slots)), Beats: beats.Beats()})
}

// online says that a device is online in a slot, since now.
func online(slot uint32, d ident.DeviceID, attach []byte) wire.Presence {
	now := time.Now().UnixMilli()
	return wire.Presence{TimeMS: now, Online: []wire.DeviceOnline{{Slot: slot, Device: d, Attach: attach, SinceMS: now, LastMS: now, IntervalMS: 5000}}}
}

// A usurped is a plant whose first gateway is in the hands of somebody else, with a second gateway, a device that knows both and is with the
// rogue, and one that is with the honest gateway.
type usurped struct {
	*plant
	sibling *Gateway
	victim  *Agent
	other   *Agent
	book    *logbook
	kernel  *atomic.Int64
	rogue   *rogue
	down    *hoarder
}

// inUsurped runs f in one.
func inUsurped(t *testing.T, f func(u *usurped)) {
	t.Helper()
	inPlant(t, 0, 5*time.Second, func(p *plant) {
		p.rogue = true
		u := &usurped{plant: p, kernel: new(atomic.Int64)}
		var err error
		u.sibling, err = p.EnrollGateway(p.ctx, "gw-b", "plant-7")
		p.must(err)
		run, err := u.sibling.Start(p.ctx)
		p.must(err)
		p.all = append(p.all, run)
		p.sleep(time.Second)
		token, err := p.Token(p.ctx, "device", "plant-7", 2)
		p.must(err)
		u.victim = p.NewAgent("victim", p.gw, u.sibling)
		u.other = p.NewAgent("other", u.sibling)
		for _, a := range []*Agent{u.victim, u.other} {
			p.must(a.Enroll(p.ctx, token))
			p.devices = append(p.devices, a)
		}
		u.victim.Profile = func() wire.Profile {
			m := smallMachine()
			m.Kernel = wire.Known(fmt.Sprintf("6.12.%d", u.kernel.Load()))
			return m
		}
		u.book = newLogbook(u.victim.Dir())
		u.victim.Log, u.victim.Facts = slog.New(u.book), 5*time.Second
		p.agents = append(p.agents, nil, p.startAgent(u.other))
		p.gateway.Kill()
		tr := p.transport(p.gw.Addr.Addr())
		defer tr.Close()
		u.rogue = newRogue(p, tr)
		defer u.rogue.up.Close()
		u.rogue.listen()
		u.down = newHoarder(p, nil)
		defer u.down.close()
		p.agents[0] = p.startAgent(u.victim)
		p.sleep(2 * time.Second)
		u.down.mu.Lock()
		attach := u.down.attach
		u.down.mu.Unlock()
		if attach == nil {
			t.Fatal("the device is not with the rogue")
		}
		u.rogue.say(wire.TypePresence, online(1, u.id(), attach))
		p.sleep(time.Second)
		if d := p.want(0, "online", ""); d.Gateway != "plant-7/gw-a" {
			t.Fatalf("the device is at %s", d.Gateway)
		}
		f(u)
	})
}

func (u *usurped) id() ident.DeviceID { return deviceID(u.t, u.victim) }

// reach cuts the victim from a gateway, or joins them.
func (u *usurped) reach(g *Gateway, can bool) {
	u.Net.Cut(u.victim.Host, g.Addr.Addr(), !can)
	u.Net.Cut(g.Addr.Addr(), u.victim.Host, !can)
}

// pretend has the rogue say for a while that the victim beats.
func (u *usurped) pretend(d time.Duration) {
	u.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		u.rogue.digest(1)
		u.sleep(u.ReportPeriod)
		u.want(1, "online", "")
	}
}

// named holds that the rogue was named for a reason, and nobody else for anything.
func (u *usurped) named(reason string) {
	u.t.Helper()
	said := u.doubted()
	if !strings.Contains(said, reason) {
		u.t.Errorf("named: %q, want %q", said, reason)
	}
	for line := range strings.Lines(said) {
		if !strings.Contains(line, `"gateway":"plant-7/gw-a"`) && !strings.Contains(line, "spiffe://sim/gateway/plant-7/gw-a") {
			u.t.Errorf("named: %s", line)
		}
	}
}

// nothingLost holds, once the victim is with the honest gateway, that the core has all that it stated.
func (u *usurped) nothingLost() {
	u.t.Helper()
	u.kernel.Add(1)
	u.sleep(30 * time.Second)
	for i := range u.devices {
		if d := u.want(i, "online", ""); d.State != "active" || d.Gateway != "plant-7/gw-b" {
			u.t.Errorf("device %d is %s at %s", i, d.State, d.Gateway)
		}
	}
	v, _ := u.Core(1).View()
	d, _ := v.Device(u.id())
	u.coreOff()
	if err := u.book.compare(u.t, u.Core(1), u.victim, d.Sequence()); err != nil {
		u.t.Error(err)
	}
}

// TestDeadDeviceReportedAlive has a gateway go on reporting heartbeats of a device that is cut off from everybody. With the first word
// that the device signs elsewhere the core knows, and names it.
func TestDeadDeviceReportedAlive(t *testing.T) {
	t.Parallel()
	inUsurped(t, func(u *usurped) {
		u.reach(u.gw, false)
		u.reach(u.sibling, false)
		u.kernel.Add(1)
		u.pretend(10 * time.Minute)
		u.want(0, "online", "") // between two attaches it is the gateway's word
		if said := u.doubted(); said != "" {
			t.Errorf("named already: %s", said)
		}
		u.reach(u.sibling, true)
		for u.device(0).Gateway != "plant-7/gw-b" {
			u.rogue.digest(1)
			u.sleep(time.Second)
		}
		u.sleep(time.Second)
		u.named(liveness.LieSilent)
		u.nothingLost()
	})
}

// TestDeviceThatIsOffReportedAlive has it report a device that is switched off: nobody contradicts, until the device's next attach is due.
func TestDeviceThatIsOffReportedAlive(t *testing.T) {
	t.Parallel()
	inUsurped(t, func(u *usurped) {
		u.agents[0].Kill()
		u.pretend(2*time.Hour - time.Minute)
		u.down.mu.Lock()
		attach := u.down.attach
		u.down.mu.Unlock()
		u.rogue.say(wire.TypePresence, online(1, u.id(), attach)) // told again, it is no newer
		u.pretend(2*time.Minute + 3*u.ReportPeriod)
		u.want(0, "online", liveness.ReasonUnverified)
		u.named(liveness.LieUnsigned)
		u.reach(u.gw, false)
		u.agents[0] = u.startAgent(u.victim)
		u.sleep(20 * time.Second)
		u.nothingLost()
	})
}

// TestDeviceElsewhereReportedHere has it report heartbeats of a device that has gone to the other gateway.
func TestDeviceElsewhereReportedHere(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"digest", "online"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			inUsurped(t, func(u *usurped) {
				u.down.mu.Lock()
				attach := u.down.attach
				u.down.mu.Unlock()
				u.reach(u.gw, false)
				for u.device(0).Gateway != "plant-7/gw-b" {
					u.rogue.digest(1)
					u.sleep(time.Second)
				}
				moved := time.Now()
				for u.doubted() == "" && time.Since(moved) < time.Minute+3*u.ReportPeriod {
					if how == "digest" {
						u.rogue.digest(1)
					} else {
						u.rogue.say(wire.TypePresence, online(1, u.id(), attach))
					}
					u.sleep(u.ReportPeriod)
					if d := u.want(0, "online", ""); d.Gateway != "plant-7/gw-b" {
						t.Fatalf("the device is at %s", d.Gateway)
					}
				}
				u.named(liveness.LieElsewhere)
				u.nothingLost()
			})
		})
	}
}

// TestGatewayThatTellsDevicesTales has a gateway tell a device numbers that are as large as the protocol can carry. The device counts no
// heartbeat that was not answered, believes nothing of it, names the gateway elsewhere within three report periods, and all arrives.
func TestGatewayThatTellsDevicesTales(t *testing.T) {
	t.Parallel()
	const huge = uint64(math.MaxUint64)
	for name, alter := range map[string]func(wire.Type, any){
		"answers from the future": func(_ wire.Type, m any) {
			if a, ok := m.(*wire.HeartbeatAck); ok {
				a.Number, a.IntervalMS = huge, math.MaxUint32
			}
		},
		"the same answer again": func(_ wire.Type, m any) {
			if a, ok := m.(*wire.HeartbeatAck); ok {
				a.Number = 1
			}
		},
		"custody of what was never stated": func(_ wire.Type, m any) {
			if c, ok := m.(*wire.Custody); ok {
				c.Epoch, c.Seq = huge, 1<<63
			}
		},
		"custody from before": func(_ wire.Type, m any) {
			if w, ok := m.(*wire.Welcome); ok {
				w.Kept = &wire.Kept{Epoch: 1, Seq: 1 << 63, Chain: make([]byte, 32)}
				w.IntervalMS, w.KeepAliveMS, w.PeriodMS, w.TimeMS = math.MaxUint32, math.MaxUint32, math.MaxUint32, math.MinInt64
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inUsurped(t, func(u *usurped) {
				u.down.mu.Lock()
				u.down.alter = alter
				u.down.mu.Unlock()
				u.agents[0].Kill()
				u.agents[0] = u.startAgent(u.victim)
				began := time.Now()
				for range 3 {
					u.kernel.Add(1)
					u.sleep(u.ReportPeriod)
				}
				u.sleep(5 * time.Second)
				u.named(seal.DoubtAnswers.String())
				if n, most := u.victim.Answered(), uint64(time.Since(began)/(4*time.Second))+2; n > most {
					t.Errorf("%d heartbeats answered, at most %d were sent", n, most)
				}
				u.nothingLost()
			})
		})
	}
}
