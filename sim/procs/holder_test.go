package procs

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

const (
	// installing are the system calls by which an agent changes what outlives it, and by which it says something.
	installing = changing + ",symlinkat,fchmod,fchmodat,utimensat"

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
