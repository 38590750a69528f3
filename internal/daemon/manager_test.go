package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// A socket stands for the service manager's.
type socket struct {
	t    *testing.T
	conn *net.UnixConn
}

// listen is the service manager, with a watchdog if period is not 0.
func listen(t *testing.T, period time.Duration) *socket {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "")
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	if period > 0 {
		t.Setenv("WATCHDOG_USEC", fmt.Sprint(period.Microseconds()))
	}
	return &socket{t, conn}
}

// heard takes what was said until now. It does not wait: what was sent to a datagram socket is there.
func (s *socket) heard() (out []string) {
	s.t.Helper()
	raw, err := s.conn.SyscallConn()
	if err != nil {
		s.t.Fatal(err)
	}
	b := make([]byte, 4<<10)
	err = raw.Read(func(fd uintptr) bool {
		for {
			n, _, err := syscall.Recvfrom(int(fd), b, syscall.MSG_DONTWAIT)
			if err != nil {
				return true
			}
			out = append(out, string(b[:n]))
		}
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

func (s *socket) want(want ...string) {
	s.t.Helper()
	if got := s.heard(); !slices.Equal(got, want) {
		s.t.Errorf("said %q, want %q", got, want)
	}
}

// A state is what a daemon's check says.
type state struct {
	mu  sync.Mutex
	err error
}

func (s *state) check(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *state) set(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// served runs f in a bubble while a daemon's work waits for its end.
func served(t *testing.T, f func(t *testing.T), checks ...Check) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			err := Serve(ctx, func(ctx context.Context) error { <-ctx.Done(); return errWork }, checks...)
			if !errors.Is(err, errWork) {
				t.Errorf("ended with %v", err)
			}
		})
		synctest.Wait()
		f(t)
		cancel()
		wg.Wait()
	})
}

func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func repeat(s string, n int) (out []string) {
	for range n {
		out = append(out, s)
	}
	return out
}

func TestWithoutChecks(t *testing.T) {
	s := listen(t, 0)
	served(t, func(*testing.T) {
		s.want("READY=1")
		pass(time.Hour)
		s.want()
	})
	s.want("STOPPING=1")
	s = listen(t, 30*time.Second)
	served(t, func(*testing.T) {
		s.want("READY=1", "WATCHDOG=1")
		pass(time.Minute)
		s.want(repeat("WATCHDOG=1", 4)...)
	})
	s.want("STOPPING=1")
}

// A daemon is ready when its check passes, and not before.
func TestReady(t *testing.T) {
	for _, period := range []time.Duration{0, 30 * time.Second} {
		s := listen(t, period)
		st := &state{err: errors.New("port not open\nyet")}
		served(t, func(*testing.T) {
			pass(time.Second)
			s.want("STATUS=Not well: port not open yet") // once
			st.set(nil)
			pass(retryPause)
			want := "READY=1\nSTATUS="
			if period > 0 {
				want = "READY=1\nWATCHDOG=1\nSTATUS="
			}
			s.want(want)
		}, st.check)
		s.want("STOPPING=1")
	}
}

// The watchdog is fed by the checks: one that fails, or hangs, starves it; one that passes again feeds it again.
func TestWatchdogFollowsTheCheck(t *testing.T) {
	s := listen(t, 30*time.Second)
	st := new(state)
	fine := func(context.Context) error { return nil }
	served(t, func(*testing.T) {
		pass(time.Minute)
		s.want(append([]string{"READY=1\nWATCHDOG=1"}, repeat("WATCHDOG=1", 4)...)...)
		st.set(errors.New("the loop does not answer"))
		pass(time.Minute)
		s.want("STATUS=Not well: the loop does not answer") // and nothing that feeds the watchdog
		st.set(nil)
		pass(retryPause)
		s.want("WATCHDOG=1\nSTATUS=")
		pass(time.Minute)
		s.want(repeat("WATCHDOG=1", 4)...)
	}, fine, st.check)
	s.want("STOPPING=1")
}

func TestCheckHangs(t *testing.T) {
	s := listen(t, 40*time.Second)
	served(t, func(*testing.T) {
		pass(10*time.Second - 1)
		s.want()
		pass(1)
		s.want("STATUS=Not well: context deadline exceeded")
		pass(time.Minute)
		s.want()
	}, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	s.want("STOPPING=1")
}

// Without a service manager nothing is said, and a socket that is gone fails the start of a daemon without checks alone.
func TestNoManager(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "")
	served(t, func(*testing.T) { pass(time.Hour) }, func(context.Context) error { return nil })
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "gone"))
	if err := Serve(t.Context(), func(context.Context) error { t.Error("it runs"); return nil }); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a socket that is not there: %v", err)
	}
	served(t, func(*testing.T) { pass(time.Minute) }, func(context.Context) error { return nil })
	t.Setenv("WATCHDOG_USEC", "soon")
	if err := Serve(t.Context(), func(context.Context) error { t.Error("it runs"); return nil }); err == nil {
		t.Error("a watchdog period that is no number was taken")
	}
}
