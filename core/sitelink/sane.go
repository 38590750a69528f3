package sitelink

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

const (
	// maxIntervalMS is the longest interval that any device keeps to.
	maxIntervalMS = uint32(time.Hour / time.Millisecond)
	// A gateway counts of a device at most beatsSpare heartbeats and one in minBeat (see roster), however often it beats.
	minBeat    = 500 * time.Millisecond
	beatsSpare = 16
	// lateDevices is how many devices another node may have enrolled of which this one does not know yet.
	lateDevices = 10_000
	// maxWaiting is more statements and bytes than any gateway can hold.
	maxWaiting = 1 << 50
)

// plausible is whether so many heartbeats fit into a time.
func plausible(beats uint64, d time.Duration) bool {
	return beats <= beatsSpare+uint64(max(0, d)/minBeat)
}

// moment holds a time of a gateway's clock, in Unix ms, to what can be: not before 1970, and not after limit, because no clock but the
// core's own moves anything into the future. Every time of a message must go through it.
func (u *uplink) moment(name string, ms *int64, limit int64) {
	switch {
	case *ms > limit:
		u.doubt(doubtClock, fmt.Sprintf("%s: %d", name, *ms), ident.DeviceID{})
		*ms = limit
	case *ms < 0:
		u.doubt(doubtNumber, fmt.Sprintf("%s: %d", name, *ms), ident.DeviceID{})
		*ms = 0
	}
}

// age is how long before the time of a report a moment in it was, which is right whatever the gateway's clock says.
func age(reportMS, ms int64) time.Duration {
	const most = int64(365 * 24 * time.Hour / time.Millisecond)
	if reportMS < 0 || ms < 0 {
		return 0
	}
	return time.Duration(min(max(0, reportMS-ms), most)) * time.Millisecond
}

func (u *uplink) interval(name string, ms *uint32) {
	if *ms > maxIntervalMS {
		u.doubt(doubtNumber, fmt.Sprintf("%s: %d", name, *ms), ident.DeviceID{})
		*ms = maxIntervalMS
	}
}

// sane holds a report to what can be, and names the gateway for what cannot. limit is the latest time that is taken.
func (u *uplink) sane(v registry.View, p *wire.Presence, limit int64) {
	ms := p.TimeMS // it stays as it is, so that heartbeats from the future are not taken
	u.moment("report", &ms, limit)
	for i := range p.Online {
		o := &p.Online[i]
		u.moment("online since", &o.SinceMS, limit)
		o.SinceMS = max(o.SinceMS, 1) // 0 says that the device was never there
		u.moment("last heartbeat", &o.LastMS, limit)
		u.interval("interval", &o.IntervalMS)
	}
	for i := range p.Offline {
		o := &p.Offline[i]
		u.moment("offline since", &o.AtMS, limit)
		u.moment("last heartbeat", &o.LastMS, limit)
		if d, ok := v.Device(o.Device); ok && !u.counted(d, o.Beats, o.Missed, math.MaxInt64) {
			o.Beats, o.Missed = 0, 0
		}
	}
	for i := range p.Told {
		u.interval("interval", &p.Told[i].IntervalMS)
	}
	u.interval("least interval", &p.LeastMS)
	if int64(p.Count) > int64(v.DeviceCount())+lateDevices {
		u.doubt(doubtNumber, fmt.Sprintf("%d devices online, of %d that there are", p.Count, v.DeviceCount()), ident.DeviceID{})
	}
	if b := p.Backlog; b != nil {
		if b.OldestMS != 0 {
			u.moment("oldest statement", &b.OldestMS, limit)
		}
		for _, n := range []*uint64{&b.Statements, &b.Bytes, &b.Refused, &b.Lost} {
			if *n > maxWaiting {
				u.doubt(doubtNumber, fmt.Sprintf("backlog: %d", *n), ident.DeviceID{})
				*n = 0
			}
		}
	}
}

// counted tells whether what a gateway counted of a device fits into the device's life, and into a span of the given length.
func (u *uplink) counted(d *registry.Device, beats, missed uint64, span time.Duration) bool {
	fits := min(span, max(0, u.Wall().Sub(time.UnixMilli(d.EnrolledMS)))+ahead)
	if plausible(beats, fits) && plausible(missed, fits) {
		return true
	}
	u.doubt(doubtNumber, fmt.Sprintf("%d heartbeats, %d missed, in %v", beats, missed, fits), d.ID)
	return false
}

// received is when the gateway took the statement at i of a batch, in Unix ms.
func (u *uplink) received(b *batch, i int) int64 {
	limit := u.Wall().Add(ahead).UnixMilli()
	ms := b.TimeMS + b.AfterMS[i]
	if (ms > b.TimeMS) != (b.AfterMS[i] > 0) && b.AfterMS[i] != 0 { // the sum has no room
		ms = b.AfterMS[i]
	}
	u.moment("statement received", &ms, limit)
	return ms
}

// checkKnown holds what a gateway says that it knows of its site to what was signed. One that claims more is told everything.
func (u *uplink) checkKnown(ctx context.Context) {
	beyond := func(v registry.View) bool {
		epoch := v.Fleet().ClusterEpoch
		return u.known.ClusterEpoch > epoch || u.known.ClusterEpoch == epoch && u.known.Number > v.Facts()
	}
	if !beyond(u.Registry.View()) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, openingTime)
	defer cancel()
	if v, err := u.fresh(ctx); err == nil && beyond(v) { // another node may have told it more than this one has applied
		u.doubt(doubtStamp, fmt.Sprintf("number %d of cluster epoch %d", u.known.Number, u.known.ClusterEpoch), ident.DeviceID{})
		u.known = seal.Stamp{}
	}
}
