package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path"
	"runtime/debug"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"github.com/holdfast-edge/holdfast/core/api/v1"
)

const (
	// maxBody bounds a request's body, in bytes: many times what the largest command needs.
	maxBody = 64 << 10
	// requestTime is the deadline of every request but a stream: longer than an election takes.
	requestTime = 10 * time.Second
	// writeSlack is how much longer than its request an answer may take to leave, at the client's pace.
	writeSlack = 10 * time.Second
)

// A gate stands before the routes: it decides who asks, and refuses what is malformed, too large or too slow.
type gate struct {
	mux      *http.ServeMux
	registry Registry
	log      *slog.Logger
}

// ServeHTTP implements http.Handler.
func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	out := &writer{ResponseWriter: w}
	defer g.recovered(out, r)
	h := out.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	r, err := g.admit(out, r)
	if err != nil {
		writeProblem(out, err)
		return
	}
	if !isStream(r) {
		ctx, cancel := context.WithTimeout(r.Context(), requestTime)
		defer cancel()
		r = r.WithContext(ctx) //nolint:contextcheck // it is the caller's context, bounded
	}
	g.mux.ServeHTTP(out, r)
}

// admit returns the request as the routes may see it, or why they may not. Nothing of the body is read for somebody unknown.
func (g *gate) admit(w *writer, r *http.Request) (*http.Request, error) {
	rc := http.NewResponseController(w)
	if err := rc.SetWriteDeadline(time.Now().Add(requestTime + writeSlack)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, fmt.Errorf("bound the answer's time: %w", err)
	}
	who, err := authorize(g.registry.View(), r)
	if err != nil {
		return nil, err
	}
	if err := g.routed(r); err != nil {
		return nil, err
	}
	r = r.WithContext(context.WithValue(r.Context(), operatorKey{}, who))
	if r.URL, err = canonicalQuery(r.URL); err != nil {
		return nil, err
	}
	body, err := readBody(w, r)
	if err != nil {
		return nil, err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.Header = r.Header.Clone()
	r.Header.Del("Accept") // there is one format of answers, and nothing to negotiate
	return r, nil
}

// routed tells whether some route takes the request. Paths that would have to be cleaned first have none: a redirect would be
// an answer that is neither JSON nor a problem.
func (g *gate) routed(r *http.Request) error {
	p := r.URL.EscapedPath()
	if p != path.Clean(p) {
		return notFound("path", "there is no such route; GET /openapi.json lists them")
	}
	h, pattern := g.mux.Handler(r)
	if pattern != "" {
		return nil
	}
	probe := &probe{header: make(http.Header)}
	h.ServeHTTP(probe, r)
	if probe.status != http.StatusMethodNotAllowed {
		return notFound("path", "there is no such route; GET /openapi.json lists them")
	}
	allow := probe.header.Get("Allow")
	return huma.ErrorWithHeaders(
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
func readBody(w *writer, r *http.Request) ([]byte, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	if e := r.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return nil, newProblem(http.StatusUnsupportedMediaType, v1.ProblemInvalid, "header.Content-Encoding", "is not taken: send the body as it is")
	}
	rc := http.NewResponseController(w)
	if err := rc.SetReadDeadline(time.Now().Add(requestTime)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, fmt.Errorf("bound the body's time: %w", err)
	}
	b, err := io.ReadAll(http.MaxBytesReader(w.ResponseWriter, r.Body, maxBody))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, newProblem(http.StatusRequestEntityTooLarge, v1.ProblemTooLarge, "body", fmt.Sprintf("is over %d bytes", maxBody))
	}
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		return nil, newProblem(http.StatusRequestTimeout, v1.ProblemInvalid, "body", fmt.Sprintf("did not arrive within %v", requestTime))
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
	g.log.Error("request panicked", "method", r.Method, "path", r.URL.Path, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
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
}

// Unwrap lets http.ResponseController find the deadlines.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *writer) WriteHeader(status int) {
	w.started = true
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
