package procs

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

const (
	mib = 1 << 20

	treeFiles = 50 // of 4 MiB: 200 MiB
	treeFile  = 4 * mib
)

// tree makes a release of 200 MiB that does not compress, with a program that says whether it is healthy.
func tree(t *testing.T, dir string) {
	t.Helper()
	src := rand.NewChaCha8([32]byte{1})
	b := make([]byte, treeFile)
	for i := range treeFiles {
		src.Read(b) //nolint:errcheck // never fails
		write(t, filepath.Join(dir, fmt.Sprintf("data/part-%02d", i)), b, 0o644)
	}
	write(t, filepath.Join(dir, "bin/health"), []byte("#!/bin/sh\ntest -s data/part-00\n"), 0o755)
}

func write(t *testing.T, path string, b []byte, mode fs.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, mode); err != nil {
		t.Fatal(err)
	}
}

// described is the description of a version of the tree.
func described(version, release int) string {
	return fmt.Sprintf("name: app\nversion: %d.0.0\nrelease: %d\nhealth:\n  - exec: [bin/health]\n    every: 1s\nstart: 20s\nsoak: 3s\n", version, release)
}

// converged waits until a device says that an artifact is in a state in a slot.
func (r *rig) converged(d time.Duration, id, slot, digest, state string) v1.Slot {
	r.t.Helper()
	var s v1.Slot
	r.must(r.Eventually(r.ctx, d, func() error {
		dev := v1.Device{}
		err := r.JSON(r.ctx, &dev, "devices", "get", id)
		if err == nil {
			s, err = SlotOf(&dev, slot)
		}
		if err == nil && (s.Artifact != digest || s.State != state) {
			err = fmt.Errorf("slot %s has %.12s %s (%s: %s), want %.12s %s", slot, s.Artifact, s.State, s.Reason, s.Detail, digest, state)
		}
		return err
	}))
	return s
}

func (r *rig) assign(id, slot, artifact string) {
	r.t.Helper()
	_, err := r.CLI(r.ctx, "devices", "assign", id, "--slot", slot, "--artifact", artifact)
	r.must(err)
}

// stated counts how often a device stated a state of an artifact.
func (r *rig) stated(id, digest, state string) (n int) {
	r.t.Helper()
	for _, it := range r.history(id) {
		if it.Status != nil && it.Status.Artifact == digest && it.Status.State == state {
			n++
		}
	}
	return n
}

// same holds what current points to against the source of the artifact.
func (r *rig) same(agent, slot, source string) {
	r.t.Helper()
	r.must(filepath.WalkDir(source, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(source, path)
		if err != nil {
			return err
		}
		want, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		got, err := os.ReadFile(r.Path(agent, "slots", slot, "current", rel))
		if err == nil && sha256.Sum256(got) != sha256.Sum256(want) {
			err = fmt.Errorf("%s is not what was published", rel)
		}
		return err
	}))
}

// TestArtifactConverges brings a directory of 200 MiB from the command line to a running device, then a version of which a hundredth
// changed, the same to a second device, and an executable of which one line was edited. What crosses the WAN and the LAN is held to a twentieth.
func TestArtifactConverges(t *testing.T) {
	t.Parallel()
	r := prepareRig(t, time.Second)
	r.startCores(1)
	r.interval(2 * time.Second)
	r.watchedGateway()
	var ids []string
	token, err := r.Token(r.ctx, "device", "device", site, 2)
	r.must(err)
	for _, name := range []string{"agent-1", "agent-2"} {
		id, err := r.EnrollAgent(r.ctx, name, r.listen, token)
		r.must(err)
		_, err = r.StartAgent(name)
		r.must(err)
		ids = append(ids, id)
	}
	pub, err := r.NewPublisher(r.ctx, "rig")
	r.must(err)

	source := r.Path("app")
	tree(t, source)
	_, one, err := pub.Publish(r.ctx, "app@1.0.0", source, described(1, 1))
	r.must(err)
	r.assign(ids[0], "app", "app@1.0.0")
	s := r.converged(2*time.Minute, ids[0], "app", one.Digest, "healthy")
	r.same("agent-1", "app", source)
	wan := r.wanBytes()
	t.Logf("first: %d bytes of files, %d over the LAN, %d over the WAN", s.TotalBytes, s.FetchedBytes, wan)
	if whole := uint64(treeFiles * treeFile); s.TotalBytes < whole || s.FetchedBytes < whole || wan < whole || wan > whole+whole/50 {
		t.Errorf("%d bytes of files, %d over the LAN, %d over the WAN", s.TotalBytes, s.FetchedBytes, wan)
	}

	changed, err := os.ReadFile(filepath.Join(source, "data/part-07"))
	r.must(err)
	rand.NewChaCha8([32]byte{2}).Read(changed[mib:][:treeFiles*treeFile/100]) //nolint:errcheck // never fails
	write(t, filepath.Join(source, "data/part-07"), changed, 0o644)
	_, two, err := pub.Publish(r.ctx, "app@2.0.0", source, described(2, 2))
	r.must(err)
	r.assign(ids[0], "app", "app@2.0.0")
	s = r.converged(2*time.Minute, ids[0], "app", two.Digest, "healthy")
	r.same("agent-1", "app", source)
	r.cheap("one percent changed", s, r.wanBytes()-wan, treeFiles*treeFile)

	wan = r.wanBytes()
	r.assign(ids[1], "app", "app@2.0.0")
	r.converged(2*time.Minute, ids[1], "app", two.Digest, "healthy")
	r.same("agent-2", "app", source)
	if more := r.wanBytes() - wan; more > two.ManifestSize/10 {
		t.Errorf("a second device at the site cost %d bytes over the WAN", more)
	}

	r.executable(pub, ids[0])
	for _, d := range []string{one.Digest, two.Digest} {
		if n := r.stated(ids[0], d, "healthy"); n != 1 {
			t.Errorf("%.12s is healthy %d times in the history", d, n)
		}
	}
}

// watchedGateway adds a gateway that shows its metrics.
func (r *rig) watchedGateway() {
	r.t.Helper()
	r.listen = r.enrollGateway("gw-a")
	var err error
	r.ops, err = FreeAddr()
	r.must(err)
	r.gateway, err = r.StartGateway("gw-a", "--ops", r.ops)
	r.must(err)
}

// wanBytes is what the gateway had over the WAN for content.
func (r *rig) wanBytes() uint64 {
	r.t.Helper()
	v, err := metric(r.ctx, r.ops, `holdfast_gateway_content_bytes_total{source="wan"}`)
	r.must(err)
	return uint64(v)
}

// cheap holds what an update cost against a twentieth of the whole.
func (r *rig) cheap(what string, s v1.Slot, wan, whole uint64) {
	r.t.Helper()
	r.t.Logf("%s: %d of %d bytes over the LAN (%.2f %%), %d over the WAN (%.2f %%); %d saved", what, s.FetchedBytes, whole,
		100*float64(s.FetchedBytes)/float64(whole), wan, 100*float64(wan)/float64(whole), s.SavedBytes)
	if s.FetchedBytes > whole/20 || wan > whole/20 {
		r.t.Errorf("%s: %d bytes over the LAN and %d over the WAN, of %d", what, s.FetchedBytes, wan, whole)
	}
}

// executable updates a Go program of which one line was edited, by patch.
func (r *rig) executable(pub *Publisher, id string) {
	r.t.Helper()
	old, edited := r.Path("tool-1", "tool"), r.Path("tool-2", "tool")
	module, err := filepath.Abs("../..")
	r.must(err)
	main := filepath.Join(module, "cmd/holdfast-agent/main.go")
	text, err := os.ReadFile(main)
	r.must(err)
	before, after := []byte("time.Minute, \"how long"), []byte("90*time.Second, \"how very long")
	if bytes.Count(text, before) != 1 {
		r.t.Fatalf("%s has not one line with %s", main, before)
	}
	write(r.t, r.Path("edited", "main.go"), bytes.Replace(text, before, after, 1), 0o644)
	write(r.t, r.Path("edited", "overlay.json"), fmt.Appendf(nil, "{\"Replace\": {%q: %q}}", main, r.Path("edited", "main.go")), 0o644)
	for path, overlay := range map[string]string{old: "", edited: r.Path("edited", "overlay.json")} {
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", path, "./cmd/holdfast-agent")
		if overlay != "" {
			cmd.Args = append(cmd.Args[:2:2], append([]string{"-overlay", overlay}, cmd.Args[2:]...)...)
		}
		cmd.Dir, cmd.Env = module, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			r.t.Fatalf("%s: %v: %s", strings.Join(cmd.Args, " "), err, out)
		}
	}
	spec := func(n int) string { return fmt.Sprintf("name: tool\nversion: %d.0.0\nrelease: %d\n", n, n) }
	dir, one, err := pub.Publish(r.ctx, "tool@1.0.0", old, spec(1))
	r.must(err)
	r.assign(id, "tool", "tool@1.0.0")
	r.converged(time.Minute, id, "tool", one.Digest, "healthy")
	wan := r.wanBytes()
	_, two, err := pub.Publish(r.ctx, "tool@2.0.0", edited, spec(2), dir)
	r.must(err)
	r.assign(id, "tool", "tool@2.0.0")
	s := r.converged(time.Minute, id, "tool", two.Digest, "healthy")
	r.same("agent-1", "tool", filepath.Dir(edited))
	r.cheap("a program with one line edited", s, r.wanBytes()-wan, two.Size)
}
