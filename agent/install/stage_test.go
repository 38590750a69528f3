package install

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-edge/holdfast/wire"
)

func twoVersions(t testing.TB) (v1, v2 *version) {
	t.Helper()
	big := noise(1, 20*chunkSize+17)
	edited := append([]byte(nil), big...)
	copy(edited[5*chunkSize:], "edited")
	v1 = makeVersion(t, 1, nil, node{path: "bin/"}, node{"bin/app", big, 0o755}, file("conf", "one"), node{path: "empty", mode: 0o600}, node{path: "latest -> bin/app"})
	v2 = makeVersion(t, 2, nil, node{path: "bin/"}, node{"bin/app", edited, 0o755}, file("conf", "two"), node{path: "etc/"}, file("etc/new", "new"))
	return v1, v2
}

// What is staged is what was built, and current has it.
func TestStageAndSwitch(t *testing.T) {
	dir := slotDir(t)
	s := openSlot(t, dir, Options{})
	if d, err := s.Current(); err != nil || !d.IsZero() {
		t.Fatalf("an empty slot runs %s, %v", d, err)
	}
	v1, v2 := twoVersions(t)
	p := v1.stage(t, s)
	if want := v1.m.Size(); p.Total != want || p.Fetched != want || p.Saved != 0 || p.Staged != 0 {
		t.Errorf("progress of the first: %+v, total %d", p, want)
	}
	if err := s.Switch(v1.d); err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(dir, "current", "latest")); got != string(noise(1, 20*chunkSize+17)) {
		t.Errorf("current/latest has %d bytes", len(got))
	}
	if info, err := os.Stat(filepath.Join(dir, "current", "bin", "app")); err != nil || info.Mode() != 0o755 {
		t.Errorf("bin/app: %v, %v", info.Mode(), err)
	}
	p = v2.stage(t, s)
	if want := v2.m.Size(); p.Total != want || p.Fetched != chunkSize+6 || p.Saved != want-chunkSize-6 {
		t.Errorf("progress of the second: %+v, total %d", p, want)
	}
	if d, err := s.Current(); err != nil || d != v1.d {
		t.Errorf("after staging %s runs, %v", d.Short(), err)
	}
	for _, v := range []*version{v2, v1, v1, v2} {
		if err := s.Switch(v.d); err != nil {
			t.Fatal(err)
		}
		if d, err := s.Current(); err != nil || d != v.d {
			t.Errorf("%s runs, %v", d.Short(), err)
		}
		if err := s.Verify(t.Context(), v.d); err != nil {
			t.Error(err)
		}
	}
	if err := s.Prune(v1.d); err != nil {
		t.Fatal(err)
	}
	if err := s.Prune(); err != nil {
		t.Fatal(err)
	}
	if err := s.Switch(v1.d); ReasonOf(err) != ReasonDrift {
		t.Errorf("switch to what was pruned: %v", err)
	}
	if err := s.Switch(wire.Digest{}); err != nil {
		t.Fatal(err)
	}
	if d, err := s.Current(); err != nil || !d.IsZero() {
		t.Errorf("after unassigning %s runs, %v", d, err)
	}
	if err := s.Prune(); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{releasesDir, stagingDir, trashDir} {
		if list, err := os.ReadDir(filepath.Join(dir, d)); err != nil || len(list) != 0 {
			t.Errorf("%s has %v, %v", d, list, err)
		}
	}
}
