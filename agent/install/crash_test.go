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

// A story is what a device goes through between a state that it begins with and one that must be within reach after every crash.
type story struct {
	base  string // directory of the slot at the beginning
	steps func(s *Slot) []func() error
	after func(t *testing.T, dir string, step int) // step is how many steps were begun
}

// update is an update, a rollback, the update again, and the removal of the old release.
func update(t *testing.T) *story {
	v1, v2 := twoVersions(t)
	base := slotDir(t)
	s := openSlot(t, base, Options{Wrap: fast})
	v1.install(t, s)
	s.Close()
	return &story{
		base: base,
		steps: func(s *Slot) []func() error {
			return []func() error{
				func() error { return s.Stage(t.Context(), v2.d, v2.m, v2.b, v2.source(), nil) },
				func() error { return s.Switch(v2.d) },
				func() error { return s.Verify(t.Context(), v2.d) },
				func() error { return s.Switch(v1.d) },
				func() error { return s.Switch(v2.d) },
				func() error { return s.Prune() },
			}
		},
		after: func(t *testing.T, dir string, step int) { wellAfter(t, dir, v1, v2, step > 1) },
	}
}

// repair is the repair of a release that has drifted, while it is the one that runs.
func repair(t *testing.T) *story {
	v1, _ := twoVersions(t)
	base := slotDir(t)
	s := openSlot(t, base, Options{Wrap: fast})
	v1.install(t, s)
	s.Close()
	flip(t, filepath.Join(base, "current", "bin", "app"), 5)
	return &story{
		base: base,
		steps: func(s *Slot) []func() error {
			return []func() error{func() error { return s.Stage(t.Context(), v1.d, v1.m, v1.b, v1.source(), nil) }}
		},
		after: func(t *testing.T, dir string, _ int) {
			if n := len(read(t, filepath.Join(dir, "current", "bin", "app"))); n != 20*chunkSize+17 {
				t.Fatalf("current/bin/app has %d bytes", n)
			}
			s := openSlot(t, dir, Options{Wrap: fast})
			defer s.Close()
			if d, err := s.Current(); err != nil || d != v1.d {
				t.Fatalf("after the crash %s runs, %v", d.Short(), err)
			}
			v1.stage(t, s)
			untouched(t, s, v1)
		},
	}
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
func (st *story) crashes(t *testing.T, lose func(p *power)) int {
	for n := 0; ; n++ {
		dir := filepath.Join(t.TempDir(), "slot")
		copyTree(t, st.base, dir)
		p, step := cutAfter(t, dir, n), 0
		s, err := Open(dir, Options{Wrap: p.wrap})
		if err == nil {
			for _, do := range st.steps(s) {
				step++
				if err = do(); err != nil {
					break
				}
			}
			p.Close()
		}
		if err == nil {
			p.end()
			return p.ops
		}
		if p.fuse != 0 {
			t.Fatalf("operation %d: %v", n, err)
		}
		lose(p)
		if !t.Run(fmt.Sprintf("operation=%d", n), func(t *testing.T) { st.after(t, dir, step) }) {
			return n
		}
	}
}

func TestKilledAnywhere(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		story func(*testing.T) *story
		least int
	}{"update": {update, 70}, "repair": {repair, 50}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := tc.story(t).crashes(t, (*power).end)
			t.Logf("killed before each of %d operations that change the disk", n)
			if n < tc.least {
				t.Errorf("only %d operations: do they go through the hook?", n)
			}
		})
	}
}

func TestPowerCutAnywhere(t *testing.T) {
	t.Parallel()
	for name, tell := range map[string]func(*testing.T) *story{"update": update, "repair": repair} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range seeds(t) {
				r := rand.New(rand.NewPCG(seed, 0))
				n := tell(t).crashes(t, func(p *power) { p.cut(r) })
				t.Logf("seed %d: power cut before each of %d operations", seed, n)
			}
		})
	}
}

// A crash while a slot is made for the first time leaves one that opens.
func TestKilledAtTheBeginning(t *testing.T) {
	t.Parallel()
	v1, _ := twoVersions(t)
	for n := 0; ; n++ {
		dir := filepath.Join(t.TempDir(), "slot")
		p := cutAfter(t, dir, n)
		_, err := Open(dir, Options{Wrap: p.wrap})
		p.end()
		s := openSlot(t, dir, Options{Wrap: fast})
		v1.install(t, s)
		if err == nil {
			t.Logf("killed before each of %d operations", p.ops)
			return
		}
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
