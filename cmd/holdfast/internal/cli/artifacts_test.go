package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-edge/holdfast/wire/artifact"
	"github.com/holdfast-edge/holdfast/wire/artifact/build"
)

// into decodes what a command printed as JSON.
func into[T any](t *testing.T, out string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	return v
}

// a workshop is a user with a source, its description and keys in the home directory.
type workshop struct {
	*user

	source, manifest string
}

func newWorkshop(t *testing.T) *workshop {
	t.Helper()
	w := &workshop{user: newUser(t)}
	w.source = w.path("dist")
	if err := os.MkdirAll(filepath.Join(w.source, "bin"), 0o750); err != nil {
		t.Fatal(err)
	}
	w.write(t, "dist/bin/camera", strings.Repeat("#!/bin/sh\nsleep 1\n", 5000))
	w.manifest = w.write(t, "camera.yaml", "name: camera\nversion: 1.4\nrelease: 17\nhealth: [{file: bin/camera}]\n")
	return w
}

func (w *workshop) path(name string) string { return filepath.Join(w.home, name) }

func (w *workshop) key(t *testing.T, name string) signingKey {
	t.Helper()
	return into[signingKey](t, w.must(t, "keys", "generate", w.path(name), "-o", "json"))
}

func (w *workshop) fails(t *testing.T, code int, want string, args ...string) {
	t.Helper()
	if r := w.run(t, args...); r.code != code || !strings.Contains(r.err, want) || r.out != "" {
		t.Errorf("holdfast %s: exit %d, want %d with %q: %s%s", strings.Join(args, " "), r.code, code, want, r.err, r.out)
	}
}

func TestKeys(t *testing.T) {
	w := newWorkshop(t)
	k := w.key(t, "ci.key")
	if len(k.ID) != 64 || len(k.PublicKey) != 44 || k.File != w.path("ci.key") || k.PublicFile != w.path("ci.key.pub") {
		t.Errorf("%+v", k)
	}
	w.fails(t, exitUsage, "is there already", "keys", "generate", w.path("ci.key"))
	if again := into[signingKey](t, w.must(t, "keys", "show", w.path("ci.key.pub"), "-o", "json")); again.ID != k.ID || again.PublicKey != k.PublicKey {
		t.Errorf("shown as %+v, generated as %+v", again, k)
	}
	w.fails(t, exitUsage, `want a "PUBLIC KEY"`, "keys", "show", w.path("ci.key"))
	if text := w.must(t, "keys", "generate", w.path("other.key")); !strings.Contains(text, "Id: ") || !strings.Contains(text, "other.key.pub") {
		t.Errorf("table: %s", text)
	}
}

func TestArtifactsBuildSignVerify(t *testing.T) {
	w := newWorkshop(t)
	k := w.key(t, "ci.key")
	w.key(t, "other.key")
	out := w.path("out")
	built := into[localArtifact](t, w.must(t, "artifacts", "build", w.source, "--manifest", w.manifest, "--out", out, "-o", "json"))
	if built.Name != "camera" || built.Version != "1.4" || built.Release != 17 || built.Kind != "tree" || built.Entries != 2 || built.Bytes != 90_000 || built.Signed {
		t.Errorf("%+v", built)
	}
	w.fails(t, exitUsage, "it is not signed", "artifacts", "verify", out, "--key", w.path("ci.key.pub"))
	w.must(t, "artifacts", "verify", out)
	if said := w.must(t, "artifacts", "sign", out, "--key", w.path("ci.key")); said != "camera@1.4, release 17: signed by key "+k.ID+"\n" {
		t.Errorf("said %q", said)
	}
	seen := into[localArtifact](t, w.must(t, "artifacts", "verify", out, "--key", w.path("ci.key.pub"), "-o", "json"))
	if seen.Digest != built.Digest || seen.SignedBy != "key "+k.ID || !seen.Signed {
		t.Errorf("%+v", seen)
	}
	w.fails(t, exitFailure, "not in the set of publishers", "artifacts", "verify", out, "--key", w.path("other.key.pub"))

	w.must(t, "publishers", "new", w.path("set-1"), "--fleet", "plant", "--root", w.path("other.key.pub"), "--publisher", "ci="+w.path("ci.key.pub"))
	if text := w.must(t, "artifacts", "verify", out, "--publishers", w.path("set-1")); !strings.Contains(text, "by ci\n") {
		t.Errorf("table: %s", text)
	}
	w.fails(t, exitUsage, "exclude one another", "artifacts", "verify", out, "--publishers", w.path("set-1"), "--key", w.path("ci.key.pub"))

	if err := os.Chmod(w.path("ci.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	if r := w.run(t, "artifacts", "sign", out, "--key", w.path("ci.key")); r.code != exitOK || !strings.Contains(r.err, "chmod 600") {
		t.Errorf("exit %d: %s", r.code, r.err)
	}
}

func TestArtifactsBuildFromAnother(t *testing.T) {
	w := newWorkshop(t)
	one, two := w.path("one"), w.path("two")
	w.must(t, "artifacts", "build", w.source, "--manifest", w.manifest, "--out", one)
	w.write(t, "dist/bin/camera", strings.Repeat("#!/bin/sh\nsleep 1\n", 5000)+"exit\n")
	w.fails(t, exitUsage, "raise release", "artifacts", "build", w.source, "--manifest", w.manifest, "--out", two, "--from", one)
	text := w.must(t, "artifacts", "build", w.source, "--manifest", w.manifest, "--out", two, "--from", one, "--release", "18", "--version", "1.5")
	if !strings.Contains(text, "camera@1.5") || !strings.Contains(text, "18") {
		t.Errorf("table: %s", text)
	}
	w.must(t, "artifacts", "verify", two, "--from", one)
}

func TestArtifactsRefuse(t *testing.T) {
	w := newWorkshop(t)
	out := w.path("out")
	w.fails(t, exitUsage, "SOURCE is missing", "artifacts", "build", "--manifest", w.manifest, "--out", out)
	w.fails(t, exitUsage, "--manifest is missing", "artifacts", "build", w.source, "--out", out)
	w.fails(t, exitUsage, "--out is missing", "artifacts", "build", w.source, "--manifest", w.manifest)
	w.fails(t, exitUsage, "--key is missing", "artifacts", "sign", out)
	w.fails(t, exitUsage, "no directory that a build made", "artifacts", "verify", w.source)
	w.fails(t, exitUsage, "line 2: field realease", "artifacts", "build", w.source, "--manifest", w.write(t, "bad.yaml", "name: a\nrealease: 2\n"), "--out", out)
	w.fails(t, exitUsage, "no release number", "artifacts", "build", w.source, "--manifest", w.write(t, "bad.yaml", "name: a\nversion: 1\n"), "--out", out)
	if err := os.Symlink("/etc/passwd", filepath.Join(w.source, "link")); err != nil {
		t.Fatal(err)
	}
	w.fails(t, exitUsage, `"link": its target "/etc/passwd" is out of the release`, "artifacts", "build", w.source, "--manifest", w.manifest, "--out", out)
	if err := os.Remove(filepath.Join(w.source, "link")); err != nil {
		t.Fatal(err)
	}

	w.must(t, "artifacts", "build", w.source, "--manifest", w.manifest, "--out", out)
	d, err := build.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	for x := range d.Chunks() {
		w.write(t, filepath.Join("out", "chunks", x.Digest.String()), "\x00spoilt")
	}
	w.fails(t, exitFailure, artifact.ErrChunk.Error(), "artifacts", "verify", out)
}
