package floor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/internal/floor/proc"
)

// testRole is what the children of these tests are.
var testRole = Role{Name: "test", Open: func(_ context.Context, config json.RawMessage) (Service, error) {
	greeting, err := decodeConfig[string](config)
	if err != nil {
		return nil, err
	}
	if greeting == "refuse" {
		return nil, errors.New("no such greeting")
	}
	return &testService{greeting: greeting}, nil
}}

type testService struct {
	greeting string
	closed   bool
}

func (s *testService) Do(ctx context.Context, command string) (any, error) {
	switch command {
	case "greet":
		return s.greeting, nil
	case "env":
		_, child := os.LookupEnv(childVariable)
		return fmt.Sprint(child, os.Getenv("FLOOR_TEST")), nil
	case "hang":
		return nil, wait(ctx, time.Hour)
	case "panic":
		panic("on demand")
	}
	return nil, fmt.Errorf("%w: %s", ErrUnknownCommand, command)
}

func (s *testService) Close() error {
	s.closed = true
	if s.greeting == "bad end" {
		return errors.New("cannot end")
	}
	return nil
}

func startTestChild(t *testing.T, greeting string) *Child {
	t.Helper()
	c, err := StartChild(t.Context(), ChildConfig{Role: testRole.Name, CPU: proc.AnyCPU, Env: []string{"FLOOR_TEST=yes"}, Config: greeting})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestChildAnswers(t *testing.T) {
	c := startTestChild(t, "hello")
	for range 2 {
		var answer string
		if err := c.Ask(t.Context(), "greet", &answer); err != nil || answer != "hello" {
			t.Errorf("%q, %v", answer, err)
		}
	}
	if err := c.Ask(t.Context(), "greet", nil); err != nil {
		t.Errorf("answer that nobody wants: %v", err)
	}
	var env string
	if err := c.Ask(t.Context(), "env", &env); err != nil || env != "falseyes" {
		t.Errorf("environment %q, %v: want no trace of being a child, and what was added", env, err)
	}
	if err := c.Ask(t.Context(), "dance", nil); !errors.Is(err, ErrChild) || !strings.Contains(err.Error(), "dance") {
		t.Errorf("unknown command: %v, want ErrChild and the command", err)
	}
	if err := c.Ask(t.Context(), "greet", new(int)); !errors.Is(err, ErrChild) {
		t.Errorf("answer of another type: %v, want ErrChild", err)
	}
	if used, err := proc.CPUTime(c.PID()); err != nil || used <= 0 {
		t.Errorf("child has used %v, %v", used, err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestChildThatDoesNotOpen(t *testing.T) {
	for name, cfg := range map[string]ChildConfig{
		"unknown role":  {Role: "ghost", CPU: proc.AnyCPU},
		"refuses":       {Role: testRole.Name, CPU: proc.AnyCPU, Config: "refuse"},
		"configuration": {Role: testRole.Name, CPU: proc.AnyCPU, Config: 5},
	} {
		if _, err := StartChild(t.Context(), cfg); !errors.Is(err, ErrChild) {
			t.Errorf("%s: %v, want ErrChild", name, err)
		}
	}
	if _, err := StartChild(t.Context(), ChildConfig{Role: testRole.Name, CPU: 1023}); !errors.Is(err, proc.ErrCPU) {
		t.Errorf("no such cpu: %v, want ErrCPU", err)
	}
	if _, err := StartChild(t.Context(), ChildConfig{Role: testRole.Name, CPU: proc.AnyCPU, Config: func() {}}); err == nil {
		t.Error("configuration that cannot be encoded: started")
	}
}

func TestChildThatPanics(t *testing.T) {
	c := startTestChild(t, "hello")
	if err := c.Ask(t.Context(), "panic", nil); !errors.Is(err, ErrChild) {
		t.Errorf("%v, want ErrChild", err)
	}
	err := c.Close()
	if exitCode(err) != 2 || !strings.Contains(err.Error(), "on demand") {
		t.Errorf("%v, want exit code 2 and the panic's text", err)
	}
}

func TestChildThatEndsBadly(t *testing.T) {
	c := startTestChild(t, "bad end")
	if err := c.Close(); exitCode(err) != 1 || !strings.Contains(err.Error(), "cannot end") {
		t.Errorf("%v, want exit code 1 and the reason", err)
	}
}

func TestAskEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c, err := StartChild(ctx, ChildConfig{Role: testRole.Name, CPU: proc.AnyCPU, Config: "hello"})
	if err != nil {
		t.Fatal(err)
	}
	askCtx, cancelAsk := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancelAsk()
	if err := c.Ask(askCtx, "hang", nil); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrChild) {
		t.Errorf("%v, want ErrChild and context.DeadlineExceeded", err)
	}
	cancel() // kills it
	begin := time.Now()
	if err := c.Close(); err == nil {
		t.Error("a child that was killed ended well")
	}
	if took := time.Since(begin); took > closeGrace/2 {
		t.Errorf("took %v to end", took)
	}
}

// TestServeRole speaks the line protocol by hand.
func TestServeRole(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"nothing":         {``, ``},
		"before open":     {`{"command":"greet"}`, `{"error":"command greet before open: unknown command"}`},
		"open and greet":  {`{"command":"open","config":"hi"}{"command":"greet"}`, `{}` + "\n" + `{"answer":"hi"}`},
		"opened twice":    {`{"command":"open","config":"hi"}{"command":"open","config":"hi"}`, `{}` + "\n" + `{"error":"unknown command: open"}`},
		"second attempt":  {`{"command":"open","config":"refuse"}{"command":"open","config":"hi"}`, `{"error":"no such greeting"}` + "\n" + `{}`},
		"fails and lives": {`{"command":"open","config":"hi"}{"command":"dance"}{"command":"greet"}`, `{}` + "\n" + `{"error":"unknown command: dance"}` + "\n" + `{"answer":"hi"}`},
	} {
		var out bytes.Buffer
		if err := serveRole(t.Context(), testRole, strings.NewReader(c.in), &out); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := strings.TrimSpace(out.String()); got != c.want {
			t.Errorf("%s: got %s\nwant %s", name, got, c.want)
		}
	}
}

func TestServeRoleClosesTheService(t *testing.T) {
	for _, in := range []string{`{"command":"open"}`, `{"command":"open"} nonsense`} {
		service := &testService{}
		role := Role{Name: "closing", Open: func(context.Context, json.RawMessage) (Service, error) { return service, nil }}
		err := serveRole(t.Context(), role, strings.NewReader(in), &bytes.Buffer{})
		if !service.closed {
			t.Errorf("%s: not closed", in)
		}
		if bad := strings.Contains(in, "nonsense"); bad != (err != nil) {
			t.Errorf("%s: %v", in, err)
		}
	}
}

func TestTail(t *testing.T) {
	var w tail
	if w.note() != "" {
		t.Errorf("note of nothing: %q", w.note())
	}
	for range 3 {
		if n, err := w.Write(bytes.Repeat([]byte("x"), tailSize-1)); n != tailSize-1 || err != nil {
			t.Fatal(n, err)
		}
	}
	if n, err := w.Write([]byte("end")); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	if len(w.buf) != tailSize || !bytes.HasSuffix(w.buf, []byte("xend")) {
		t.Errorf("kept %d bytes ending in %q", len(w.buf), w.buf[len(w.buf)-4:])
	}
}
