package procs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const agentKills = 30 // points of a story in a run, unless HOLDFAST_KILLS says otherwise

// agentVictims are so many agents that are killed at the same time.
const agentVictims = 4

// TestAgentKilledAtSystemCalls kills agents before system calls that change something, while they update from a good version to another
// one, and while they try one that is bad and go back. What current points to is whole at every moment, and the device ends as it
// has to, once in the history. HOLDFAST_KILLS says how many points of each story are tried; all: every one.
func TestAgentKilledAtSystemCalls(t *testing.T) {
	t.Parallel()
	needStrace(t)
	r := prepareRig(t, time.Second)
	r.startCores(1)
	pub, err := r.NewPublisher(r.ctx, "rig")
	r.must(err)
	e := r.publishEditions(pub)
	var holders []*holder
	for i := range agentVictims {
		holders = append(holders, r.newHolder(fmt.Sprintf("agent-%d", i+1), e))
	}
	for _, pl := range []plot{{"update", update}, {"rollback", rollback}} {
		r.kills(holders, pl)
	}
	orders := 0
	for _, h := range holders {
		r.must(h.told(h.endings...))
		orders += len(h.endings)
	}
	t.Logf("%d orders, each ended once in the history and as it had to", orders)
	r.must(holders[0].blind())
}

// kills kills holders all through a plot.
func (r *rig) kills(holders []*holder, pl plot) {
	r.t.Helper()
	began := time.Now()
	trace := r.Path("calls-" + pl.name)
	_, err := holders[0].live(pl, "-o", trace)
	r.must(err)
	r.must(holders[0].patched())
	exist, err := points(trace)
	r.must(err)
	todo := sample(r.t, exist, agentKills)
	killed, err := killEach(holders, todo, func(h *holder, at point) (bool, error) {
		hit, err := h.live(pl, at.kill()...)
		if err != nil {
			err = fmt.Errorf("%s, killed at %v during %s: %w", h.name, at, pl.name, err)
		}
		return hit, err
	})
	r.must(err)
	r.t.Logf("%s: %d points exist, %d were tried and %d came to be reached, in %.1f s", pl.name, len(exist), len(todo), killed, time.Since(began).Seconds())
	enough(r.t, killed, len(todo))
}

// blind is the control: the checkers must find what a bad agent would leave behind.
func (h *holder) blind() error {
	if _, err := h.editions.runs(h.slot()); err != nil {
		return err
	}
	file, link := filepath.Join(h.slot(), "current", "data", "random"), filepath.Join(h.slot(), "current")
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	target, err := os.Readlink(link)
	if err != nil {
		return err
	}
	other := h.editions.bad.source
	for _, c := range []struct {
		what     string
		do, undo func() error
	}{
		{"a file that was cut", func() error { return os.Truncate(file, 1000) }, func() error { return os.WriteFile(file, content, 0o644) }},
		{
			"a file of another version", func() error { return swap(file, filepath.Join(other, "data", "random")) },
			func() error { return os.WriteFile(file, content, 0o644) },
		},
		{"a file too much", func() error { return os.WriteFile(file+".tmp", nil, 0o600) }, func() error { return os.Remove(file + ".tmp") }},
		{"a mode", func() error { return os.Chmod(file, 0o600) }, func() error { return os.Chmod(file, 0o644) }},
		{"a current that points nowhere", func() error { return relink(link, "releases/"+strings.Repeat("0", 64)) }, func() error { return relink(link, target) }},
		{"no current", func() error { return os.Remove(link) }, func() error { return os.Symlink(target, link) }},
	} {
		if err := c.do(); err != nil {
			return err
		}
		if x, err := h.editions.runs(h.slot()); err == nil {
			return fmt.Errorf("control: %s, and %s is found whole: the test proves nothing", c.what, x.name)
		}
		if err := c.undo(); err != nil {
			return err
		}
	}
	if _, err := h.editions.runs(h.slot()); err != nil {
		return fmt.Errorf("control: %w", err)
	}
	return h.deaf()
}

// deaf is the control of what is held against the history.
func (h *holder) deaf() error {
	items, err := allHistory(h.rig, h.id)
	if err != nil {
		return err
	}
	last := h.endings[len(h.endings)-1]
	wrong := last
	wrong.state = "healthy"
	for what, missed := range map[string]bool{
		"an end that came twice":    last.once(append(items, items...)) == nil,
		"an end that never came":    last.once(nil) == nil,
		"an end that is another":    wrong.once(items) == nil,
		"an end as it has to be":    last.once(items) != nil,
		"an order that nobody gave": (&ending{order: last.order + 1, of: last.of, state: last.state, running: last.running}).once(items) == nil,
	} {
		if missed {
			return fmt.Errorf("control: %s is not seen: the test proves nothing", what)
		}
	}
	return nil
}

func swap(file, by string) error {
	b, err := os.ReadFile(by)
	if err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o644)
}

func relink(link, target string) error {
	return errors.Join(os.Remove(link), os.Symlink(target, link))
}
