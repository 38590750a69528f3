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
	results  []wire.SubmitResult // of those that do not
	err      error               // of the whole
	verified chan struct{}       // closed when the fields above are set
}

// submit takes a batch in: its verification begins at once.
func (u *uplink) submit(ctx context.Context, body []byte) error {
	b := &batch{verified: make(chan struct{})}
	if err := wire.Unmarshal(body, &b.Submit); err != nil {
		return err
	}
	if n := len(b.Statements); n == 0 || n > wire.MaxBatch || len(b.AfterMS) != n {
		return u.refuse(wire.Refuse(wire.CodeMalformed, "%d statements with %d times, want 1 to %d", n, len(b.AfterMS), wire.MaxBatch), wire.TypeSubmit, b.ID)
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

// verifyBatch finds out which statements hold.
func (u *uplink) verifyBatch(ctx context.Context, b *batch) {
	b.results = make([]wire.SubmitResult, len(b.Statements))
	b.devices = u.verifyAll(u.Registry.View(), b.Statements, b.results)
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
	b.devices = u.verifyAll(v, b.Statements, b.results)
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

// commitBatch commits those statements of a batch that hold, and answers all of them.
func (u *uplink) commitBatch(ctx context.Context, b *batch) error {
	if b.err != nil {
		return u.refuse(b.err, wire.TypeSubmit, b.ID)
	}
	c := &command.Statements{}
	var at []int // index in results of each item
	for i, d := range b.devices {
		if b.results[i].Code == wire.CodeNone {
			c.Items = append(c.Items, command.Statement{Sealed: b.Statements[i], Gateway: u.gw, GatewayMS: b.TimeMS + b.AfterMS[i], Device: d})
			at = append(at, i)
		}
	}
	var taken []ident.DeviceID
	if len(c.Items) > 0 {
		ctx, cancel := context.WithTimeout(ctx, proposeTime)
		defer cancel()
		res, err := u.Registry.Propose(ctx, c)
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
	if err := u.ses.Send(wire.TypeSubmitted, wire.Submitted{ID: b.ID, Results: b.results}); err != nil {
		return err
	}
	return u.sendReceipts(u.due.note(taken, time.Now()))
}

// verifyAll verifies statements on all processors. It notes what does not hold in results and returns each statement's device.
func (u *uplink) verifyAll(v registry.View, sealed [][]byte, results []wire.SubmitResult) []ident.DeviceID {
	devices := make([]ident.DeviceID, len(sealed))
	var wg sync.WaitGroup
	n := min(runtime.GOMAXPROCS(0), len(sealed))
	for w := range n {
		wg.Go(func() {
			for i := w; i < len(sealed); i += n {
				d, err := u.verify(v, sealed[i])
				if err != nil {
					results[i] = wire.SubmitResult{Code: err.Code, Detail: err.Detail}
				}
				devices[i] = d
			}
		})
	}
	wg.Wait()
	return devices
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
