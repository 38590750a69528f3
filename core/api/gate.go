package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"runtime/debug"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/registry"
)

// A gate stands before the routes: it decides who asks, and refuses what is malformed, too large, too slow or too much.
type gate struct {
	*server
	*throttler
	mux   *http.ServeMux
	going *places // requests that are served, but for streams
	large *places // the same of those with large bodies
}

func newGate(s *server, mux *http.ServeMux, most limits) *gate {
	g := &gate{
		server: s, throttler: newThrottler(most), mux: mux, going: &places{most: most.inFlight, each: most.inFlightEach},
		large: &places{most: most.uploads, each: most.uploadsEach},
	}
	s.metrics.watch("holdfast_api_requests_in_flight", "Requests that are being served, but for streams.", g.going)
	return g
}

// A ticket is what the gate found out about a request.
type ticket struct {
	id       string             // of the request, for the audit trail and the answer
	source   string             // address that it came from
	route    *route             // nil: there is none
	who      *registry.Operator // nil: a public route's
	once     *command.Once      // nil: without an idempotency key
	revision uint64             // that the subject must have; 0: any
	header   http.Header        // of the answer
	begun    time.Time
}

type ticketKey struct{}

// ticketOf is the ticket of a request, or nil when it came past the gate.
func ticketOf(ctx context.Context) *ticket {
	t, _ := ctx.Value(ticketKey{}).(*ticket)
	return t
}

// ServeHTTP implements http.Handler.
func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	out := &writer{ResponseWriter: w, status: http.StatusOK}
	t := &ticket{id: newRequestID(), source: sourceOf(r), header: out.Header(), begun: time.Now()}
	defer func() { g.metrics.answered(t, out.status) }()
	defer g.recovered(out, r)
	t.header.Set("X-Content-Type-Options", "nosniff")
	t.header.Set("Cache-Control", "no-store")
	t.header.Set(requestIDHeader, t.id)
	free, err := g.enter(out, r, t)
	if err == nil {
		defer free()
		r, err = g.prepare(out, r, t)
	}
	if err != nil {
		writeProblem(out, g.problem(r.Context(), t, t.route, err))
		return
	}
	if t.route.time != 0 {
		ctx, cancel := context.WithTimeout(r.Context(), t.route.time)
		defer cancel()
		r = r.WithContext(ctx)
	}
	g.mux.ServeHTTP(out, r)
}

const requestIDHeader = "X-Request-Id"

// newRequestID makes the id under which the audit trail and the log know a request.
func newRequestID() string {
	var b [8]byte
	rand.Read(b[:]) // crypto/rand.Read never fails
	return "req-" + hex.EncodeToString(b[:])
}

// sourceOf is the address that a request came from.
func sourceOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// enter decides whether a request may go on, by its head alone: nothing of the body is read for somebody unknown. free gives
// back what the request takes up.
func (g *gate) enter(w *writer, r *http.Request, t *ticket) (free func(), err error) {
	nothing := func() {}
	rc := http.NewResponseController(w)
	if err := rc.SetWriteDeadline(t.begun.Add(requestTime + writeSlack)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, fmt.Errorf("bound the answer's time: %w", err)
	}
	if n := headerFields(r.Header); n > maxHeaders {
		return nil, newProblem(http.StatusRequestHeaderFieldsTooLarge, v1.ProblemTooLarge, "header", fmt.Sprintf("has %d fields, at most %d are taken", n, maxHeaders))
	}
	pattern, missing := g.find(r)
	if missing == nil {
		if t.route = g.table[pattern]; t.route != nil && t.route.access.public {
			return nothing, nil
		}
	}
	if t.who, err = g.authenticate(r, t); err != nil {
		return nil, err
	}
	if !g.mayAsk(t.who.ID) {
		return nil, tooMany("requests", fmt.Sprintf("at most %v a second are served for one operator", float64(g.requests)), 1)
	}
	if missing != nil {
		return nil, missing
	}
	if t.route == nil { // declared by nobody, so it is open to nobody
		return nil, registry.ErrForbidden
	}
	if err := t.route.access.permitRole(t.who, g.now(g.Registry.View())); err != nil {
		return nil, err
	}
	if t.route.time == 0 {
		return nothing, nil
	}
	room := g.going
	if t.route.large() {
		room = g.large
	}
	if !room.take(t.who.ID) {
		return nil, later(v1.ProblemBusy, "this node serves as many requests as it can at a time: try again, or ask another node")
	}
	who := t.who.ID
	return func() { room.free(who) }, nil
}

// prepare returns the request as the routes may see it, or why they may not.
func (g *gate) prepare(w *writer, r *http.Request, t *ticket) (_ *http.Request, err error) {
	if d := t.route.time; d > requestTime {
		if t.route.large() {
			d += t.route.bodyTime()
		}
		if err := http.NewResponseController(w).SetWriteDeadline(t.begun.Add(d + writeSlack)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return r, fmt.Errorf("bound the answer's time: %w", err)
		}
	}
	if t.revision, err = revisionOf(r, t.route); err != nil {
		return r, err
	}
	u, err := canonicalQuery(r.URL)
	if err != nil {
		return r, err
	}
	body, err := readBody(w, r, t.route)
	if err != nil {
		return r, err
	}
	if len(body) > 0 && !t.route.body {
		return r, newProblem(http.StatusBadRequest, v1.ProblemInvalid, "body", "is not taken by this route: send none")
	}
	if t.once, err = onceOf(r, t.route, body); err != nil {
		return r, err
	}
	r = r.WithContext(context.WithValue(r.Context(), ticketKey{}, t))
	r.URL = u
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.Header = r.Header.Clone()
	r.Header.Del("Accept") // there is one format of answers, and nothing to negotiate
	return r, nil
}

func headerFields(h http.Header) (n int) {
	for _, values := range h {
		n += len(values)
	}
	return n
}

// find is the pattern of the route that takes the request, or the error that says that there is none. Paths that would have to
// be cleaned first have none: a redirect would be an answer that is neither JSON nor a problem.
func (g *gate) find(r *http.Request) (pattern string, missing error) {
	p := r.URL.EscapedPath()
	if p != path.Clean(p) {
		return "", notFound("path", "there is no such route; GET /openapi.json lists them")
	}
	h, pattern := g.mux.Handler(r)
	if pattern != "" {
		return pattern, nil
	}
	probe := &probe{header: make(http.Header)}
	h.ServeHTTP(probe, r)
	if probe.status != http.StatusMethodNotAllowed {
		return "", notFound("path", "there is no such route; GET /openapi.json lists them")
	}
	allow := probe.header.Get("Allow")
	return "", huma.ErrorWithHeaders(
		newProblem(http.StatusMethodNotAllowed, v1.ProblemMethod, "method", "this route takes "+allow),
		http.Header{"Allow": {allow}})
}

// canonicalQuery makes every reader of the query see the same: well-formed, each parameter once.
func canonicalQuery(u *url.URL) (*url.URL, error) {
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, newProblem(http.StatusBadRequest, v1.ProblemInvalid, "query", "is not well-formed: percent-encode what needs it")
	}
	for k, values := range q {
		switch {
		case len(values) > 1:
			return nil, invalid("query."+k, "is given %d times: give it once", len(values))
		case !utf8.ValidString(k) || !utf8.ValidString(values[0]):
			return nil, newProblem(http.StatusBadRequest, v1.ProblemInvalid, "query", "is not UTF-8")
		}
	}
	c := *u
	c.RawQuery = q.Encode()
	return &c, nil
}

// readBody reads the whole body within its limits of size and time.
func readBody(w *writer, r *http.Request, rt *route) ([]byte, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	if e := r.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return nil, newProblem(http.StatusUnsupportedMediaType, v1.ProblemInvalid, "header.Content-Encoding", "is not taken: send the body as it is")
	}
	rc := http.NewResponseController(w)
	if err := rc.SetReadDeadline(time.Now().Add(rt.bodyTime())); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, fmt.Errorf("bound the body's time: %w", err)
	}
	b, err := io.ReadAll(http.MaxBytesReader(w.ResponseWriter, r.Body, rt.most))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, newProblem(http.StatusRequestEntityTooLarge, v1.ProblemTooLarge, "body", fmt.Sprintf("is over %d bytes", rt.most))
	}
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		return nil, newProblem(http.StatusRequestTimeout, v1.ProblemInvalid, "body", fmt.Sprintf("did not arrive within %v", rt.bodyTime()))
	}
	if err != nil {
		return nil, newProblem(http.StatusBadRequest, v1.ProblemInvalid, "body", "ended early")
	}
	if err := rc.SetReadDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, fmt.Errorf("lift the bound of the body's time: %w", err)
	}
	return b, nil
}

// recovered turns a panic into a problem, or, when the answer has begun, into a connection that is cut.
func (g *gate) recovered(w *writer, r *http.Request) {
	v := recover()
	if v == nil {
		return
	}
	if v == http.ErrAbortHandler { //nolint:errorlint // net/http compares it so, too
		panic(v)
	}
	g.Log.Error("request panicked", "method", r.Method, "path", r.URL.Path, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
	if w.started {
		panic(http.ErrAbortHandler)
	}
	writeProblem(w, internal())
}

// A writer knows whether the answer has begun. Once the client is gone it takes what is written and drops it: nobody is there
// to be told, and huma would write to standard error.
type writer struct {
	http.ResponseWriter
	started, gone bool
	status        int
}

// Unwrap lets http.ResponseController find the deadlines.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *writer) WriteHeader(status int) {
	if !w.started {
		w.started, w.status = true, status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *writer) Write(b []byte) (int, error) {
	w.started = true
	if !w.gone {
		_, err := w.ResponseWriter.Write(b)
		w.gone = err != nil
	}
	return len(b), nil
}

// A probe takes the answer that the mux gives when no route matches.
type probe struct {
	header http.Header
	status int
}

// Header implements http.ResponseWriter.
func (p *probe) Header() http.Header { return p.header }

// WriteHeader implements http.ResponseWriter.
func (p *probe) WriteHeader(status int) { p.status = status }

// Write implements http.ResponseWriter.
func (p *probe) Write(b []byte) (int, error) { return len(b), nil }
