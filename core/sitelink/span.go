package sitelink

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/liveness"
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
func (u *uplink) verifySpan(v registry.View, s *wire.Span) (*seal.SealedAttach, *wire.Error) {
	a, err := seal.ParseAttach(s.Attach)
	if err != nil {
		return nil, wire.Refuse(wire.CodeMalformed, "%v", err)
	}
	if a.Device != s.Device || a.Gateway != u.peer.ID.String() {
		return nil, wire.Refuse(wire.CodeMalformed, "the attach does not prove it")
	}
	d, ok := v.Device(s.Device)
	if !ok {
		return nil, wire.Refuse(wire.CodeUnknownKey, "no device %v", s.Device)
	}
	k, ok := d.SigningKey(a.Key)
	if !ok {
		return nil, wire.Refuse(wire.CodeUnknownKey, "the key is not a key of device %v that counts", s.Device)
	}
	pub, err := u.keys.get(&k)
	if err != nil {
		return nil, wire.Refuse(wire.CodeInternal, "the key of device %v does not read", s.Device)
	}
	if err := a.Verify(pub); err != nil {
		return nil, wire.Refuse(wire.CodeMalformed, "%v", err)
	}
	return a, nil
}

// checkSpan is verifySpan, and holds the span, of a batch of the given time, to what can be. It names the gateway for what cannot.
func (u *uplink) checkSpan(v registry.View, batchMS int64, s *wire.Span) *wire.Error {
	a, refuse := u.verifySpan(v, s)
	if refuse != nil {
		if refuse.Code == wire.CodeMalformed {
			u.doubt(doubtAttach, refuse.Detail, s.Device)
		}
		return refuse
	}
	d, ok := v.Device(s.Device)
	if !ok {
		return nil
	}
	limit := u.Wall().Add(ahead).UnixMilli()
	length, last := age(s.ToMS, s.FromMS), age(batchMS, s.LastMS) // before a wrong clock is corrected
	u.moment("span from", &s.FromMS, limit)
	u.moment("span's last heartbeat", &s.LastMS, limit)
	u.moment("span to", &s.ToMS, limit)
	if !u.counted(d, s.Beats, s.Missed, length) {
		return wire.Refuse(wire.CodeMalformed, "a count that cannot be")
	}
	u.endSpan(d, a, s, last)
	return nil
}

// spanSlack is how much later a span may seem to end than it did: a batch may be long under way.
const spanSlack = 10 * time.Minute

// endSpan lets a span end when the device's own word says so, which is when a newer attach came to the core than the span's, or when one
// should have come. last is how long before its batch was made the gateway had the last heartbeat. A gateway that set its clock back since
// can be named for it, too, and rightly; the span is still taken.
func (u *uplink) endSpan(d *registry.Device, a *seal.SealedAttach, s *wire.Span, last time.Duration) {
	n := d.Attach
	if n == nil || n.AtMS == 0 {
		return
	}
	its := &command.Attach{Start: a.Start, Run: a.Run, Session: a.Session}
	allowed := spanSlack
	switch {
	case n.Same(its):
		allowed += liveness.UnverifiedAfter
	case n.Newer(its): // the core has not seen it, so it cannot know when it was made
		return
	}
	over := u.Wall().Add(-last).Sub(time.UnixMilli(n.AtMS)) - allowed
	if over <= 0 {
		return
	}
	u.doubt(doubtSpan, fmt.Sprintf("by %v", over.Round(time.Second)), d.ID)
	s.LastMS = max(0, s.LastMS-over.Milliseconds())
	s.FromMS, s.ToMS = min(s.FromMS, s.LastMS), s.LastMS
}
