package api

import (
	"context"
	"fmt"

	"github.com/holdfast-edge/holdfast/core/api/v1"
)

// Paging is the part of a query that pages through a list.
type Paging struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"items on a page"`
	Cursor string `query:"cursor" maxLength:"256" doc:"next_cursor of the page before; empty: the first page"`
}

// checkEvery is how many records a scan visits between looks at its deadline.
const checkEvery = 4096

// gather returns up to limit of the records that visit passes and keep wants, and whether there are more.
func gather[T any](ctx context.Context, limit int, visit func(func(*T) bool), keep func(*T) bool) (out []*T, more bool, err error) {
	n := 0
	visit(func(r *T) bool {
		if n++; n%checkEvery == 0 && ctx.Err() != nil {
			err = fmt.Errorf("scan records: %w", context.Cause(ctx))
			return false
		}
		switch {
		case !keep(r):
		case len(out) == limit:
			more = true
			return false
		default:
			out = append(out, r)
		}
		return true
	})
	return out, more, err
}

// A listing is the records of a list, in order of their names, as an operator sees them.
type listing[T, J any] struct {
	visit func(func(*T) bool)
	keep  func(*T) bool // nil: all
	name  func(*T) string
	show  func(*T) J
}

// page is one page of the list.
func (ls listing[T, J]) page(ctx context.Context, p Paging, l list) (*reply[v1.List[J]], error) {
	after, err := l.position(p.Cursor)
	if err != nil {
		return nil, err
	}
	recs, more, err := gather(ctx, p.Limit, ls.visit, func(r *T) bool {
		return (after == nil || ls.name(r) > string(after)) && (ls.keep == nil || ls.keep(r))
	})
	if err != nil {
		return nil, err
	}
	out := v1.List[J]{Items: make([]J, len(recs))}
	for i, r := range recs {
		out.Items[i] = ls.show(r)
	}
	if more {
		out.NextCursor = l.cursor([]byte(ls.name(recs[len(recs)-1])))
	}
	return answer(out), nil
}
