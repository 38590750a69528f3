package registry

import (
	"slices"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// Bounds of what a device can leave open. Beyond them a statement is held by whoever has it until something closes.
const (
	maxGaps   = 64 // of all epochs
	maxEpochs = 4  // that are not settled
)

// An Epoch is the head of one epoch of a device's statements.
type Epoch struct {
	N     uint64     `cbor:"1,keyasint"`
	ID    [16]byte   `cbor:"2,keyasint"` // zero: no statement of it has come yet
	Seq   uint64     `cbor:"3,keyasint"` // highest that is committed, or that a later epoch says was stated
	Chain seal.Chain `cbor:"4,keyasint"` // after Seq
}

// An OpenEpoch is an epoch of which something may still come.
//
//	1 ................. Seq
//	[committed][gap][committed]
type OpenEpoch struct {
	Epoch
	Gaps  []Gap `cbor:"5,keyasint,omitempty"`
	Ended bool  `cbor:"6,keyasint,omitempty"` // a later epoch says that this one is over
	Lost  bool  `cbor:"7,keyasint,omitempty"` // and that what was behind Seq is lost: some of it may have got out
}

// A Gap is a range of statements that are not committed while later ones are. The chains at its edges make sure that only
// what the device stated fills it; a zero one is not known.
type Gap struct {
	From   uint64     `cbor:"1,keyasint"`
	To     uint64     `cbor:"2,keyasint"`
	Before seal.Chain `cbor:"3,keyasint"`           // after From-1
	After  seal.Chain `cbor:"4,keyasint"`           // after To
	Final  bool       `cbor:"5,keyasint,omitempty"` // the device says that it no longer holds them; what still comes is late
}

// A Sequence is how far a device's statements are committed, over all of its epochs.
//
// Invariant: Epochs ascend by N and end with the newest; the gaps of an epoch ascend, do not touch, and end below its Seq.
type Sequence struct {
	Epochs  []OpenEpoch `cbor:"1,keyasint,omitempty"` // those not settled, and always the newest
	Settled uint64      `cbor:"2,keyasint,omitempty"` // highest N of which nothing can come that is not committed
}

// A Position is a place in a device's statements, whose order is that of epoch and seq.
type Position struct {
	Epoch uint64 `cbor:"1,keyasint,omitempty"`
	Seq   uint64 `cbor:"2,keyasint,omitempty"`
}

// Before tells whether p comes before o.
func (p Position) Before(o Position) bool {
	return p.Epoch < o.Epoch || p.Epoch == o.Epoch && p.Seq < o.Seq
}

// Covered is up to where all statements of a device are committed, or will never come: what a receipt is given for.
type Covered struct {
	Epoch uint64
	Seq   uint64
	Chain seal.Chain
}

// Sequence is how far the device's statements are committed. Most devices have one epoch and no gap, and their records hold
// nothing but its head.
func (d *Device) Sequence() Sequence {
	switch {
	case d.Open != nil:
		return *d.Open
	case d.Epoch.N == 0:
		return Sequence{}
	}
	return Sequence{Epochs: []OpenEpoch{{Epoch: d.Epoch}}, Settled: d.Epoch.N - 1}
}

// setSequence keeps q in the record.
func (d *Device) setSequence(q Sequence) {
	n := len(q.Epochs) - 1
	d.Epoch, d.Open = q.Epochs[n].Epoch, nil
	if n > 0 || len(q.Epochs[n].Gaps) > 0 || q.Settled != d.Epoch.N-1 {
		d.Open = &q
	}
}

// Covered is Sequence().Covered().
func (d *Device) Covered() (Covered, bool) {
	if d.Open == nil {
		return Covered{d.Epoch.N, d.Epoch.Seq, d.Epoch.Chain}, d.Epoch.Seq > 0
	}
	return d.Open.Covered()
}

// place puts a statement where it belongs. When it is refused, or seen, d is unchanged.
func (d *Device) place(s *seal.SealedStatement) (placement, *wire.Error) {
	if e := &d.Epoch; d.Open == nil && s.Epoch == e.N && s.EpochID == e.ID && s.Seq == e.Seq+1 && s.Prev == e.Chain {
		e.Seq, e.Chain = s.Seq, s.Chain // as nearly always
		return fresh, nil
	}
	q := d.Sequence()
	verdict, refuse := q.place(s)
	if refuse == nil && verdict != seen {
		d.setSequence(q)
	}
	return verdict, refuse
}

// Covered is how far a receipt reaches. false: nothing is complete yet.
func (q *Sequence) Covered() (Covered, bool) {
	var m Covered
	for i := range q.Epochs {
		e := &q.Epochs[i]
		for _, g := range e.Gaps {
			if g.Final {
				continue
			}
			if g.From > 1 {
				m = Covered{e.N, g.From - 1, g.Before}
			}
			// Without the chain at the gap's edge the device could not tell that the receipt is about its own statements.
			return m, m.Chain != seal.Chain{}
		}
		m = Covered{e.N, e.Seq, e.Chain}
		if !e.Ended {
			break // its end is not known: more of it may come
		}
	}
	return m, m.Seq > 0
}

// clone makes a copy that may be changed.
func (q *Sequence) clone() Sequence {
	n := Sequence{Epochs: slices.Clone(q.Epochs), Settled: q.Settled}
	for i := range n.Epochs {
		n.Epochs[i].Gaps = slices.Clone(n.Epochs[i].Gaps)
	}
	return n
}

type placement int

const (
	fresh placement = iota // the statement was not committed
	late                   // so it was, and it had been given up
	seen                   // it was committed before
)

// place puts a statement where it belongs. When it is refused, or seen, q is unchanged.
func (q *Sequence) place(s *seal.SealedStatement) (placement, *wire.Error) {
	if s.Epoch <= q.Settled {
		return seen, nil // nothing of it was missing when it was settled
	}
	n := q.clone()
	e := n.epoch(s.Epoch)
	if e.ID != [16]byte{} && e.ID != s.EpochID {
		return 0, wire.Refuse(wire.CodeConflict, "epoch %d was another", s.Epoch)
	}
	e.ID = s.EpochID
	verdict, refuse := e.place(s)
	if refuse != nil || verdict == seen {
		return verdict, refuse
	}
	if s.Seq == 1 && s.Before != nil && s.Before.Epoch < s.Epoch {
		n.end(s.Before)
	}
	n.settle()
	n.forget()
	if refuse := n.held(); refuse != nil {
		return 0, refuse
	}
	*q = n
	return verdict, nil
}

// epoch finds the epoch with number n, or makes it.
func (q *Sequence) epoch(n uint64) *OpenEpoch {
	i, found := slices.BinarySearchFunc(q.Epochs, n, func(e OpenEpoch, n uint64) int {
		switch {
		case e.N < n:
			return -1
		case e.N > n:
			return 1
		}
		return 0
	})
	if !found {
		q.Epochs = slices.Insert(q.Epochs, i, OpenEpoch{Epoch: Epoch{N: n}})
	}
	return &q.Epochs[i]
}

// place puts a statement where it belongs in its epoch.
func (e *OpenEpoch) place(s *seal.SealedStatement) (placement, *wire.Error) {
	switch {
	case s.Seq > e.Seq && e.Ended && !e.Lost:
		return 0, wire.Refuse(wire.CodeConflict, "epoch %d ended with seq %d", e.N, e.Seq)
	case s.Seq > e.Seq:
		return e.extend(s)
	case s.Seq == e.Seq && s.Chain != e.Chain:
		return 0, wire.Refuse(wire.CodeConflict, "seq %d was stated with other content", s.Seq)
	}
	i := slices.IndexFunc(e.Gaps, func(g Gap) bool { return g.From <= s.Seq && s.Seq <= g.To })
	if i < 0 {
		return seen, nil
	}
	return e.fill(i, s)
}

// extend puts a statement behind all others of its epoch.
func (e *OpenEpoch) extend(s *seal.SealedStatement) (placement, *wire.Error) {
	switch {
	case s.Seq > e.Seq+1:
		e.Gaps = append(e.Gaps, Gap{From: e.Seq + 1, To: s.Seq - 1, Before: e.Chain, After: s.Prev})
	case s.Prev != e.Chain:
		return 0, wire.Refuse(wire.CodeConflict, "seq %d does not continue seq %d", s.Seq, e.Seq)
	}
	e.Seq, e.Chain = s.Seq, s.Chain
	if e.Lost {
		return late, nil
	}
	return fresh, nil
}

// fill puts a statement into a gap, of which what is before and behind it is left.
func (e *OpenEpoch) fill(i int, s *seal.SealedStatement) (placement, *wire.Error) {
	g := e.Gaps[i]
	none := seal.Chain{}
	switch {
	case s.Seq == g.From && g.Before != none && s.Prev != g.Before:
		return 0, wire.Refuse(wire.CodeConflict, "seq %d does not continue seq %d", s.Seq, s.Seq-1)
	case s.Seq == g.To && g.After != none && s.Chain != g.After:
		return 0, wire.Refuse(wire.CodeConflict, "seq %d does not continue seq %d", s.Seq+1, s.Seq)
	}
	var rest []Gap
	if s.Seq > g.From {
		rest = append(rest, Gap{From: g.From, To: s.Seq - 1, Before: g.Before, After: s.Prev, Final: g.Final})
	}
	if s.Seq < g.To {
		rest = append(rest, Gap{From: s.Seq + 1, To: g.To, Before: s.Chain, After: g.After, Final: g.Final})
	}
	e.Gaps = slices.Replace(e.Gaps, i, i+1, rest...)
	if s.Seq == e.Seq { // the last one of an epoch that another ended
		e.Chain = s.Chain
	}
	if g.Final {
		return late, nil
	}
	return fresh, nil
}

// end takes in what the first statement of an epoch says of the one before.
func (q *Sequence) end(l *seal.EpochLink) {
	if l.Epoch <= q.Settled {
		return
	}
	e := q.epoch(l.Epoch)
	e.Ended, e.Lost = true, l.Lost != ""
	if l.Seq > e.Seq {
		e.Gaps = append(e.Gaps, Gap{From: e.Seq + 1, To: l.Seq, Before: e.Chain, After: l.Chain})
		e.Seq, e.Chain = l.Seq, l.Chain
	}
}

// settle lets go of the oldest epochs of which nothing can come any more. One that ended with a loss is kept while there is
// room, because what its device no longer has may have reached a gateway.
func (q *Sequence) settle() {
	for len(q.Epochs) > 1 {
		e := &q.Epochs[0]
		if !e.Ended || len(e.Gaps) > 0 || e.Lost && len(q.Epochs) <= maxEpochs {
			return
		}
		q.Settled = e.N
		q.Epochs = q.Epochs[1:]
	}
}

// held says whether too much is open to take anything more.
func (q *Sequence) held() *wire.Error {
	gaps := 0
	for i := range q.Epochs {
		gaps += len(q.Epochs[i].Gaps)
	}
	switch {
	case gaps > maxGaps:
		return wire.Refuse(wire.CodeHold, "%d ranges of statements are missing before this one", gaps)
	case len(q.Epochs) > maxEpochs:
		return wire.Refuse(wire.CodeHold, "%d epochs are not complete", len(q.Epochs)-1)
	}
	return nil
}

// giveUp makes those gaps final that the device says it can no longer fill: its outbox begins behind them. It returns the
// ranges.
func (q *Sequence) giveUp(a *command.Attach) []Lost {
	var lost []Lost
	n := q.clone()
	for i := range n.Epochs {
		e := &n.Epochs[i]
		from := heldFrom(a, e.N)
		if from == nothingHeld && !e.Ended { // and no statement says how far it went
			e.Ended, e.Lost = true, true
		}
		for j := 0; j < len(e.Gaps); j++ {
			g := e.Gaps[j]
			if g.Final || g.From >= from {
				continue
			}
			if g.To >= from { // what is behind may still come
				e.Gaps = slices.Insert(e.Gaps, j+1, Gap{From: from, To: g.To, After: g.After})
				g.To, g.After = from-1, seal.Chain{}
			}
			g.Final = true
			e.Gaps[j] = g
			lost = append(lost, Lost{Epoch: e.N, From: g.From, To: g.To})
		}
	}
	n.settle()
	n.forget()
	*q = n
	return lost
}

// nothingHeld is the seq from which on a device holds statements of an epoch of which it holds none, nor will make any.
const nothingHeld = ^uint64(0)

// heldFrom is the seq from which on a device still holds, or may yet make, statements of an epoch.
func heldFrom(a *command.Attach, epoch uint64) uint64 {
	switch {
	case epoch > a.Epoch:
		return 0 // made after the attach
	case epoch == a.Epoch:
		return a.Lowest
	case a.OldestEpoch != 0 && epoch > a.OldestEpoch:
		return 0
	case a.OldestEpoch != 0 && epoch == a.OldestEpoch:
		return a.OldestSeq
	}
	return nothingHeld
}

// forget lets go of ranges that were given up longest ago when there are too many to keep, so that they do not stand in the
// way of what still comes.
func (q *Sequence) forget() {
	for q.held() != nil {
		if !q.forgetOne() {
			return
		}
		q.settle()
	}
}

func (q *Sequence) forgetOne() bool {
	for i := range q.Epochs {
		e := &q.Epochs[i]
		if j := slices.IndexFunc(e.Gaps, func(g Gap) bool { return g.Final }); j >= 0 {
			e.Gaps = slices.Delete(e.Gaps, j, j+1)
			return true
		}
	}
	return false
}

// Lost is a range of statements that a device stated, of which the core knows that they will not come. Nobody may be
// surprised: one that still comes is taken, and marked late.
type Lost struct {
	Epoch uint64 `cbor:"1,keyasint"`
	From  uint64 `cbor:"2,keyasint"`
	To    uint64 `cbor:"3,keyasint"`
}
