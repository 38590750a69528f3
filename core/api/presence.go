package api

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/history"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
)

const presenceText = "The stretches follow one another in order of time. What gateways counted during an outage comes later and corrects the " +
	"timeline of then, so it is put together from the whole history whenever it is read. A cursor is a time: a page goes on where the one " +
	"before ended, with what is known by now, so pages neither overlap nor leave anything out. A stretch without length is on the page of " +
	"the one before it, beyond the limit."

// listPresence shows a page of a device's timeline.
//
// Records do not come in order of time, so a page cannot be a part of the history. But none speaks of a time after its own: reading
// the newest first, the timeline behind a time is complete with the first record that was made before it.
func (s *server) listPresence(ctx context.Context, c *call, in *historyInput) (*reply[v1.List[v1.PresenceItem]], error) {
	v := c.view
	d, err := in.find(v)
	if err != nil {
		return nil, err
	}
	l := listOf("presence", d.ID.String(), in.Order)
	position, given, err := l.timePosition(in.Cursor)
	if err != nil {
		return nil, err
	}
	if !given {
		if position = math.MinInt64; in.newest() {
			position = forever
		}
	}
	all, err := s.timeline(ctx, v, d, in, position)
	if err != nil {
		return nil, err
	}
	page, next := in.cut(all, position)
	out := v1.List[v1.PresenceItem]{Items: make([]v1.PresenceItem, len(page))}
	for i := range page {
		out.Items[i] = page[i].item()
	}
	if next != nil {
		out.NextCursor = l.timeCursor(*next)
	}
	return answer(out), nil
}

// cut takes the page at a time out of a timeline in order of time, and returns the time at which the next one begins; nil: there is
// none.
func (in *historyInput) cut(all []stretch, at int64) (page []stretch, next *int64) {
	if in.newest() {
		slices.Reverse(all)
	}
	for _, s := range all {
		if in.newest() {
			if s.from >= at {
				continue
			}
			s.to = min(s.to, at)
		} else {
			if s.to <= at {
				continue
			}
			s.from = max(s.from, at)
		}
		if len(page) >= in.Limit && s.from < s.to {
			end := &page[len(page)-1]
			if in.newest() {
				return page, &end.from
			}
			return page, &end.to
		}
		page = append(page, s)
	}
	return page, nil
}

// timeline reads what a page needs of the history, at least, and puts the timeline together, in order of time.
func (s *server) timeline(ctx context.Context, v registry.View, d *registry.Device, in *historyInput, position int64) ([]stretch, error) {
	var live, facts []stretch
	q := history.Query{Newest: true, Limit: history.MaxLimit, Kinds: []history.Kind{history.Kind(registry.KindSpan)}}
	for more := true; more; more = more && !q.After.IsZero() {
		recs, next, err := s.History.Read(ctx, history.StreamID(registry.DeviceStream(d.ID)), q)
		if err != nil {
			return nil, fmt.Errorf("device %v: %w", d.ID, err)
		}
		q.After = next
		for i := range recs {
			r := &recs[i]
			if r.Index > v.Index() {
				continue
			}
			var sp registry.Span
			if err := wire.Unmarshal(r.Data, &sp); err != nil {
				return nil, fmt.Errorf("device %v, history record %v: %w", d.ID, r.Cursor(), err)
			}
			if sp.Kept {
				facts = append(facts, kept(&sp))
			} else {
				live = append(live, closed(&sp))
			}
			if more = in.newest() || r.Time.UnixMilli() >= position; !more {
				break
			}
		}
	}
	if p := &d.Presence; p.SinceMS != 0 {
		live = append(live, ongoing(p, s.verdict(v, d)))
	}
	whole := corrected(live, facts)
	outages, err := s.outages(ctx, v, whole)
	if err != nil {
		return nil, err
	}
	out := make([]stretch, 0, len(whole))
	for _, sp := range whole {
		out = append(out, sp.split(outages[siteOf(sp.gateway)])...)
	}
	return out, nil
}
