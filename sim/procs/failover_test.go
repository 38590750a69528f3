package procs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/sitegw/spool"
)

const (
	failoverAgents   = 3
	failoverStarts   = 4 // of each agent: a start is a registration
	failoverBacklog  = 40
	failoverDeadline = 15 * time.Second
)

// TestGatewayFailover kills one of two gateways while it holds what devices stated during an outage of the core. The devices
// come online at the other in time, and when the first returns, its backlog reaches the core: what came by both ways is there
// once, and what lay there alone is there too.
func TestGatewayFailover(t *testing.T) {
	t.Parallel()
	r := newRig(t, time.Second, time.Second)
	listenB := r.enrollGateway("gw-b")
	token, err := r.Token(r.ctx, "device", "device", site, failoverAgents)
	r.must(err)
	r.uplinked(r.gateway)
	var ids []string
	var agents []*Proc
	for i := range failoverAgents {
		name := fmt.Sprintf("agent-%d", i)
		id, err := r.EnrollAgent(r.ctx, name, r.listen, token, "--gateway", listenB)
		r.must(err)
		a, err := r.StartAgent(name)
		r.must(err)
		ids, agents = append(ids, id), append(agents, a)
	}
	for _, id := range ids {
		r.registrations(id, 1)
	}
	b := r.newBox("box", r.listen)
	ctx, cancel := context.WithTimeout(r.ctx, boxPatience)
	defer cancel()
	s, err := b.open(ctx)
	r.must(err)
	defer s.Close()
	r.must(errors.Join(b.state(s, 1), b.settle(s)))

	r.core.Kill()
	before := r.spooled("gw-a")
	r.must(b.state(s, failoverBacklog)) // and then the box dies: what it stated is at gw-a alone
	s.Close()
	for n := 1; n < failoverStarts; n++ {
		for i := range agents {
			agents[i].Kill()
			agents[i], err = r.StartAgent(fmt.Sprintf("agent-%d", i), "--tag", fmt.Sprintf("n=%d", n))
			r.must(err)
		}
		want := before + failoverBacklog + uint64(n*failoverAgents)
		r.must(r.Eventually(r.ctx, 20*time.Second, func() error {
			if got := r.spooled("gw-a"); got < want {
				return fmt.Errorf("%d statements are in the spool, want %d", got, want)
			}
			return nil
		}))
	}
	_, err = r.StartGateway("gw-b")
	r.must(err)
	r.gateway.Kill()
	killed := time.Now()
	r.core, err = r.StartCoreNode(r.ctx, 1)
	r.must(err)
	for _, id := range ids {
		r.must(r.Eventually(r.ctx, failoverDeadline, func() error {
			if d := r.device(id); d.Presence != "online" || d.Gateway != site+"/gw-b" {
				return fmt.Errorf("device %s is %s at %s", id, d.Presence, d.Gateway)
			}
			return nil
		}))
	}
	took := time.Since(killed)
	t.Logf("all devices were online at the other gateway %.1f s after theirs was killed", took.Seconds())
	if took > failoverDeadline {
		t.Errorf("that is more than %v", failoverDeadline)
	}
	for _, id := range ids {
		r.registrations(id, failoverStarts)
	}
	if err := r.conserved(b); err == nil {
		t.Error("what only the dead gateway holds is at the core already: this proves nothing")
	}

	r.gateway, err = r.StartGateway("gw-a")
	r.must(err)
	r.must(r.Eventually(r.ctx, 15*time.Second, func() error { return r.conserved(b) }))
	r.must(r.Eventually(r.ctx, 15*time.Second, func() error {
		r.must(r.gateway.Stop()) // saves how far it came
		left := r.spooled("gw-a")
		r.gateway, err = r.StartGateway("gw-a")
		r.must(err)
		r.uplinked(r.gateway)
		if left > 0 {
			return fmt.Errorf("%d statements are still in the spool", left)
		}
		return nil
	}))
	for _, id := range append(ids, b.id) {
		if d := r.device(id); d.State != "active" {
			t.Errorf("device %s is %s: %s", id, d.State, d.StateReason)
		}
	}
	for _, id := range ids {
		items, err := all[v1.HistoryItem](r.ctx, r.api, r.cores[0], "/v1/devices/"+id+"/history")
		r.must(err)
		for i, it := range items {
			if it.Seq != uint64(i+1) || len(items) != failoverStarts {
				t.Errorf("of device %s statement %d of %d is %d/%d", id, i+1, len(items), it.Epoch, it.Seq)
			}
		}
	}
}

// spooled counts what a gateway's spool holds that the core has not answered for, in a copy of it.
func (r *rig) spooled(name string) uint64 {
	r.t.Helper()
	dir := r.t.TempDir()
	r.must(os.CopyFS(dir, os.DirFS(r.Path(name, "spool"))))
	s, err := spool.Open(spool.Config{Dir: dir})
	r.must(err)
	n := s.Status().Records
	r.must(s.Close())
	return n
}
