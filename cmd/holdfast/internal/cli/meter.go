package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/output"
)

const (
	// meterLine is how often long work tells of itself where there is no terminal.
	meterLine = 10 * time.Second
	// meterWidth is the length of the bar, in characters.
	meterWidth = 30
)

// A meter shows how far long work is: as a bar on the operator's terminal, elsewhere as a line now and then.
type meter struct {
	a     *app
	what  string // such as "chunks sent"
	total int
	there bool // a terminal is there
	shown bool // something is on it
	told  time.Time
}

func (a *app) meter(what string, total int) *meter {
	return &meter{a: a, what: what, total: total, there: terminal(a.err), told: time.Now()}
}

// at shows that n of the total are done, and so many bytes.
func (m *meter) at(n int, bytes uint64) {
	switch {
	case m.there:
		m.shown = true
		fmt.Fprintf(m.a.err, "\r%s\x1b[K", m.bar(n, bytes)) //nolint:errcheck // a bar that cannot be shown is no reason to fail
	case time.Since(m.told) >= meterLine:
		m.told = time.Now()
		m.a.note("%d of %d %s, %s", n, m.total, m.what, output.Bytes(bytes))
	}
}

func (m *meter) bar(n int, bytes uint64) string {
	full := meterWidth * n / max(m.total, 1)
	return fmt.Sprintf("[%s%s] %3d %%  %d of %d %s, %s",
		strings.Repeat("#", full), strings.Repeat("-", meterWidth-full), 100*n/max(m.total, 1), n, m.total, m.what, output.Bytes(bytes))
}

// done takes the bar away.
func (m *meter) done() {
	if m.shown {
		fmt.Fprint(m.a.err, "\r\x1b[K") //nolint:errcheck // as above
	}
}
