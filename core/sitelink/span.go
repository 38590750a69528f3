package sitelink

import (
	"context"
	"fmt"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// commitSpans commits those spans of a batch that hold.
func (u *uplink) commitSpans(ctx context.Context, b *batch) error {
	c := &command.Spans{Gateway: u.gw}
	var at []int // index in results of each item
	for i := range b.Spans {
		n := len(b.Statements) + i
		if b.results[n].Code != wire.CodeNone {
			continue
		}
		s := &b.Spans[i]
		c.Items = append(c.Items, command.Span{Device: s.Device, FromMS: s.FromMS, LastMS: s.LastMS, ToMS: s.ToMS, Beats: s.Beats, Missed: s.Missed})
		at = append(at, n)
	}
	if len(c.Items) == 0 {
		return nil
	}
	c.Mark = u.mark(b)
	ctx, cancel := context.WithTimeout(ctx, proposeTime)
	defer cancel()
	res, err := u.Registry.Propose(ctx, c)
	if err != nil {
		return err
	}
	taken, ok := res.([]bool)
	if !ok || len(taken) != len(at) {
		return fmt.Errorf("commit spans: result %T", res)
	}
	for i, ok := range taken {
		if !ok {
			b.results[at[i]] = wire.SubmitResult{Code: wire.CodeUnknownKey, Detail: "the device is gone"}
		}
	}
	return nil
}

// verifySpan holds a span against the device's own signature: without an attach that is addressed to it, a gateway has nothing to
// say about a device. The key may have been superseded since. Times are held to the log's when the span is applied.
func (u *uplink) verifySpan(v registry.View, s *wire.Span) *wire.Error {
	a, err := seal.ParseAttach(s.Attach)
	if err != nil {
		return wire.Refuse(wire.CodeMalformed, "%v", err)
	}
	if a.Device != s.Device || a.Gateway != u.peer.ID.String() {
		return wire.Refuse(wire.CodeMalformed, "the attach does not prove it")
	}
	d, ok := v.Device(s.Device)
	if !ok {
		return wire.Refuse(wire.CodeUnknownKey, "no device %v", s.Device)
	}
	k, ok := d.SigningKey(a.Key)
	if !ok {
		return wire.Refuse(wire.CodeUnknownKey, "the key is not a key of device %v that counts", s.Device)
	}
	pub, err := u.keys.get(&k)
	if err != nil {
		return wire.Refuse(wire.CodeInternal, "the key of device %v does not read", s.Device)
	}
	if err := a.Verify(pub); err != nil {
		return wire.Refuse(wire.CodeMalformed, "%v", err)
	}
	return nil
}

// checkSpan is verifySpan, and holds the span to what can be. It names the gateway for what cannot.
func (u *uplink) checkSpan(v registry.View, s *wire.Span) *wire.Error {
	if err := u.verifySpan(v, s); err != nil {
		if err.Code == wire.CodeMalformed {
			u.doubt(doubtAttach, err.Detail, s.Device)
		}
		return err
	}
	limit := u.Wall().Add(ahead).UnixMilli()
	length := age(s.ToMS, s.FromMS) // before a wrong clock is corrected
	u.moment("span from", &s.FromMS, limit)
	u.moment("span's last heartbeat", &s.LastMS, limit)
	u.moment("span to", &s.ToMS, limit)
	if d, ok := v.Device(s.Device); ok && !u.counted(d, s.Beats, s.Missed, length) {
		return wire.Refuse(wire.CodeMalformed, "a count that cannot be")
	}
	return nil
}
