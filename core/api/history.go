package api

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/history"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

const historyText = "Items are in the order of epoch and seq, also those that were committed out of it. " +
	"What is committed while one pages, and belongs before the cursor, is not shown."

type historyInput struct {
	Reading
	DevicePath
	Paging
	Order string `query:"order" enum:"asc,desc" default:"asc" doc:"asc: oldest first"`
}

// newest tells whether the newest come first.
func (in *historyInput) newest() bool { return in.Order == "desc" }

// records reads one page of a device's history, no newer than the view.
func (s *server) records(
	ctx context.Context, v registry.View, id ident.DeviceID, in *historyInput, kind registry.RecordKind,
) (recs []history.Record, next string, err error) {
	l := listOf("history", id.String(), in.Order, fmt.Sprint(kind))
	after, err := l.historyPosition(in.Cursor)
	if err != nil {
		return nil, "", err
	}
	recs, at, err := s.History.Read(ctx, history.StreamID(registry.DeviceStream(id)), history.Query{
		After: after, Newest: in.newest(), Limit: in.Limit, Kinds: []history.Kind{history.Kind(kind)},
	})
	if err != nil {
		return nil, "", fmt.Errorf("device %v: %w", id, err)
	}
	n := len(recs)
	recs = slices.DeleteFunc(recs, func(r history.Record) bool { return r.Index > v.Index() })
	if len(recs) < n && !in.newest() {
		return recs, "", nil // all that follows is newer still
	}
	return recs, l.historyCursor(at), nil
}

func (s *server) listHistory(ctx context.Context, c *call, in *historyInput) (*reply[v1.List[v1.HistoryItem]], error) {
	v := c.view
	d, err := in.find(v)
	if err != nil {
		return nil, err
	}
	all, next, err := s.statements(ctx, v.Index(), d, in)
	if err != nil {
		return nil, err
	}
	out := v1.List[v1.HistoryItem]{Items: make([]v1.HistoryItem, len(all)), NextCursor: next}
	for i, r := range all {
		out.Items[i] = r.item(v)
	}
	return answer(out), nil
}

// item is a record as the API writes it.
func (s *stated) item(v registry.View) v1.HistoryItem {
	if s.st == nil {
		return v1.HistoryItem{
			Epoch: s.epoch, Seq: s.seq, To: s.lost.To, Type: "lost", CommittedAt: at(s.record.Time.UnixMilli()), Changed: []v1.Change{},
		}
	}
	device, gateway := at(s.st.TimeMS), at(s.rec.GatewayMS)
	out := v1.HistoryItem{
		Epoch: s.epoch, Seq: s.seq, Type: s.st.Type.String(), DeviceTime: &device, ClockState: s.st.Clock.String(), GatewayTime: &gateway,
		Gateway: s.rec.Gateway, CommittedAt: at(s.record.Time.UnixMilli()), Late: s.rec.Late, Changed: make([]v1.Change, len(s.rec.Changed)),
	}
	for i, c := range s.rec.Changed {
		out.Changed[i] = v1.Change{Fact: c.Fact, From: c.From, To: c.To}
	}
	if b, err := s.st.Status(); err == nil {
		status := statusOf(v, b)
		out.Status = &status
	} else if b, err := s.st.Alarm(); err == nil {
		out.Alarm = &v1.Alarm{Reason: b.Reason, Detail: b.Detail}
	}
	return out
}

// outages reads, per site, the outages that show in one of the spans.
func (s *server) outages(ctx context.Context, v registry.View, spans []stretch) (map[string][]registry.Outage, error) {
	bySite := make(map[string][]stretch)
	for _, sp := range spans {
		if sp.online {
			site := siteOf(sp.gateway)
			bySite[site] = append(bySite[site], sp)
		}
	}
	out := make(map[string][]registry.Outage)
	for site, spans := range bySite {
		all, err := s.siteOutages(ctx, site, spans)
		if err != nil {
			return nil, fmt.Errorf("site %s: %w", site, err)
		}
		if rec, ok := v.Site(site); ok && rec.UnreachableMS != 0 {
			all = append(all, registry.Outage{FromMS: rec.UnreachableMS, ToMS: forever})
		}
		out[site] = all
	}
	return out, nil
}

// siteOutages reads the closed outages of a site from the newest back to the first that ended before all of the spans.
// The result is in order of time.
func (s *server) siteOutages(ctx context.Context, site string, spans []stretch) ([]registry.Outage, error) {
	oldest := slices.MinFunc(spans, func(a, b stretch) int { return cmp.Compare(a.from, b.from) }).from
	q := history.Query{Newest: true, Limit: history.MaxLimit, Kinds: []history.Kind{history.Kind(registry.KindOutage)}}
	var out []registry.Outage
	for {
		recs, next, err := s.History.Read(ctx, history.StreamID(registry.SiteStream(site)), q)
		if err != nil {
			return nil, err
		}
		for i := range recs {
			var o registry.Outage
			if err := wire.Unmarshal(recs[i].Data, &o); err != nil {
				return nil, fmt.Errorf("history record %v: %w", recs[i].Cursor(), err)
			}
			if o.ToMS <= oldest {
				slices.Reverse(out)
				return out, nil
			}
			if slices.ContainsFunc(spans, func(sp stretch) bool { return sp.cutBy(o) }) {
				out = append(out, o)
			}
		}
		if next.IsZero() {
			slices.Reverse(out)
			return out, nil
		}
		q.After = next
	}
}
