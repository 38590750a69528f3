package client

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// parse cuts a stream into id|event|data of its messages.
func parse(text string) (out []string, err error) {
	m := messages{r: bufio.NewReaderSize(strings.NewReader(text), maxLine)}
	for {
		msg, err := m.next()
		if err != nil {
			return out, err
		}
		out = append(out, msg.id+"|"+msg.event+"|"+string(msg.data))
	}
}

func TestMessages(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		want       []string
		end        error
	}{
		{"nothing", "", nil, io.EOF},
		{"plain", "id: 1.0\nevent: e\ndata: {}\n\n", []string{"1.0|e|{}"}, io.EOF},
		{"several", "data: a\n\ndata: b\n\n", []string{"||a", "||b"}, io.EOF},
		{"carriage returns", "data: a\r\n\r\n", []string{"||a"}, io.EOF},
		{"no space", "data:a\n\n", []string{"||a"}, io.EOF},
		{"two spaces", "data:  a\n\n", []string{"|| a"}, io.EOF},
		{"lines of data", "data: a\ndata\ndata: b\n\n", []string{"||a\n\nb"}, io.EOF},
		{"comments", ": keep-alive\n\n: x\ndata: a\n\n", []string{"||a"}, io.EOF},
		{"no data", "id: 1\nevent: e\n\ndata: a\n\n", []string{"||a"}, io.EOF},
		{"unknown fields", "retry: 5\nfoo: bar\nbaz\ndata: a\n\n", []string{"||a"}, io.EOF},
		{"cut off", "data: a\n\ndata: b\n", []string{"||a"}, io.EOF},
		{"cut in a line", "data: a\n\ndata: b", []string{"||a"}, io.EOF},
		{"long line", "data: " + strings.Repeat("x", maxLine) + "\n\n", nil, ErrAnswer},
		{"long data", strings.Repeat("data: "+strings.Repeat("x", maxLine/2)+"\n", 9) + "\n", nil, ErrAnswer},
	} {
		got, err := parse(tc.text)
		if !slices.Equal(got, tc.want) || !errors.Is(err, tc.end) {
			t.Errorf("%s: %q, %v; want %q, %v", tc.name, got, err, tc.want, tc.end)
		}
	}
}

func FuzzMessages(f *testing.F) {
	f.Add("id: 1.0\nevent: e\ndata: {}\n\n: c\n\ndata\n\n")
	f.Add("data:a\r\n\r\ndata: b")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parse(text)
		if err == nil {
			t.Fatal("a stream has an end")
		}
		n := 0
		for _, m := range got {
			n += len(m)
		}
		if n > len(text)+2*len(got) {
			t.Errorf("%d bytes of messages from %d bytes", n, len(text))
		}
	})
}

func TestEvents(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.String() != "/v1/events?after=7.1" {
			t.Errorf("asked %s", r.URL)
		}
		send(t, w, ": hello\n\nid: 8.0\ndata: {\"index\":8,\"type\":\"site.changed\",\"new\":1}\n\ndata: {}\n\nevent: lagged\ndata: {}\n\n")
	})
	s, err := c.Events(t.Context(), map[string][]string{"after": {"7.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer closeStream(t, s)
	id, e, err := s.Next()
	if id != "8.0" || e.Index != 8 || e.Type != "site.changed" || err != nil {
		t.Errorf("got %q %+v, %v", id, e, err)
	}
	if _, _, err := s.Next(); !errors.Is(err, ErrLagged) {
		t.Errorf("lagged stream: %v", err)
	}
}

func TestEventsFailures(t *testing.T) {
	for name, tc := range map[string]struct {
		status int
		body   string
		open   error
		next   error
	}{
		"refused":  {503, "", ErrUnavailable, nil},
		"unknown":  {401, "", ErrUnauthorised, nil},
		"ended":    {200, "", nil, io.EOF},
		"not JSON": {200, "data: <html>\n\n", nil, ErrAnswer},
	} {
		c := over(func(*http.Request) (*http.Response, error) { return response(tc.status, tc.body), nil })
		s, err := c.Events(t.Context(), nil)
		if !errors.Is(err, tc.open) {
			t.Errorf("%s: opens with %v, want %v", name, err, tc.open)
		}
		if s == nil {
			continue
		}
		if _, _, err := s.Next(); !errors.Is(err, tc.next) {
			t.Errorf("%s: brings %v, want %v", name, err, tc.next)
		}
		closeStream(t, s)
	}
}

func closeStream(t *testing.T, s *Stream) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// A trickle is a body that brings some bytes after each wait, until its request's context ends.
type trickle struct {
	ctx   context.Context //nolint:containedctx // of the request that the body answers
	waits []time.Duration
}

func (b *trickle) Read(p []byte) (int, error) {
	wait := 1000 * time.Hour
	if len(b.waits) > 0 {
		wait, b.waits = b.waits[0], b.waits[1:]
	}
	if err := pause(b.ctx, wait); err != nil {
		return 0, b.ctx.Err()
	}
	return copy(p, ": keep-alive\n\n"), nil
}

func (b *trickle) Close() error { return nil }

// TestSilentStream checks that a stream lasts as long as something comes, and not much longer.
func TestSilentStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		waits := []time.Duration{15 * time.Second, 40 * time.Second, 44 * time.Second}
		c := over(func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: &trickle{r.Context(), waits}}, nil
		})
		start := time.Now()
		s, err := c.Events(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer closeStream(t, s)
		_, _, err = s.Next()
		if want := 99*time.Second + silence; !errors.Is(err, ErrUnreachable) || time.Since(start) != want {
			t.Errorf("ended with %v after %v, want %v", err, time.Since(start), want)
		}
	})
}

func TestStreamEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := over(func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: &trickle{ctx: r.Context()}}, nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		s, err := c.Events(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer closeStream(t, s)
		if _, _, err := s.Next(); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrUnreachable) {
			t.Errorf("ended with %v", err)
		}
	})
}
