package cli

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/output"
)

// A user is somebody at a shell: a home directory, an environment and what is typed.
type user struct {
	home  string
	env   map[string]string
	stdin string

	network http.RoundTripper // nil: the real one
}

func newUser(t *testing.T) *user {
	t.Helper()
	home := t.TempDir()
	return &user{home: home, env: map[string]string{"HOME": home}}
}

// at is a user whose environment names the server, a token that it knows, and its CA.
func at(t *testing.T, srv *httptest.Server) *user {
	t.Helper()
	u := newUser(t)
	u.env["HOLDFAST_URL"] = srv.URL
	u.env["HOLDFAST_CA_FILE"] = u.write(t, "ca.pem", caOf(srv))
	u.env["HOLDFAST_TOKEN_FILE"] = u.write(t, "admin.token", goodToken+"\n")
	return u
}

func caOf(srv *httptest.Server) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))
}

// write puts a file into the home directory and returns its path.
func (u *user) write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(u.home, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A result is what a command left behind.
type result struct {
	code     int
	out, err string
}

func (u *user) run(t *testing.T, args ...string) result {
	t.Helper()
	return u.runCtx(t.Context(), args...)
}

func (u *user) runCtx(ctx context.Context, args ...string) result {
	var out, errs bytes.Buffer
	env := func(k string) string { return u.env[k] }
	if u.network == nil {
		return result{Run(ctx, args, strings.NewReader(u.stdin), &out, &errs, env), out.String(), errs.String()}
	}
	a := &app{in: strings.NewReader(u.stdin), out: &out, err: &errs, env: env, format: output.Table, network: u.network}
	return result{a.run(ctx, args), out.String(), errs.String()}
}

// must runs a command that succeeds.
func (u *user) must(t *testing.T, args ...string) string {
	t.Helper()
	r := u.run(t, args...)
	if r.code != exitOK {
		t.Fatalf("holdfast %s: exit %d: %s", strings.Join(args, " "), r.code, r.err)
	}
	return r.out
}

// A direct network calls the handlers of its hosts, without sockets, so that time in it can be virtual. A host that it does
// not have refuses connections; a handler that aborts breaks the connection after the request was sent.
type direct map[string]http.Handler

// RoundTrip implements http.RoundTripper.
func (d direct) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	h := d[r.URL.Host]
	if h == nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	if t := httptrace.ContextClientTrace(r.Context()); t != nil && t.WroteHeaders != nil {
		t.WroteHeaders()
	}
	defer func() {
		if p := recover(); p != nil {
			if e, ok := p.(error); !ok || !errors.Is(e, http.ErrAbortHandler) {
				panic(p)
			}
			resp, err = nil, io.ErrUnexpectedEOF
		}
	}()
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	return rec.Result(), nil
}

// over is a user who has logged in at the first of these hosts of a direct network.
func over(t *testing.T, network direct, hosts ...string) *user {
	t.Helper()
	u := newUser(t)
	u.network = network
	srv := httptest.NewTLSServer(nil) // for its certificate alone
	defer srv.Close()
	u.must(t, "login", "https://"+hosts[0], "--ca-file", u.write(t, "ca.pem", caOf(srv)), "--token-file", u.write(t, "token", goodToken))
	return u
}
