package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"strconv"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

const (
	// maxItems bounds what one listing holds in memory: far above any fleet, for histories that outgrow a listing.
	maxItems = 1 << 20
	// pageSize is the longest page that is asked for, in items: half of what a core takes.
	pageSize = 500
)

// ErrTooMany says that a listing does not fit in memory.
var ErrTooMany = errors.New("more items than one listing can hold")

// A Query is what to list.
type Query struct {
	Path   string
	Params url.Values  // filters; may be nil
	Limit  int         // at most so many items; 0: all
	Page   func(n int) // called after each page but the last with the number of items so far; may be nil
}

// All reads every page of a list, at most q.Limit items, in the core's order. The result is never nil. Errors: those of
// Get, and ErrTooMany.
func All[T any](ctx context.Context, c *Client, q Query) ([]T, error) {
	items := []T{}
	err := Pages(ctx, c, q, func(page []T) error {
		if items = append(items, page...); len(items) > maxItems {
			return fmt.Errorf("%w: %d", ErrTooMany, maxItems)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return items, nil
}

// Pages reads a list page by page, at most q.Limit items, in the core's order, and holds one page at a time. An error of each
// ends it. Errors: those of Get, and of each.
func Pages[T any](ctx context.Context, c *Client, q Query, each func(page []T) error) error {
	params := maps.Clone(q.Params)
	if params == nil {
		params = url.Values{}
	}
	for n := 0; ; {
		want := pageSize
		if q.Limit > 0 {
			want = min(q.Limit-n, pageSize)
		}
		params.Set("limit", strconv.Itoa(want))
		page, err := Get[v1.List[T]](ctx, c, q.Path, params)
		if err != nil {
			return err
		}
		if q.Limit > 0 && len(page.Items) > want {
			page.Items = page.Items[:want]
		}
		if err := each(page.Items); err != nil {
			return err
		}
		n += len(page.Items)
		switch {
		case q.Limit > 0 && n >= q.Limit, page.NextCursor == "":
			return nil
		case page.NextCursor == params.Get("cursor"):
			return fmt.Errorf("%w: page after %d items names itself as the next", ErrAnswer, n)
		}
		params.Set("cursor", page.NextCursor)
		if q.Page != nil {
			q.Page(n)
		}
	}
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
