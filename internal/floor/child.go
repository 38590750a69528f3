package floor

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast-edge/holdfast/internal/floor/proc"
)

// closeGrace is how long a child may take to end by itself. Dropping some thousand connections takes it well under a
// second.
const closeGrace = 5 * time.Second

// ErrChild is the class of everything that a child reports or that happens to it.
var ErrChild = errors.New("child process")

// ChildConfig says what to start.
type ChildConfig struct {
	// Role names a role that the program gave to ChildMain, or one of this package's.
	Role string
	// CPU is the core to pin the child to, or proc.AnyCPU.
	CPU int
	// Env is added to the environment, as "NAME=value".
	Env []string
	// Config goes to Role.Open as JSON.
	Config any
}

// Child is this program once more, in another role. It is killed when the context that it was started with ends, when
// this process dies, or by Close. To be used by one goroutine at a time.
type Child struct {
	role      string
	cmd       *exec.Cmd
	requests  *os.File
	responses *os.File
	lines     *bufio.Reader
	stderr    *tail
}

// StartChild starts a child and returns when its role is open. The caller must call Close.
func StartChild(ctx context.Context, cfg ChildConfig) (*Child, error) {
	config, err := json.Marshal(cfg.Config)
	if err != nil {
		return nil, fmt.Errorf("start %s: encode configuration: %w", cfg.Role, err)
	}
	c, err := spawn(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", cfg.Role, err)
	}
	if err := c.exchange(ctx, request{Command: openCommand, Config: config}, nil); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// spawn starts the process and keeps the parent's ends of its pipes.
func spawn(ctx context.Context, cfg ChildConfig) (*Child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own executable: %w", err)
	}
	stdin, requests, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("pipe: %w", err)
	}
	responses, stdout, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("pipe: %w", err), stdin.Close(), requests.Close())
	}
	c := &Child{role: cfg.Role, requests: requests, responses: responses, lines: bufio.NewReader(responses), stderr: &tail{}}
	c.cmd = exec.CommandContext(ctx, self) //nolint:gosec // G204: the program starts itself
	c.cmd.Env = append(append(os.Environ(), childVariable+"="+cfg.Role), cfg.Env...)
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = stdin, stdout, c.stderr
	// Should this process be killed, nobody is left to close the child.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	// A grandchild that holds standard error open must not hold up Wait.
	c.cmd.WaitDelay = closeGrace
	err = proc.StartPinned(c.cmd, cfg.CPU)
	// The child has its own copies by now; while ours were open, its end would not be seen as the end of the stream.
	err = errors.Join(err, stdin.Close(), stdout.Close())
	if err != nil {
		return nil, errors.Join(err, requests.Close(), responses.Close())
	}
	return c, nil
}

// PID returns the process id, valid until Close.
func (c *Child) PID() int { return c.cmd.Process.Pid }

// Ask sends a command to the child's service and decodes what it answers into answer, a pointer, or nil to ignore it.
// Every error is an ErrChild. If ctx ends first the exchange stays half done and the child can only be closed.
func (c *Child) Ask(ctx context.Context, command string, answer any) error {
	return c.exchange(ctx, request{Command: command}, answer)
}

func (c *Child) exchange(ctx context.Context, r request, answer any) error {
	if err := c.roundTrip(ctx, r, answer); err != nil {
		return fmt.Errorf("%w %s: %s: %w%s", ErrChild, c.role, r.Command, err, c.stderr.note())
	}
	return nil
}

func (c *Child) roundTrip(ctx context.Context, r request, answer any) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	// A deadline in the past wakes whoever reads or writes.
	stop := context.AfterFunc(ctx, func() {
		past := time.Unix(1, 0)
		_ = c.requests.SetDeadline(past)  // fails only on a closed file, which wakes as well
		_ = c.responses.SetDeadline(past) // likewise
	})
	defer stop()
	if _, err := c.requests.Write(append(line, '\n')); err != nil {
		return contextFirst(ctx, fmt.Errorf("send request: %w", err))
	}
	if line, err = c.lines.ReadBytes('\n'); err != nil {
		return contextFirst(ctx, fmt.Errorf("read answer: %w", err))
	}
	return decodeResponse(line, answer)
}

// contextFirst prefers the reason why ctx ended to the failure that followed from it.
func contextFirst(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// errRole carries what a role failed with; its text comes from the child.
var errRole = errors.New("failed there")

func decodeResponse(line []byte, answer any) error {
	r := response{Answer: answer}
	if err := json.Unmarshal(line, &r); err != nil {
		return fmt.Errorf("decode answer: %w", err)
	}
	if r.Error != "" {
		return fmt.Errorf("%w: %s", errRole, r.Error)
	}
	return nil
}

// Close asks the child to end, kills it if it does not within a few seconds, and waits for it. It must be called exactly once.
func (c *Child) Close() error {
	err := c.requests.Close()
	kill := time.AfterFunc(closeGrace, func() {
		_ = c.cmd.Process.Kill() // fails only if it has ended, which is what we want
	})
	defer kill.Stop()
	if waitErr := c.cmd.Wait(); waitErr != nil {
		err = errors.Join(err, fmt.Errorf("%w %s: end: %w%s", ErrChild, c.role, waitErr, c.stderr.note()))
	}
	return errors.Join(err, c.responses.Close())
}

// tailSize keeps enough of a child's standard error for a panic's first frames.
const tailSize = 4 << 10

// tail is a writer that remembers the last tailSize bytes.
type tail struct {
	mu  sync.Mutex
	buf []byte // guarded by mu
}

var _ io.Writer = (*tail)(nil)

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - tailSize; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

// note renders what was written as the end of an error's text.
func (t *tail) note() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.buf) == 0 {
		return ""
	}
	return fmt.Sprintf(" (standard error ends: %q)", t.buf)
}
