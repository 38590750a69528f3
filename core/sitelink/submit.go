package sitelink

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// maxSubmits bounds the batches of one gateway that are verified while the one before them is committed.
const maxSubmits = 4

// A batch is a Submit on its way. Batches are verified side by side and committed in the order in which they came: a device's
// statements must not overtake one another.
type batch struct {
	wire.Submit
	devices  []ident.DeviceID    // of each statement that verifies
	results  []wire.SubmitResult // of those that do not; spans behind statements
	err      error               // of the whole
	verified chan struct{}       // closed when the fields above are set
}

// submit takes a batch in: its verification begins at once.
func (u *uplink) submit(ctx context.Context, body []byte) error {
	b := &batch{verified: make(chan struct{})}
	if err := wire.Unmarshal(body, &b.Submit); err != nil {
		return err
	}
	if n := len(b.Statements) + len(b.Spans); n == 0 || n > wire.MaxBatch || len(b.AfterMS) != len(b.Statements) {
		return u.refuse(wire.Refuse(wire.CodeMalformed, "%d statements with %d times and %d spans, want 1 to %d",
			len(b.Statements), len(b.AfterMS), len(b.Spans), wire.MaxBatch), wire.TypeSubmit, b.ID)
	}
	select {
	case u.submits <- b:
	case <-ctx.Done():
		return ctx.Err()
	}
	go func() { // commitBatches waits for it
		defer close(b.verified)
		u.verifyBatch(ctx, b)
	}()
	return nil
}

// verifyBatch finds out which statements and spans hold.
func (u *uplink) verifyBatch(ctx context.Context, b *batch) {
	b.results = make([]wire.SubmitResult, len(b.Statements)+len(b.Spans))
	u.verifyWith(u.Registry.View(), b)
	if !slices.ContainsFunc(b.results, func(r wire.SubmitResult) bool { return r.Code == wire.CodeUnknownKey }) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, proposeTime)
	defer cancel()
	v, err := u.fresh(ctx) // another node may have let the device in a moment ago
	if err != nil {
		b.err = wire.Refuse(wire.CodeUnavailable, "the core cannot decide now").After(2 * time.Second)
		return
	}
	clear(b.results)
	u.verifyWith(v, b)
}

func (u *uplink) verifyWith(v registry.View, b *batch) {
	n := len(b.Statements)
	b.devices = make([]ident.DeviceID, n)
	onAll(n, func(i int) {
		d, err := u.verify(v, b.Statements[i])
		if err != nil && err.Code == wire.CodeMalformed { // it looked at the signature itself before it took it
			u.doubt(doubtStatement, err.Detail, d)
		}
		if err != nil {
			b.results[i] = wire.SubmitResult{Code: err.Code, Detail: err.Detail}
		}
		b.devices[i] = d
	})
	onAll(len(b.Spans), func(i int) {
		if err := u.checkSpan(v, &b.Spans[i]); err != nil {
			b.results[n+i] = wire.SubmitResult{Code: err.Code, Detail: err.Detail}
		}
	})
}

// commitBatches commits batches and answers them, in order, until ctx ends.
func (u *uplink) commitBatches(ctx context.Context) error {
	defer func() { // whoever verifies is waited for
		for {
			select {
			case b := <-u.submits:
				<-b.verified
			default:
				return
			}
		}
	}()
	for {
		select {
		case b := <-u.submits:
			<-b.verified
			if err := u.commitBatch(ctx, b); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// commitBatch commits what holds of a batch, and answers for all of it. When the spans cannot be committed the whole batch comes
// again, and its statements are known already.
func (u *uplink) commitBatch(ctx context.Context, b *batch) error {
	if b.err != nil {
		return u.refuse(b.err, wire.TypeSubmit, b.ID)
	}
	c := &command.Statements{}
	var at []int // index in results of each item
	for i, d := range b.devices {
		if b.results[i].Code == wire.CodeNone {
			c.Items = append(c.Items, command.Statement{Sealed: b.Statements[i], Gateway: u.gw, GatewayMS: u.received(b, i), Device: d})
			at = append(at, i)
		}
	}
	var taken []ident.DeviceID
	if len(c.Items) > 0 {
		ctx, cancel := context.WithTimeout(ctx, proposeTime)
		defer cancel()
		c.Mark = u.mark(b)
		res, err := u.Registry.Propose(ctx, c)
		if end := u.fork(err); end != nil {
			return end
		}
		if err != nil {
			u.Log.Warn("statements not committed", "gateway", u.gw, "count", len(c.Items), "err", err)
			return u.refuse(wire.Refuse(wire.CodeUnavailable, "the core cannot commit now").After(2*time.Second), wire.TypeSubmit, b.ID)
		}
		committed, ok := res.([]registry.StatementResult)
		if !ok || len(committed) != len(at) {
			return fmt.Errorf("commit statements: result %T", res)
		}
		for i := range committed {
			if r := &committed[i]; r.Refuse != nil {
				b.results[at[i]] = wire.SubmitResult{Code: r.Refuse.Code, Detail: r.Refuse.Detail}
			} else {
				taken = append(taken, r.Device)
			}
		}
	}
	if err := u.commitSpans(ctx, b); err != nil {
		if end := u.fork(err); end != nil {
			return end
		}
		u.Log.Warn("spans not committed", "gateway", u.gw, "count", len(b.Spans), "err", err)
		return u.refuse(wire.Refuse(wire.CodeUnavailable, "the core cannot commit now").After(2*time.Second), wire.TypeSubmit, b.ID)
	}
	if err := u.ses.Send(wire.TypeSubmitted, wire.Submitted{ID: b.ID, Results: b.results}); err != nil {
		return err
	}
	return u.sendReceipts(u.due.note(taken, time.Now()))
}

// onAll calls f for each of n, on all processors.
func onAll(n int, f func(i int)) {
	var wg sync.WaitGroup
	workers := min(runtime.GOMAXPROCS(0), n)
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n; i += workers {
				f(i)
			}
		})
	}
	wg.Wait()
}

// verify holds one statement against the key that the registry knows for it.
func (s *Server) verify(v registry.View, b []byte) (ident.DeviceID, *wire.Error) {
	st, err := seal.ParseStatement(b)
	if err != nil {
		return ident.DeviceID{}, wire.Refuse(wire.CodeMalformed, "%v", err)
	}
	d, ok := v.Device(st.Device)
	if !ok {
		return st.Device, wire.Refuse(wire.CodeUnknownKey, "no device %v", st.Device)
	}
	k, ok := d.ActiveKey(st.Key)
	if !ok {
		return st.Device, wire.Refuse(wire.CodeUnknownKey, "the key is not an active key of device %v", st.Device)
	}
	pub, err := s.keys.get(&k)
	if err != nil {
		return st.Device, wire.Refuse(wire.CodeInternal, "the key of device %v does not read", st.Device)
	}
	if err := st.Verify(pub); err != nil {
		if errors.Is(err, seal.ErrSignature) {
			return st.Device, wire.Refuse(wire.CodeMalformed, "the signature does not verify")
		}
		return st.Device, wire.Refuse(wire.CodeMalformed, "%v", err)
	}
	return st.Device, nil
}
