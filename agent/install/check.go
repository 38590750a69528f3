package install

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/wire/artifact"
)

// A CheckError is a health check that failed.
type CheckError struct {
	Index int // of the check in the manifest, from 0
	Check artifact.Check
	Err   error
}

// Error names the check.
func (e *CheckError) Error() string {
	return fmt.Sprintf("health check %d (%s): %v", e.Index+1, nameOf(&e.Check), e.Err)
}

// Unwrap is why it failed.
func (e *CheckError) Unwrap() error { return e.Err }

func nameOf(c *artifact.Check) string {
	switch c.Kind {
	case artifact.CheckFile:
		return "file " + c.Path
	case artifact.CheckExec:
		return "exec " + c.Path
	case artifact.CheckHTTP:
		return fmt.Sprintf("http on port %d, %s", c.Port, c.Path)
	case artifact.CheckTCP:
		return fmt.Sprintf("tcp on port %d", c.Port)
	case artifact.CheckUnit:
		return "unit " + c.Unit
	}
	return fmt.Sprintf("kind %d", c.Kind)
}

// Check runs all health checks of the current release, whose manifest is m, one after the other. The first that fails ends it with an Error of
// ReasonHealth that wraps a CheckError. None at all is healthy. When to check, how often, and for how long it may fail is the caller's matter.
func (s *Slot) Check(ctx context.Context, m *artifact.Manifest) error {
	if len(m.Health) == 0 {
		return nil
	}
	d, err := s.Current()
	if err != nil {
		return err
	}
	if d.IsZero() {
		return fail(ReasonHealth, "nothing is installed in %s", s.dir)
	}
	for i, c := range m.Health {
		timeout := artifact.DefaultTimeout
		if c.TimeoutMS > 0 {
			timeout = time.Duration(c.TimeoutMS) * time.Millisecond
		}
		one, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("it took longer than %v", timeout))
		err := s.check(one, &c, release(d))
		if err != nil && one.Err() != nil {
			err = fmt.Errorf("%w: %w", context.Cause(one), err)
		}
		cancel()
		if ctx.Err() != nil { // the caller's end says nothing of health
			return ctx.Err()
		}
		if err != nil {
			return &Error{ReasonHealth, &CheckError{i, c, err}}
		}
	}
	return nil
}

func (s *Slot) check(ctx context.Context, c *artifact.Check, dir string) error {
	switch c.Kind {
	case artifact.CheckFile:
		return s.checkFile(dir + "/" + c.Path)
	case artifact.CheckExec:
		return s.checkExec(ctx, dir, c)
	case artifact.CheckHTTP:
		return checkHTTP(ctx, c.Port, c.Path)
	case artifact.CheckTCP:
		conn, err := dialLoopback(ctx, c.Port)
		if err != nil {
			return err
		}
		return conn.Close()
	case artifact.CheckUnit:
		state, err := s.active(ctx, c.Unit)
		if err == nil && state != "active" {
			err = fmt.Errorf("unit is %s", state)
		}
		return err
	}
	return fmt.Errorf("check of kind %d is not known: a newer agent is needed", c.Kind)
}

func (s *Slot) checkFile(name string) error {
	info, err := s.fs.Stat(name)
	if err == nil && info.IsDir() {
		err = errors.New("it is a directory")
	}
	return err
}

// dialLoopback connects to a port of this machine.
func dialLoopback(ctx context.Context, port uint16) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	if err == nil {
		return c, nil
	}
	if c, err6 := d.DialContext(ctx, "tcp6", net.JoinHostPort("::1", strconv.Itoa(int(port)))); err6 == nil {
		return c, nil
	}
	return nil, err
}

// maxStatus bounds the line with which a server answers, in bytes.
const maxStatus = 1024

// checkHTTP asks for path and reads the first line of the answer. A redirect is no success and is not followed: neither off this machine nor on
// it. The request is written out because the library's client is a third of the agent's size.
func checkHTTP(ctx context.Context, port uint16, path string) error {
	c, err := dialLoopback(ctx, port)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() }) //nolint:errcheck // what is under way fails, and that is all
	defer stop()
	status, err := ask(c, port, path)
	if err := errors.Join(err, c.Close()); err != nil && status == 0 {
		return err
	}
	if status < 200 || status > 299 {
		return fmt.Errorf("the answer is %d, want 200 to 299", status)
	}
	return nil
}

// ask returns the status with which a GET is answered.
func ask(c net.Conn, port uint16, path string) (int, error) {
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: localhost:%d\r\nUser-Agent: holdfast-agent\r\nAccept: */*\r\nConnection: close\r\n\r\n",
		requestPath(path), port); err != nil {
		return 0, err
	}
	line, err := bufio.NewReaderSize(c, maxStatus).ReadSlice('\n')
	if err != nil {
		return 0, fmt.Errorf("answer: %w", err)
	}
	proto, rest, _ := strings.Cut(string(line), " ")
	if !strings.HasPrefix(proto, "HTTP/1.") || len(rest) < 3 {
		return 0, fmt.Errorf("the answer %.80q is not HTTP", line)
	}
	n, err := strconv.ParseUint(rest[:3], 10, 16)
	if err != nil {
		return 0, fmt.Errorf("the answer %.80q has no status", line)
	}
	return int(n), nil
}

// requestPath is a path as a request line has it: what is not printable ASCII, and spaces, as %XX.
func requestPath(p string) string {
	var b strings.Builder
	for i := range len(p) {
		if c := p[i]; c <= ' ' || c >= 0x7f {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
