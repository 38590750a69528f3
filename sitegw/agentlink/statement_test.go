package agentlink

import (
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/sitegw/custody"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

func TestStatementsAreKept(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		a := p.agent().known(wire.DeviceActive, 0).connect()
		defer a.hangUp()
		var all []*seal.SealedStatement
		for range 20 {
			all = append(all, a.statement())
		}
		for i := 0; i < len(all); i += 4 {
			a.state(all[i : i+4]...)
			a.inCustody(all[i+3])
		}
		page, err := p.custody.Spool.Read(0, 100, 1<<20)
		if err != nil || len(page.Records) != len(all) {
			t.Fatalf("%d records, %v", len(page.Records), err)
		}
		for i, r := range page.Records {
			if r.Kind != custody.KindStatement || string(r.Data) != string(all[i].Sealed) || r.TimeMS != time.Now().UnixMilli() {
				t.Errorf("record %d: kind %d at %d", i, r.Kind, r.TimeMS)
			}
		}
		a.Close()
		if w := a.again(); w.Kept == nil || w.Kept.Seq != 20 || string(w.Kept.Chain) != string(a.chain[:]) || w.PeriodMS != 10_000 {
			t.Errorf("welcome %+v", w)
		}
	})
}

// A device that was long alone brings more statements than anybody may say a second: they are taken as fast as that, on one session.
func TestManyStatementsAreTakenAtTheLimit(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		a := p.agent().known(wire.DeviceActive, 0).connect()
		defer a.hangUp()
		const more = 10 // seconds' worth
		start := time.Now()
		for range (burstFrames + more*maxFrames) / 4 {
			all := []*seal.SealedStatement{a.statement(), a.statement(), a.statement(), a.statement()}
			a.state(all...)
			a.inCustody(all[3])
		}
		if d := time.Since(start); d < (more-1)*time.Second || d > (more+3)*time.Second {
			t.Errorf("%d statements took %v", a.seq, d)
		}
	})
}

// again opens another session, in the next run of the agent.
func (a *agent) again() *wire.Welcome {
	a.p.t.Helper()
	a.dial(a.attach(2, func(in *seal.Attach) { in.Highest, in.Chain = a.seq, a.chain }))
	return recv[wire.Welcome](a, wire.TypeWelcome)
}

// What is behind a refused statement is skipped, until the agent has gone back to it: nothing is in custody whose predecessor
// is not.
func TestStepBackAfterRefusal(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		a := p.agent().known(wire.DeviceActive, 0).connect()
		defer a.hangUp()
		one, two, three := a.statement(), a.statement(), a.statement()
		flipped := *two
		flipped.Sealed = append([]byte(nil), two.Sealed...)
		flipped.Sealed[len(flipped.Sealed)-1] ^= 1
		a.state(one, &flipped, three)
		var refused, kept bool
		for !refused || !kept {
			typ, body, err := a.RecvWithin(time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			switch typ {
			case wire.TypeCustody:
				var c wire.Custody
				if err := wire.Unmarshal(body, &c); err != nil || c.Seq != 1 {
					t.Fatalf("custody %+v, %v", c, err)
				}
				kept = true
			case wire.TypeError:
				var e wire.Error
				if err := wire.Unmarshal(body, &e); err != nil || e.Code != wire.CodeMalformed || e.Ref != wire.TypeStatement {
					t.Fatalf("refusal %+v, %v", e, err)
				}
				refused = true
			}
		}
		settle()
		if n := p.custody.Spool.Status().Records; n != 1 {
			t.Errorf("%d in custody, want the first alone", n)
		}
		a.state(two, three)
		a.inCustody(three)
		if got := p.custody.Kept(a.id); got.Seq != 3 {
			t.Errorf("kept %+v", got)
		}
	})
}

func TestStatementsOfOthersAreRefused(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		a, other := p.agent().known(wire.DeviceActive, 0).connect(), p.agent()
		defer a.hangUp()
		defer other.hangUp()
		refused := func(what string, code wire.Code, sealed []byte) {
			t.Helper()
			a.send(wire.TypeStatement, wire.Statement{Sealed: sealed})
			if e := recv[wire.Error](a, wire.TypeError); e.Code != code || e.Ref != wire.TypeStatement {
				t.Errorf("%s: %+v", what, e)
			}
		}
		refused("another device's", wire.CodeForbidden, other.statement().Sealed)
		forged := *other
		forged.id = a.id // in this device's name, under another key
		refused("in its name", wire.CodeForbidden, forged.statement().Sealed)
		refused("nothing", wire.CodeMalformed, nil)
		refused("junk", wire.CodeMalformed, []byte("junk"))
		refused("too long", wire.CodeMalformed, make([]byte, wire.MaxStatement+1))
		if n := p.custody.Spool.Status().Records; n != 0 {
			t.Errorf("%d in custody", n)
		}
	})
}

func TestReceiptsReachTheirDevice(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		a := p.agent().known(wire.DeviceActive, 0).connect()
		defer a.hangUp()
		one := a.statement()
		a.state(one)
		a.inCustody(one)
		receipt := func(st *seal.SealedStatement) []byte {
			b, err := seal.SealReceipt(&seal.Receipt{Version: 1, Device: a.id, ClusterEpoch: 1, Epoch: 1, Seq: st.Seq, Chain: st.Chain}, p.core.Key)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		p.srv.Receipts([]wire.DeviceReceipt{{Device: a.id, Receipt: receipt(one)}, {Device: a.id, Receipt: []byte("forged")}})
		if ack := recv[wire.HeartbeatAck](a, wire.TypeHeartbeatAck); string(ack.Receipt) != string(receipt(one)) || ack.Number != 0 || !ack.Uplink {
			t.Errorf("answer %+v", ack)
		}
		p.srv.Refused([]custody.Refused{{Sealed: one.Sealed, Code: wire.CodeConflict, Detail: "other content"}})
		if e := recv[wire.Error](a, wire.TypeError); e.Code != wire.CodeConflict || e.Ref != wire.TypeStatement {
			t.Errorf("refusal %+v", e)
		}
		a.Close()
		settle()
		two := a.statement()
		p.srv.Receipts([]wire.DeviceReceipt{{Device: a.id, Receipt: receipt(two)}}) // while it is away
		a.again()
		if ack := recv[wire.HeartbeatAck](a, wire.TypeHeartbeatAck); string(ack.Receipt) != string(receipt(two)) {
			t.Errorf("after it came back: %+v", ack)
		}
	})
}

// A device that reads nothing holds up nobody who has something for others.
func TestDeafAgentHoldsUpNobody(t *testing.T) {
	world(t, func(t *testing.T, p *plant) {
		deaf, a := p.agent().known(wire.DeviceActive, 0).connect(), p.agent().known(wire.DeviceActive, 0).connect()
		defer deaf.hangUp()
		defer a.hangUp()
		settle()
		ses, _ := p.roster.SessionOf(deaf.id)
		for range 200 {
			ses.Receipt(make([]byte, 400))
			ses.Refused(wire.Refuse(wire.CodeConflict, "no"))
		}
		begin := time.Now()
		one := a.statement()
		a.state(one)
		a.inCustody(one)
		if d := time.Since(begin); d > time.Second {
			t.Errorf("custody after %v", d)
		}
	})
}
