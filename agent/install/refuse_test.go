package install

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
)

// What a manifest must not say is refused before anything of it is on the disk, whoever let it through.
func TestRefusedManifests(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(m *artifact.Manifest){
		"traversal":          func(m *artifact.Manifest) { m.Entries[0].Path = "../conf" },
		"traversal inside":   func(m *artifact.Manifest) { m.Entries[0].Path = "a/../../conf" },
		"absolute path":      func(m *artifact.Manifest) { m.Entries[0].Path = "/etc/passwd" },
		"empty path":         func(m *artifact.Manifest) { m.Entries[0].Path = "" },
		"NUL in a path":      func(m *artifact.Manifest) { m.Entries[0].Path = "a\x00b" },
		"twice":              func(m *artifact.Manifest) { m.Entries = append(m.Entries, m.Entries[len(m.Entries)-1]) },
		"no directory":       func(m *artifact.Manifest) { m.Entries[0].Path = "a/conf" },
		"setuid":             func(m *artifact.Manifest) { m.Entries[0].Mode = 0o4755 },
		"setgid":             func(m *artifact.Manifest) { m.Entries[0].Mode = 0o2755 },
		"sticky":             func(m *artifact.Manifest) { m.Entries[0].Mode = 0o1755 },
		"not readable":       func(m *artifact.Manifest) { m.Entries[0].Mode = 0o055 },
		"device":             func(m *artifact.Manifest) { m.Entries[0].Type = 4 },
		"hard link":          func(m *artifact.Manifest) { m.Entries[0].Type = 5; m.Entries[0].Target = "link" },
		"link out":           func(m *artifact.Manifest) { m.Entries[1].Target = "../conf" },
		"link to the root":   func(m *artifact.Manifest) { m.Entries[1].Target = "/etc" },
		"link out by detour": func(m *artifact.Manifest) { m.Entries[1].Target = "a/../../conf" },
		"link as a directory": func(m *artifact.Manifest) {
			m.Entries = append(m.Entries, artifact.Entry{Path: "link/x", Type: artifact.TypeDir, Mode: 0o755})
		},
		"size bomb":           func(m *artifact.Manifest) { m.Entries[0].Size = artifact.MaxSize + 1 },
		"chunk bomb":          func(m *artifact.Manifest) { m.Entries[0].Chunks.Add(artifact.Chunk{Size: 1 << 31}) },
		"entry bomb":          func(m *artifact.Manifest) { m.Entries = make([]artifact.Entry, artifact.MaxEntries+1) },
		"unknown kind":        func(m *artifact.Manifest) { m.Kind = 9 },
		"two files as a file": func(m *artifact.Manifest) { m.Kind = artifact.KindFile },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := slotDir(t)
			s := openSlot(t, dir, Options{Wrap: fast})
			v1, _ := twoVersions(t)
			v1.install(t, s)
			v := makeVersion(t, 2, nil, file("conf", "x"), node{path: "link -> conf"})
			change(v.m)
			b, err := wire.Marshal(v.m)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Stage(t.Context(), wire.DigestOf(b), v.m, b, v.source(), nil); ReasonOf(err) != ReasonManifest {
				t.Errorf("%v, want reason manifest", err)
			}
			untouched(t, s, v1)
		})
	}
	t.Run("another manifest's bytes", func(t *testing.T) {
		t.Parallel()
		v1, v2 := twoVersions(t)
		s := openSlot(t, slotDir(t), Options{Wrap: fast})
		if err := s.Stage(t.Context(), v1.d, v1.m, v2.b, v1.source(), nil); ReasonOf(err) != ReasonManifest {
			t.Error(err)
		}
	})
}

// untouched tells that nothing but v is installed, and that nothing is staged.
func untouched(t *testing.T, s *Slot, v *version) {
	t.Helper()
	if d, err := s.Current(); err != nil || d != v.d {
		t.Errorf("%s runs, %v", d.Short(), err)
	}
	if err := s.Verify(t.Context(), v.d); err != nil {
		t.Error(err)
	}
	for dir, want := range map[string]int{releasesDir: 2, stagingDir: 0, trashDir: 0} {
		if list, err := s.fs.ReadDir(dir); err != nil || len(list) != want {
			t.Errorf("%s has %v, %v", dir, list, err)
		}
	}
}

// Too little room is found before anything is fetched; the reserve stays free; what others take in the middle ends it.
func TestNoSpace(t *testing.T) {
	t.Parallel()
	v1, v2 := twoVersions(t)
	room := uint64(1 << 30)
	s := openSlot(t, slotDir(t), Options{Wrap: fast, Reserve: 1 << 20, Free: func(string) (uint64, error) { return room, nil }})
	v1.install(t, s)
	for _, room = range []uint64{0, 1 << 20, 1<<20 + 2*block} {
		src := v2.source()
		err := s.Stage(t.Context(), v2.d, v2.m, v2.b, src, nil)
		if ReasonOf(err) != ReasonNoSpace || src.calls != 0 || ReasonOf(s.Room(v2.d, v2.m)) != ReasonNoSpace {
			t.Errorf("%d bytes free: %v, %d calls", room, err, src.calls)
		}
		if room < 1<<20 {
			untouched(t, s, v1)
		}
	}
	room = 1<<20 + 2*v2.m.Size() + 20*block
	v2.stage(t, s)
}

// A disk that is full in the middle is given back what was staged; one that has its reserve keeps it, and the next try goes on with it.
func TestFullInTheMiddle(t *testing.T) {
	t.Parallel()
	for name, keeps := range map[string]bool{"reserve gone": false, "reserve there": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, v := twoVersions(t)
			v1 := makeVersion(t, 1, nil, file("conf", "one"))
			room, full := uint64(1<<30), false
			dir := slotDir(t)
			p := cutAfter(t, dir, -1)
			p.fail = func(op, name string) error {
				if full && op == "write" {
					if !keeps {
						room = 0
					}
					return &os.PathError{Op: op, Path: name, Err: syscall.ENOSPC}
				}
				return nil
			}
			s := openSlot(t, dir, Options{Wrap: p.wrap, Free: func(string) (uint64, error) { return room, nil }})
			v1.install(t, s)
			src := v.source()
			src.alter = func(i int, b []byte) []byte { full = i == 10; return b }
			if err := s.Stage(t.Context(), v.d, v.m, v.b, src, nil); ReasonOf(err) != ReasonNoSpace || !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
			kept, err := exists(s.fs, staging(v.d))
			if err != nil || kept != keeps {
				t.Errorf("what was staged is kept: %v, %v", kept, err)
			}
			if !keeps {
				untouched(t, s, v1)
			}
			room, full, src.alter = 1<<30, false, nil
			had := len(src.fetched)
			if err := s.Stage(t.Context(), v.d, v.m, v.b, src, nil); err != nil {
				t.Fatal(err)
			}
			if n, all := len(src.fetched)-had, len(v.content); keeps && n != all-10 || !keeps && n != all {
				t.Errorf("%d of %d chunks were fetched after it", n, all)
			}
			p.end()
		})
	}
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	v1, _ := twoVersions(t)
	s := openSlot(t, slotDir(t), Options{Wrap: fast})
	ctx, cancel := context.WithCancel(t.Context())
	src := v1.source()
	src.alter = func(i int, b []byte) []byte {
		if i == 3 {
			cancel()
		}
		return b
	}
	if err := s.Stage(ctx, v1.d, v1.m, v1.b, src, nil); !errors.Is(err, context.Canceled) || len(src.fetched) != 4 {
		t.Errorf("%v after %d chunks", err, len(src.fetched))
	}
	v1.install(t, s)
	if err := s.Verify(ctx, v1.d); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// A layout of a newer agent is left alone to the last byte.
func TestNewerLayout(t *testing.T) {
	t.Parallel()
	dir := slotDir(t)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, layoutFile), []byte("2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrLayout) {
		t.Error(err)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 1 || read(t, filepath.Join(dir, layoutFile)) != "2\n" {
		t.Errorf("%v, %v", list, err)
	}
}

// Nobody but the agent's user can look into a slot, and what others put in its way is not used.
func TestForeign(t *testing.T) {
	t.Parallel()
	v1, v2 := twoVersions(t)
	out := t.TempDir()
	for name, tc := range map[string]struct {
		put func(dir string) error
		do  func(s *Slot) error
	}{
		"current is a directory": {
			func(dir string) error { return errors.Join(os.Remove(dir+"/current"), os.Mkdir(dir+"/current", 0o700)) },
			func(s *Slot) error { return s.Switch(v1.d) },
		},
		"current points elsewhere": {
			func(dir string) error { return errors.Join(os.Remove(dir+"/current"), os.Symlink(out, dir+"/current")) },
			func(s *Slot) error { return s.Switch(v1.d) },
		},
		"current points out by detour": {
			func(dir string) error {
				return errors.Join(os.Remove(dir+"/current"), os.Symlink("releases/../"+out, dir+"/current"))
			},
			func(s *Slot) error { return s.Prune() },
		},
		"staging is a link": {
			func(dir string) error { return errors.Join(os.Remove(dir+"/staging"), os.Symlink(out, dir+"/staging")) },
			func(s *Slot) error { return s.Stage(t.Context(), v2.d, v2.m, v2.b, v2.source(), nil) },
		},
		"manifest is a pipe": {
			func(dir string) error {
				name := filepath.Join(dir, manifest(v1.d))
				return errors.Join(os.Remove(name), syscall.Mkfifo(name, 0o600))
			},
			func(s *Slot) error { return s.Verify(t.Context(), v1.d) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := slotDir(t)
			s := openSlot(t, dir, Options{Wrap: fast})
			v1.install(t, s)
			if err := tc.put(dir); err != nil {
				t.Fatal(err)
			}
			if err := tc.do(s); err == nil {
				t.Error("no error")
			} else {
				t.Log(err)
			}
			if list, err := os.ReadDir(out); err != nil || len(list) != 0 {
				t.Errorf("outside of the slot there is %v, %v", list, err)
			}
		})
	}
	t.Run("modes", func(t *testing.T) {
		t.Parallel()
		dir := slotDir(t)
		if err := os.MkdirAll(filepath.Join(dir, stagingDir), 0o777); err != nil {
			t.Fatal(err)
		}
		s := openSlot(t, dir, Options{Wrap: fast})
		v1.install(t, s)
		for _, d := range []string{"", releasesDir, stagingDir, trashDir} {
			if info, err := os.Stat(filepath.Join(dir, d)); err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("%s: %v, %v", d, info.Mode(), err)
			}
		}
		if info, err := os.Stat(s.Dir(v1.d)); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("the release: %v, %v", info.Mode(), err)
		}
	})
	t.Run("another user's", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		if err := os.Chown(dir, 1, 1); err != nil {
			t.Skip("only root can give a directory away: ", err)
		}
		if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), "chown") {
			t.Error(err)
		}
	})
}
