package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/client"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

// A script is what successive connections bring: each a list of event ids, after which it lasts a while and ends with err.
// A connection that is refused has no events and lasts no time.
type script []struct {
	refuse error
	ids    []string
	lasts  time.Duration
	end    error
}

// A stage plays a script to a follower. The last connection repeats for ever.
type stage struct {
	script script
	n      int
	asked  []string // "after" of each connection
	shown  []string
	notes  []string
}

func (s *stage) follower(after string) *follower {
	return &follower{
		after: after,
		open: func(ctx context.Context, after string) (eventStream, error) {
			c := s.script[min(s.n, len(s.script)-1)]
			s.n++
			s.asked = append(s.asked, after)
			if c.refuse != nil {
				return nil, c.refuse
			}
			return &scripted{ctx: ctx, ids: slices.Clone(c.ids), lasts: c.lasts, end: c.end}, nil
		},
		emit: func(e v1.Event) error {
			s.shown = append(s.shown, e.Type)
			return nil
		},
		note: func(format string, args ...any) { s.notes = append(s.notes, fmt.Sprintf(format, args...)) },
	}
}

type scripted struct {
	ctx   context.Context //nolint:containedctx // of the connection that it plays
	ids   []string
	lasts time.Duration
	end   error
}

func (s *scripted) Next() (string, v1.Event, error) {
	if len(s.ids) > 0 {
		id := s.ids[0]
		s.ids = s.ids[1:]
		return id, v1.Event{Type: "event " + id}, nil
	}
	if err := sleep(s.ctx, s.lasts); err != nil {
		return "", v1.Event{}, err
	}
	return "", v1.Event{}, s.end
}

func (s *scripted) Close() error { return nil }

func TestFollowGoesOnWhereItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cut := fmt.Errorf("%w: reset", client.ErrUnreachable)
		s := &stage{script: script{
			{lasts: time.Minute, end: io.EOF},
			{ids: []string{"7.0", "7.1"}, lasts: time.Minute, end: io.EOF},
			{refuse: cut},
			{ids: []string{"9.0"}, end: client.ErrLagged},
			{refuse: client.ErrUnauthorised},
		}}
		err := s.follower("").run(t.Context())
		if !errors.Is(err, client.ErrUnauthorised) {
			t.Errorf("ended with %v", err)
		}
		if want := []string{"", "", "7.1", "7.1", "9.0"}; !slices.Equal(s.asked, want) {
			t.Errorf("asked for what is after %q, want %q", s.asked, want)
		}
		if want := []string{"event 7.0", "event 7.1", "event 9.0"}; !slices.Equal(s.shown, want) {
			t.Errorf("showed %q, want %q", s.shown, want)
		}
		want := []string{
			"the event stream was cut (the core ended it) and is opened again; events in between are not shown",
			"the event stream was cut (the core ended it) and is opened again where it was",
			"events were lost because the stream was not read quickly enough; read the state afresh",
		}
		if !slices.Equal(s.notes, want) {
			t.Errorf("noted %q, want %q", s.notes, want)
		}
	})
}

func TestFollowReportsTheFirstFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{script: script{{refuse: client.ErrUnreachable}}}
		start := time.Now()
		if err := s.follower("").run(t.Context()); !errors.Is(err, client.ErrUnreachable) {
			t.Errorf("ended with %v", err)
		}
		if s.n != 1 || time.Since(start) > 0 {
			t.Errorf("tried %d times in %v", s.n, time.Since(start))
		}
	})
}

// A core that is gone, or takes connections only to drop them, is given up; attempts get rarer.
func TestFollowGivesUp(t *testing.T) {
	for name, last := range map[string]script{
		"gone":     {{refuse: client.ErrUnreachable}},
		"flapping": {{end: io.EOF}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &stage{script: append(script{{lasts: time.Hour, end: io.EOF}}, last...)}
				start := time.Now()
				err := s.follower("").run(t.Context())
				if err == nil || passing(err) == false {
					t.Errorf("ended with %v", err)
				}
				took := time.Since(start) - time.Hour
				if took < giveUp || took > giveUp+maxWait {
					t.Errorf("gave up after %v", took)
				}
				if s.n < 15 || s.n > 60 {
					t.Errorf("tried %d times in %v", s.n, took)
				}
			})
		})
	}
}

func TestFollowOutlivesOutages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{}
		for range 50 { // each outage short of giving up
			s.script = append(s.script, script{{lasts: time.Minute, end: io.EOF}, {refuse: client.ErrUnreachable}, {refuse: client.ErrUnavailable}}...)
		}
		s.script = append(s.script, script{{ids: []string{"1.0"}, end: client.ErrForbidden}}...)
		if err := s.follower("").run(t.Context()); !errors.Is(err, client.ErrForbidden) || len(s.shown) != 1 {
			t.Errorf("ended with %v after %q", err, s.shown)
		}
	})
}

func TestFollowEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, sc := range []script{
			{{lasts: time.Hour, end: io.EOF}},                                    // while reading
			{{lasts: time.Second, end: io.EOF}, {refuse: client.ErrUnreachable}}, // while waiting
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			start := time.Now()
			s := &stage{script: sc}
			if err := s.follower("").run(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 30*time.Second {
				t.Errorf("ended with %v after %v", err, time.Since(start))
			}
			cancel()
		}
	})
}

// TestEventsAcrossConnections follows a core that ends the stream after each event.
func TestEventsAcrossConnections(t *testing.T) {
	core := newFleet()
	full := core.events
	core.events = full[:1]
	core.hook = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Query().Get("after") != "" {
			core.events = full
		}
		return false
	}
	u := at(t, core.serve(t))
	r := u.run(t, "events", "--count", "2", "--site", "plant-7", "--type", "x", "--after", "0", "--device", "3fa", "-o", "json")
	if r.code != exitOK || strings.Count(r.out, "\n") != 2 || !strings.Contains(r.out, `{"index":42`) {
		t.Errorf("exit %d, %s%s", r.code, r.out, r.err)
	}
	seen := core.seen()
	for _, req := range seen[2:] {
		if !strings.HasPrefix(req, "GET /v1/events?after=") || !strings.HasSuffix(req, "&device="+idA+"&site=plant-7&type=x") {
			t.Errorf("asked %s", req)
		}
	}
}
