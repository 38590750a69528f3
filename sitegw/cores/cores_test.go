package cores

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/holdfast-edge/holdfast/wire"
)

var silent = slog.New(slog.DiscardHandler)

func want(t *testing.T, l *List, addrs ...string) {
	t.Helper()
	if got := l.All(); !slices.Equal(got, addrs) {
		t.Errorf("addresses %q, want %q", got, addrs)
	}
}

func many(n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprintf("core-%d:7400", i))
	}
	return out
}

func TestListLasts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cores")
	l := Open(path, []string{"hand:1", "a:1"}, silent)
	want(t, l, "hand:1", "a:1")
	l.Told([]string{"a:1", "b:1", "a:1"})
	l.Worked("b:1")
	want(t, l, "a:1", "b:1", "hand:1")
	l = Open(path, nil, silent)
	want(t, l, "a:1", "b:1") // what was given by hand is not stored
	l.Told([]string{"c:1"})
	want(t, l, "c:1", "b:1") // what worked last is not forgotten
	l = Open(path, []string{"hand:2"}, silent)
	want(t, l, "c:1", "b:1", "hand:2")
	l.Worked("c:1") // until another one works
	want(t, Open(path, nil, silent), "c:1")
}

func TestListsThatAreIgnored(t *testing.T) {
	for name, addrs := range map[string][]string{
		"none": nil, "empty": {}, "too many": many(wire.MaxCores + 1), "no port": {"a:1", "b"}, "no host": {":7400"}, "port": {"a:70000"},
		"too long": {strings.Repeat("a", maxAddr) + ":1"}, "empty address": {"a:1", ""},
	} {
		var log bytes.Buffer
		path := filepath.Join(t.TempDir(), "cores")
		l := Open(path, nil, slog.New(slog.NewTextHandler(&log, nil)))
		l.Told([]string{"good:1"})
		log.Reset()
		l.Told(addrs)
		want(t, l, "good:1")
		want(t, Open(path, nil, silent), "good:1")
		if n := strings.Count(log.String(), "level=WARN"); n != 1 {
			t.Errorf("%s: %d warnings: %s", name, n, log.String())
		}
		if err := Check(addrs); !errors.Is(err, ErrList) {
			t.Errorf("%s: %v", name, err)
		}
	}
	l := Open(filepath.Join(t.TempDir(), "cores"), nil, silent)
	l.Told(many(wire.MaxCores))
	if got := len(l.All()); got != wire.MaxCores {
		t.Errorf("%d of the most that is permitted", got)
	}
}

// The file is written when something changes, and not else: the core tells the list with every session.
func TestWritesAreForChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cores")
	l := Open(path, nil, silent)
	l.Told([]string{"a:1"})
	l.Worked("a:1")
	for _, ext := range []string{".a", ".b"} {
		if err := os.Remove(path + ext); err != nil {
			t.Fatal(err)
		}
	}
	l.Told([]string{"a:1"})
	l.Worked("a:1")
	if found, err := filepath.Glob(path + "*"); err != nil || len(found) != 0 {
		t.Errorf("written again: %v, %v", found, err)
	}
}

// A file that does not read, or cannot be written, does not keep a gateway from its core.
func TestBadDisk(t *testing.T) {
	whole := filepath.Join(t.TempDir(), "cores")
	l := Open(whole, nil, silent)
	l.Told([]string{"a:1"})
	l.Worked("a:1")
	b, err := wire.Marshal(stored{Told: []string{"no port"}})
	if err != nil {
		t.Fatal(err)
	}
	last, err := wire.Marshal(stored{Last: ":1"})
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(path string) error{
		"noise":       func(p string) error { return os.WriteFile(p+".a", []byte("noise"), 0o600) },
		"a directory": func(p string) error { return os.Mkdir(p+".a", 0o700) },
		"no message":  func(p string) error { return Open(p, nil, silent).slots.Save([]byte{0xff}, 0o600) },
		"no address":  func(p string) error { return Open(p, nil, silent).slots.Save(b, 0o600) },
		"no last":     func(p string) error { return Open(p, nil, silent).slots.Save(last, 0o600) },
	} {
		path := filepath.Join(t.TempDir(), "cores")
		if err := spoil(path); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		l := Open(path, []string{"hand:1"}, slog.New(slog.NewTextHandler(&log, nil)))
		want(t, l, "hand:1")
		if !strings.Contains(log.String(), "level=ERROR") {
			t.Errorf("%s: nothing is said: %s", name, log.String())
		}
		l.Told([]string{"b:1"})
		want(t, l, "b:1", "hand:1")
	}
	var log bytes.Buffer
	l = Open(filepath.Join(t.TempDir(), "gone", "cores"), nil, slog.New(slog.NewTextHandler(&log, nil)))
	l.Told([]string{"b:1"})
	want(t, l, "b:1")
	if !strings.Contains(log.String(), "level=ERROR") {
		t.Errorf("nothing is said: %s", log.String())
	}
}

func TestConcurrentUse(t *testing.T) {
	l := Open(filepath.Join(t.TempDir(), "cores"), []string{"hand:1"}, silent)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 5 {
				l.Told([]string{fmt.Sprintf("a%d:%d", i, j+1)})
				l.Worked("b:1")
				if !slices.Contains(l.All(), "hand:1") {
					t.Error("the operator's address is gone")
				}
			}
		})
	}
	wg.Wait()
}
