package install

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-edge/holdfast/wire/artifact"
)

const (
	// maxOutput is how much of a check's output is kept, in bytes: its end, which says why it failed. A status has room for 512.
	maxOutput = 256

	// lateOutput is how long output is waited for once the program has ended: somebody else may hold its pipe.
	lateOutput = 100 * time.Millisecond
)

// checkExec runs a program of the release: without a shell, in the release's directory, with next to no environment, in a process group of its
// own. At its end, or when ctx ends, whatever is left of the group is killed.
func (s *Slot) checkExec(ctx context.Context, dir string, c *artifact.Check) error {
	abs, err := filepath.Abs(filepath.Join(s.dir, dir))
	if err != nil {
		return err
	}
	if err := s.checkFile(dir + "/" + c.Path); err != nil {
		return err
	}
	out := new(tail)
	cmd := exec.Command(filepath.Join(abs, c.Path), c.Args...) //nolint:gosec,noctx // G204: it is what the publisher signed; the group is killed below
	cmd.Dir = abs
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "PWD=" + abs}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = lateOutput
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- waitExit(cmd.Process.Pid) }()
	late := false
	select {
	case err = <-ended:
	case <-ctx.Done():
		late = true
		err = errors.Join(unix.Kill(-cmd.Process.Pid, unix.SIGKILL), <-ended)
	}
	// The program is a zombie until Wait, so the group's number cannot be another's yet.
	if kerr := unix.Kill(-cmd.Process.Pid, unix.SIGKILL); kerr != nil && !errors.Is(kerr, unix.ESRCH) {
		err = errors.Join(err, kerr)
	}
	werr := cmd.Wait()
	switch {
	case late:
		err = errors.Join(err, errors.New("killed"))
	case !errors.Is(werr, exec.ErrWaitDelay): // a child that left the group holds the pipe: no matter of health
		err = errors.Join(err, werr)
	}
	if err == nil {
		return nil
	}
	if text := out.String(); text != "" {
		return fmt.Errorf("%w; it said: %s", err, text)
	}
	return err
}

// waitExit waits until a child has ended, and leaves it to be waited for.
func waitExit(pid int) error {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	b   []byte
	cut bool
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(p)
	if len(p) > maxOutput {
		p, t.cut = p[len(p)-maxOutput:], true
	}
	if over := len(t.b) + len(p) - maxOutput; over > 0 {
		t.b, t.cut = append(t.b[:0], t.b[over:]...), true
	}
	t.b = append(t.b, p...)
	return n, nil
}

// String is the text, fit for a log: in one line, of what prints.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := strings.Join(strings.FieldsFunc(strings.ToValidUTF8(string(t.b), "?"), func(r rune) bool { return r < ' ' || r == 0x7f }), " ")
	if t.cut {
		s = "…" + s
	}
	return strings.TrimSpace(s)
}
