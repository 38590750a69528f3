package cli

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTokenToFile(t *testing.T) {
	u := at(t, newFleet().serve(t))
	path := u.write(t, "dev.token", "the token before, in a file open to all, and longer than the new one")
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	out := u.must(t, "tokens", "create", "--kind", "device", "--site", "plant-7", "--out", path)
	if want := "created device token tk9f3a for site plant-7: 1 use, expires in 1h (2026-05-01T11:00:00Z); stored in " + path + "\n"; out != want {
		t.Errorf("said %q, want %q", out, want)
	}
	b, err := os.ReadFile(path)
	if err != nil || string(b) != "hf1_secret\n" {
		t.Errorf("file holds %q, %v", b, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file has mode %v, %v", info.Mode(), err)
	}
	if out := u.must(t, "tokens", "create", "--kind", "device", "--site", "plant-7", "--out", path, "-o", "json"); !strings.Contains(out, `"token": "hf1_secret"`) {
		t.Errorf("with --out, the JSON lacks the token: %s", out)
	}
	left, err := filepath.Glob(filepath.Join(u.home, ".*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// A token that cannot be stored is for nobody: it is not made, or it is revoked.
func TestTokenToNowhere(t *testing.T) {
	core := newFleet()
	core.tokens[0].ID = "tk9f3a" // so that the fake core can revoke what it makes
	u := at(t, core.serve(t))
	dir := filepath.Join(u.home, "dir")
	args := []string{"tokens", "create", "--kind", "device", "--site", "plant-7", "--out", filepath.Join(dir, "t")}
	if r := u.run(t, args...); r.code != exitUsage || len(core.seen()) > 0 {
		t.Errorf("no such directory: exit %d, %s, sent %q", r.code, r.err, core.seen())
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	core.hook = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		}
		return false
	}
	r := u.run(t, args...)
	if r.code != exitFailure || strings.Contains(r.out+r.err, "hf1_") {
		t.Errorf("directory vanished: exit %d, %s", r.code, r.err)
	}
	if sent := core.seen(); len(sent) != 2 || sent[1] != "DELETE /v1/tokens/tk9f3a" {
		t.Errorf("sent %q, want the token to be revoked", sent)
	}
	// When the revocation fails as well, the operator is told the id.
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	core.tokens[0].ID = "other"
	if r := u.run(t, args...); r.code == exitOK || !strings.Contains(r.err, "tk9f3a was created, has no holder and could not be revoked") {
		t.Errorf("revocation failed: exit %d, %s", r.code, r.err)
	}
}

func TestTokenCreateRefused(t *testing.T) {
	r := at(t, newFleet().serve(t)).run(t, "tokens", "create", "--kind", "gateway")
	want := "holdfast: tokens create: body.site: is missing: a gateway token enrolls into one site; see 'holdfast tokens create --help'\n"
	if r.code != exitUsage || r.err != want {
		t.Errorf("exit %d, said %q, want %q", r.code, r.err, want)
	}
}

// A core that answers a revocation without a body is asked what became of the token.
func TestTokenRevokeWithoutBody(t *testing.T) {
	core := newFleet()
	core.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodDelete {
			w.WriteHeader(http.StatusNoContent)
			return true
		}
		return false
	}
	if out := at(t, core.serve(t)).must(t, "tokens", "revoke", "aa"); out != "token aa11: revoked; used 4 of 10\n" {
		t.Errorf("said %q", out)
	}
}
