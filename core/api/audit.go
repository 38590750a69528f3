package api

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/history"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

const (
	auditText  = "Each record carries its bytes and the hash of the chain after it, with which the whole trail can be verified."
	exportText = "One AuditRecord a line, up to the head of the trail when the request began. An answer that ends before its end was " +
		"cut off: go on with after= and the seq of the last whole line."
	// exportPage is how many records are read at a time while the trail is exported.
	exportPage = 200
)

// trail names the audit trail in the history.
var trail = history.StreamID(registry.AuditStream)

type listAuditInput struct {
	Reading
	Paging
	After uint64 `query:"after" doc:"seq of the record behind which the list begins; 0: the first"`
}

func (s *server) listAudit(ctx context.Context, c *call, in *listAuditInput) (*reply[v1.List[v1.AuditRecord]], error) {
	l := listOf("audit", strconv.FormatUint(in.After, 10))
	from, err := l.historyPosition(in.Cursor)
	if err != nil {
		return nil, err
	}
	if in.Cursor == "" {
		if from, err = s.behind(ctx, c.view, in.After); err != nil {
			return nil, err
		}
	}
	recs, next, err := s.auditPage(ctx, c.view, from, in.Limit)
	if err != nil {
		return nil, err
	}
	return answer(v1.List[v1.AuditRecord]{Items: recs, NextCursor: l.historyCursor(next)}), nil
}

// auditPage reads records of the trail behind a place, no newer than the view. next is zero on the last page.
func (s *server) auditPage(
	ctx context.Context, v registry.View, from history.Cursor, limit int,
) (out []v1.AuditRecord, next history.Cursor, err error) {
	out = []v1.AuditRecord{}
	recs, next, err := s.History.Read(ctx, trail, history.Query{After: from, Limit: limit})
	if err != nil {
		return nil, next, fmt.Errorf("audit trail: %w", err)
	}
	for i := range recs {
		if recs[i].Index > v.Index() {
			return out, history.Cursor{}, nil // all that follows is newer still
		}
		rec, err := auditRecord(&recs[i])
		if err != nil {
			return nil, next, err
		}
		out = append(out, rec)
	}
	return out, next, nil
}

// auditRecord is a record as the API writes it.
func auditRecord(r *history.Record) (v1.AuditRecord, error) {
	var a registry.AuditRecord
	if err := wire.Unmarshal(r.Data, &a); err != nil {
		return v1.AuditRecord{}, fmt.Errorf("audit record %v: %w", r.Cursor(), err)
	}
	hash := registry.AuditHash(r.Data)
	return v1.AuditRecord{
		Seq: a.Seq, Index: a.Index, Time: at(a.TimeMS), Actor: a.Actor, Action: a.Action, Target: a.Target, Site: a.Site, Request: a.Request,
		Source: a.Source, Outcome: a.Outcome, Detail: a.Detail, Raw: base64.StdEncoding.EncodeToString(r.Data), Hash: hex.EncodeToString(hash[:]),
	}, nil
}

// behind is the place in the history of the record with the given seq; zero for 0. The history knows records by log index
// alone, so the place is searched for: the entry by halves, the record by reading on.
func (s *server) behind(ctx context.Context, v registry.View, seq uint64) (history.Cursor, error) {
	switch {
	case seq == 0:
		return history.Cursor{}, nil
	case seq >= v.Audit().Count: // nothing in the view is behind it
		return history.Cursor{Index: v.Index(), N: math.MaxUint32}, nil
	}
	// Invariant: the trail's first record behind log index low is at most the one wanted; behind high it is a later one, or none.
	low, high := uint64(0), v.Index()
	for low+1 < high {
		mid := low + (high-low)/2
		first, err := s.firstBehind(ctx, mid)
		if err != nil {
			return history.Cursor{}, err
		}
		if first <= seq {
			low = mid
		} else {
			high = mid
		}
	}
	at := history.Cursor{Index: low, N: math.MaxUint32}
	if low == 0 {
		at = history.Cursor{}
	}
	for {
		recs, next, err := s.History.Read(ctx, trail, history.Query{After: at, Limit: exportPage})
		if err != nil {
			return at, fmt.Errorf("audit trail: %w", err)
		}
		for i := range recs {
			if rec, err := auditRecord(&recs[i]); err != nil || rec.Seq == seq {
				return recs[i].Cursor(), err
			}
		}
		if next.IsZero() {
			return at, fmt.Errorf("audit trail: record %d is not where it belongs, behind log index %d: %w", seq, low, history.ErrCorrupt)
		}
		at = next
	}
}

// firstBehind is the seq of the trail's first record behind a log index; beyond all when there is none.
func (s *server) firstBehind(ctx context.Context, index uint64) (uint64, error) {
	recs, _, err := s.History.Read(ctx, trail, history.Query{After: history.Cursor{Index: index, N: math.MaxUint32}, Limit: 1})
	if err != nil || len(recs) == 0 {
		return math.MaxUint64, err
	}
	a, err := auditRecord(&recs[0])
	return a.Seq, err
}

type auditHeadInput struct{ Reading }

func (s *server) auditHead(_ context.Context, c *call, _ *auditHeadInput) (*reply[v1.AuditHead], error) {
	f := c.view.Fleet()
	if f == nil {
		return nil, registry.ErrNoFleet
	}
	m := c.view.Audit()
	sealed, err := s.Sign(&seal.AuditHead{
		Version: seal.AuditHeadVersion, Fleet: f.Name, ClusterEpoch: f.ClusterEpoch, Seq: m.Count, Hash: m.Head, LogTimeMS: c.view.Time().UnixMilli(),
	})
	if err != nil {
		return nil, fmt.Errorf("sign the head of the audit trail: %w", err)
	}
	return answer(v1.AuditHead{
		Seq: m.Count, Hash: hex.EncodeToString(m.Head[:]), Time: at(c.view.Time().UnixMilli()), Sealed: base64.StdEncoding.EncodeToString(sealed),
		Authority: base64.StdEncoding.EncodeToString(s.Authority),
	}), nil
}

type exportAuditInput struct {
	Reading
	After uint64 `query:"after" doc:"seq of the record behind which the export begins; 0: the first"`
}

func (s *server) exportAudit(ctx context.Context, c *call, in *exportAuditInput) (*huma.StreamResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	from, err := s.behind(ctx, c.view, in.After)
	if err != nil {
		return nil, err
	}
	first, next, err := s.auditPage(ctx, c.view, from, exportPage)
	if err != nil {
		return nil, err
	}
	return &huma.StreamResponse{Body: func(hc huma.Context) { //nolint:contextcheck // the answer has the request's context, without the bound above
		r, w := humago.Unwrap(hc)
		if !s.streams.take(c.who.ID) {
			writeProblem(w, tooManyStreams())
			return
		}
		defer s.streams.free(c.who.ID)
		w.Header().Set("Content-Type", "application/x-ndjson")
		w.WriteHeader(http.StatusOK)
		if r.Method == http.MethodHead {
			return
		}
		e := export{server: s, call: c, out: slowWriter{w: w, rc: http.NewResponseController(w)}}
		if err := e.run(r.Context(), first, next); err != nil {
			s.Log.Info("export of the audit trail cut off", "request", c.id, "err", err)
			panic(http.ErrAbortHandler) // the only way to tell a client that this is not the end
		}
	}}, nil
}

// An export is one that is under way.
type export struct {
	server *server
	call   *call
	out    slowWriter
}

// run writes pages of the trail until it reaches the call's view. The operator's permission is asked for with each.
func (e *export) run(ctx context.Context, page []v1.AuditRecord, next history.Cursor) error {
	for {
		if err := e.out.lines(page); err != nil {
			return err
		}
		if next.IsZero() {
			return nil
		}
		if err := e.server.still(e.call, demand{registry.ActAdminister, registry.ScopeFleet()}); err != nil {
			return err
		}
		var err error
		if page, next, err = e.server.auditPage(ctx, e.call.view, next, exportPage); err != nil {
			return err
		}
	}
}

// still asks for the permission of a call that goes on, by what this node knows now.
func (s *server) still(c *call, d demand) error {
	v := s.Registry.View()
	who, _ := v.OperatorByID(c.who.ID)
	return d.permit(who, s.now(v))
}

// lines writes one line of JSON for each record.
func (o *slowWriter) lines(page []v1.AuditRecord) error {
	for part := range slices.Chunk(page, 50) {
		if err := o.write(func(b *bufio.Writer) error {
			enc := json.NewEncoder(b)
			for i := range part {
				if err := enc.Encode(&part[i]); err != nil {
					return fmt.Errorf("audit record %d: %w", part[i].Seq, err)
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}
