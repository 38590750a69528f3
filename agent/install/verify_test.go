package install

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// Whatever is changed in a release is named; staging it again puts all of it right at once, also while it is the one that runs.
func TestDrift(t *testing.T) {
	t.Parallel()
	v1, v2 := twoVersions(t)
	for name, tc := range map[string]struct {
		do                      func(dir string) error
		changed, missing, extra []string
	}{
		"content": {do: func(dir string) error { return os.WriteFile(dir+"/conf", []byte("ONE"), 0o644) }, changed: []string{"conf"}},
		"size":    {do: func(dir string) error { return os.Truncate(dir+"/conf", 2) }, changed: []string{"conf"}},
		"mode":    {do: func(dir string) error { return os.Chmod(dir+"/conf", 0o666) }, changed: []string{"conf"}},
		"setuid":  {do: func(dir string) error { return os.Chmod(dir+"/conf", 0o644|os.ModeSetuid) }, changed: []string{"conf"}},
		"root":    {do: func(dir string) error { return os.Chmod(dir, 0o777) }, changed: []string{"."}},
		"link": {do: func(dir string) error {
			return errors.Join(os.Remove(dir+"/latest"), os.Symlink("conf", dir+"/latest"))
		}, changed: []string{"latest"}},
		"file for link": {do: func(dir string) error {
			return errors.Join(os.Remove(dir+"/latest"), os.WriteFile(dir+"/latest", nil, 0o600))
		}, changed: []string{"latest"}},
		"missing": {do: func(dir string) error { return os.Remove(dir + "/empty") }, missing: []string{"empty"}},
		"extra":   {do: func(dir string) error { return os.MkdirAll(dir+"/bin/new/dir", 0o700) }, extra: []string{"bin/new"}},
		"dir is a file": {do: func(dir string) error {
			return errors.Join(os.RemoveAll(dir+"/bin"), os.WriteFile(dir+"/bin", nil, 0o600))
		}, changed: []string{"bin"}, missing: []string{"bin/app"}},
		"dir leads out": {do: func(dir string) error { return errors.Join(os.RemoveAll(dir+"/bin"), os.Symlink("/etc", dir+"/bin")) }, changed: []string{"bin"}, missing: []string{"bin/app"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openSlot(t, slotDir(t), Options{Wrap: fast})
			v2.stage(t, s)
			v1.install(t, s)
			if err := tc.do(s.Dir(v1.d)); err != nil {
				t.Fatal(err)
			}
			err := s.Verify(t.Context(), v1.d)
			var drift *DriftError
			if ReasonOf(err) != ReasonDrift || !errors.As(err, &drift) {
				t.Fatal(err)
			}
			if !slices.Equal(drift.Changed, tc.changed) || !slices.Equal(drift.Missing, tc.missing) || !slices.Equal(drift.Extra, tc.extra) || drift.More != 0 {
				t.Errorf("%v", drift)
			}
			src := v1.source()
			if err := s.Stage(t.Context(), v1.d, v1.m, v1.b, src, nil); err != nil {
				t.Fatal(err)
			}
			if len(src.fetched) > 22 {
				t.Errorf("%d chunks were fetched", len(src.fetched))
			}
			if d, err := s.Current(); err != nil || d != v1.d || s.Verify(t.Context(), d) != nil {
				t.Errorf("after it %s runs, %v", d.Short(), err)
			}
			if list, err := s.fs.ReadDir(stagingDir); err != nil || len(list) != 0 {
				t.Errorf("staging has %v, %v", list, err)
			}
		})
	}
}

// The list of what drifted is bounded.
func TestDriftIsBounded(t *testing.T) {
	t.Parallel()
	v1, _ := twoVersions(t)
	s := openSlot(t, slotDir(t), Options{Wrap: fast})
	v1.install(t, s)
	for i := range 100 {
		if err := os.WriteFile(filepath.Join(s.Dir(v1.d), fmt.Sprint("extra", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var drift *DriftError
	if err := s.Verify(t.Context(), v1.d); !errors.As(err, &drift) || len(drift.Extra) != maxNamed || drift.More != 100-maxNamed {
		t.Errorf("%v", err)
	}
}

// A release whose manifest is gone or changed is not taken for anything.
func TestDriftOfManifest(t *testing.T) {
	t.Parallel()
	v1, _ := twoVersions(t)
	dir := slotDir(t)
	s := openSlot(t, dir, Options{Wrap: fast})
	v1.install(t, s)
	flip(t, filepath.Join(dir, manifest(v1.d)), 10)
	if err := s.Verify(t.Context(), v1.d); ReasonOf(err) != ReasonDrift {
		t.Errorf("changed: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, manifest(v1.d))); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), v1.d); ReasonOf(err) != ReasonDrift {
		t.Errorf("gone: %v", err)
	}
	src := v1.source()
	if err := s.Stage(t.Context(), v1.d, v1.m, v1.b, src, nil); err != nil || len(src.fetched) != 0 {
		t.Errorf("%v, %d chunks fetched", err, len(src.fetched))
	}
}
