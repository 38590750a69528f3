package cli

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestLogin(t *testing.T) {
	srv := newFleet().serve(t)
	u := newUser(t)
	ca := u.write(t, "ca.pem", caOf(srv))
	token := u.write(t, "admin.token", goodToken+"\n")
	out := u.must(t, "login", srv.URL, "--ca-file", ca, "--token-file", token)
	config := filepath.Join(u.home, ".config", "holdfast", "config.yaml")
	want := "logged in to fleet acme at " + srv.URL + " as admin (role admin); stored in " + config + "\n"
	if out != want {
		t.Errorf("said %q, want %q", out, want)
	}
	info, err := os.Stat(config)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("context has mode %v, want 0600", info.Mode())
	}
	// From here on the files are not needed.
	if err := os.Remove(ca); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(token); err != nil {
		t.Fatal(err)
	}
	if out := u.must(t, "devices", "list"); !strings.Contains(out, idA) {
		t.Errorf("after login, devices list shows %q", out)
	}
}

func TestLoginJSONAndStandardInput(t *testing.T) {
	srv := newFleet().serve(t)
	u := newUser(t)
	u.stdin = goodToken + "\n"
	u.env["HOLDFAST_CONFIG"] = filepath.Join(u.home, "elsewhere.yaml")
	out := u.must(t, "login", srv.URL+"/", "--ca-file", u.write(t, "ca.pem", caOf(srv)), "--token-file", "-", "-o", "json")
	for _, want := range []string{`"operator": "admin"`, `"fleet": "acme"`, `elsewhere.yaml"`} {
		if !strings.Contains(out, want) {
			t.Errorf("%s is not in %s", want, out)
		}
	}
	if strings.Contains(out, goodToken) {
		t.Error("login printed the token")
	}
	b, err := os.ReadFile(u.env["HOLDFAST_CONFIG"])
	if err != nil || !strings.Contains(string(b), goodToken) {
		t.Errorf("HOLDFAST_CONFIG is not where the context went: %v", err)
	}
}

// A login that fails leaves the former context, and says why without the token.
func TestLoginRefused(t *testing.T) {
	srv := newFleet().serve(t)
	u := newUser(t)
	ca := u.write(t, "ca.pem", caOf(srv))
	u.must(t, "login", srv.URL, "--ca-file", ca, "--token-file", u.write(t, "good", goodToken))
	bad := "hfo1_some-other-secret"
	r := u.run(t, "login", srv.URL, "--ca-file", ca, "--token-file", u.write(t, "bad", bad))
	if r.code != exitUnauthorised {
		t.Errorf("exit %d, want %d", r.code, exitUnauthorised)
	}
	want := "holdfast: login: the token is not known here; run holdfast login with a valid token\n"
	if r.err != want {
		t.Errorf("said %q, want %q", r.err, want)
	}
	if strings.Contains(r.err+r.out, bad) {
		t.Error("login printed the token")
	}
	u.must(t, "cluster", "status")
}

func TestOpenContextIsNoted(t *testing.T) {
	srv := newFleet().serve(t)
	u := newUser(t)
	u.must(t, "login", srv.URL, "--ca-file", u.write(t, "ca.pem", caOf(srv)), "--token-file", u.write(t, "good", goodToken))
	if err := os.Chmod(filepath.Join(u.home, ".config", "holdfast", "config.yaml"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := u.run(t, "cluster", "status")
	if r.code != exitOK || !strings.Contains(r.err, "open to other users") {
		t.Errorf("exit %d, %q", r.code, r.err)
	}
}

// Flags win over the environment, and that over the stored context: told by which of three fleets answers.
func TestPrecedence(t *testing.T) {
	fleets := map[string]*fakeCore{}
	url := map[string]string{}
	u := newUser(t)
	for _, name := range []string{"file", "env", "flag"} {
		core := newFleet()
		core.cluster.Fleet = name
		srv := core.serve(t)
		fleets[name], url[name] = core, srv.URL
		u.write(t, name+".pem", caOf(srv))
	}
	token := u.write(t, "token", goodToken)
	path := func(name string) string { return filepath.Join(u.home, name+".pem") }
	fleetOf := func(args ...string) string {
		out := u.must(t, append([]string{"cluster", "status", "-o", "json"}, args...)...)
		for name := range fleets {
			if strings.Contains(out, `"fleet": "`+name+`"`) {
				return name
			}
		}
		return out
	}
	u.must(t, "login", url["file"], "--ca-file", path("file"), "--token-file", token)
	if got := fleetOf(); got != "file" {
		t.Errorf("stored context alone: asked %s", got)
	}
	u.env["HOLDFAST_URL"], u.env["HOLDFAST_CA_FILE"], u.env["HOLDFAST_TOKEN_FILE"] = url["env"], path("env"), token
	if got := fleetOf(); got != "env" {
		t.Errorf("environment over context: asked %s", got)
	}
	if got := fleetOf("--url", url["flag"], "--ca-file", path("flag")); got != "flag" {
		t.Errorf("flags over environment: asked %s", got)
	}
	// A token from a flag wins, too.
	r := u.run(t, "cluster", "status", "--token-file", u.write(t, "bad", "hfo1_other"))
	if r.code != exitUnauthorised {
		t.Errorf("token of the flag was not used: exit %d", r.code)
	}
}

func TestInterrupted(t *testing.T) {
	core := newFleet()
	asked := make(chan struct{}, 1)
	release := make(chan struct{})
	core.hook = func(_ http.ResponseWriter, r *http.Request) bool {
		asked <- struct{}{}
		select {
		case <-r.Context().Done():
		case <-release:
		}
		return true
	}
	u := at(t, core.serve(t))
	t.Cleanup(func() { close(release) }) // runs before the server waits for its requests
	for _, tc := range []struct {
		args string
		code int
		err  string
	}{
		{"devices list", exitFailure, "holdfast: devices list: interrupted\n"},
		{"events", exitOK, ""}, // following has no other end
	} {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan result, 1)
		go func() { done <- u.runCtx(ctx, strings.Fields(tc.args)...) }()
		<-asked
		cancel()
		select {
		case r := <-done:
			if r.code != tc.code || r.err != tc.err {
				t.Errorf("%s: exit %d, %q", tc.args, r.code, r.err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s does not end when interrupted", tc.args)
		}
	}
}
