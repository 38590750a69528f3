package client

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

// A cluster is a network of core nodes that share what was done, as a replicated core does: a change is done once per key.
type cluster struct {
	nodes map[string]behaviour
	asked []string        // host of each request, in turn
	done  map[string]bool // keys of the changes that were made
	times int             // how many were made
}

// A behaviour is what a node does with a request. do does what is asked.
type behaviour func(r *http.Request, do func() reply) reply

// A reply is a node's answer, or the error of the connection.
type reply struct {
	status int
	header []string // names and values in turn
	body   io.Reader
	err    error
}

func (c *cluster) RoundTrip(r *http.Request) (*http.Response, error) {
	c.asked = append(c.asked, r.URL.Hostname())
	a := c.nodes[r.URL.Hostname()](r, func() reply {
		if key := r.Header.Get("Idempotency-Key"); key == "" || !c.done[key] {
			c.done[key] = true
			c.times++
		}
		return reply{status: 200, body: strings.NewReader(`{"name":"done"}`)}
	})
	if a.err != nil {
		return nil, a.err
	}
	resp := response(a.status, "", a.header...)
	if a.body != nil {
		resp.Body = io.NopCloser(a.body)
	}
	return resp, nil
}

// client is one of the nodes a, b, c, …, as many as behave.
func (c *cluster) client(behave ...behaviour) *Client {
	c.done, c.nodes = map[string]bool{}, map[string]behaviour{}
	var urls []*url.URL
	for i, f := range behave {
		host := string(rune('a' + i))
		c.nodes[host] = f
		urls = append(urls, &url.URL{Scheme: "https", Host: host + ":1"})
	}
	return New(Config{URLs: urls, Token: "secret", Transport: c})
}

// How nodes behave.
func works(_ *http.Request, do func() reply) reply { return do() }

func dead(*http.Request, func() reply) reply {
	return reply{err: &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}}
}

func refuses(status int, header ...string) behaviour {
	return func(*http.Request, func() reply) reply { return reply{status: status, header: header} }
}

// hangs takes the request and never answers.
func hangs(r *http.Request, _ func() reply) reply {
	wrote(r)
	<-r.Context().Done()
	return reply{err: r.Context().Err()}
}

// cuts does what it was asked and breaks the connection before the answer.
func cuts(r *http.Request, do func() reply) reply {
	wrote(r)
	do()
	return reply{err: io.ErrUnexpectedEOF}
}

// halfway does what it was asked and breaks the connection in the answer.
func halfway(r *http.Request, do func() reply) reply {
	wrote(r)
	a := do()
	a.body = io.MultiReader(strings.NewReader(`{"na`), broken{})
	return a
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, syscall.ECONNRESET }

// wrote tells the client's trace that the request went out.
func wrote(r *http.Request) {
	if t := httptrace.ContextClientTrace(r.Context()); t != nil && t.WroteHeaders != nil {
		t.WroteHeaders()
	}
}

// TestFailover sends a read and a change to clusters of which only some nodes work.
func TestFailover(t *testing.T) {
	type nodes = []behaviour
	for _, tc := range []struct {
		name  string
		nodes nodes
		asked string // hosts
		took  time.Duration
	}{
		{"first works", nodes{works, dead}, "a", 0},
		{"first is dead", nodes{dead, works, works}, "ab", 0},
		{"two are dead", nodes{dead, dead, works}, "abc", 0},
		{"first does not lead", nodes{refuses(503), works}, "ab", 0},
		{"first wants us to wait", nodes{refuses(503, "Retry-After", "9"), works}, "ab", 0},
		{"first cuts the connection", nodes{cuts, works}, "ab", 0},
		{"first cuts the answer", nodes{halfway, works}, "ab", 0},
		{"first does not know the outcome", nodes{refuses(504), works}, "ab", 0},
		{"first is behind a proxy that lost it", nodes{refuses(502), works}, "ab", 0},
		{"first hangs", nodes{hangs, works}, "ab", answerOneOf},
		{"two hang", nodes{hangs, hangs, works}, "abc", 2 * answerOneOf},
	} {
		for _, change := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s change %v", tc.name, change), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var cl cluster
					c := cl.client(tc.nodes...)
					start := time.Now()
					var got v1.Site
					var err error
					if change {
						got, err = Send[v1.Site](t.Context(), c, http.MethodPut, "/v1/sites/x", v1.SetSite{})
					} else {
						got, err = Get[v1.Site](t.Context(), c, "/v1/sites/x", nil)
					}
					if err != nil || got.Name != "done" || time.Since(start) != tc.took {
						t.Errorf("%+v, %v after %v, want %v", got, err, time.Since(start), tc.took)
					}
					if asked := strings.Join(cl.asked, ""); asked != tc.asked {
						t.Errorf("asked %q, want %q", asked, tc.asked)
					}
					if change && cl.times != 1 {
						t.Errorf("done %d times", cl.times)
					}
					// The next request begins where this one ended.
					cl.asked = nil
					if _, err := Get[v1.Site](t.Context(), c, "/v1/sites/x", nil); err != nil || strings.Join(cl.asked, "") != tc.asked[len(tc.asked)-1:] {
						t.Errorf("next: asked %q, %v", cl.asked, err)
					}
					if want := tc.asked[len(tc.asked)-1:] + ":1"; !strings.HasSuffix(c.Node(), want) {
						t.Errorf("Node() = %s, want …%s", c.Node(), want)
					}
				})
			})
		}
	}
}

// A node that cannot be reached counts as failed; one that says that it does not lead does not.
func TestFailed(t *testing.T) {
	var cl cluster
	c := cl.client(dead, works)
	if _, err := Get[v1.Site](t.Context(), c, "/", nil); err != nil || !c.Failed() {
		t.Errorf("with a dead node: failed %v, %v", c.Failed(), err)
	}
	c = cl.client(refuses(503), works)
	if _, err := Get[v1.Site](t.Context(), c, "/", nil); err != nil || c.Failed() {
		t.Errorf("with a node that does not lead: failed %v, %v", c.Failed(), err)
	}
}

// A refusal that no other node would take back is told at once.
func TestNoFailover(t *testing.T) {
	for status, want := range map[int]error{
		400: ErrInvalid, 401: ErrUnauthorised, 403: ErrForbidden, 404: ErrNotFound, 409: ErrConflict, 412: ErrConflict, 429: ErrUnavailable, 500: ErrRefused,
	} {
		var cl cluster
		_, err := Send[v1.Site](t.Context(), cl.client(refuses(status, "Retry-After", "1"), works), http.MethodPut, "/", nil)
		if !errors.Is(err, want) || errors.Is(err, ErrOutcome) || len(cl.asked) != 1 {
			t.Errorf("%d: %v after %q", status, err, cl.asked)
		}
	}
}

// TestAllNodesFail says how often and how long a core of which no node works is tried, and what is told then.
func TestAllNodesFail(t *testing.T) {
	type nodes = []behaviour
	for _, tc := range []struct {
		name   string
		nodes  nodes
		asked  int
		took   time.Duration
		change error // of a change
		read   error // of a read
	}{
		{"dead", nodes{dead, dead, dead}, 6, firstWait, ErrUnreachable, ErrUnreachable},
		{"dead alone", nodes{dead}, 2, firstWait, ErrUnreachable, ErrUnreachable},
		{"no leader", nodes{refuses(503), refuses(503), dead}, 3 * waitRounds, 3 * defaultWait, ErrUnavailable, ErrUnavailable},
		{"told to wait", nodes{refuses(503, "Retry-After", "3"), refuses(503, "Retry-After", "2")}, 2 * waitRounds, 6 * time.Second, ErrUnavailable, ErrUnavailable},
		{"told to come back much later", nodes{refuses(503, "Retry-After", "60"), dead}, 2, 0, ErrUnavailable, ErrUnavailable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for want, send := range map[error]func(*Client) error{
					tc.change: func(c *Client) error {
						_, err := Send[v1.Site](t.Context(), c, http.MethodPut, "/", nil)
						return err
					},
					tc.read: func(c *Client) error {
						_, err := Get[v1.Site](t.Context(), c, "/", nil)
						return err
					},
				} {
					var cl cluster
					start := time.Now()
					err := send(cl.client(tc.nodes...))
					if !errors.Is(err, want) || errors.Is(err, ErrOutcome) || len(cl.asked) != tc.asked || time.Since(start) != tc.took {
						t.Errorf("%v, %d requests in %v; want %v, %d in %v", err, len(cl.asked), time.Since(start), want, tc.asked, tc.took)
					}
				}
			})
		})
	}
}

// A change that was sent and not answered is sent again, with the same key, until time runs out. Then nobody knows.
func TestOutcomeUnknown(t *testing.T) {
	for name, node := range map[string]behaviour{
		"cut": cuts, "hangs": hangs, "core does not know": refuses(504),
	} {
		for _, second := range []behaviour{dead, node, refuses(503)} {
			synctest.Test(t, func(t *testing.T) {
				var cl cluster
				keys := map[string]bool{}
				c := cl.client(func(r *http.Request, do func() reply) reply {
					keys[r.Header.Get("Idempotency-Key")] = true
					wrote(r)
					return node(r, do)
				}, second)
				start := time.Now()
				_, err := Send[v1.Site](t.Context(), c, http.MethodPut, "/", nil)
				if !errors.Is(err, ErrOutcome) || !strings.Contains(err.Error(), "outcome is unknown") && name != "core does not know" {
					t.Errorf("%s: %v", name, err)
				}
				if took := time.Since(start); took > requestTime || took < requestTime-lastWait {
					t.Errorf("%s: gave up after %v", name, took)
				}
				if len(keys) != 1 || keys[""] || cl.times > 1 || len(cl.asked) < 3 {
					t.Errorf("%s: keys %v, done %d times, asked %d times", name, keys, cl.times, len(cl.asked))
				}
				// A read has no outcome to know.
				if _, err := Get[v1.Site](t.Context(), c, "/", nil); err == nil || errors.Is(err, ErrUnreachable) && errors.Is(err, ErrOutcome) {
					t.Errorf("%s: a read: %v", name, err)
				}
			})
		}
	}
}

// What takes a minute is waited for, on each node, and repeated with its key when its node is lost.
func TestSlowChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := func(r *http.Request, do func() reply) reply {
			wrote(r)
			if err := pause(r.Context(), time.Minute); err != nil {
				return reply{err: err}
			}
			return do()
		}
		var cl cluster
		start := time.Now()
		got, err := SendSlow[v1.Site](t.Context(), cl.client(cuts, slow), http.MethodDelete, "/", nil)
		if err != nil || got.Name != "done" || cl.times != 1 || time.Since(start) != time.Minute {
			t.Errorf("%+v, %v, done %d times in %v", got, err, cl.times, time.Since(start))
		}
		start = time.Now()
		got, err = SendSlow[v1.Site](t.Context(), cl.client(hangs, works), http.MethodDelete, "/", nil)
		if err != nil || got.Name != "done" || time.Since(start) != slowOneOf {
			t.Errorf("%+v, %v in %v", got, err, time.Since(start))
		}
		start = time.Now()
		_, err = SendSlow[v1.Site](t.Context(), cl.client(hangs, hangs), http.MethodDelete, "/", nil)
		if !errors.Is(err, ErrOutcome) || time.Since(start) != slowTime {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// What the core says about a repetition is the outcome, be it a refusal.
func TestOutcomeKnownLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var cl cluster
		if _, err := Send[v1.Site](t.Context(), cl.client(cuts, refuses(409)), http.MethodPut, "/", nil); !errors.Is(err, ErrConflict) || errors.Is(err, ErrOutcome) {
			t.Errorf("refused in the end: %v", err)
		}
	})
}

// Two changes never share a key, and a read has none.
func TestKeys(t *testing.T) {
	var keys []string
	c := over(func(r *http.Request) (*http.Response, error) {
		keys = append(keys, r.Header.Get("Idempotency-Key"))
		return response(200, "{}", "ETag", `"r7"`), nil
	})
	_, tag, err := GetTagged[v1.Site](t.Context(), c, "/", nil)
	if err != nil || tag != `"r7"` {
		t.Errorf("tag %q, %v", tag, err)
	}
	for range 2 {
		if _, err := Send[v1.Site](t.Context(), c, http.MethodPost, "/", nil); err != nil {
			t.Error(err)
		}
	}
	if len(keys) != 3 || keys[0] != "" || keys[1] == keys[2] || len(keys[1]) < 16 || len(keys[1]) > 128 {
		t.Errorf("keys %q", keys)
	}
}

func TestIfMatch(t *testing.T) {
	var got []string
	c := over(func(r *http.Request) (*http.Response, error) {
		got = append(got, r.Header.Get("If-Match"))
		return response(412, ""), nil
	})
	_, plain := Send[v1.Site](t.Context(), c, http.MethodPut, "/", nil)
	_, tagged := SendIf[v1.Site](t.Context(), c, `"r12"`, http.MethodPut, "/", nil)
	if !slices.Equal(got, []string{"", `"r12"`}) || !errors.Is(plain, ErrConflict) || !errors.Is(tagged, ErrConflict) {
		t.Errorf("sent %q, %v, %v", got, plain, tagged)
	}
}

// TestFailoverOnSockets has real connections: one node whose port is closed, one that does what it is asked and cuts the
// connection, and one that works.
func TestFailoverOnSockets(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	var keys []string
	cut := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		keys = append(keys, r.Header.Get("Idempotency-Key"))
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(cut.Close)
	good := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		keys = append(keys, r.Header.Get("Idempotency-Key"))
		send(t, w, `{"name":"done"}`)
	}))
	t.Cleanup(good.Close)
	c := to(t, good)
	c.nodes = []string{"https://" + l.Addr().String(), cut.URL, good.URL} // the servers share one certificate
	got, err := Send[v1.Site](t.Context(), c, http.MethodPut, "/v1/sites/x", v1.SetSite{})
	if err != nil || got.Name != "done" || len(keys) < 2 || len(slices.Compact(keys)) != 1 || keys[0] == "" {
		t.Errorf("%+v, %v; keys %q", got, err, keys)
	}
	if !c.Failed() || c.Node() != good.URL {
		t.Errorf("failed %v, node %s", c.Failed(), c.Node())
	}
}

// A node whose certificate is not the fleet's gets no request, and the next one is asked.
func TestUntrustedNodeIsPassedOver(t *testing.T) {
	got := 0
	stranger := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { got++ }))
	stranger.TLS = foreign(t)
	stranger.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	stranger.StartTLS()
	t.Cleanup(stranger.Close)
	good := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { send(t, w, `{"name":"done"}`) }))
	t.Cleanup(good.Close)
	c := to(t, good)
	c.nodes = []string{stranger.URL, good.URL}
	if s, err := Get[v1.Site](t.Context(), c, "/", nil); err != nil || s.Name != "done" || got > 0 {
		t.Errorf("%+v, %v; the stranger got %d requests", s, err, got)
	}
	c.nodes = []string{stranger.URL}
	c.at.Store(0)
	if _, err := Get[v1.Site](t.Context(), c, "/", nil); !errors.Is(err, ErrUntrusted) {
		t.Errorf("the stranger alone: %v", err)
	}
}

// An event stream that a node ended, or did not open, goes on at another node.
func TestStreamMovesOn(t *testing.T) {
	var cl cluster
	stream := func(text string) behaviour {
		return func(*http.Request, func() reply) reply { return reply{status: 200, body: strings.NewReader(text)} }
	}
	c := cl.client(stream("id: 1\ndata: {\"type\":\"x\"}\n\n"), dead, refuses(503), stream("event: lagged\ndata: {}\n\n"))
	for range 3 {
		s, err := c.Events(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, _, err = s.Next()
		}
		if !errors.Is(err, io.EOF) && !errors.Is(err, ErrLagged) {
			t.Errorf("ended with %v", err)
		}
		closeStream(t, s)
	}
	// A node that is left behind only by the reader's slowness is not left.
	if got := strings.Join(cl.asked, ""); got != "abcdd" {
		t.Errorf("asked %q, want abcdd", got)
	}
	_, err := cl.client(dead, refuses(503), dead).Events(t.Context(), nil)
	if !errors.Is(err, ErrUnavailable) || len(cl.asked) != 8 {
		t.Errorf("no node: %v after %q", err, cl.asked)
	}
}

func TestLines(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		want []string
		end  error
	}{
		"none":      {"", nil, io.EOF},
		"lines":     {"a\nb\r\n\n", []string{"a", "b", ""}, io.EOF},
		"cut":       {"a\nb", []string{"a"}, ErrUnreachable},
		"long":      {"a\n" + strings.Repeat("x", maxRecord+1), []string{"a"}, ErrAnswer},
		"just fits": {strings.Repeat("x", maxRecord-1) + "\n", []string{strings.Repeat("x", maxRecord-1)}, io.EOF},
	} {
		c := over(func(*http.Request) (*http.Response, error) { return response(200, tc.text), nil })
		l, err := c.Lines(t.Context(), "/", nil)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for {
			var b []byte
			if b, err = l.Next(); err != nil {
				break
			}
			got = append(got, string(b))
		}
		if !slices.Equal(got, tc.want) || !errors.Is(err, tc.end) {
			t.Errorf("%s: %d lines, %v; want %d, %v", name, len(got), err, len(tc.want), tc.end)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}
