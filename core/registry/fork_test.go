package registry

import (
	"errors"
	"testing"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A box is a machine that runs as a gateway: its spool is a list of records, each of which makes a chain with those before it.
type box struct {
	key     *machine
	run     uint64
	inc     byte
	records []byte
	trimmed int
}

func (b *box) point(n int) wire.SpoolPoint {
	p := wire.SpoolPoint{Seq: uint64(n)}
	copy(p.Chain[:], b.records[:n])
	return p
}

func (b *box) copy() *box {
	c := *b
	c.records = append([]byte(nil), b.records...)
	return &c
}

func (b *box) hello() *command.Uplinked {
	return &command.Uplinked{Gateway: gwA, Key: b.key.kid, Run: b.run, Spool: wire.SpoolEnds{
		Incarnation: [16]byte{b.inc}, Trimmed: b.point(b.trimmed), Last: b.point(len(b.records)),
	}}
}

// shows is the hello of a box that was asked for the record at the mark.
func (b *box) shows(l *log) *command.Uplinked {
	c := b.hello()
	g, _ := l.state.View().Gateway(gwA)
	if c.Asked = g.Spool.Upto.Seq; c.Asked > uint64(b.trimmed) && c.Asked <= uint64(len(b.records)) {
		p := b.point(int(c.Asked))
		c.Proof = &p
	}
	return c
}

// submits brings all that the box has.
func (b *box) submits(m *machine) *command.Statements {
	c := m.submit(m.sign(m.statement(), seal.Register{}).Sealed)
	c.Mark = &command.Mark{Gateway: gwA, Run: b.run, Incarnation: [16]byte{b.inc}, Upto: b.point(len(b.records))}
	return c
}

func newBox(l *log) (*box, *machine) {
	l.t.Helper()
	b := &box{key: newMachine(l.t), run: 1, inc: 1}
	l.ok(gatewayToken(2, "plant-7"))
	l.ok(b.key.enrollGateway(2, "gw-a"))
	return b, l.enrolled(1)
}

// forks commits what is refused because it comes from a copy. The report of that may be new.
func forks(l *log, c command.Command) {
	l.t.Helper()
	if err, _ := l.apply(c).Results[0].(error); !errors.Is(err, errFork) {
		l.t.Errorf("%T: %v, want a fork", c, err)
	}
}

var errFork = wire.Refuse(wire.CodeForked, "")

// A gateway whose spool does not hold what was committed is refused, reported once, and stays refused; the other goes on.
func TestCopiesOfAGateway(t *testing.T) {
	l := newLog(t)
	b, m := newBox(l)
	l.ok(b.hello())
	b.records = []byte{1, 2, 3}
	l.ok(b.submits(m))
	backup := b.copy()
	b.records, b.trimmed = append(b.records, 4, 5), 3
	l.ok(b.submits(m))

	backup.run = 2
	l.refused(backup.hello(), ErrRetry) // a hello may be old
	eff := l.apply(backup.shows(l))
	if err, _ := eff.Results[0].(error); !errors.Is(err, errFork) {
		t.Errorf("an older copy: %v", eff.Results[0])
	}
	if got := audited(t, eff); len(got) != 1 || got[0].Action != "gateway.fork" || got[0].Target != gwA || len(eff.Events) != 1 || eff.Events[0].Type != EventGatewayForked {
		t.Errorf("reported by %+v and %+v", got, eff.Events)
	}
	if eff := l.apply(backup.shows(l)); len(eff.Records)+len(eff.Events) != 0 {
		t.Errorf("reported again: %+v", eff)
	}
	backup.records = append(backup.records, 9, 9, 9)
	l.refused(backup.hello(), ErrRetry) // neither end is at the mark
	forks(l, backup.shows(l))
	l.refused(backup.submits(m), ErrReplaced)

	b.run = 3 // restarted
	b.records = append(b.records, 6)
	l.refused(b.hello(), ErrRetry)
	l.ok(b.shows(l))
	l.ok(b.submits(m))
	g, _ := l.state.View().Gateway(gwA)
	if g.Forked == nil || g.Forked.Run != 2 || g.Spool.Upto != b.point(6) || g.Runs[0].Run != 3 {
		t.Errorf("record %+v", g)
	}
	l.state = restore(t, l.snapshot())
	forks(l, backup.shows(l))
}

// What a gateway goes through in an honest life never looks like a copy.
func TestHonestGatewayIsNoCopy(t *testing.T) {
	l := newLog(t)
	b, m := newBox(l)
	l.ok(b.hello())
	for i := range 60 {
		b.records = append(b.records, byte(i))
		if i%3 == 0 {
			b.records = append(b.records, byte(i))
		}
		l.ok(b.submits(m)) // whether or not it hears of it
		if i%2 == 0 {
			b.trimmed = len(b.records)
		}
		if i%4 == 0 { // what was not synced is gone, and comes again as something else
			b.records = append(b.records, 0xff)
			b.records = b.records[:len(b.records)-1]
			b.run++
		}
		if i%5 == 0 {
			b.records = append(b.records, 7) // waits
		}
		l.ok(b.shows(l))
	}
	old := l.snapshot()
	b.records = append(b.records, 1, 2, 3)
	l.ok(b.submits(m))
	b.trimmed, b.run = len(b.records), b.run+1
	l.ok(b.shows(l))
	l.state = restore(t, old) // the core was put back
	l.ok(b.hello())
	b.inc, b.records, b.trimmed, b.run = 2, []byte{1}, 0, b.run+1 // its disk was lost
	eff := l.apply(b.hello())
	if eff.Results[0] != nil || len(eff.Events) != 1 || eff.Events[0].Type != EventGatewayStarted || eff.Events[0].Data["spool"] == "" {
		t.Errorf("a new spool: %+v", eff)
	}
	// The hello of a run that died is committed after that of its successor.
	first, second := b.copy(), b.copy()
	first.run, second.run = 1000, 1001
	l.ok(second.shows(l))
	l.ok(first.shows(l))
	l.ok(second.shows(l))
	l.ok(second.submits(m))
	second.run++
	l.ok(second.shows(l))
	if g, _ := l.state.View().Gateway(gwA); g.Forked != nil {
		t.Errorf("taken for a copy: %+v", g.Forked)
	}
}

// What a gateway brought in one session can be committed before the hello of another one is looked at, which it sent at the same time, or before
// it was restarted. The hello is no copy's. One that is asked, and still ends before the mark, is.
func TestHelloThatWasOvertaken(t *testing.T) {
	for name, restarted := range map[string]bool{"by another session of the run": false, "by the next run": true} {
		l := newLog(t)
		b, m := newBox(l)
		b.records = []byte{1}
		old := b.hello()
		b.records = append(b.records, 2)
		if restarted {
			b.run++
		}
		l.ok(b.hello())
		l.ok(b.submits(m))
		eff := l.apply(old)
		if err, _ := eff.Results[0].(error); !errors.Is(err, ErrRetry) || len(eff.Events) != 0 {
			t.Errorf("%s: %v, %+v", name, eff.Results[0], eff.Events)
		}
		old.Asked = 1 // the mark that the proposer saw was an older one
		l.refused(old, ErrRetry)
		old.Asked = 2
		forks(l, old)
		b.records = append(b.records, 3)
		l.ok(b.submits(m))
		forks(l, old) // what it could not show then, it never could
	}
}

// Two that are alike to the last record give themselves away by replacing each other: one of them is refused for good.
func TestTwoOfAGateway(t *testing.T) {
	l := newLog(t)
	a, m := newBox(l)
	l.ok(a.hello())
	a.records = []byte{1}
	l.ok(a.submits(m))
	b := a.copy()
	b.run = 2
	l.ok(b.shows(l))
	l.refused(a.submits(m), ErrReplaced)
	l.ok(a.shows(l))
	forks(l, b.shows(l))
	l.ok(a.submits(m))
	a.run = 3 // restarted, which changes nothing for the other
	l.ok(a.shows(l))
	forks(l, b.shows(l))
	l.ok(a.shows(l))
	// Copied with its memory, too, it is the same run, and differs with the next record.
	c := a.copy()
	a.records, c.records = append(a.records, 2), append(c.records, 3)
	l.ok(a.submits(m))
	forks(l, c.submits(m))
	forks(l, c.shows(l))
	l.ok(a.shows(l))
	l.ok(a.submits(m))
	// Enrolled anew the name has no past.
	fresh := &box{key: newMachine(t), run: 4, inc: 9}
	l.ok(fresh.key.enrollGateway(2, "gw-a"))
	l.ok(fresh.hello())
	l.refused(b.shows(l), ErrRevoked)
}
