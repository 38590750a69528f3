package mesh

import (
	"bytes"
	"context"
	"io"
	"log/slog"

	"golang.org/x/time/rate"
)

// newLog is where the library logs to: lines with a date, a level in brackets, and "memberlist: ". What it takes for an error is
// what siblings do, or a network; the rest is for whoever looks for a fault in the mesh itself.
func newLog(to *slog.Logger, noise *rate.Limiter) io.Writer { return logWriter{to, noise} }

type logWriter struct {
	to    *slog.Logger
	noise *rate.Limiter
}

// Write implements io.Writer. The library writes one line at a time.
func (w logWriter) Write(line []byte) (int, error) {
	level, text := slog.LevelDebug, line
	if _, rest, ok := bytes.Cut(line, []byte("[")); ok {
		if name, rest, ok := bytes.Cut(rest, []byte("] ")); ok {
			text = bytes.TrimPrefix(rest, []byte("memberlist: "))
			if string(name) == "ERR" && w.noise.Allow() {
				level = slog.LevelInfo
			}
		}
	}
	w.to.Log(context.Background(), level, "mesh", "says", string(bytes.TrimSpace(text)))
	return len(line), nil
}
