package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

var errWork = errors.New("the work failed")

// run executes a program with one command "go" and returns its exit code, what the command saw, and what was written.
func run(env map[string]string, work error, args ...string) (code int, saw, out, errs string) {
	var name string
	var n int
	p := &Program{
		Name: "prog", Long: "A program.",
		IsConfig: func(err error) bool { return errors.Is(err, os.ErrInvalid) },
		Commands: []Command{{
			Name: "go", Use: "go --data-dir D", Short: "Goes", Required: []string{"data-dir"},
			Flags: func(fs *pflag.FlagSet) {
				fs.StringVar(&name, "data-dir", "", "the directory")
				fs.IntVar(&n, "count", 1, "how often")
			},
			Run: func(_ context.Context, e Env) error {
				saw = fmt.Sprint(name, " ", n, " ", e.Flags.Changed("count"))
				return work
			},
		}},
	}
	var o, e bytes.Buffer
	lookup := func(k string) (string, bool) { v, ok := env[k]; return v, ok }
	code = p.Execute(context.Background(), args, lookup, Env{In: strings.NewReader(""), Out: &o, Err: &e})
	return code, saw, o.String(), e.String()
}

func TestPrecedence(t *testing.T) {
	env := map[string]string{"HOLDFAST_DATA_DIR": "env", "HOLDFAST_COUNT": "7", "HOLDFAST_OTHER": "x", "DATA_DIR": "no"}
	for _, tt := range []struct {
		env  map[string]string
		args []string
		want string
	}{
		{nil, []string{"go", "--data-dir", "flag"}, "flag 1 false"},
		{env, []string{"go"}, "env 7 true"},
		{env, []string{"go", "--data-dir=flag"}, "flag 7 true"},
		{env, []string{"go", "--count", "1"}, "env 1 true"}, // a flag given wins, even with its default's value
	} {
		if code, saw, _, errs := run(tt.env, nil, tt.args...); code != ExitOK || saw != tt.want {
			t.Errorf("%v %v: exit %d, saw %q, want %q: %s", tt.env, tt.args, code, saw, tt.want, errs)
		}
	}
}

func TestMistakesOfTheOperator(t *testing.T) {
	for name, tt := range map[string]struct {
		env  map[string]string
		args []string
		says string
	}{
		"no command":            {nil, nil, "which command"},
		"unknown command":       {nil, []string{"stay"}, `"stay"`},
		"required flag":         {nil, []string{"go"}, "--data-dir is required"},
		"unknown flag":          {nil, []string{"go", "--data-dir", "d", "--colour", "red"}, "colour"},
		"no number":             {nil, []string{"go", "--data-dir", "d", "--count", "x"}, "count"},
		"argument":              {nil, []string{"go", "--data-dir", "d", "stray"}, `"stray"`},
		"environment no number": {map[string]string{"HOLDFAST_COUNT": "x"}, []string{"go", "--data-dir", "d"}, "HOLDFAST_COUNT"},
	} {
		code, saw, _, errs := run(tt.env, nil, tt.args...)
		if code != ExitConfig || saw != "" || !strings.Contains(errs, tt.says) {
			t.Errorf("%s: exit %d, ran %q, said %q", name, code, saw, errs)
		}
	}
}

func TestExitCodes(t *testing.T) {
	for want, work := range map[int]error{
		ExitFailure: fmt.Errorf("go: %w", errWork), ExitConfig: fmt.Errorf("go: %w", &ConfigError{errWork}),
	} {
		code, _, _, errs := run(nil, work, "go", "--data-dir", "d")
		if code != want || !strings.Contains(errs, "prog: go: the work failed") {
			t.Errorf("%v: exit %d, said %q", work, code, errs)
		}
	}
	if code, _, _, _ := run(nil, fmt.Errorf("go: %w", os.ErrInvalid), "go", "--data-dir", "d"); code != ExitConfig {
		t.Errorf("what IsConfig recognises: exit %d", code)
	}
	if !errors.Is(&ConfigError{errWork}, errWork) {
		t.Error("a ConfigError hides its cause")
	}
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{{"help"}, {"-h"}, {"go", "--help"}, {"version"}} {
		code, saw, out, errs := run(nil, nil, args...)
		if code != ExitOK || saw != "" || out == "" || errs != "" {
			t.Errorf("%v: exit %d, ran %q, printed %q and %q", args, code, saw, out, errs)
		}
	}
	if _, _, out, _ := run(nil, nil, "go", "--help"); !strings.Contains(out, "--count") || !strings.Contains(out, EnvPrefix) {
		t.Errorf("help of a command: %q", out)
	}
}

func TestReadSecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	write := func(b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write([]byte("  secret\n\n"))
	if s, err := ReadSecret(path, nil); err != nil || s != "secret" {
		t.Errorf("from a file: %q, %v", s, err)
	}
	if s, err := ReadSecret("-", strings.NewReader("piped\n")); err != nil || s != "piped" {
		t.Errorf("from standard input: %q, %v", s, err)
	}
	write(bytes.Repeat([]byte("x"), maxToken))
	if s, err := ReadSecret(path, nil); err != nil || len(s) != maxToken {
		t.Errorf("at the limit: %d bytes, %v", len(s), err)
	}
	write(bytes.Repeat([]byte("x"), maxToken+1))
	var c *ConfigError
	if s, err := ReadSecret(path, nil); !errors.As(err, &c) || s != "" {
		t.Errorf("over the limit: %d bytes, %v", len(s), err)
	} else if strings.Contains(err.Error(), "xxx") {
		t.Errorf("the error repeats the secret: %v", err)
	}
	if _, err := ReadSecret(path+"x", nil); !errors.As(err, &c) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	endless := io.MultiReader(strings.NewReader(strings.Repeat("x", maxToken)), &forever{})
	if _, err := ReadSecret("-", endless); !errors.As(err, &c) {
		t.Errorf("an input without end: %v", err)
	}
}

// forever reads zeros without end.
type forever struct{}

func (*forever) Read(b []byte) (int, error) { return len(b), nil }

func TestLogger(t *testing.T) {
	var b bytes.Buffer
	l, err := Logger(&b, "warn")
	if err != nil {
		t.Fatal(err)
	}
	l.Info("quiet")
	l.Warn("loud", "k", "v")
	if got := b.String(); strings.Contains(got, "quiet") || !strings.HasPrefix(got, "{") || !strings.Contains(got, `"k":"v"`) {
		t.Errorf("logged %q", got)
	}
	if !l.Enabled(t.Context(), slog.LevelError) {
		t.Error("errors are not logged")
	}
	var c *ConfigError
	if _, err := Logger(&b, "chatty"); !errors.As(err, &c) {
		t.Errorf("no level: %v", err)
	}
}

// Serve ends with its work, and what it started ends with it.
func TestServe(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	err := Serve(ctx, func(ctx context.Context) error {
		cancel()
		<-ctx.Done()
		return errWork
	})
	if !errors.Is(err, errWork) {
		t.Errorf("ended with %v", err)
	}
}

func TestBuild(t *testing.T) {
	if Version() == "" {
		t.Error("no version")
	}
	if !BuildTime().IsZero() {
		t.Errorf("built at %v without a stamp", BuildTime())
	}
}
