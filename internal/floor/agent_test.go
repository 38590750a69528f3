package floor

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestAgent(t *testing.T) {
	binary, err := BuildAgent(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cfg := DefaultAgent(binary)
	cfg.Interval, cfg.Settle = 10*time.Millisecond, 100*time.Millisecond
	begin := time.Now()
	res, err := Agent(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if most := uint64(time.Since(begin)/cfg.Interval) + 2; res.Beats < 2 || res.Beats > most {
		t.Errorf("%d heartbeats, want 2 to %d", res.Beats, most)
	}
	if res.Memory.RSS < 1<<20 || res.Memory.RSS > 64<<20 || res.BinaryBytes < 1<<20 || res.StartCPU <= 0 {
		t.Errorf("%+v", res)
	}
}

func TestAgentThatDoesNotRun(t *testing.T) {
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	script := filepath.Join(t.TempDir(), "agent")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho no luck >&2\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := Agent(t.Context(), DefaultAgent(script))
	if exit := exitCode(err); exit != 3 {
		t.Errorf("%v, want exit code 3", err)
	}
	if _, err := Agent(t.Context(), DefaultAgent(script+"-absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v, want os.ErrNotExist", err)
	}
	if left, err := os.ReadDir(temporary); err != nil || len(left) != 0 {
		t.Errorf("left behind %v, %v", left, err)
	}
}

// exitCode returns the exit code that err carries, or -1.
func exitCode(err error) int {
	if e, ok := errors.AsType[interface {
		error
		ExitCode() int
	}](err); ok {
		return e.ExitCode()
	}
	return -1
}
