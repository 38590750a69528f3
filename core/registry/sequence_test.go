package registry

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A teller states things in epochs, as a device does.
type teller struct {
	all []*seal.SealedStatement // in order
}

// epoch states n things in a new epoch. Of the epoch before the device names what it knows: all of it, or less, with a loss.
func (d *teller) epoch(n, forgotten int) {
	var before *seal.EpochLink
	number := uint64(1)
	if k := len(d.all); k > 0 {
		last := d.all[k-1]
		number = last.Epoch + 1
		before = &seal.EpochLink{Epoch: last.Epoch}
		if named := k - 1 - forgotten; named >= 0 && d.all[named].Epoch == last.Epoch {
			before.Seq, before.Chain = d.all[named].Seq, d.all[named].Chain
		}
		if forgotten > 0 {
			before.Lost = "disk"
		}
	}
	var chain seal.Chain
	for i := range n {
		s := &seal.SealedStatement{Statement: seal.Statement{Epoch: number, EpochID: [16]byte{byte(number)}, Seq: uint64(i + 1), Prev: chain}}
		if i == 0 {
			s.Before = before
		}
		chain = chain.Next([]byte(fmt.Sprint(number, i)))
		s.Chain = chain
		d.all = append(d.all, s)
	}
}

// model is the slow and simple way to say how far a receipt may reach: through everything in front that is committed or given
// up, epoch by epoch, as long as it is known where an epoch ends.
func (d *teller) model(committed, given map[*seal.SealedStatement]bool) (c Covered) {
	for i, s := range d.all {
		if s.Seq == 1 && i > 0 && !committed[s] && !given[s] {
			return c // where the epoch before ends is not known
		}
		if !committed[s] && !given[s] {
			return c
		}
		c = Covered{s.Epoch, s.Seq, s.Chain}
	}
	return c
}

// However statements come, each is taken once, nothing is covered that could still be missing, and in the end everything is.
func TestSequenceInAnyOrder(t *testing.T) {
	for seed := range uint64(3000) {
		rng := rand.New(rand.NewPCG(seed, 1))
		d := new(teller)
		for range 1 + rng.IntN(maxEpochs-1) {
			d.epoch(1+rng.IntN(12), 0)
		}
		var q Sequence
		committed := make(map[*seal.SealedStatement]bool)
		order := rng.Perm(len(d.all))
		if rng.IntN(2) == 0 { // nearly in order, as gateways bring them
			slices.Sort(order)
			for range 3 {
				i := rng.IntN(len(order))
				j := min(i+rng.IntN(4), len(order)-1)
				order[i], order[j] = order[j], order[i]
			}
		}
		for _, i := range order {
			for range 1 + rng.IntN(2) {
				want := fresh
				if committed[d.all[i]] {
					want = seen
				}
				if got, refuse := q.place(d.all[i]); refuse != nil || got != want {
					t.Fatalf("seed %d: statement %d of epoch %d: %v, %v, want %v", seed, d.all[i].Seq, d.all[i].Epoch, got, refuse, want)
				}
				committed[d.all[i]] = true
			}
			got, _ := q.Covered()
			if want := d.model(committed, nil); got != want {
				t.Fatalf("seed %d: covered %+v, want %+v; %+v", seed, got, want, q)
			}
		}
		last := d.all[len(d.all)-1]
		if got, ok := q.Covered(); !ok || got != (Covered{last.Epoch, last.Seq, last.Chain}) || len(q.Epochs) != 1 || q.Settled != last.Epoch-1 {
			t.Fatalf("seed %d: in the end %+v", seed, q)
		}
	}
}

// What a device no longer holds is given up, named once, and taken all the same when it comes late.
func TestSequenceGivesUp(t *testing.T) {
	for seed := range uint64(2000) {
		rng := rand.New(rand.NewPCG(seed, 2))
		d := new(teller)
		for range 1 + rng.IntN(2) {
			d.epoch(2+rng.IntN(10), 0)
		}
		var q Sequence
		committed, missing := make(map[*seal.SealedStatement]bool), make(map[*seal.SealedStatement]bool)
		for _, s := range d.all[:len(d.all)-1] {
			if rng.IntN(3) == 0 {
				missing[s] = true
				continue
			}
			committed[s] = true
			if _, refuse := q.place(s); refuse != nil {
				t.Fatal(refuse)
			}
		}
		last := d.all[len(d.all)-1]
		committed[last] = true
		if _, refuse := q.place(last); refuse != nil {
			t.Fatal(refuse)
		}
		lost := q.giveUp(&command.Attach{Epoch: last.Epoch, Lowest: last.Seq, Highest: last.Seq, Chain: last.Chain})
		named := 0
		for _, l := range lost {
			named += int(l.To - l.From + 1)
		}
		// The end of an epoch whose successor's first statement is missing is known to nobody.
		ends := 0
		for i, s := range d.all {
			if missing[s] && (i+1 == len(d.all) || d.all[i+1].Seq == 1 && missing[d.all[i+1]]) {
				ends++
			}
		}
		if named > len(missing) || named < len(missing)-len(d.all)*min(ends, 1) {
			t.Fatalf("seed %d: %d named as lost, %d are, with %d ends: %+v", seed, named, len(missing), ends, lost)
		}
		if again := q.giveUp(&command.Attach{Epoch: last.Epoch, Lowest: last.Seq, Highest: last.Seq}); len(again) != 0 {
			t.Fatalf("seed %d: named again: %+v", seed, again)
		}
		if got, _ := q.Covered(); got != (Covered{last.Epoch, last.Seq, last.Chain}) {
			t.Fatalf("seed %d: covered %+v of %+v", seed, got, q)
		}
		for _, s := range d.all {
			if !missing[s] || s.Epoch <= q.Settled {
				continue
			}
			if got, refuse := q.place(s); refuse != nil || got == seen {
				t.Fatalf("seed %d: statement %d of epoch %d, late: %v, %v; %+v", seed, s.Seq, s.Epoch, got, refuse, q)
			}
		}
	}
}

// A device that lost its state begins an epoch that names no other. What it had stated before is covered and may still come.
func TestSequenceAfterLoss(t *testing.T) {
	d := new(teller)
	d.epoch(5, 0)
	d.epoch(3, 2) // names seq 3 of epoch 1 as the head
	var q Sequence
	for _, i := range []int{0, 5, 6} {
		if _, refuse := q.place(d.all[i]); refuse != nil {
			t.Fatal(refuse)
		}
	}
	if open := q.missing(); open != 2 {
		t.Errorf("%d missing, want seq 2 and 3", open)
	}
	for i, want := range map[int]placement{3: late, 1: fresh, 2: fresh} {
		if got, refuse := q.place(d.all[i]); refuse != nil || got != want {
			t.Errorf("statement %d: %v, %v, want %v", i+1, got, refuse, want)
		}
	}
	if c, ok := q.Covered(); !ok || c.Epoch != 2 || c.Seq != 2 {
		t.Errorf("covered %+v", c)
	}
}

// More than 64 gaps, or four epochs that are not complete, are held by whoever has them, and nothing changes.
func TestSequenceHolds(t *testing.T) {
	d := new(teller)
	d.epoch(2*maxGaps+4, 0)
	var q Sequence
	var held int
	for i := 1; i < len(d.all); i += 2 {
		before := q.clone()
		_, refuse := q.place(d.all[i])
		if refuse == nil {
			continue
		}
		held++
		if refuse.Code != wire.CodeHold || len(q.Epochs[0].Gaps) != maxGaps || len(before.Epochs[0].Gaps) != maxGaps {
			t.Fatalf("statement %d: %v with %d gaps", i+1, refuse, len(q.Epochs[0].Gaps))
		}
	}
	if held == 0 {
		t.Error("nothing was held")
	}
	for i := range d.all { // the gaps close, and all of it is taken
		if _, refuse := q.place(d.all[i]); refuse != nil {
			t.Fatalf("statement %d: %v", i+1, refuse)
		}
	}
	e := new(teller)
	for range maxEpochs + 2 {
		e.epoch(2, 0)
	}
	q = Sequence{}
	var codes []wire.Code
	for i := 1; i < len(e.all); i += 2 { // the second of each epoch
		_, refuse := q.place(e.all[i])
		if refuse != nil {
			codes = append(codes, refuse.Code)
		}
	}
	if !slices.Equal(codes, []wire.Code{wire.CodeHold, wire.CodeHold}) {
		t.Errorf("of %d epochs without their first statements: %v", maxEpochs+2, codes)
	}
}

// missing counts the statements that are known to be missing and may still come.
func (q *Sequence) missing() (open uint64) {
	for i := range q.Epochs {
		for _, g := range q.Epochs[i].Gaps {
			if !g.Final {
				open += g.To - g.From + 1
			}
		}
	}
	return open
}
