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

// submit verifies statements, commits those that hold, and answers each with a receipt or the reason.
func (u *uplink) submit(ctx context.Context, m *wire.Submit) error {
	if len(m.Statements) == 0 || len(m.Statements) > wire.MaxBatch {
		return u.refuse(wire.Refuse(wire.CodeMalformed, "%d statements, want 1 to %d", len(m.Statements), wire.MaxBatch), wire.TypeSubmit, m.ID)
	}
	results := make([]wire.SubmitResult, len(m.Statements))
	devices := u.verifyAll(u.Registry.View(), m.Statements, results)
	if slices.ContainsFunc(results, func(r wire.SubmitResult) bool { return r.Code == wire.CodeUnknownKey }) {
		v, err := u.fresh(ctx) // another node may have let the device in a moment ago
		if err != nil {
			return u.refuse(wire.Refuse(wire.CodeUnavailable, "the core cannot decide now").After(2*time.Second), wire.TypeSubmit, m.ID)
		}
		clear(results)
		devices = u.verifyAll(v, m.Statements, results)
	}
	c := &command.Statements{}
	var at []int // index in results of each item
	for i, d := range devices {
		if results[i].Code == wire.CodeNone {
			c.Items = append(c.Items, command.Statement{Sealed: m.Statements[i], Gateway: u.gw, GatewayMS: m.TimeMS, Device: d})
			at = append(at, i)
		}
	}
	if len(c.Items) > 0 {
		res, err := u.Registry.Propose(ctx, c)
		if err != nil {
			u.Log.Warn("statements not committed", "gateway", u.gw, "count", len(c.Items), "err", err)
			return u.refuse(wire.Refuse(wire.CodeUnavailable, "the core cannot commit now").After(2*time.Second), wire.TypeSubmit, m.ID)
		}
		committed, ok := res.([]registry.StatementResult)
		if !ok || len(committed) != len(at) {
			return fmt.Errorf("commit statements: result %T", res)
		}
		if err := u.receipts(committed, at, results); err != nil {
			return err
		}
	}
	return u.ses.Send(wire.TypeSubmitted, wire.Submitted{ID: m.ID, Results: results})
}

// receipts turns the results of a commit into receipts. A device with several statements in the batch gets the same one for
// each: it covers them all.
func (u *uplink) receipts(committed []registry.StatementResult, at []int, results []wire.SubmitResult) error {
	epoch := u.Registry.View().Fleet().ClusterEpoch
	made := make(map[ident.DeviceID][]byte)
	for i := len(committed) - 1; i >= 0; i-- { // the last of a device is the highest
		r := &committed[i]
		if r.Refuse != nil {
			results[at[i]] = wire.SubmitResult{Code: r.Refuse.Code, Detail: r.Refuse.Detail}
			continue
		}
		b, ok := made[r.Device]
		if !ok {
			var err error
			b, err = seal.SealReceipt(&seal.Receipt{
				Version: seal.ReceiptVersion, Device: r.Device, ClusterEpoch: epoch, Epoch: r.Epoch.N, Seq: r.Epoch.Seq,
				Chain: r.Epoch.Chain, LogTimeMS: r.LogMS,
			}, u.Authority)
			if err != nil {
				return err
			}
			made[r.Device] = b
		}
		results[at[i]].Receipt = b
	}
	return nil
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
