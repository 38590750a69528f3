package cli

import (
	"bytes"
	"context"
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A user is somebody at a shell: a home directory, an environment and what is typed.
type user struct {
	home  string
	env   map[string]string
	stdin string
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
	code := Run(ctx, args, strings.NewReader(u.stdin), &out, &errs, func(k string) string { return u.env[k] })
	return result{code, out.String(), errs.String()}
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
