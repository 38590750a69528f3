package procs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/enroll"
	"github.com/holdfast-edge/holdfast/internal/durable"
	"github.com/holdfast-edge/holdfast/wire"
)

// TestQuorumLost loses two of three nodes for good, and goes on with the third.
func TestQuorumLost(t *testing.T) {
	t.Parallel()
	r := newCores(t)
	r.interval(time.Second)
	r.addGateway()
	ids, agents := r.addAgents(2)
	for i := range agents { // the gateway and its devices have what they were told before the loss
		r.must(r.Eventually(r.ctx, 20*time.Second, func() error { return r.receiptOf(fmt.Sprintf("agent-%d", i+1), 1) }))
	}
	l := r.load()
	_, err := l.next(r, time.Now(), "", 10*time.Second)
	r.must(err)
	l.end()
	keys := l.acknowledged()
	r.whole(keys, r.cores...) // a survivor that had not heard of some of them would rightly lack them
	survivor := r.cores[1]
	for _, c := range r.others(survivor) {
		c.Proc.Kill()
		r.must(os.RemoveAll(r.Path(c.Name)))
	}
	r.stopsDeciding(survivor)
	r.must(survivor.Proc.Stop())
	r.wrongKey(survivor)
	survivor.API, err = FreeAddr() // it may get new addresses on the way
	r.must(err)
	out, err := r.Run(r.ctx, "holdfast-core", "recover", "--data-dir", r.Path(survivor.Name), "--recovery-key", r.Path(recoveryFile),
		"--api", survivor.API)
	r.must(err)
	if s := string(out); !strings.Contains(s, "core-1, core-3") || !strings.Contains(s, "holdfast cluster invite") {
		t.Errorf("recover does not say who is no member any more, and what comes next: %s", s)
	}
	began := time.Now()
	r.launch(survivor)
	r.must(r.Ready(r.ctx, r.number(survivor)))
	t.Logf("the survivor served %.1f s after its start", time.Since(began).Seconds())
	r.must(r.LoginAt(r.ctx, r.number(survivor)))
	r.must(r.Voters(r.ctx, 1))
	r.whole(keys, survivor)
	for _, id := range ids {
		r.until(30*time.Second, id, "online", "")
	}
	t.Logf("all devices were online again %.1f s after the survivor's start", time.Since(began).Seconds())
	r.recorded(survivor)
	for i, a := range agents { // a new registration brings a receipt, and with it the new cluster epoch
		name := fmt.Sprintf("agent-%d", i+1)
		r.must(a.Stop())
		_, err := r.StartAgent(name, "--tag", "after=recovery")
		r.must(err)
		r.registered(ids[i], 2)
		r.must(r.Eventually(r.ctx, 20*time.Second, func() error { return r.receiptOf(name, 2) }))
	}
	for _, c := range r.others(survivor) {
		r.invited(c)
	}
	r.must(r.Voters(r.ctx, 3))
	for _, c := range r.cores {
		r.whole(keys, c)
		r.verifies(c)
	}
	r.sameHistory(ids[0], 2)
	survivor.Proc.Kill() // the three are a core like any other
	r.must(r.Eventually(r.ctx, 15*time.Second, func() error { return r.api.makeToken(r.ctx, r.cores[0], newKey()) }))
}

// stopsDeciding checks that a node without a majority refuses writes and reads in time, and shows what it knows.
func (r *rig) stopsDeciding(c *CoreNode) {
	r.t.Helper()
	began := time.Now()
	last := time.Duration(0)
	r.must(r.Eventually(r.ctx, 30*time.Second, func() error {
		asked := time.Now()
		a := r.refuses(c)
		last = time.Since(asked)
		if a.status == 504 && a.problem.Type == v1.ProblemOutcomeUnknown { // while the old leader has not noticed
			return a
		}
		if a.status != 503 || a.problem.Type != v1.ProblemNotLeader && a.problem.Type != v1.ProblemUnavailable || !strings.Contains(a.problem.Detail, "nothing was done") {
			r.t.Fatalf("%s refuses a write with %d %+v", c.Name, a.status, a.problem)
		}
		r.t.Logf("a write is refused after %.1f s with %v", last.Seconds(), a)
		return nil
	}))
	r.t.Logf("writes were refused for certain %.1f s after the loss", time.Since(began).Seconds())
	var l v1.List[v1.Device]
	r.must(r.api.get(r.ctx, c, "/v1/devices?consistency=local", &l))
	if len(l.Items) != 2 {
		r.t.Errorf("without a majority the node shows %d devices of its own knowledge, want 2", len(l.Items))
	}
	var a *answered
	if err := r.api.get(r.ctx, c, "/v1/devices", &l); !errors.As(err, &a) || a.status != 503 {
		r.t.Errorf("a linearizable read without a majority: %v, want 503", err)
	}
}

// wrongKey has recover refused for a key of another fleet. Nothing may have changed: the node still waits for the others.
func (r *rig) wrongKey(c *CoreNode) {
	r.t.Helper()
	other, err := enroll.NewHolderKey()
	r.must(err)
	for name, key := range map[string]struct {
		text string
		code int
		says string
	}{
		"wrong.key":   {other.Reveal(), 1, "key does not open"},
		"damaged.key": {"hfk1_AAAA\n", 2, "damaged.key"},
	} {
		r.must(os.WriteFile(r.Path(name), []byte(key.text), 0o600))
		_, err := r.Run(r.ctx, "holdfast-core", "recover", "--data-dir", r.Path(c.Name), "--recovery-key", r.Path(name))
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != key.code || !strings.Contains(err.Error(), key.says) {
			r.t.Errorf("recover with %s: %v, want exit code %d and %q", name, err, key.code, key.says)
		}
	}
	p := r.launch(c)
	r.must(r.Eventually(r.ctx, 30*time.Second, func() error { // it says so every ten seconds
		select {
		case <-p.Done():
			r.t.Fatalf("%s ended: %s", c.Name, p.Tail())
		default:
		}
		if get(r.ctx, r.api.client, "https://"+c.API+"/readyz") == nil {
			r.t.Fatalf("%s goes on alone after recover was refused", c.Name)
		}
		if !strings.Contains(p.Output(), "waiting for the other core nodes") {
			return fmt.Errorf("%s does not say that it waits: %s", c.Name, p.Tail())
		}
		return nil
	}))
	r.must(p.Stop())
}

// receiptOf tells whether the newest cluster epoch of which an agent has a receipt is the one given. An agent that has no
// receipt yet knows none.
func (r *rig) receiptOf(agent string, epoch uint64) error {
	b, err := durable.OpenSlots(r.Path(agent, "state")).Load()
	if err != nil {
		return err
	}
	var saved struct {
		ClusterEpoch uint64 `cbor:"6,keyasint"` // docs/device-identity.md
	}
	if err := wire.Unmarshal(b, &saved); err != nil {
		return err
	}
	if saved.ClusterEpoch != epoch {
		return fmt.Errorf("%s knows of cluster epoch %d, want %d", agent, saved.ClusterEpoch, epoch)
	}
	return nil
}

// recorded looks for the recovery in the audit trail.
func (r *rig) recorded(c *CoreNode) {
	r.t.Helper()
	var records v1.List[v1.AuditRecord]
	r.must(r.JSON(r.ctx, &records, "audit", "tail", "-n", "200"))
	for _, a := range records.Items {
		if a.Action != "core.recover" {
			continue
		}
		if a.Actor != "recovery" || a.Target != c.Name || a.Detail["cluster_epoch"] != "2" || a.Detail["lost.0"] != "core-1" || a.Detail["lost.1"] != "core-3" {
			r.t.Errorf("the recovery is recorded as %+v", a)
		}
		return
	}
	r.t.Errorf("the recovery is not among the newest %d audit records", len(records.Items))
}

// invited makes a node as the operators' guide says: with the command that invite prints, on a machine whose ports are these.
func (r *rig) invited(c *CoreNode) {
	r.t.Helper()
	var inv struct {
		Command string `json:"command"`
	}
	file := r.Path(c.Name + ".invitation")
	r.must(r.JSON(r.ctx, &inv, "cluster", "invite", "--name", c.Name, "--host", "127.0.0.1", "--token-out", file))
	words := strings.Fields(inv.Command)
	if len(words) < 2 || words[0] != "holdfast-core" || words[1] != "join" {
		r.t.Fatalf("invite prints %q", inv.Command)
	}
	for i, w := range words[:len(words)-1] {
		for flag, value := range map[string]string{"--data-dir": r.Path(c.Name), "--api": c.API, "--uplink": c.Uplink, "--cluster": c.Cluster} {
			if w == flag {
				words[i+1] = value
			}
		}
	}
	_, err := r.Run(r.ctx, words[0], append(words[1:], "--report-period", r.ReportPeriod.String())...)
	r.must(err)
	r.restart(c)
}

// TestAddressesChange gives a node new addresses, one after the other: the API's and the uplink's, which it tells by itself,
// and the cluster port's, for which it joins anew.
func TestAddressesChange(t *testing.T) {
	t.Parallel()
	r := newCores(t)
	c := r.cores[2]
	r.follows(c)
	r.must(c.Proc.Stop())
	config := r.Path(c.Name, "core.yaml")
	b, err := os.ReadFile(config)
	r.must(err)
	text := string(b)
	for _, a := range []*string{&c.API, &c.Uplink} {
		free, err := FreeAddr()
		r.must(err)
		if !strings.Contains(text, *a) {
			t.Fatalf("%s does not name %s: %s", config, *a, text)
		}
		text = strings.ReplaceAll(text, *a, free)
		*a = free
	}
	r.must(os.WriteFile(config, []byte(text), 0o600))
	r.restart(c)
	r.must(r.Eventually(r.ctx, 20*time.Second, func() error {
		var st v1.Cluster
		if err := r.api.get(r.ctx, r.leader(), "/v1/cluster", &st); err != nil {
			return err
		}
		for _, n := range st.Nodes {
			if n.Name == c.Name && n.API == c.API && n.Uplink == c.Uplink {
				return nil
			}
		}
		return fmt.Errorf("the core does not know the new addresses %s and %s: %+v", c.API, c.Uplink, st.Nodes)
	}))
	c.Cluster, err = FreeAddr()
	r.must(err)
	r.replace(c)
	r.must(r.Voters(r.ctx, 3))
}
