package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A reader reads a stream of events.
type reader struct {
	t      *testing.T
	sc     *bufio.Scanner
	cancel context.CancelFunc
	res    *http.Response
}

// A message is one server-sent event, or a comment.
type message struct {
	id, event, comment string
	data               v1.Event
}

func (p *pipes) subscribe(t *testing.T, query, lastID string) *reader {
	t.Helper()
	return p.subscribeAs(t, adminToken, query, lastID)
}

func (p *pipes) subscribeAs(t *testing.T, bearer, query, lastID string) *reader {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://core/v1/events"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+bearer)
	if lastID != "" {
		r.Header.Set("Last-Event-ID", lastID)
	}
	res, err := p.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := res.Body.Close(); err != nil {
			t.Error(err)
		}
	})
	if ct := res.Header.Get("Content-Type"); res.StatusCode != http.StatusOK || ct != "text/event-stream" {
		t.Fatalf("status %d, content type %s", res.StatusCode, ct)
	}
	return &reader{t: t, sc: bufio.NewScanner(res.Body), cancel: cancel, res: res}
}

// next reads one message; false: the stream ended.
func (r *reader) next() (m message, ok bool) {
	r.t.Helper()
	for r.sc.Scan() {
		field, value, _ := strings.Cut(r.sc.Text(), ": ")
		switch field {
		case "":
			if r.sc.Text() == "" {
				return m, true
			}
			m.comment = value
		case "id":
			m.id = value
		case "event":
			m.event = value
		case "data":
			if m.event == "lagged" {
				continue
			}
			if m.event == "error" {
				m.comment = value
				continue
			}
			if err := json.Unmarshal([]byte(value), &m.data); err != nil {
				r.t.Fatalf("%s: %v", value, err)
			}
		default:
			r.t.Fatalf("line %q", r.sc.Text())
		}
	}
	return m, false
}

// sites reads n events and returns the sites that they are about.
func (r *reader) sites(n int) (out []string) {
	r.t.Helper()
	for range n {
		m, ok := r.next()
		if !ok {
			r.t.Fatalf("the stream ended after %q", out)
		}
		out = append(out, m.data.Site)
	}
	return out
}

func setSite(name string) command.Command { return &command.SetSite{By: byAdmin, Site: name} }

func TestEventsAsTheyHappen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCore(t)
		c.commit(setSite("before"))
		s := serve(t, c.handler)
		all, some := s.subscribe(t, "", ""), s.subscribe(t, "?site=plant-8&type=token.created", "")
		m := c.enroll(c.token(seal.KindDevice, "plant-7"))
		c.token(seal.KindDevice, "plant-8")
		one := s.subscribe(t, "?device="+m.id.String(), "")
		c.commit(setSite("plant-7"))
		c.register(m, "plant-7/gw", 0, jetson("0.9.0"))
		for i, want := range []string{"token.created", "device.enrolled", "token.created", "site.changed", "device.registered"} {
			got, _ := all.next()
			if got.event != want || got.data.Type != want || got.id != fmt.Sprintf("%d.0", got.data.Index) || !got.data.Time.Equal(start) {
				t.Errorf("event %d: %+v, want %s", i, got, want)
			}
		}
		if got, _ := some.next(); got.data.Site != "plant-8" {
			t.Errorf("got %+v", got)
		}
		got, _ := one.next()
		if got.event != "device.registered" || got.data.Device != m.id.String() || got.data.Data["gateway"] != "plant-7/gw" {
			t.Errorf("got %+v", got)
		}
	})
}

// Who comes back goes on where it was, also in the middle of what one log entry brought about.
func TestEventsResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCore(t)
		s := serve(t, c.handler)
		first := c.View().Index()
		c.apply(setSite("a"), setSite("b"), setSite("c"))
		c.apply(setSite("d"))
		r := s.subscribe(t, fmt.Sprintf("?after=%d", first), "")
		var ids []string
		for range 4 {
			m, _ := r.next()
			ids = append(ids, m.id)
		}
		for i, want := range []string{"bcd", "cd", "d", ""} {
			c.commit(setSite("e"))
			r := s.subscribe(t, "", ids[i])
			if got := strings.Join(r.sites(len(want)+1+i), ""); got != want+strings.Repeat("e", i+1) {
				t.Errorf("after %s: %s", ids[i], got)
			}
			// A filter does not change what an id means.
			r = s.subscribe(t, "?site=d", ids[0])
			if m, _ := r.next(); m.id != ids[3] {
				t.Errorf("id %s, want %s", m.id, ids[3])
			}
			if p := s.subscribe(t, "?after="+ids[i], "1.0"); strings.Join(p.sites(len(want)), "") != want {
				t.Errorf("the query does not win over the header")
			}
		}
	})
}

// A silent stream shows signs of life, and outlives every deadline that ordinary requests have.
func TestEventsKeepAlive(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c := newCore(t)
			r := serveWith(t, c.handler, http2).subscribe(t, "", "")
			if (r.res.ProtoMajor == 2) != http2 {
				t.Errorf("protocol %s", r.res.Proto)
			}
			begin := time.Now()
			for i := range 20 {
				m, ok := r.next()
				if took := time.Since(begin); !ok || m.comment != "keep-alive" || took != time.Duration(i+1)*keepAlive {
					t.Fatalf("HTTP/2 %v: after %v: %+v, %v", http2, took, m, r.sc.Err())
				}
			}
			c.commit(setSite("plant-7"))
			if m, ok := r.next(); !ok || m.data.Site != "plant-7" {
				t.Errorf("got %+v", m)
			}
		})
	}
}

// A reader that does not keep up is told so at the end, once it reads again.
func TestEventsLagged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCore(t)
		r := serve(t, c.handler).subscribe(t, "", "")
		synctest.Wait()
		for range 3 {
			cmds := make([]command.Command, 1000)
			for i := range cmds {
				cmds[i] = setSite("plant-7")
			}
			c.apply(cmds...) // the stream's goroutine has no turn in between, for it waits for its reader
		}
		n := 0
		for {
			m, ok := r.next()
			if !ok {
				t.Fatalf("the stream ended after %d events without a word", n)
			}
			if m.event == "lagged" {
				break
			}
			n++
		}
		if n < 1000 || n >= 3000 {
			t.Errorf("%d events came", n)
		}
		if m, ok := r.next(); ok {
			t.Errorf("after the end: %+v", m)
		}
	})
}

// A reader that has stopped reading is let go, with all that it holds.
func TestEventsDeadReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCore(t)
		conn := serve(t, c.handler).dial(t)
		send(t, conn, "GET /v1/events HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer %s\r\n\r\n", adminToken)
		s := c.server
		synctest.Wait()
		if s.streams.count() != 1 {
			t.Fatalf("%d streams", s.streams.count())
		}
		<-time.After(requestTime + writeSlack + time.Second) // in the bubble's time
		if s.streams.count() != 0 {
			t.Errorf("%d streams", s.streams.count())
		}
	})
}

// The same for one that stops later.
func TestEventsReaderThatDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCore(t)
		r := serve(t, c.handler).subscribe(t, "", "")
		for range 3 {
			r.next()
		}
		<-time.After(keepAlive + streamWrite + time.Second) // in the bubble's time
		if n := c.server.streams.count(); n != 0 {
			t.Errorf("%d streams", n)
		}
	})
}

// Streams end with the server's base context, whether or not something happens.
func TestEventsEndWithTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCore(t)
		s := serve(t, c.handler)
		r := s.subscribe(t, "", "")
		s.stop()
		if m, ok := r.next(); ok {
			t.Errorf("got %+v", m)
		}
	})
}

// The number of streams is bounded, and a stream that ends makes room.
func TestEventsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCore(t)
		s := serve(t, c.handler)
		var open []*reader
		for i := range defaultLimits.streams / defaultLimits.streamsEach {
			bearer := c.operator(fmt.Sprintf("op-%d", i+2), registry.RoleViewer)
			for range defaultLimits.streamsEach {
				open = append(open, s.subscribeAs(t, bearer, "", ""))
			}
			c.refusesStream(t, bearer) // its own part is used up
		}
		c.refusesStream(t, adminToken) // there are no more
		open[7].cancel()
		synctest.Wait()
		s.subscribe(t, "", "")
	})
}

// refusesStream checks that no stream is opened, of either sort.
func (c *core) refusesStream(t *testing.T, bearer string) {
	t.Helper()
	targets := []string{"/v1/events"}
	if bearer == adminToken {
		targets = append(targets, "/v1/audit/export")
	}
	for _, target := range targets {
		w := c.do(as(bearer, request(http.MethodGet, target, "")))
		if p := problem(t, w, http.StatusServiceUnavailable); p.Type != v1.ProblemBusy || w.Header().Get("Retry-After") == "" {
			t.Errorf("got %+v", p)
		}
	}
}

// Each operator hears of what it sees, and of nothing else.
func TestEventsAreFiltered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCore(t)
		s := serve(t, c.handler)
		first := c.View().Index()
		limited, plain := c.operator("op-2", registry.RoleAdmin, "plant-7"), c.operator("op-3", registry.RoleViewer)
		c.join("core-2")                       // a core token, and a node
		c.enroll(c.token("device", "plant-7")) // two events
		c.token("gateway", "plant-8")
		c.commit(setSite("plant-8"))
		c.commit(setSite("plant-7"))
		for bearer, want := range map[string]string{
			adminToken: "operator.created operator.created token.created node.joined token.created device.enrolled token.created site.changed site.changed",
			plain:      "node.joined token.created device.enrolled token.created site.changed site.changed",
			limited:    "token.created device.enrolled site.changed",
		} {
			r := s.subscribeAs(t, bearer, fmt.Sprintf("?after=%d", first), "")
			var got []string
			for range len(strings.Fields(want)) {
				m, _ := r.next()
				got = append(got, m.event)
				if bearer == limited && m.data.Site != "plant-7" {
					t.Errorf("the operator of plant-7 heard %+v", m)
				}
			}
			if m, _ := r.next(); strings.Join(got, " ") != want || m.comment != "keep-alive" {
				t.Errorf("got %q and %+v, want %q", got, m, want)
			}
		}
	})
}

// A stream ends with its operator's token: at once when it is revoked, to the moment when it expires.
func TestEventsEndWithTheToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCore(t)
		begin := time.Now()
		c.server.Wall = func() time.Time { return start.Add(time.Since(begin)) }
		c.commit(&command.CreateOperator{By: byAdmin, Operator: command.Operator{
			ID: "op-2", Hash: hashOf("hfo1_late"), Role: "viewer", ExpiresMS: start.Add(40 * time.Second).UnixMilli(),
		}})
		gone := c.operator("op-3", registry.RoleViewer, "plant-7")
		s := serve(t, c.handler)
		expiring, revoked, kept := s.subscribeAs(t, "hfo1_late", "", ""), s.subscribeAs(t, gone, "", ""), s.subscribe(t, "", "")
		ended := func(r *reader, silences int, when time.Duration) {
			t.Helper()
			for range silences {
				if m, _ := r.next(); m.comment != "keep-alive" {
					t.Errorf("got %+v", m)
				}
			}
			m, ok := r.next()
			var p v1.Problem
			if err := json.Unmarshal([]byte(m.comment), &p); err != nil || !ok || m.event != "error" || p.Type != v1.ProblemUnauthorized || p.Status != 401 {
				t.Errorf("the last word is %+v, %v", m, err)
			}
			if got := time.Since(begin); got != when {
				t.Errorf("ended after %v, want %v", got, when)
			}
			if m, ok := r.next(); ok {
				t.Errorf("after the end: %+v", m)
			}
		}
		c.commit(&command.RevokeOperator{By: byAdmin, ID: "op-3"})
		if m, ok := kept.next(); !ok || m.event != "operator.revoked" {
			t.Errorf("the administrator's stream: %+v, %v", m, ok)
		}
		ended(revoked, 0, 0)
		kept.cancel() // nobody reads it while the other is waited for
		ended(expiring, 2, 40*time.Second)
	})
}

// HEAD tells the headers and opens no stream.
func TestEventsHead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCore(t)
		begin := time.Now()
		w := c.do(request(http.MethodHead, "/v1/events", ""))
		if w.Code != http.StatusOK || w.Header().Get("Content-Type") != "text/event-stream" || time.Since(begin) != 0 {
			t.Errorf("got %d %v after %v", w.Code, w.Header(), time.Since(begin))
		}
	})
}

// Every event that the registry can tell is in the list that filters are checked against.
func TestEventTypesAreKnown(t *testing.T) {
	c := newCore(t)
	for _, kind := range eventTypes() {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		w := httptest.NewRecorder()
		c.handler.ServeHTTP(w, request(http.MethodGet, "/v1/events?type="+kind, "").WithContext(ctx))
		if w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", kind, w.Code, w.Body)
		}
	}
}
