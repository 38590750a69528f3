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
	// tries bounds how often a read is sent, waits included at most tries × maxWait.
	tries = 4
	// defaultWait is for a core that is unavailable and does not say for how long: an election takes about a second.
	defaultWait = time.Second
	// maxWait is the longest that a read waits for the core; one that asks for more is told to the operator at once.
	maxWait = 10 * time.Second
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
// Send, and ErrTooMany.
func All[T any](ctx context.Context, c *Client, q Query) ([]T, error) {
	params := maps.Clone(q.Params)
	if params == nil {
		params = url.Values{}
	}
	items := []T{}
	for {
		want := pageSize
		if q.Limit > 0 {
			want = min(q.Limit-len(items), pageSize)
		}
		params.Set("limit", strconv.Itoa(want))
		page, err := Get[v1.List[T]](ctx, c, q.Path, params)
		if err != nil {
			return nil, err
		}
		items = append(items, page.Items...)
		switch {
		case q.Limit > 0 && len(items) >= q.Limit:
			return items[:q.Limit], nil
		case page.NextCursor == "":
			return items, nil
		case page.NextCursor == params.Get("cursor"):
			return nil, fmt.Errorf("%w: page after %d items names itself as the next", ErrAnswer, len(items))
		case len(items) > maxItems:
			return nil, fmt.Errorf("%w: %d", ErrTooMany, maxItems)
		}
		params.Set("cursor", page.NextCursor)
		if q.Page != nil {
			q.Page(len(items))
		}
	}
}

// retry repeats a read while the core is unavailable for a short time.
func (c *Client) retry(ctx context.Context, read func(context.Context) ([]byte, error)) ([]byte, error) {
	for try := 1; ; try++ {
		b, err := read(ctx)
		p, ok := errors.AsType[*Problem](err)
		if !ok || p.Status != 503 || try == tries || p.RetryAfter > maxWait {
			return b, err
		}
		wait := p.RetryAfter
		if wait == 0 {
			wait = defaultWait
		}
		if err := pause(ctx, wait); err != nil {
			return nil, err
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
