package install

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-edge/holdfast/wire/artifact"
)

func script(text string) node { return node{"bin/check", []byte("#!/bin/sh\n" + text + "\n"), 0o755} }

// The tests of exec are not parallel: a program that is being written while another test forks is busy.

func TestCheckExec(t *testing.T) {
	for name, tc := range map[string]struct {
		script string
		args   []string
		says   string // "": healthy
	}{
		"healthy":              {script: "exit 0"},
		"fails, and says why":  {script: "echo out; echo no database >&2; exit 3", says: "exit status 3; it said: out no database"},
		"arguments, no shell":  {script: `test "$1" = '$(reboot); *' && test $# = 1`, args: []string{"$(reboot); *"}},
		"directory":            {script: `test -x bin/check && test "$(pwd)" = "$PWD" && test -e zz`},
		"environment":          {script: `test "$(env | cut -d= -f1 | grep -v '^_$' | sort | tr '\n' ' ')" = "LC_ALL PATH PWD " || { env; exit 1; }`},
		"nothing on its input": {script: `test -z "$(cat)"`},
		"killed":               {script: "kill -9 $$", says: "signal: killed"},
		"control characters":   {script: `printf 'a\033[31mb\n\nc'; exit 1`, says: "it said: a [31mb c"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("HOLDFAST_SECRET", "of the agent")
			s := openSlot(t, slotDir(t), Options{Wrap: fast})
			err := checkOne(t.Context(), t, s, artifact.Check{Kind: artifact.CheckExec, Path: "bin/check", Args: tc.args}, node{path: "bin/"}, script(tc.script))
			if (err == nil) != (tc.says == "") || err != nil && !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v, want %q", err, tc.says)
			}
		})
	}
}

// ends waits until a process has ended whose number a script has written: a signal takes a moment.
func ends(t *testing.T, name string) {
	t.Helper()
	pid, err := strconv.Atoi(strings.TrimSpace(read(t, name)))
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for end := time.Now().Add(20 * time.Second); ; {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(time.Until(end).Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n != 1 || err != nil {
			t.Errorf("process %d still runs, %v", pid, err)
		}
		return
	}
}

// A check that hangs is killed with all that it has started.
func TestCheckExecHangs(t *testing.T) {
	out := filepath.Join(t.TempDir(), "pid")
	s := openSlot(t, slotDir(t), Options{Wrap: fast})
	err := checkOne(t.Context(), t, s, artifact.Check{Kind: artifact.CheckExec, Path: "bin/check", Args: []string{out}, TimeoutMS: 2000}, node{path: "bin/"},
		script(`trap '' TERM; echo waiting; sleep 1000 & echo $! > "$1"; wait; sleep 1000`))
	if err == nil || !strings.Contains(err.Error(), "longer than 2s") || !strings.Contains(err.Error(), "it said: waiting") {
		t.Error(err)
	}
	ends(t, out)
}

// A check that ends and leaves a child behind, which holds its output, is done, and so is the child.
func TestCheckExecLeavesChild(t *testing.T) {
	out := filepath.Join(t.TempDir(), "pid")
	s := openSlot(t, slotDir(t), Options{Wrap: fast})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := checkOne(ctx, t, s, artifact.Check{Kind: artifact.CheckExec, Path: "bin/check", Args: []string{out}}, node{path: "bin/"},
		script(`sleep 1000 & echo $! > "$1"`)); err != nil {
		t.Error(err)
	}
	ends(t, out)
}

// One that has left the group, too, keeps nobody waiting.
func TestCheckExecChildEscapes(t *testing.T) {
	s := openSlot(t, slotDir(t), Options{Wrap: fast})
	begun := time.Now()
	if err := checkOne(t.Context(), t, s, artifact.Check{Kind: artifact.CheckExec, Path: "bin/check"}, node{path: "bin/"}, script("setsid sleep 30 &")); err != nil {
		t.Error(err)
	}
	if d := time.Since(begun); d > 25*time.Second {
		t.Errorf("it took %v", d)
	}
}

// Of output without an end the last part is kept.
func TestCheckExecFloods(t *testing.T) {
	s := openSlot(t, slotDir(t), Options{Wrap: fast})
	err := checkOne(t.Context(), t, s, artifact.Check{Kind: artifact.CheckExec, Path: "bin/check", TimeoutMS: 1000}, node{path: "bin/"}, script("while :; do echo 0123456789abcdef; done"))
	if err == nil || len(err.Error()) > 512 || !strings.Contains(err.Error(), "…") {
		t.Error(err)
	}
}

// When the agent stops, a check ends and says nothing of health.
func TestCheckEnds(t *testing.T) {
	s := openSlot(t, slotDir(t), Options{Wrap: fast})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	err := checkOne(ctx, t, s, artifact.Check{Kind: artifact.CheckExec, Path: "bin/check"}, node{path: "bin/"}, script("sleep 1000"))
	if !errors.Is(err, context.DeadlineExceeded) || ReasonOf(err) == ReasonHealth {
		t.Error(err)
	}
}

func TestCheckFile(t *testing.T) {
	t.Parallel()
	s := openSlot(t, slotDir(t), Options{Wrap: fast})
	nodes := []node{{path: "dir/"}, file("dir/file", "x"), {path: "link -> dir/file"}, {path: "none -> dir/other"}}
	for path, healthy := range map[string]bool{"dir/file": true, "link": true, "dir": false, "none": false, "missing": false} {
		if err := checkOne(t.Context(), t, s, artifact.Check{Kind: artifact.CheckFile, Path: path}, nodes...); (err == nil) != healthy {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// Whatever is added to a release later, a check stays in it.
func TestCheckStaysInside(t *testing.T) {
	s := openSlot(t, slotDir(t), Options{Wrap: fast})
	v := makeVersion(t, 1, func(m *artifact.Manifest) {
		m.Health = []artifact.Check{{Kind: artifact.CheckExec, Path: "out"}}
	}, file("a", "x"))
	v.install(t, s)
	if err := os.Symlink("/bin/true", filepath.Join(s.Dir(v.d), "out")); err != nil {
		t.Fatal(err)
	}
	if err := s.Check(t.Context(), v.m); ReasonOf(err) != ReasonHealth {
		t.Error(err)
	}
}

func TestCheckHTTP(t *testing.T) {
	t.Parallel()
	var elsewhere atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	t.Cleanup(other.Close)
	hang := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ok", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "fine") })
	mux.HandleFunc("GET /none", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("GET /bad", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	mux.HandleFunc("GET /away", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, http.StatusFound) })
	mux.HandleFunc("GET /hang", func(http.ResponseWriter, *http.Request) { <-hang })
	mux.HandleFunc("GET /a b", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.Query().Get("q")) })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(hang) })
	port := uint16(server.Listener.Addr().(*net.TCPAddr).Port)
	s := openSlot(t, slotDir(t), Options{Wrap: fast})
	for path, says := range map[string]string{
		"/ok": "", "/none": "", "/a b?q=1": "", "/bad": "503", "/away": "302", "/missing": "404", "/hang": "longer than 200ms",
	} {
		err := checkOne(t.Context(), t, s, artifact.Check{Kind: artifact.CheckHTTP, Port: port, Path: path, TimeoutMS: map[bool]uint32{true: 200, false: 10_000}[path == "/hang"]})
		if (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", path, err, says)
		}
	}
	if n := elsewhere.Load(); n != 0 {
		t.Errorf("%d requests went elsewhere", n)
	}
	if err := checkOne(t.Context(), t, s, artifact.Check{Kind: artifact.CheckTCP, Port: port}); err != nil {
		t.Error(err)
	}
}

// A server that speaks something else, or nothing, is not healthy.
func TestCheckNotHTTP(t *testing.T) {
	t.Parallel()
	s := openSlot(t, slotDir(t), Options{Wrap: fast})
	for _, answer := range []string{"", "SSH-2.0-x\r\n", "HTTP/1.1 \r\n", "HTTP/1.1 2\r\n", "HTTP/1.1 +20 x\r\n", strings.Repeat("x", 10_000)} {
		var lc net.ListenConfig
		l, err := lc.Listen(t.Context(), "tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, answer)
			c.Close()
		}()
		port := uint16(l.Addr().(*net.TCPAddr).Port)
		if err := checkOne(t.Context(), t, s, artifact.Check{Kind: artifact.CheckHTTP, Port: port, Path: "/"}); err == nil {
			t.Errorf("%.20q is healthy", answer)
		}
		<-done
		l.Close()
		if err := checkOne(t.Context(), t, s, artifact.Check{Kind: artifact.CheckTCP, Port: port}); err == nil {
			t.Error("a port on which nobody listens is healthy")
		}
	}
}
