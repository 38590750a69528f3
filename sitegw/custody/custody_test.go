package custody_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/sitegw/custody"
	"github.com/holdfast-edge/holdfast/sitegw/custody/custodytest"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A device states things.
type device struct {
	t     *testing.T
	id    ident.DeviceID
	kid   ident.KeyID
	key   crypto.Signer
	seq   uint64
	chain seal.Chain
}

func newDevice(t *testing.T) *device {
	t.Helper()
	key, err := ident.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return &device{t: t, id: ident.NewDeviceID(), kid: ident.KeyIDOfSPKI(spki), key: key}
}

func (d *device) state() *seal.SealedStatement {
	d.t.Helper()
	d.seq++
	st, err := seal.SealStatement(&seal.Statement{
		Version: 1, Type: seal.StatementRegister, Device: d.id, Epoch: 1, EpochID: [16]byte{1}, Seq: d.seq, Prev: d.chain, Body: []byte{0xa0},
	}, d.kid, d.key)
	if err != nil {
		d.t.Fatal(err)
	}
	d.chain = st.Chain
	return st
}

func at(st *seal.SealedStatement) custody.Position {
	return custody.Position{Epoch: st.Epoch, Seq: st.Seq, Chain: st.Chain}
}

// keep takes statements into custody and waits until they are.
func keep(t *testing.T, k *custody.Keeper, all ...*seal.SealedStatement) {
	t.Helper()
	for i, st := range all {
		refused := make(chan *wire.Error, 1)
		k.Keep(st, i == 0, func(e *wire.Error) { refused <- e })
		if e := <-refused; e != nil {
			t.Fatal(e)
		}
	}
}

// bubble runs f with a keeper, and a function that restarts the gateway.
func bubble(t *testing.T, f func(t *testing.T, k *custody.Keeper, restart func() *custody.Keeper)) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		k, stop := custodytest.Open(t, dir)
		defer func() { stop() }()
		f(t, k, func() *custody.Keeper {
			stop()
			k, stop = custodytest.Open(t, dir)
			return k
		})
	})
}

func sent(t *testing.T, r *custody.Replay, want ...*seal.SealedStatement) *custody.Batch {
	t.Helper()
	b, _, err := r.Next(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if b == nil {
		if len(want) > 0 {
			t.Fatalf("nothing is sent, want %d statements", len(want))
		}
		return nil
	}
	m := b.Submit(1)
	if len(m.Statements) != len(want) || len(m.AfterMS) != len(want) {
		t.Fatalf("%d statements are sent, want %d", len(m.Statements), len(want))
	}
	for i, st := range want {
		if string(m.Statements[i]) != string(st.Sealed) {
			t.Fatalf("statement %d is another", i)
		}
	}
	return b
}

func answer(t *testing.T, r *custody.Replay, b *custody.Batch, codes ...wire.Code) []custody.Refused {
	t.Helper()
	results := make([]wire.SubmitResult, len(codes))
	for i, c := range codes {
		results[i].Code = c
	}
	refused, err := r.Answered(b, results, nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return refused
}

func TestKeptAcrossRestart(t *testing.T) {
	bubble(t, func(t *testing.T, k *custody.Keeper, restart func() *custody.Keeper) {
		d, other := newDevice(t), newDevice(t)
		one, two := d.state(), d.state()
		keep(t, k, one, two)
		if got := k.Kept(d.id); got != at(two) {
			t.Errorf("kept %+v", got)
		}
		if got := k.Kept(other.id); got != (custody.Position{}) {
			t.Errorf("of another: %+v", got)
		}
		if b := k.Backlog(); b.Statements != 2 || b.Bytes == 0 || b.OldestMS != time.Now().UnixMilli() || b.Holding || b.Failing {
			t.Errorf("backlog %+v", b)
		}
		k = restart()
		if got := k.Kept(d.id); got != at(two) {
			t.Errorf("kept after a restart %+v", got)
		}
		r := k.Replay()
		b := sent(t, r, one, two)
		sent(t, r)
		answer(t, r, b, 0, 0)
		if n := k.Spool.Status().Records; n != 0 {
			t.Errorf("%d records stay", n)
		}
		k = restart()
		sent(t, k.Replay())
	})
}

// What does not follow on what is kept is on disk and not counted as kept: its predecessor may not be.
func TestKeptInARow(t *testing.T) {
	bubble(t, func(t *testing.T, k *custody.Keeper, _ func() *custody.Keeper) {
		d := newDevice(t)
		all := []*seal.SealedStatement{d.state(), d.state(), d.state(), d.state()}
		keep(t, k, all[0])
		done := make(chan *wire.Error, 1)
		k.Keep(all[2], false, func(e *wire.Error) { done <- e })
		if e := <-done; e != nil {
			t.Fatal(e)
		}
		if got := k.Kept(d.id); got != at(all[0]) {
			t.Errorf("kept %+v, want seq 1", got)
		}
		keep(t, k, all[3]) // begins a session: what comes before it was receipted elsewhere
		if got := k.Kept(d.id); got != at(all[3]) {
			t.Errorf("kept %+v, want seq 4", got)
		}
	})
}

func TestPutOffAndRefused(t *testing.T) {
	bubble(t, func(t *testing.T, k *custody.Keeper, _ func() *custody.Keeper) {
		d := newDevice(t)
		all := []*seal.SealedStatement{d.state(), d.state(), d.state(), d.state()}
		keep(t, k, all...)
		r := k.Replay()
		b := sent(t, r, all...)
		refused := answer(t, r, b, 0, wire.CodeHold, wire.CodeConflict, 0)
		if len(refused) != 1 || string(refused[0].Sealed) != string(all[2].Sealed) || refused[0].Code != wire.CodeConflict || k.Refused() != 1 {
			t.Errorf("refused %+v", refused)
		}
		if got := k.Spool.Trimmed().Seq; got != 1 {
			t.Errorf("trimmed to %d with the second put off", got)
		}
		if b, again, err := r.Next(time.Now()); b != nil || again.IsZero() || err != nil {
			t.Errorf("%v, again %v, %v", b, again, err)
		}
		time.Sleep(time.Minute)
		b = sent(t, r, all[1])
		if _, err := r.Answered(b, nil, wire.Refuse(wire.CodeUnavailable, "no quorum"), time.Now()); err != nil {
			t.Fatal(err)
		}
		five := d.state()
		keep(t, k, five)
		live := sent(t, r, five) // what is put off holds up nothing
		answer(t, r, live, 0)
		time.Sleep(time.Minute)
		answer(t, r, sent(t, r, all[1]), 0)
		if n := k.Spool.Status().Records; n != 0 {
			t.Errorf("%d records stay", n)
		}
		if _, err := r.Answered(b, make([]wire.SubmitResult, 7), nil, time.Now()); err == nil {
			t.Error("an answer of another size passed")
		}
	})
}

// Spans lie in the spool among the statements and go behind them in a message, each with its own answer; those that the core does
// not take are let go, because no device holds them.
func TestSpans(t *testing.T) {
	bubble(t, func(t *testing.T, k *custody.Keeper, restart func() *custody.Keeper) {
		d := newDevice(t)
		span := func(from int64) {
			t.Helper()
			done := make(chan error, 1)
			k.KeepSpan(&wire.Span{Device: d.id, Attach: []byte("attach"), FromMS: from, LastMS: from + 1, ToMS: from + 2, Beats: 7}, func(err error) { done <- err })
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		one, two := d.state(), d.state()
		span(10)
		keep(t, k, one)
		span(20)
		keep(t, k, two)
		span(30)
		k = restart()
		if got := k.Kept(d.id); got != at(two) {
			t.Errorf("kept %+v", got)
		}
		r := k.Replay()
		b, _, err := r.Next(time.Now())
		if err != nil || b.Len() != 5 {
			t.Fatalf("%v, %v", b, err)
		}
		m := b.Submit(1)
		if len(m.Statements) != 2 || len(m.AfterMS) != 2 || len(m.Spans) != 3 {
			t.Fatalf("%d statements, %d spans", len(m.Statements), len(m.Spans))
		}
		for i, s := range m.Spans {
			if s.FromMS != int64(10*(i+1)) || s.Device != d.id || string(s.Attach) != "attach" || s.Beats != 7 {
				t.Errorf("span %d: %+v", i, s)
			}
		}
		if refused := answer(t, r, b, 0, 0, wire.CodeUnknownKey, wire.CodeUnavailable, 0); len(refused) != 0 || k.Refused() != 0 || k.Doubted() != 1 {
			t.Errorf("refused %+v, %d spans doubted", refused, k.Doubted())
		}
		if got := k.Spool.Trimmed().Seq; got != 2 { // the third record is the second span
			t.Errorf("trimmed to %d", got)
		}
		time.Sleep(time.Minute)
		b, _, _ = r.Next(time.Now())
		if m := b.Submit(2); len(m.Statements) != 0 || len(m.Spans) != 1 || m.Spans[0].FromMS != 20 {
			t.Errorf("then %+v", m)
		}
		answer(t, r, b, 0)
		if n := k.Spool.Status().Records; n != 0 {
			t.Errorf("%d records stay", n)
		}
	})
}

// Batches grow while the core answers quickly, and shrink on a slow link; never more are under way than the core takes.
func TestBatchesFollowTheLink(t *testing.T) {
	bubble(t, func(t *testing.T, k *custody.Keeper, _ func() *custody.Keeper) {
		d := newDevice(t)
		for range 1500 {
			keep(t, k, d.state())
		}
		r := k.Replay()
		var under []*custody.Batch
		for {
			b, _, err := r.Next(time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if b == nil {
				break
			}
			under = append(under, b)
		}
		if len(under) != 4 || under[0].Len() != 16 {
			t.Errorf("%d under way, the first of %d", len(under), under[0].Len())
		}
		sizes := map[int]bool{}
		for range 200 {
			if len(under) == 0 {
				break
			}
			answer(t, r, under[0], make([]wire.Code, under[0].Len())...)
			under = under[1:]
			if b, _, _ := r.Next(time.Now()); b != nil {
				sizes[b.Len()] = true
				under = append(under, b)
			}
		}
		if !sizes[64] || !sizes[256] || k.Spool.Status().Records != 0 {
			t.Errorf("sizes %v, %d records stay", sizes, k.Spool.Status().Records)
		}
		for range 100 {
			keep(t, k, d.state())
		}
		b, _, _ := r.Next(time.Now())
		before := b.Len()
		time.Sleep(10 * time.Second)
		answer(t, r, b, make([]wire.Code, b.Len())...)
		for range 5 {
			for range 100 {
				keep(t, k, d.state())
			}
			b, _, _ = r.Next(time.Now())
			time.Sleep(10 * time.Second)
			answer(t, r, b, make([]wire.Code, b.Len())...)
		}
		if b.Len() >= before || b.Len() != 16 {
			t.Errorf("on a slow link batches of %d, before %d", b.Len(), before)
		}
	})
}

func TestReceiptsWait(t *testing.T) {
	bubble(t, func(t *testing.T, k *custody.Keeper, _ func() *custody.Keeper) {
		pub, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		d := newDevice(t)
		one, two, three := d.state(), d.state(), d.state()
		keep(t, k, one, two, three)
		receipt := func(st *seal.SealedStatement) []byte {
			b, err := seal.SealReceipt(&seal.Receipt{Version: 1, Device: d.id, ClusterEpoch: 1, Epoch: st.Epoch, Seq: st.Seq, Chain: st.Chain}, key)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		forged := receipt(two)
		forged[len(forged)-1] ^= 1
		if k.Receipted(d.id, forged, pub) || k.Receipted(ident.NewDeviceID(), receipt(two), pub) || k.Receipt(d.id) != nil {
			t.Error("a forged receipt, or one for another device, was taken")
		}
		if !k.Receipted(d.id, receipt(two), pub) || k.Receipted(d.id, receipt(one), pub) {
			t.Error("the newer receipt counts")
		}
		if k.Kept(d.id) != at(three) {
			t.Errorf("kept %+v", k.Kept(d.id))
		}
		k.Delivered(d.id, custody.Position{Epoch: 1, Seq: 2})
		if k.Receipt(d.id) == nil {
			t.Error("let go of although the device holds what it covers")
		}
		k.Delivered(d.id, custody.Position{Epoch: 1, Seq: 3})
		if k.Receipt(d.id) != nil {
			t.Error("kept after it arrived")
		}
		if !k.Receipted(d.id, receipt(three), pub) || k.Kept(d.id) != (custody.Position{}) {
			t.Errorf("kept after the receipt for all: %+v", k.Kept(d.id))
		}
	})
}

func TestFullSpoolHolds(t *testing.T) {
	bubble(t, func(t *testing.T, k *custody.Keeper, _ func() *custody.Keeper) {
		d := newDevice(t)
		st := d.state()
		st.Sealed = make([]byte, wire.MaxStatement)
		refused := make(chan *wire.Error, 1)
		for range 4000 {
			k.Keep(st, true, func(e *wire.Error) { refused <- e })
			if e := <-refused; e != nil {
				if e.Code != wire.CodeHold || e.RetryAfter() == 0 {
					t.Errorf("refused with %v", e)
				}
				return
			}
		}
		t.Error("64 MiB fit into 32")
	})
}
