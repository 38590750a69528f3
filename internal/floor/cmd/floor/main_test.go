package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-edge/holdfast/internal/floor"
)

func TestMain(m *testing.M) {
	floor.ChildMain()
	goleak.VerifyTestMain(m)
}

func TestPrintsFigures(t *testing.T) {
	args := []string{"-connections", "4", "-window", "50ms", "-rounds", "1", "-batch", "5", "-dir", t.TempDir()}
	for name, want := range map[string][]string{
		"verification":  {"verification.cpu"},
		"heartbeat":     {"heartbeat.server_cpu", "heartbeat.client_cpu", "heartbeat.rate"},
		"idle":          {"idle.server_rss", "idle.client_rss"},
		"registration1": {"registration.nodes1.batch5.rate", "registration.nodes1.batch5.cpu"},
		"registration3": {"registration.nodes3.batch5.rate", "registration.nodes3.batch5.cpu"},
		"agent":         {"agent.rss", "agent.binary", "agent.start_cpu"},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errs strings.Builder
			if code := run(append(args, name), &out, &errs); code != 0 {
				t.Fatalf("exit code %d: %s", code, errs.String())
			}
			lines := strings.Split(strings.TrimSpace(out.String()), "\n")
			if len(lines) != len(want) {
				t.Fatalf("printed %q, want %q", lines, want)
			}
			for i, line := range lines {
				if fields := strings.Fields(line); len(fields) < 3 || fields[0] != want[i] {
					t.Errorf("line %q, want %s", line, want[i])
				}
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"-h"}, 0, "heartbeat|idle"},
		{[]string{"-nonsense"}, exitUsage, "-nonsense"},
		{[]string{"ceiling"}, exitUsage, "ceiling"},
		{[]string{"-rounds", "0", "heartbeat"}, exitFailure, "configuration"},
		{[]string{"-agent", "/does/not/exist", "agent"}, exitFailure, "/does/not/exist"},
		{[]string{"-dir", "/does/not/exist", "registration1"}, exitFailure, "/does/not/exist"},
	} {
		var out, errs strings.Builder
		if code := run(c.args, &out, &errs); code != c.code || !strings.Contains(errs.String(), c.says) || out.Len() > 0 {
			t.Errorf("%q: exit code %d, printed %q, complained %q", c.args, code, out.String(), errs.String())
		}
	}
}

// fullWriter is a standard output that is gone.
type fullWriter struct{}

var errFull = errors.New("full")

func (fullWriter) Write([]byte) (int, error) { return 0, errFull }

func TestReportsLostOutput(t *testing.T) {
	o := &options{recordBytes: 10, window: time.Millisecond, rounds: 1, names: []string{"verification"}}
	if err := measure(t.Context(), o, fullWriter{}); !errors.Is(err, errFull) {
		t.Errorf("%v, want the writer's error", err)
	}
}
