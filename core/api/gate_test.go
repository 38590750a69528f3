package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/history"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/raftstore"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// What the core answers, and what the operator is told of it.
func TestErrorsOfTheCore(t *testing.T) {
	for _, tc := range []struct {
		err    error
		status int
		kind   string
		says   string
		retry  bool
	}{
		{fmt.Errorf("device x: %w", registry.ErrNotFound), 404, v1.ProblemNotFound, "device x", false},
		{fmt.Errorf("too many tags: %w", registry.ErrInvalid), 422, v1.ProblemInvalid, "too many tags", false},
		{raftstore.ErrTooLarge, 422, v1.ProblemInvalid, "large", false},
		{registry.ErrExists, 409, v1.ProblemConflict, "exists", false},
		{registry.ErrRetry, 409, v1.ProblemConflict, "try again", false},
		{registry.ErrNoFleet, 503, v1.ProblemUnavailable, "try again", true},
		{&raftstore.NotLeaderError{LeaderID: "core-2", LeaderAddr: "10.0.0.2:7000"}, 503, v1.ProblemNotLeader, "core-2", true},
		{fmt.Errorf("read: %w", &raftstore.NotLeaderError{}), 503, v1.ProblemNotLeader, "no leader", true},
		{fmt.Errorf("%w: %w", raftstore.ErrUnknownOutcome, raftstore.ErrClosed), 504, v1.ProblemOutcomeUnknown, "read the state", false},
		{fmt.Errorf("%w: %w", raftstore.ErrUnknownOutcome, context.DeadlineExceeded), 504, v1.ProblemOutcomeUnknown, "read the state", false},
		{fmt.Errorf("audit trail: %w", history.ErrIncomplete), 503, v1.ProblemUnavailable, "fetches history that it lacks: ask another node", true},
		{raftstore.ErrRemoved, 503, v1.ProblemUnavailable, "ask another node", true},
		{raftstore.ErrNotMember, 404, v1.ProblemNotFound, "no such node", false},
		{raftstore.ErrLastVoter, 422, v1.ProblemInvalid, "can lead", false},
		{fmt.Errorf("%w: limited", registry.ErrForbidden), 403, v1.ProblemForbidden, "not permitted", false},
		{registry.ErrUnauthenticated, 401, v1.ProblemUnauthorized, "revoked", false},
		{registry.ErrReused, 409, v1.ProblemReused, "another request", false},
		{registry.ErrRevision, 412, v1.ProblemPrecondition, "If-Match", false},
		{raftstore.ErrClosed, 503, v1.ProblemUnavailable, "nothing was done", true},
		{fmt.Errorf("wait: %w", context.DeadlineExceeded), 503, v1.ProblemUnavailable, "nothing was done", true},
		{fmt.Errorf("wait: %w", context.Canceled), 503, v1.ProblemUnavailable, "nothing was done", true},
		{errors.New("the secret is 42"), 500, v1.ProblemInternal, "its log", false},
	} {
		c := newCore(t)
		c.setRefuse(tc.err)
		for _, r := range []*http.Request{
			request(http.MethodPost, "/v1/tokens", `{"kind":"device","site":"plant-7"}`),
			request(http.MethodPut, "/v1/sites/plant-7", `{}`),
			request(http.MethodGet, "/v1/devices", ""),
			request(http.MethodDelete, "/v1/tokens/0123456789abcdef", ""),
		} {
			w := c.do(r)
			p := problem(t, w, tc.status)
			if p.Type != tc.kind || !strings.Contains(p.Detail, tc.says) || (w.Header().Get("Retry-After") != "") != tc.retry {
				t.Errorf("%s, %v: %+v, retry after %q", r.Method, tc.err, p, w.Header().Get("Retry-After"))
			}
			if strings.Contains(w.Body.String(), "secret") {
				t.Error("an internal error leaves the node")
			}
		}
		if logged := strings.Contains(c.log.String(), "secret is 42"); logged != (tc.status == 500) {
			t.Errorf("%v: log %s", tc.err, c.log)
		}
	}
}

// A peer that does not answer may have taken a change in, but a read changes nothing.
func TestUnreachablePeer(t *testing.T) {
	c := newCore(t)
	c.setRefuse(fmt.Errorf("ask core-2: %w", raftstore.ErrUnreachable))
	if p := problem(t, c.do(request(http.MethodGet, "/v1/devices", "")), http.StatusServiceUnavailable); p.Type != v1.ProblemUnavailable {
		t.Errorf("read: %+v", p)
	}
	if p := problem(t, c.do(request(http.MethodPut, "/v1/sites/plant-7", "{}")), http.StatusGatewayTimeout); p.Type != v1.ProblemOutcomeUnknown {
		t.Errorf("change: %+v", p)
	}
}

// Local reads ask nobody, so they go on when the core has no leader.
func TestLocalReads(t *testing.T) {
	c := newCore(t)
	m := c.enroll(c.token(seal.KindDevice, "plant-7"))
	c.setRefuse(&raftstore.NotLeaderError{})
	for _, path := range []string{
		"/v1/devices", "/v1/devices/" + m.id.String(), "/v1/devices/" + m.id.String() + "/history", "/v1/devices/" + m.id.String() + "/presence",
		"/v1/sites", "/v1/sites/plant-7", "/v1/tokens", "/v1/gateways", "/v1/operators", "/v1/operators/op-1", "/v1/audit", "/v1/audit/head",
		"/v1/audit/export",
	} {
		problem(t, c.do(request(http.MethodGet, path, "")), http.StatusServiceUnavailable)
		if w := c.do(request(http.MethodGet, path+"?consistency=local", "")); w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	for _, path := range []string{"/v1/cluster", "/v1/whoami", "/readyz", "/metrics"} {
		if w := c.do(request(http.MethodGet, path, "")); w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

// A node that cannot serve says why, to everybody, so it says nothing that not everybody may know.
func TestNotReady(t *testing.T) {
	c := newCore(t)
	const secret = "open /var/lib/holdfast/raft: input/output error"
	for _, tc := range []struct {
		err  error
		says string
	}{
		{UnreadyError("the uplink is not open yet"), "uplink is not open"},
		{fmt.Errorf("start: %w", UnreadyError("no leader is known")), "no leader"},
		{fmt.Errorf("%w: %s", raftstore.ErrStorage, secret), "storage failed"},
		{fmt.Errorf("%w: %w: %s", raftstore.ErrClosed, raftstore.ErrRemoved, secret), "removed"},
		{fmt.Errorf("%w: %s", history.ErrIncomplete, secret), "history that it lacks"},
		{&raftstore.NotLeaderError{LeaderAddr: secret}, "no leader"},
		{errors.New(secret), "its log says why"},
	} {
		c.ready = tc.err
		p := problem(t, c.do(httptest.NewRequest(http.MethodGet, "/readyz", nil)), http.StatusServiceUnavailable)
		if !strings.Contains(p.Detail, tc.says) || strings.Contains(p.Detail, "raft:") {
			t.Errorf("%v: got %+v", tc.err, p)
		}
	}
	if !strings.Contains(c.log.String(), secret) {
		t.Error("what is kept from the answer is not in the log")
	}
}

func TestPanicIsAProblem(t *testing.T) {
	c := newCore(t)
	c.panics = true
	for _, path := range []string{"/readyz", "/v1/whoami"} {
		if p := problem(t, c.do(request(http.MethodGet, path, "")), http.StatusInternalServerError); p.Type != v1.ProblemInternal {
			t.Errorf("%s: %+v", path, p)
		}
	}
	if !strings.Contains(c.log.String(), "request panicked") || !strings.Contains(c.log.String(), "harness_test.go") {
		t.Errorf("log: %s", c.log)
	}
}

// A core that does not answer costs a request its deadline and no more.
func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCore(t)
		c.refuse = func(ctx context.Context) error {
			<-ctx.Done()
			return fmt.Errorf("read barrier: %w", context.Cause(ctx))
		}
		begin := time.Now()
		problem(t, c.do(request(http.MethodGet, "/v1/devices", "")), http.StatusServiceUnavailable)
		if took := time.Since(begin); took != requestTime {
			t.Errorf("took %v", took)
		}
	})
}

// A client that sends its body slowly, or not at all, is told so.
func TestSlowBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCore(t)
		s := serve(t, c.handler)
		conn := s.dial(t)
		begin := time.Now()
		send(t, conn, "POST /v1/tokens HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: 40\r\n\r\n{", adminToken)
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := res.Body.Close(); err != nil {
				t.Error(err)
			}
		}()
		if res.StatusCode != http.StatusRequestTimeout || time.Since(begin) != requestTime {
			t.Errorf("status %d after %v", res.StatusCode, time.Since(begin))
		}
	})
}

// A client that does not read its answer loses the connection; nothing waits for it for ever.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCore(t)
		tok := c.token(seal.KindDevice, "plant-7")
		for range 100 {
			c.bulk(tok)
		}
		s := serve(t, c.handler)
		conn := s.dial(t)
		send(t, conn, "GET /v1/devices?limit=1000 HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer %s\r\n\r\n", adminToken)
		<-time.After(requestTime + writeSlack + time.Second) // in the bubble's time
		n, err := io.Copy(io.Discard, conn)
		if err != nil || n > 8<<10 {
			t.Errorf("%d bytes came, %v", n, err)
		}
		if strings.Contains(c.log.String(), "panicked") {
			t.Errorf("log: %s", c.log)
		}
	})
}

// Nothing of a body is read for somebody who is not known.
func TestStrangersBodiesAreNotRead(t *testing.T) {
	c := newCore(t)
	r := httptest.NewRequest(http.MethodPost, "/v1/tokens", nil)
	body := &counting{}
	r.Body = io.NopCloser(body)
	problem(t, c.do(r), http.StatusUnauthorized)
	if body.n != 0 {
		t.Errorf("%d reads", body.n)
	}
}

type counting struct{ n int }

func (c *counting) Read([]byte) (int, error) {
	c.n++
	return 0, io.EOF
}
