package client

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

func TestRetryReads(t *testing.T) {
	for _, tc := range []struct {
		name    string
		refuse  int    // how many answers are refusals
		status  int    // of them
		after   string // their Retry-After
		asked   int
		took    time.Duration
		failure error
	}{
		{"told to wait", 2, 503, "2", 3, 4 * time.Second, nil},
		{"told a date", 1, 503, "Sat, 01 Jan 2000 00:00:03 GMT", 2, 3 * time.Second, nil},
		{"not told", 1, 503, "", 2, defaultWait, nil},
		{"not told sensibly", 1, 503, "soon", 2, defaultWait, nil},
		{"for too long", 9, 503, "1", waitRounds, 3 * time.Second, ErrUnavailable},
		{"told to come back much later", 9, 503, "60", 1, 0, ErrUnavailable},
		{"told nonsense", 9, 503, "99999999999", waitRounds, 3 * defaultWait, ErrUnavailable},
		{"busy", 9, 429, "1", 1, 0, ErrUnavailable},
		{"fault", 9, 500, "1", 1, 0, ErrRefused},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := 0
				c := over(func(*http.Request) (*http.Response, error) {
					if n++; n <= tc.refuse {
						return response(tc.status, "", "Retry-After", tc.after, "Date", time.Now().UTC().Format(http.TimeFormat)), nil
					}
					return response(200, `{"operator":"admin"}`), nil
				})
				start := time.Now()
				who, err := Get[v1.Whoami](t.Context(), c, "/v1/whoami", nil)
				if !errors.Is(err, tc.failure) || tc.failure == nil && who.Operator != "admin" {
					t.Errorf("got %+v, %v; want %v", who, err, tc.failure)
				}
				if took := time.Since(start); n != tc.asked || took != tc.took {
					t.Errorf("asked %d times in %v, want %d in %v", n, took, tc.asked, tc.took)
				}
			})
		})
	}
}

func TestRetryEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := over(func(*http.Request) (*http.Response, error) { return response(503, "", "Retry-After", "9"), nil })
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		stop := time.AfterFunc(time.Second, cancel)
		defer stop.Stop()
		start := time.Now()
		_, err := Get[v1.Whoami](ctx, c, "/", nil)
		if !errors.Is(err, context.Canceled) || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		// Who has less time than the core asks for is told so, and does not wait in vain.
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start = time.Now()
		if _, err := Get[v1.Whoami](ctx, c, "/", nil); !errors.Is(err, ErrUnavailable) || time.Since(start) != 0 {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// pages serves n numbered sites, at most size on a page, and counts the requests. It refuses to be asked for more than most.
func pages(n, size, most int, asked *int) *Client {
	return over(func(r *http.Request) (*http.Response, error) {
		*asked++
		q := r.URL.Query()
		limit, err := strconv.Atoi(q.Get("limit"))
		if err != nil {
			return nil, err
		}
		if limit > most {
			return response(422, `{"detail":"more than is wanted"}`), nil
		}
		from := 0
		if c := q.Get("cursor"); c != "" {
			if from, err = strconv.Atoi(c); err != nil {
				return nil, err
			}
		}
		var l v1.List[v1.Site]
		for i := from; i < min(from+min(limit, size), n); i++ {
			l.Items = append(l.Items, v1.Site{Devices: i})
		}
		if end := from + len(l.Items); end < n {
			l.NextCursor = strconv.Itoa(end)
		}
		b, err := json.Marshal(l)
		return response(200, string(b)), err
	})
}

func TestAll(t *testing.T) {
	for _, tc := range []struct{ have, size, limit, want, asked int }{
		{0, 3, 0, 0, 1},
		{3, 3, 0, 3, 1},
		{7, 3, 0, 7, 3},
		{7, 3, 7, 7, 3},
		{7, 3, 4, 4, 2},
		{7, 3, 1, 1, 1},
		{2000, 1000, 0, 2000, 4},
		{2000, 1000, 501, 501, 2},
	} {
		asked, progress, most := 0, []int{}, pageSize
		if tc.limit > 0 {
			most = min(tc.limit, pageSize)
		}
		items, err := All[v1.Site](t.Context(), pages(tc.have, tc.size, most, &asked), Query{
			Path: "/v1/sites", Limit: tc.limit, Page: func(n int) { progress = append(progress, n) },
		})
		if err != nil || items == nil || len(items) != tc.want || asked != tc.asked || len(progress) != asked-1 {
			t.Errorf("%+v: %d items in %d requests, progress %v, %v", tc, len(items), asked, progress, err)
		}
		for i, it := range items {
			if it.Devices != i {
				t.Fatalf("%+v: item %d is %d", tc, i, it.Devices)
			}
		}
	}
}

// A core that pages in a circle, or sends more than was asked for, must not keep the client busy or fool it.
func TestAllDistrusts(t *testing.T) {
	circle := over(func(*http.Request) (*http.Response, error) {
		return response(200, `{"items":[],"next_cursor":"again"}`), nil
	})
	if _, err := All[v1.Site](t.Context(), circle, Query{Path: "/"}); !errors.Is(err, ErrAnswer) {
		t.Errorf("circle: %v", err)
	}
	generous := over(func(*http.Request) (*http.Response, error) { return response(200, `{"items":[{},{},{}]}`), nil })
	if items, err := All[v1.Site](t.Context(), generous, Query{Path: "/", Limit: 2}); err != nil || len(items) != 2 {
		t.Errorf("more than asked for: %d items, %v", len(items), err)
	}
	n := 0
	endless := over(func(*http.Request) (*http.Response, error) {
		n++
		return response(200, `{"items":[`+strings.Repeat("0,", 99_999)+`0],"next_cursor":"`+strconv.Itoa(n)+`"}`), nil
	})
	if _, err := All[int](t.Context(), endless, Query{Path: "/"}); !errors.Is(err, ErrTooMany) || n > maxItems/100_000+1 {
		t.Errorf("endless: %v after %d pages", err, n)
	}
}
