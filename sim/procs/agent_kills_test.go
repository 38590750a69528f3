package procs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

const (
	// installing are the system calls by which an agent changes what outlives it, and by which it says something.
	installing = changing + ",symlinkat,fchmod,fchmodat,utimensat"

	agentKills   = 30 // points of a story in a run, unless HOLDFAST_KILLS says otherwise
	agentVictims = 4  // agents that are killed at the same time

	// A gateway counts the sessions that a device opens, and has it wait after 20. A start of an agent takes about 3 of them.
	livesOfAGateway = 2

	// endsIn is how long a device has to end with an order, from wherever it is.
	endsIn = 60 * time.Second
)

// A holder is a device whose agent is killed again and again while it does what it is told. It has a site of its own.
type holder struct {
	*rig
	name, id string
	gateway  *Proc
	lives    int
	editions *editions
	now      *edition // that is healthy
	tried    bool     // the bad one has failed
	endings  []ending // of all orders
}

// A plot is what a device is told at the beginning of a life of its agent, and how that has to end.
type plot struct {
	name string
	tell func(h *holder) (ending, error)
}

// update goes from a good edition to the other one.
func update(h *holder) (ending, error) {
	to := &h.editions.good[0]
	if h.now == to {
		to = &h.editions.good[1]
	}
	e := ending{of: to, state: "healthy", running: to}
	h.now = to
	return e, h.order(&e, "PUT", "", v1.SetSlot{Artifact: to.digest, Downgrade: true})
}

// rollback goes from a good edition to the bad one, which fails. It is tried again because an operator says so, which it is told together with the
// assignment.
func rollback(h *holder) (ending, error) {
	e := ending{of: &h.editions.bad, state: "rolled_back", running: h.now}
	err := h.order(&e, "PUT", "", v1.SetSlot{Artifact: e.of.digest})
	if err == nil && h.tried {
		h.endings = h.endings[:len(h.endings)-1]
		err = h.order(&e, "POST", "/retry", nil)
	}
	h.tried = true
	return e, err
}

// order is an operator's word on the device's slot, by which an order is made.
func (h *holder) order(e *ending, method, verb string, in any) error {
	var d v1.Device
	if err := h.api.call(h.ctx, h.cores[0], method+" /v1/devices/"+h.id+"/slots/app"+verb, "", in, &d); err != nil {
		return fmt.Errorf("%s %s%s: %w", method, h.id, verb, err)
	}
	e.order = d.Desired.Version
	h.endings = append(h.endings, *e)
	return nil
}

// ended waits until the core knows how an order ended, and holds it against how it had to.
func (h *holder) ended(p *Proc, e ending) error {
	path := "/v1/devices/" + h.id
	err := h.Eventually(h.ctx, endsIn, func() error {
		select {
		case <-p.Done():
			return nil // and nobody waits for it
		default:
		}
		var d v1.Device
		if err := h.api.get(h.ctx, h.cores[0], path, &d); err != nil {
			return err
		}
		s, err := SlotOf(&d, "app")
		if err == nil && (s.Order != e.order || !final(s.State)) {
			err = fmt.Errorf("%s: order %d is not ended: of %d it is %s (%s: %s)", h.name, e.order, s.Order, s.State, s.Reason, s.Detail)
		}
		return err
	})
	if err != nil {
		return err
	}
	select {
	case <-p.Done():
		return fmt.Errorf("%s has ended", p.Name)
	default:
	}
	return h.told(e)
}

// told holds the history against how orders had to end.
func (h *holder) told(all ...ending) error {
	items, err := allHistory(h.rig, h.id)
	for i := range all {
		err = errors.Join(err, all[i].once(items))
	}
	return err
}

func allHistory(r *rig, id string) ([]v1.HistoryItem, error) {
	return all[v1.HistoryItem](r.ctx, r.api, r.cores[0], "/v1/devices/"+id+"/history")
}

// patched fails unless the device had the program of the newest edition by a patch: no chunk of it is that of another edition.
func (h *holder) patched() error {
	var d v1.Device
	if err := h.api.get(h.ctx, h.cores[0], "/v1/devices/"+h.id, &d); err != nil {
		return err
	}
	s, err := SlotOf(&d, "app")
	if err == nil && (s.FetchedBytes == 0 || s.FetchedBytes >= appProgram) {
		err = fmt.Errorf("%d bytes were fetched, which cannot be a patch and chunks", s.FetchedBytes)
	}
	return err
}

func (h *holder) slot() string { return h.Path(h.name, "slots", "app") }

// runs fails unless an edition runs, whole: one of those that the ending leads to, or with done the one that it ends on.
func (h *holder) runs(e ending, before *edition, done bool) error {
	x, err := h.editions.runs(h.slot())
	switch {
	case err != nil:
		return err
	case x == e.running, !done && (x == before || x == e.of):
		return nil
	}
	return fmt.Errorf("%s runs, before it was %s, order %d is for %s and ends on %s; done: %v", x.name, before.name, e.order, e.of.name, e.running.name, done)
}

// begin tells the device what a plot begins with.
func (h *holder) begin(pl plot) (ending, error) {
	if h.lives++; h.lives%livesOfAGateway == 0 {
		if err := h.serve(); err != nil {
			return ending{}, err
		}
	}
	return pl.tell(h)
}

// live has the agent go through a plot under strace.
func (h *holder) live(pl plot, args ...string) (killed bool, err error) {
	before := h.now
	e, err := h.begin(pl)
	if err != nil {
		return false, err
	}
	args = append([]string{"-b", "execve", "-e", "trace=" + installing}, args...) // what checks run is no part of the agent
	killed, err = h.traced(h.name, append(args, filepath.Join(h.Bin, "holdfast-agent"), "run", "--state-dir", h.Path(h.name)), func(p *Proc) error {
		return h.ended(p, e)
	})
	if err != nil {
		return killed, err
	}
	if err := h.runs(e, before, !killed); err != nil || !killed {
		return killed, err
	}
	return killed, h.goOn(e)
}

// goOn starts the agent again, as it is shipped, and waits for the end.
func (h *holder) goOn(e ending) error {
	p, err := h.StartAgent(h.name)
	if err != nil {
		return err
	}
	defer p.Kill()
	if err := h.ended(p, e); err != nil {
		return fmt.Errorf("%w: %s", err, p.Tail())
	}
	return h.runs(e, e.running, true)
}

// serve starts the device's gateway, anew if it runs.
func (h *holder) serve() (err error) {
	if h.gateway != nil {
		h.gateway.Kill()
	}
	if h.gateway, err = h.StartGateway("gw-" + h.name); err != nil {
		return err
	}
	return h.linked(h.gateway)
}

// newHolder enrolls a device at a gateway of its own and brings the first edition there.
func (r *rig) newHolder(name string, e *editions) *holder {
	r.t.Helper()
	h := &holder{rig: r, name: name, editions: e}
	listen := r.enrollGatewayAt("of-"+name, "gw-"+name)
	r.must(h.serve())
	token, err := r.Token(r.ctx, name, "device", "of-"+name, 1)
	r.must(err)
	h.id, err = r.EnrollAgent(r.ctx, name, listen, token)
	r.must(err)
	first, err := update(h)
	r.must(err)
	r.must(h.goOn(first))
	return h
}

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
