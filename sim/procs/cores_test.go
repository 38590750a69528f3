package procs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

// newCores is a core of three nodes.
func newCores(t *testing.T) *rig {
	t.Helper()
	r := prepareRig(t, time.Second)
	r.startCores(3)
	return r
}

// leader is the node that itself says that it leads.
func (r *rig) leader() *CoreNode {
	r.t.Helper()
	var leader *CoreNode
	r.must(r.Eventually(r.ctx, 30*time.Second, func() error {
		var said []string
		for _, c := range r.cores {
			var st v1.Cluster
			if err := r.api.get(r.ctx, c, "/v1/cluster", &st); err != nil {
				continue
			}
			if st.Leader == c.Name {
				leader = c
				return nil
			}
			said = append(said, fmt.Sprintf("%s says %q", c.Name, st.Leader))
		}
		return fmt.Errorf("no node says that it leads: %s", strings.Join(said, ", "))
	}))
	return leader
}

// number is the node's number, from 1.
func (r *rig) number(c *CoreNode) int { return slices.Index(r.cores, c) + 1 }

// others are the nodes but c.
func (r *rig) others(c *CoreNode) []*CoreNode {
	return slices.DeleteFunc(slices.Clone(r.cores), func(o *CoreNode) bool { return o == c })
}

// leads makes a node the leader.
func (r *rig) leads(c *CoreNode) {
	r.t.Helper()
	r.must(r.Eventually(r.ctx, 30*time.Second, func() error {
		if r.leader() == c {
			return nil
		}
		_, err := r.CLI(r.ctx, "cluster", "transfer-leadership", "--to", c.Name)
		return errors.Join(fmt.Errorf("%s does not lead yet", c.Name), err)
	}))
}

// follows makes sure that a node does not lead.
func (r *rig) follows(c *CoreNode) {
	r.t.Helper()
	if r.leader() == c {
		r.leads(r.others(c)[0])
	}
}

// launch starts a node and waits for nothing.
func (r *rig) launch(c *CoreNode) *Proc {
	r.t.Helper()
	_, err := r.LaunchCoreNode(r.number(c))
	r.must(err)
	return c.Proc
}

// caughtUp waits until the leader shows a node as a voter that has applied everything that the leader had when it was asked
// first, and lacks no history, and until the node serves.
func (r *rig) caughtUp(c *CoreNode) {
	r.t.Helper()
	var goal uint64
	r.must(r.Eventually(r.ctx, 60*time.Second, func() error {
		select {
		case <-c.Proc.Done():
			r.t.Fatalf("%s ended: %s", c.Name, c.Proc.Tail())
		default:
		}
		var st v1.Cluster
		if err := r.api.get(r.ctx, r.leader(), "/v1/cluster", &st); err != nil {
			return err
		}
		if goal == 0 {
			goal = st.Index
		}
		i := slices.IndexFunc(st.Nodes, func(n v1.Node) bool { return n.Name == c.Name })
		if i < 0 {
			return fmt.Errorf("%s is no node of the core", c.Name)
		}
		n, index := st.Nodes[i], uint64(0)
		if n.Index != nil {
			index = *n.Index
		}
		if !n.Voter || !n.Member || n.CatchingUp || index < goal {
			return fmt.Errorf("%s is at %d of %d: member %v, voter %v, fetches history %v", c.Name, index, goal, n.Member, n.Voter, n.CatchingUp)
		}
		return get(r.ctx, r.api.client, "https://"+c.API+"/readyz")
	}))
}

// restart starts a node and waits until it is whole.
func (r *rig) restart(c *CoreNode) {
	r.t.Helper()
	r.launch(c)
	r.caughtUp(c)
}

// ends waits until a node has ended with exit code 1, having said all of what is given.
func (r *rig) ends(c *CoreNode, within time.Duration, says ...string) {
	r.t.Helper()
	code, err := c.Proc.Exit(within)
	if err != nil {
		r.t.Fatalf("%v: %s", err, c.Proc.Tail())
	}
	out := c.Proc.Output()
	if code != 1 {
		r.t.Errorf("%s ended with code %d, want 1: %s", c.Name, code, c.Proc.Tail())
	}
	for _, s := range says {
		if !strings.Contains(out, s) {
			r.t.Errorf("%s does not say %q: %s", c.Name, s, c.Proc.Tail())
		}
	}
	if strings.Contains(out, "goroutine ") {
		r.t.Errorf("%s panicked: %s", c.Name, c.Proc.Tail())
	}
}

// device enrolls a device and starts its agent.
func (r *rig) addAgent(name, token string, args ...string) (id string, p *Proc) {
	r.t.Helper()
	r.must(r.Eventually(r.ctx, 15*time.Second, func() (err error) { // the gateway may still be on its way to the core
		id, err = r.EnrollAgent(r.ctx, name, r.listen, token, args...)
		return err
	}))
	p, err := r.StartAgent(name)
	r.must(err)
	return id, p
}

// addAgents is addAgent for n devices, which are online when it returns.
func (r *rig) addAgents(n int) (ids []string, agents []*Proc) {
	r.t.Helper()
	token, err := r.Token(r.ctx, "device", "device", site, n)
	r.must(err)
	for i := range n {
		id, a := r.addAgent(fmt.Sprintf("agent-%d", i+1), token)
		ids, agents = append(ids, id), append(agents, a)
	}
	for _, id := range ids {
		r.until(20*time.Second, id, "online", "")
	}
	return ids, agents
}

// A watch looks at devices that live, through every node that answers.
type watch struct {
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu   sync.Mutex
	seen map[string]int // guarded by mu: answers, by node
	bad  []string       // guarded by mu: what was shown and is not true
}

// watch begins to look. Every second look wants nothing but what the node itself knows, which it shows without a leader too.
func (r *rig) watch(ids []string) *watch {
	ctx, cancel := context.WithCancel(r.ctx)
	w := &watch{stop: cancel, seen: make(map[string]int)}
	r.t.Cleanup(w.end)
	for _, node := range r.cores {
		w.wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				w.look(ctx, r, node, ids, []string{"local", "linearizable"}[i%2])
				pause(ctx, loadSettle)
			}
		})
	}
	return w
}

func (w *watch) end() {
	w.stop()
	w.wg.Wait()
}

func (w *watch) look(ctx context.Context, r *rig, node *CoreNode, ids []string, consistency string) {
	var l v1.List[v1.Device]
	if r.api.get(ctx, node, "/v1/devices?limit=1000&consistency="+consistency, &l) != nil {
		return // it is dead, or starting, or knows no leader
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen[node.Name]++
	for _, id := range ids {
		i := slices.IndexFunc(l.Items, func(d v1.Device) bool { return d.ID == id })
		switch {
		case i < 0:
			w.bad = append(w.bad, fmt.Sprintf("%s (%s) does not show device %s", node.Name, consistency, id))
		case l.Items[i].Presence != "online":
			w.bad = append(w.bad, fmt.Sprintf("%s %s (%s) shows device %s as %s/%s", time.Now().Format("15:04:05.000"), node.Name, consistency, id, l.Items[i].Presence, l.Items[i].PresenceReason))
		}
	}
}

// check ends the watch and fails the test for everything that was shown and is not true.
func (w *watch) check(t *testing.T) {
	t.Helper()
	w.end()
	w.mu.Lock()
	defer w.mu.Unlock()
	t.Logf("lists of devices looked at, by node: %v", w.seen)
	if len(w.seen) < 3 {
		t.Errorf("not every node was looked at: %v", w.seen)
	}
	if len(w.bad) > 0 {
		t.Errorf("%d times a node showed what is not true, such as: %s", len(w.bad), strings.Join(w.bad[:min(5, len(w.bad))], "; "))
	}
}

// TestLeaderIsKilled kills the leader twenty times under load. Not parallel: it measures times.
func TestLeaderIsKilled(t *testing.T) {
	const rounds = 20
	r := newCores(t)
	r.interval(time.Second)
	r.addGateway()
	ids, _ := r.addAgents(3)
	// A fourth device registers something new in every round.
	token, err := r.Token(r.ctx, "registers", "device", site, 1)
	r.must(err)
	registers, agent := r.addAgent("agent-r", token, "--tag", "round=0")
	r.registrations(registers, 1)
	l, w := r.load(), r.watch(ids)
	var gaps, back []time.Duration
	for i := range rounds {
		leader := r.leader()
		killed := time.Now()
		leader.Proc.Kill()
		agent.Kill()
		agent, err = r.StartAgent("agent-r", "--tag", fmt.Sprintf("round=%d", i+1))
		r.must(err)
		gap, err := l.next(r, killed, leader.Name, 20*time.Second)
		r.must(err)
		gaps = append(gaps, gap)
		restarted := time.Now()
		r.restart(leader)
		back = append(back, time.Since(restarted))
		// The outbox keeps what has no receipt, and the next start must not come before the registration was stated.
		r.registered(registers, i+2)
	}
	l.end()
	w.check(t)
	keys := l.acknowledged()
	t.Logf("%d writes acknowledged; attempts that failed: %s", len(keys), l.refusals())
	t.Logf("from the kill to the first write at another node: %s", spread(gaps))
	t.Logf("from the restart to a voter that has caught up: %s", spread(back))
	if m := median(gaps); m > 3*time.Second {
		t.Errorf("the median of the gaps is %v, want at most 3 s", m)
	}
	if m := slices.Max(gaps); m > 8*time.Second {
		t.Errorf("the longest gap is %v, want at most 8 s", m)
	}
	r.whole(keys, r.cores...)
	r.sameHistory(registers, rounds+1)
}

// registered waits until a device has made n registrations.
func (r *rig) registered(id string, n int) {
	r.t.Helper()
	r.must(r.Eventually(r.ctx, 60*time.Second, func() error {
		items, err := all[v1.HistoryItem](r.ctx, r.api, r.leader(), "/v1/devices/"+id+"/history")
		if err == nil && len(items) != n {
			err = fmt.Errorf("%d registrations, want %d", len(items), n)
		}
		return err
	}))
}

// sameHistory checks that every node shows the same history of a device, of n registrations in order.
func (r *rig) sameHistory(id string, n int) {
	r.t.Helper()
	var first []v1.HistoryItem
	for i, c := range r.cores {
		items, err := all[v1.HistoryItem](r.ctx, r.api, c, "/v1/devices/"+id+"/history")
		r.must(err)
		if i == 0 {
			first = items
		}
		if len(items) != n || fmt.Sprint(items) != fmt.Sprint(first) {
			r.t.Errorf("%s shows %d registrations, want %d, as %s does: %v", c.Name, len(items), n, r.cores[0].Name, items)
		}
		for k, item := range items {
			if item.Seq != uint64(k+1) {
				r.t.Errorf("%s: registration %d has the number %d", c.Name, k+1, item.Seq)
			}
		}
	}
}

// TestLeaderIsStopped ends the leader under load in the orderly way, three times. Not parallel: it measures times.
func TestLeaderIsStopped(t *testing.T) {
	r := newCores(t)
	l := r.load()
	var gaps, ends []time.Duration
	for range 3 {
		leader := r.leader()
		_, err := l.next(r, time.Now(), "", 10*time.Second) // the load reaches the core
		r.must(err)
		asked := time.Now()
		if err := leader.Proc.Stop(); err != nil {
			t.Errorf("%s: %v: %s", leader.Name, err, leader.Proc.Tail())
		}
		ends = append(ends, time.Since(asked))
		gap, err := l.next(r, asked, leader.Name, 10*time.Second)
		r.must(err)
		gaps = append(gaps, gap)
		r.restart(leader)
	}
	l.end()
	keys := l.acknowledged()
	t.Logf("%d writes acknowledged; attempts that failed: %s", len(keys), l.refusals())
	t.Logf("from SIGTERM to the first write at another node: %s", spread(gaps))
	t.Logf("from SIGTERM to the end of the process: %s", spread(ends))
	// Without a handover it would take an election's timeout, 1 to 2 s, before anybody even stands.
	if m := slices.Max(gaps); m > 2*time.Second {
		t.Errorf("the longest gap is %v, want at most 2 s", m)
	}
	r.whole(keys, r.cores...)
}

// TestRemovedNodeEnds removes a follower and then the leader while they run. Each ends by itself and says why, now and when it
// is started again, and its certificate opens the cluster port no more.
func TestRemovedNodeEnds(t *testing.T) {
	t.Parallel()
	r := newCores(t)
	first := r.leader()
	out := r.others(first)[0]
	if got := r.knock(out, first); got != welcome {
		t.Fatalf("before the removal %s is answered with %d on the cluster port, want %d: the check proves nothing", out.Name, got, welcome)
	}
	for _, c := range []*CoreNode{out, first} {
		left := r.others(c)[0]
		if c == first {
			left = r.others(c)[slices.IndexFunc(r.others(c), func(o *CoreNode) bool { return o != out })]
		}
		began := time.Now()
		_, err := r.CLI(r.ctx, "cluster", "remove", c.Name)
		r.must(err)
		r.ends(c, 20*time.Second, "removed from the cluster", "empty its data directory")
		t.Logf("%s ended %.1f s after it was removed", c.Name, time.Since(began).Seconds())
		if got := r.knock(c, left); got == welcome {
			t.Errorf("%s is let in on the cluster port of %s although it was removed", c.Name, left.Name)
		}
		r.launch(c)
		r.ends(c, 30*time.Second, "removed", "join it again")
	}
	left := r.others(first)[slices.IndexFunc(r.others(first), func(o *CoreNode) bool { return o != out })]
	r.must(r.Eventually(r.ctx, 20*time.Second, func() error { return r.api.makeToken(r.ctx, left, newKey()) }))
	r.must(left.Proc.Stop())
}

// What the cluster port answers to whoever introduced itself, and no answer.
const (
	welcome = 0
	silence = -1
)

// knock dials the cluster port of one node with the certificate of another, asks for raft's protocol and returns the
// greeting.
func (r *rig) knock(as, at *CoreNode) int {
	r.t.Helper()
	cert, err := tls.LoadX509KeyPair(r.Path(as.Name, "node.crt"), r.Path(as.Name, "node.key"))
	r.must(err)
	ctx, cancel := context.WithTimeout(r.ctx, 10*time.Second)
	defer cancel()
	plain, err := new(net.Dialer).DialContext(ctx, "tcp", at.Cluster)
	r.must(err)
	defer plain.Close()
	conn := tls.Client(plain, &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, NextProtos: []string{"holdfast-cluster/1"},
		InsecureSkipVerify:    true, // its name is a URI; the chain is checked by verifyRoot
		VerifyPeerCertificate: r.verifyRoot,
	})
	r.must(conn.HandshakeContext(ctx))
	if deadline, ok := ctx.Deadline(); ok {
		r.must(conn.SetDeadline(deadline))
	}
	_, err = conn.Write([]byte{1})
	r.must(err)
	var greeting [1]byte
	if _, err := io.ReadFull(conn, greeting[:]); err != nil {
		return silence
	}
	return int(greeting[0])
}

// verifyRoot checks that a chain ends in the fleet's root.
func (r *rig) verifyRoot(raw [][]byte, _ [][]*x509.Certificate) error {
	b, err := os.ReadFile(r.Path(caFile))
	if err != nil {
		return err
	}
	block, _ := pem.Decode(b)
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	opts.Roots.AddCert(root)
	certs := make([]*x509.Certificate, len(raw))
	for i := range raw {
		if certs[i], err = x509.ParseCertificate(raw[i]); err != nil {
			return err
		}
		opts.Intermediates.AddCert(certs[i])
	}
	_, err = certs[0].Verify(opts)
	return err
}

// refuses sends a write to a node and returns its refusal. That must come in time, and say that nothing was done.
func (r *rig) refuses(c *CoreNode) *answered {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.ctx, 15*time.Second) // the API's own limit for a request is 10 s
	defer cancel()
	err := r.api.call(ctx, c, "POST /v1/tokens", newKey(), v1.CreateToken{Kind: "device", Site: site}, nil)
	var a *answered
	if !errors.As(err, &a) {
		r.t.Fatalf("%s: %v, want a refusal", c.Name, err)
	}
	return a
}
