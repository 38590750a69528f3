package build

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/wire/artifact"
)

func TestBuildTree(t *testing.T) {
	source := sample(t)
	r := mustBuild(t, source, 1)
	for _, w := range []struct {
		path   string
		kind   artifact.EntryType
		mode   uint32
		target string
	}{
		{"bin", artifact.TypeDir, 0o755, ""},
		{"bin/server", artifact.TypeFile, 0o755, ""},
		{"empty", artifact.TypeDir, 0o755, ""},
		{"etc", artifact.TypeDir, 0o755, ""},
		{"etc-more", artifact.TypeFile, 0o644, ""},
		{"etc/server.conf", artifact.TypeFile, 0o644, ""},
		{"lib", artifact.TypeDir, 0o755, ""},
		{"lib/a.so", artifact.TypeFile, 0o644, ""},
		{"lib/b.so", artifact.TypeSymlink, 0, "a.so"},
		{"lib/c.so", artifact.TypeFile, 0o644, ""},
		{"lib/up", artifact.TypeSymlink, 0, "../bin/server"},
	} {
		i := -1
		for j, e := range r.Manifest.Entries {
			if e.Path == w.path {
				i = j
			}
		}
		if i < 0 {
			t.Errorf("no entry %s", w.path)
			continue
		}
		if e := r.Manifest.Entries[i]; e.Type != w.kind || e.Mode != w.mode || e.Target != w.target {
			t.Errorf("%s is %+v, want type %d, mode %o, target %q", w.path, e, w.kind, w.mode, w.target)
		}
		if w.kind != artifact.TypeFile {
			continue
		}
		want, err := os.ReadFile(filepath.Join(source, w.path))
		fatal(t, err)
		if got := content(t, r.Dir, w.path); !bytes.Equal(got, want) {
			t.Errorf("%s has %d bytes, want %d", w.path, len(got), len(want))
		}
	}
	if n := len(r.Manifest.Entries); n != 11 {
		t.Errorf("%d entries, want 11", n)
	}
	v, err := r.Verify(t.Context())
	if err != nil || v.Files != 5 || v.Bytes != 700_000+240_000+2*5000 || v.Chunks != r.ChunkCount {
		t.Errorf("verified %+v of %d chunks, error %v", v, r.ChunkCount, err)
	}
	if r.Stored > 720_000 {
		t.Errorf("%d bytes are stored, though half of them compress", r.Stored)
	}
	if left, err := os.ReadDir(filepath.Dir(r.Path)); err != nil || len(left) != 1 {
		t.Errorf("beside the build lies %v, error %v", left, err)
	}
}

// Where chunks are cut and how a manifest is encoded decides what devices have to fetch: it changes on purpose or not at all.
func TestBuildIsPinned(t *testing.T) {
	const want = "0ac8b49131d85896ba03ff94608ac9e04cefdb357531e692570bbe039332f4cd"
	if got := mustBuild(t, sample(t), 1).Digest.String(); got != want {
		t.Errorf("the sample is artifact %s, want %s", got, want)
	}
}

func TestBuildDependsOnContentAlone(t *testing.T) {
	a, b := mustBuild(t, sample(t), 1), sample(t)
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	fatal(t, os.Chmod(filepath.Join(b, "bin", "server"), 0o500))
	fatal(t, os.Chmod(filepath.Join(b, "etc"), 0o700))
	fatal(t, os.Chtimes(filepath.Join(b, "lib", "a.so"), time.Unix(1, 0), time.Unix(2, 0)))
	fatal(t, os.Remove(filepath.Join(b, "lib", "c.so")))
	write(t, filepath.Join(b, "lib", "c.so"), noise(5000, 2), 0o604)
	fatal(t, os.Rename(filepath.Join(b, "etc-more"), filepath.Join(b, "zzz")))
	fatal(t, os.Rename(filepath.Join(b, "zzz"), filepath.Join(b, "etc-more")))
	link := filepath.Join(t.TempDir(), "link")
	fatal(t, os.Symlink(b, link))
	r := mustBuild(t, link, 1)
	if a.Digest != r.Digest {
		t.Errorf("digests %s and %s of the same content", a.Digest, r.Digest)
	}
	for x := range a.Chunks() {
		one, err1 := a.Dir.Stored(x.Digest)
		two, err2 := r.Dir.Stored(x.Digest)
		if err := errors.Join(err1, err2); err != nil || !bytes.Equal(one, two) {
			t.Errorf("chunk %s is stored in two ways, error %v", x.Digest.Short(), err)
		}
	}
	if c := mustBuild(t, b, 2); c.Digest == r.Digest {
		t.Error("another release has the same digest")
	}
}

func TestBuildFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent-1.1")
	write(t, path, noise(100_000, 1), 0o700)
	link := filepath.Join(t.TempDir(), "link")
	fatal(t, os.Symlink(path, link))
	for _, source := range []string{path, link} {
		s := spec(1)
		s.Kind, s.Health = "file", nil
		r, err := Build(t.Context(), Options{Source: source, Spec: s, Out: filepath.Join(t.TempDir(), "out")})
		fatal(t, err)
		if e := r.Manifest.Entries; r.Manifest.Kind != artifact.KindFile || len(e) != 1 || e[0].Path != "agent-1.1" || e[0].Mode != 0o755 {
			t.Errorf("%+v", r.Manifest)
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(dir string) error
		want  string // in the error, beside the path
	}{
		"absolute link":        {func(d string) error { return os.Symlink("/etc/passwd", filepath.Join(d, "bad")) }, "out of the release"},
		"link out":             {func(d string) error { return os.Symlink("../bad", filepath.Join(d, "bad")) }, "out of the release"},
		"link out from within": {func(d string) error { return os.Symlink("../../x", filepath.Join(d, "lib", "bad")) }, "out of the release"},
		"link to what is out":  {func(d string) error { return os.Symlink("..", filepath.Join(d, "bad")) }, "out of the release"},
		"link over a link": {func(d string) error {
			return errors.Join(os.Symlink("lib", filepath.Join(d, "l")), os.Symlink("l/../../x", filepath.Join(d, "bad")))
		}, "not clean"},
		"pipe": {func(d string) error { return syscall.Mkfifo(filepath.Join(d, "bad"), 0o644) }, "named pipe"},
		"socket": {func(d string) error {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(d, "bad"), Net: "unix"})
			if err == nil {
				l.SetUnlinkOnClose(false)
				err = l.Close()
			}
			return err
		}, "socket"},
		// The device 0:0 is the one that everybody may make.
		"device": {func(d string) error { return syscall.Mknod(filepath.Join(d, "bad"), syscall.S_IFCHR|0o644, 0) }, "device"},
		"setuid": {func(d string) error {
			return errors.Join(os.WriteFile(filepath.Join(d, "bad"), nil, 0o755), os.Chmod(filepath.Join(d, "bad"), 0o755|os.ModeSetuid))
		}, "setuid"},
		"setgid": {func(d string) error {
			return errors.Join(os.WriteFile(filepath.Join(d, "bad"), nil, 0o755), os.Chmod(filepath.Join(d, "bad"), 0o755|os.ModeSetgid))
		}, "setuid, setgid"},
		"sticky": {func(d string) error {
			return errors.Join(os.WriteFile(filepath.Join(d, "bad"), nil, 0o755), os.Chmod(filepath.Join(d, "bad"), 0o755|os.ModeSticky))
		}, "sticky"},
		"name with a line end": {func(d string) error { return os.WriteFile(filepath.Join(d, "bad\n"), nil, 0o644) }, "not relative and clean"},
		"name that is no text": {func(d string) error { return os.WriteFile(filepath.Join(d, "bad\xff"), nil, 0o644) }, "not relative and clean"},
		"too much": {func(d string) error {
			return errors.Join(os.WriteFile(filepath.Join(d, "bad"), nil, 0o644), os.Truncate(filepath.Join(d, "bad"), artifact.MaxSize+1))
		}, "bytes of files"},
	} {
		t.Run(name, func(t *testing.T) {
			source := sample(t)
			fatal(t, c.spoil(source))
			out := filepath.Join(t.TempDir(), "out")
			_, err := Build(t.Context(), Options{Source: source, Spec: spec(1), Out: out})
			if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "bad") {
				t.Errorf("error %v, want one with the path and %q", err, c.want)
			}
			if left, err := os.ReadDir(filepath.Dir(out)); err != nil || len(left) > 0 {
				t.Errorf("it left %v, error %v", left, err)
			}
		})
	}
}

func TestBuildRefusesTooManyEntries(t *testing.T) {
	tr, err := openTree(t.Context(), sample(t))
	fatal(t, err)
	defer tr.root.Close()
	tr.entries = make([]artifact.Entry, artifact.MaxEntries-1)
	fatal(t, tr.look(t.Context(), "etc-more"))
	if err := tr.look(t.Context(), "empty"); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "empty") {
		t.Errorf("error %v, want ErrRefused", err)
	}
}

func TestBuildRefusesOptions(t *testing.T) {
	source := sample(t)
	r := mustBuild(t, source, 5)
	other := spec(6)
	other.Name = "radar"
	file := spec(6)
	file.Kind = "file"
	there := t.TempDir()
	for name, c := range map[string]struct {
		o    Options
		want string
	}{
		"out is there":     {Options{Source: source, Spec: spec(6), Out: there}, "is there already"},
		"out in source":    {Options{Source: source, Spec: spec(6), Out: filepath.Join(source, "lib", "out")}, "which is built from"},
		"no source":        {Options{Source: filepath.Join(there, "none"), Spec: spec(6), Out: filepath.Join(there, "out")}, "none"},
		"no place for out": {Options{Source: source, Spec: spec(6), Out: filepath.Join(there, "none", "out")}, "none"},
		"another kind":     {Options{Source: source, Spec: file, Out: filepath.Join(there, "out")}, "kind tree"},
		"another name":     {Options{Source: source, Spec: other, Out: filepath.Join(there, "out"), From: []*Dir{r.Dir}}, "build of camera"},
		"no newer release": {Options{Source: source, Spec: spec(5), Out: filepath.Join(there, "out"), From: []*Dir{r.Dir}}, "raise release"},
		"no release":       {Options{Source: source, Spec: spec(0), Out: filepath.Join(there, "out")}, "release number"},
	} {
		if _, err := Build(t.Context(), c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
	}
}

// A file that changes between the look at it and its last byte is none that its author meant.
func TestBuildRefusesWhatChanges(t *testing.T) {
	for name, change := range map[string]func(path string) error{
		"appended":     func(p string) error { return os.WriteFile(p, noise(700_001, 1), 0o755) },
		"cut":          func(p string) error { return os.Truncate(p, 600_000) },
		"written over": func(p string) error { return os.Chtimes(p, time.Time{}, time.Unix(5, 0)) },
		"another mode": func(p string) error { return os.Chmod(p, 0o700) },
	} {
		for _, when := range []string{"before", "while"} {
			tr, err := openTree(t.Context(), sample(t))
			fatal(t, err)
			defer tr.root.Close()
			c, err := NewCutter()
			fatal(t, err)
			path := tr.at("bin/server")
			if when == "before" {
				fatal(t, change(path))
			}
			err = tr.cut(c, &artifact.Entry{Path: "bin/server"}, func(artifact.Chunk, []byte) error {
				if when == "while" {
					return change(path)
				}
				return nil
			})
			if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), path) {
				t.Errorf("%s %s it is read: error %v, want ErrRefused", name, when, err)
			}
		}
	}
	for name, replace := range map[string]func(path string) error{
		"gone":         func(string) error { return nil },
		"another file": func(p string) error { return os.WriteFile(p, noise(700_000, 1), 0o755) },
		"a pipe":       func(p string) error { return syscall.Mkfifo(p, 0o755) },
		"a link":       func(p string) error { return os.Symlink("../lib/a.so", p) },
		"a link out":   func(p string) error { return os.Symlink("/etc/passwd", p) },
	} {
		tr, err := openTree(t.Context(), sample(t))
		fatal(t, err)
		defer tr.root.Close()
		c, err := NewCutter()
		fatal(t, err)
		fatal(t, os.Rename(tr.at("bin/server"), tr.at("bin/was")))
		fatal(t, replace(tr.at("bin/server")))
		if err := tr.cut(c, &artifact.Entry{Path: "bin/server"}, func(artifact.Chunk, []byte) error { return nil }); err == nil {
			t.Errorf("%s in its place is read", name)
		}
	}
}

func TestInterruptedBuildLeavesNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	out := filepath.Join(t.TempDir(), "out")
	progressed := false
	_, err := Build(ctx, Options{Source: sample(t), Spec: spec(1), Out: out, Progress: func(done, total uint64) {
		progressed = progressed || done > 0 && done <= total
		cancel()
	}})
	if !errors.Is(err, context.Canceled) || !progressed {
		t.Errorf("error %v, want Canceled", err)
	}
	if left, err := os.ReadDir(filepath.Dir(out)); err != nil || len(left) > 0 {
		t.Errorf("it left %v, error %v", left, err)
	}
}

func TestPatches(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	for dir, v := range map[string]byte{one: 1, two: 2} {
		write(t, filepath.Join(dir, "server"), executable(v), 0o755)
		write(t, filepath.Join(dir, "same"), noise(200_000, 9), 0o644)
		write(t, filepath.Join(dir, "other"), noise(100_000, v), 0o644)
		write(t, filepath.Join(dir, "empty"), bytes.Repeat([]byte{v}, int(v)-1), 0o644)
	}
	a := mustBuild(t, one, 1)
	b := mustBuild(t, two, 2, a.Dir)
	if len(b.Manifest.Patches) != 1 {
		t.Fatalf("%d patches, want one, of the executable", len(b.Manifest.Patches))
	}
	p := b.Manifest.Patches[0]
	if p.Size > 5_000 || p.BaseSize != 400_010 || b.PatchBytes != p.Size {
		t.Errorf("patch of %d bytes for a file with 80 bytes changed", p.Size)
	}
	v, err := b.Verify(t.Context(), a.Dir)
	if err != nil || v.Patches != 1 || v.Applied != 1 {
		t.Errorf("%+v, error %v", v, err)
	}
	if v, err = b.Verify(t.Context()); err != nil || v.Patches != 1 || v.Applied != 0 {
		t.Errorf("without the base: %+v, error %v", v, err)
	}
	if again := mustBuild(t, two, 2, a.Dir); again.Digest != b.Digest {
		t.Error("patches differ from build to build")
	}
	if twice := mustBuild(t, two, 2, a.Dir, a.Dir); twice.Digest != b.Digest {
		t.Error("a base that is given twice counts twice")
	}
	three := t.TempDir()
	write(t, filepath.Join(three, "server"), executable(3), 0o755)
	if c := mustBuild(t, three, 3, a.Dir, b.Dir); len(c.Manifest.Patches) != 2 {
		t.Errorf("%d patches from two earlier builds, want 2", len(c.Manifest.Patches))
	}
}

// Versions of an artifact of one file are versions of one another, whatever the file is called.
func TestPatchOfRenamedFile(t *testing.T) {
	dir := t.TempDir()
	var from []*Dir
	for v := byte(1); v <= 2; v++ {
		path := filepath.Join(dir, "server-"+strconv.Itoa(int(v)))
		write(t, path, executable(v), 0o755)
		s := spec(uint64(v))
		s.Health = nil
		r, err := Build(t.Context(), Options{Source: path, Spec: s, Out: path + ".out", From: from})
		fatal(t, err)
		if len(r.Manifest.Patches) != len(from) {
			t.Errorf("version %d has %d patches, want %d", v, len(r.Manifest.Patches), len(from))
		}
		from = []*Dir{r.Dir}
	}
}
