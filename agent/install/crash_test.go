package install

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// seeds is how many losses are tried for each place where the power is cut.
func seeds(t *testing.T) uint64 {
	t.Helper()
	s := os.Getenv("HOLDFAST_SEEDS")
	if s == "" {
		return 1
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		t.Fatalf("HOLDFAST_SEEDS: %v", err)
	}
	return min(n, 100)
}

// story is what a device goes through: an update, a rollback, the update again, and the removal of the old release.
func story(t *testing.T, s *Slot, v1, v2 *version, switched *bool) error {
	for _, step := range []func() error{
		func() error { return s.Stage(t.Context(), v2.d, v2.m, v2.b, v2.source(), nil) },
		func() error { *switched = true; return s.Switch(v2.d) },
		func() error { return s.Verify(t.Context(), v2.d) },
		func() error { return s.Switch(v1.d) },
		func() error { return s.Switch(v2.d) },
		func() error { return s.Prune() },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// wellAfter opens a slot after a crash: what current points to must be whole, and the new release within reach.
func wellAfter(t *testing.T, dir string, v1, v2 *version, switched bool) {
	t.Helper()
	s := openSlot(t, dir, Options{Wrap: fast})
	defer s.Close()
	d, err := s.Current()
	if err != nil || d != v1.d && (d != v2.d || !switched) {
		t.Fatalf("after the crash %s runs, %v", d.Short(), err)
	}
	if err := s.Verify(t.Context(), d); err != nil {
		t.Fatalf("what runs after the crash: %v", err)
	}
	if there, err := exists(s.fs, release(v1.d)); err != nil || there && s.Verify(t.Context(), v1.d) != nil {
		t.Fatalf("the old release is there in part, %v", err)
	}
	v2.install(t, s)
	if err := errors.Join(s.Verify(t.Context(), v2.d), s.Prune()); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]int{releasesDir: 2, stagingDir: 0, trashDir: 0} {
		if list, err := s.fs.ReadDir(dir); err != nil || len(list) != want {
			t.Fatalf("%s has %v, %v", dir, list, err)
		}
	}
}

// crashes runs the story with a crash before each operation in turn, and returns how many there are.
func crashes(t *testing.T, after func(p *power)) int {
	v1, v2 := twoVersions(t)
	base := slotDir(t)
	s := openSlot(t, base, Options{Wrap: fast})
	v1.install(t, s)
	s.Close()
	for n := 0; ; n++ {
		dir := filepath.Join(t.TempDir(), "slot")
		copyTree(t, base, dir)
		p := cutAfter(t, dir, n)
		switched := false
		s, err := Open(dir, Options{Wrap: p.wrap})
		if err == nil {
			err = story(t, s, v1, v2, &switched)
			p.Close()
		}
		if err == nil {
			p.end()
			return p.ops
		}
		if p.fuse != 0 {
			t.Fatalf("operation %d: %v", n, err)
		}
		after(p)
		if !t.Run(fmt.Sprintf("operation=%d", n), func(t *testing.T) { wellAfter(t, dir, v1, v2, switched) }) {
			return n
		}
	}
}

func TestKilledAnywhere(t *testing.T) {
	t.Parallel()
	n := crashes(t, (*power).end)
	t.Logf("killed before each of %d operations that change the disk", n)
	if n < 70 {
		t.Errorf("only %d operations: do they go through the hook?", n)
	}
}

func TestPowerCutAnywhere(t *testing.T) {
	t.Parallel()
	for seed := range seeds(t) {
		r := rand.New(rand.NewPCG(seed, 0))
		n := crashes(t, func(p *power) { p.cut(r) })
		t.Logf("seed %d: power cut before each of %d operations", seed, n)
	}
}

// A disk that fails or is full at any one operation leaves what runs as it was, and the next try succeeds.
func TestFailsAnywhere(t *testing.T) {
	t.Parallel()
	v1, v2 := twoVersions(t)
	base := slotDir(t)
	s := openSlot(t, base, Options{Wrap: fast})
	v1.install(t, s)
	s.Close()
	for _, tc := range []struct {
		err    error
		reason string
	}{{syscall.ENOSPC, ReasonNoSpace}, {syscall.EIO, ReasonDisk}} {
		for n := 1; ; n++ {
			dir := filepath.Join(t.TempDir(), "slot")
			copyTree(t, base, dir)
			p, calls := cutAfter(t, dir, -1), 0
			p.fail = func(op, name string) error {
				if tc.err == syscall.ENOSPC && !strings.Contains("create mkdir symlink write rename sync", op) { //nolint:errorlint // it is this one
					return nil
				}
				if calls++; calls == n {
					return fmt.Errorf("%s %s: %w", op, name, tc.err)
				}
				return nil
			}
			s, err := Open(dir, Options{Wrap: p.wrap})
			if err == nil {
				err = s.Stage(t.Context(), v2.d, v2.m, v2.b, v2.source(), nil)
			}
			if calls < n {
				t.Logf("%v: %d operations failed in turn", tc.err, n-1)
				break
			}
			if err != nil && ReasonOf(err) != tc.reason {
				t.Errorf("operation %d: %v, want reason %s", n, err, tc.reason)
			}
			p.end()
			wellAfter(t, dir, v1, v2, false)
		}
	}
}

// copyTree copies a directory with modes and links.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(name string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		dest := to + strings.TrimPrefix(name, from)
		switch {
		case e.IsDir():
			return os.Mkdir(dest, info.Mode().Perm())
		case info.Mode().IsRegular():
			b, err := os.ReadFile(name)
			return errors.Join(err, os.WriteFile(dest, b, info.Mode().Perm()))
		}
		target, err := os.Readlink(name)
		return errors.Join(err, os.Symlink(target, dest))
	})
	if err != nil {
		t.Fatal(err)
	}
}
