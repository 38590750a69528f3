// Package daemon holds what every program of the product does alike around its own work: flags that the environment can set,
// logging, signals, the service manager's protocol, and exit codes.
package daemon

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/term"
)

// Exit codes of the daemons.
const (
	ExitOK      = 0
	ExitFailure = 1
	ExitConfig  = 2
	ExitRetired = 77 // it has ended for good: the service manager must not start it again
)

// A ConfigError is a mistake in what the operator wrote: the program ends with ExitConfig.
type ConfigError struct{ Err error }

// Error is the mistake.
func (e *ConfigError) Error() string { return e.Err.Error() }

// Unwrap is the mistake.
func (e *ConfigError) Unwrap() error { return e.Err }

// Logger writes to w: text on a terminal, JSON otherwise, from the given level on (debug, info, warn, error).
func Logger(w io.Writer, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, &ConfigError{fmt.Errorf("--log-level %q: want debug, info, warn or error", level)}
	}
	o := &slog.HandlerOptions{Level: l}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return slog.New(slog.NewTextHandler(w, o)), nil
	}
	return slog.New(slog.NewJSONHandler(w, o)), nil
}

// Set at link time by the Makefile.
var (
	version   = ""
	buildTime = "" // RFC 3339
)

// Version is the build's version: as stamped at link time, else the module's.
func Version() string {
	if version != "" {
		return version
	}
	if i, ok := debug.ReadBuildInfo(); ok && i.Main.Version != "" {
		return i.Main.Version
	}
	return "(devel)"
}

// BuildTime is when the program was built; zero when it was not stamped.
func BuildTime() time.Time {
	t, err := time.Parse(time.RFC3339, buildTime)
	if err != nil {
		return time.Time{}
	}
	return t
}

// maxToken bounds a token file, in bytes.
const maxToken = 4 << 10

// ReadSecret reads a short secret from a file, or from standard input for "-". Secrets never come by flag or environment,
// where others could see them.
func ReadSecret(path string, stdin io.Reader) (s string, err error) {
	r := stdin
	if path != "-" {
		f, err := os.Open(path) //nolint:gosec // G304: the file that the operator names
		if err != nil {
			return "", &ConfigError{err}
		}
		defer f.Close() //nolint:errcheck // it was only read
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, maxToken+1))
	if err != nil {
		return "", err
	}
	if len(b) > maxToken {
		return "", &ConfigError{fmt.Errorf("%s: over %d bytes, so it is no token", path, maxToken)}
	}
	return strings.TrimSpace(string(b)), nil
}
