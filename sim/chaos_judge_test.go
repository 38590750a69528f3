package sim

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"reflect"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/history"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/sim/linear"
)

// A sample is what a node's registry was at a log index.
type sample struct {
	hash [32]byte
	at   time.Time // log time
	node string
}

// watch looks at every node again and again: two that are at the same log index must have the same state, a process never
// goes back, and log time never does along the index.
func (c *chaos) watch(ctx context.Context) {
	newest := make(map[string]uint64)
	for ctx.Err() == nil {
		for _, p := range c.nodes {
			run := p.runs.Load()
			v, ok := p.View()
			if !ok || p.runs.Load() != run {
				continue
			}
			name := fmt.Sprintf("%s run %d", p.Name, run)
			if v.Index() < newest[name] {
				c.t.Errorf("%s went back from log index %d to %d", name, newest[name], v.Index())
			}
			newest[name] = v.Index()
			c.compare(name, v)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// compare holds a node's state against what was seen at the same log index, and its time against the neighbours'.
func (c *chaos) compare(name string, v registry.View) {
	s := sample{v.Hash(), v.Time(), name}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, ok := c.states[v.Index()]; ok && old.hash != s.hash {
		c.t.Errorf("at log index %d, %s and %s have different states", v.Index(), old.node, name)
	}
	for i, old := range c.states {
		if i < v.Index() && old.at.After(s.at) || i > v.Index() && old.at.Before(s.at) {
			c.t.Errorf("log time goes back: %v at index %d, %v at %d", s.at, v.Index(), old.at, i)
		}
	}
	c.states[v.Index()] = s
}

// A settled is what the nodes have when all is well again.
type settled struct {
	view  registry.View
	trail []v1.AuditRecord
}

// settle heals what a storm leaves, waits until all nodes serve, are members and have the same state, and reads what they
// have. It records a last read of everything at each node.
func (c *chaos) settle(on map[fault]bool) settled {
	end := time.Now().Add(calmTime)
	why := ""
	for time.Now().Before(end) {
		if why = c.unsettled(on); why == "" {
			break
		}
		time.Sleep(500 * time.Millisecond)
	}
	if why != "" {
		c.t.Errorf("%v after the end of the storm: %s", calmTime, why)
		return settled{}
	}
	k := &client{chaos: c, n: chaosClients, r: rand.New(rand.NewPCG(c.seed, 50)), seen: make(map[linear.Key]uint64)}
	before := len(c.hist.Ops())
	for _, p := range c.nodes {
		for _, rec := range c.fleet.records() {
			k.readSurely(rec, p)
		}
		for _, g := range c.grants {
			k.look(g, p)
		}
	}
	if want := before + len(c.nodes)*(len(c.fleet.records())+len(c.grants)); len(c.hist.Ops()) != want {
		c.t.Errorf("%d of %d last reads were answered", len(c.hist.Ops())-before, want-before)
	}
	s := settled{}
	s.view, _ = c.nodes[0].View()
	for _, p := range c.nodes {
		trail := c.trail(p, s.view.Index())
		if s.trail == nil {
			s.trail = trail
		}
		if !reflect.DeepEqual(trail, s.trail) {
			c.t.Errorf("the audit trails of %s and %s differ", c.nodes[0].Name, p.Name)
		}
	}
	return s
}

// readSurely reads a record at a node that serves.
func (k *client) readSurely(rec record, p *place) {
	op := linear.Op{Client: k.n, Key: rec.key, Act: linear.Read, Start: k.hist.Begin()}
	a := k.ask(p, change{method: http.MethodGet, path: rec.path}, 10*time.Second)
	if a == nil || a.Code != http.StatusOK {
		return
	}
	op.Outcome = linear.Done
	k.got(&op, rec, a)
	k.hist.Add(op)
}

// unsettled says what is not well yet; empty: all is.
func (c *chaos) unsettled(on map[fault]bool) string {
	first, _ := c.nodes[0].View()
	for _, p := range c.nodes {
		v, ok := p.View()
		if !ok {
			return p.Name + " does not serve"
		}
		if v.Index() != first.Index() || v.Hash() != first.Hash() {
			return fmt.Sprintf("%s is at log index %d with hash %x, %s at %d with %x", c.nodes[0].Name, first.Index(), first.Hash(), p.Name, v.Index(), v.Hash())
		}
		var st v1.Cluster
		if err := p.Call(c.ctx, &st, http.MethodGet, "/v1/cluster", nil); err != nil {
			return p.Name + ": " + err.Error()
		}
		for _, n := range st.Nodes {
			if !n.Voter || !n.Member || n.CatchingUp || st.Leader == "" {
				return fmt.Sprintf("%s says of the core: %+v", p.Name, st)
			}
		}
		if len(st.Nodes) != chaosNodes {
			return fmt.Sprintf("%s says of the core: %+v", p.Name, st)
		}
	}
	if on[faultWeather] {
		return c.unregistered()
	}
	return ""
}

// unregistered says what is missing of the statements of the one agent that was started.
func (c *chaos) unregistered() string {
	for _, p := range c.nodes {
		var h v1.List[v1.HistoryItem]
		if err := p.Call(c.ctx, &h, http.MethodGet, "/v1/devices/"+c.fleet.devices[0]+"/history?consistency=local", nil); err != nil {
			return p.Name + ": " + err.Error()
		}
		if len(h.Items) != 2 || h.Items[1].Seq != 2 {
			return fmt.Sprintf("%s has this of the device: %+v", p.Name, h.Items)
		}
	}
	return ""
}

// trail is the audit trail as a node has it, up to a log index.
func (c *chaos) trail(p *place, upto uint64) (out []v1.AuditRecord) {
	rec, err := p.Do(c.request(c.ctx, http.MethodGet, "/v1/audit/export?consistency=local", nil))
	if err != nil || rec.Code != http.StatusOK {
		c.t.Errorf("%s: audit trail: %v %v", p.Name, err, rec)
		return nil
	}
	lines := bufio.NewScanner(rec.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r v1.AuditRecord
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			c.t.Errorf("%s: audit trail: %v", p.Name, err)
			return nil
		}
		if r.Index <= upto {
			out = append(out, r)
		}
	}
	return out
}

// limit is how long the search for an order of one key's operations may take.
const limit = time.Minute

// judge checks what was recorded, and the history on each node's disk.
func (c *chaos) judge(end settled) verdict {
	ops := c.hist.Ops()
	if err := linear.Check(ops, c.fleet.base, limit); err != nil {
		c.t.Error(err)
	}
	if err := linear.CheckChain(end.trail, end.view.Audit()); err != nil {
		c.t.Error(err)
	}
	if len(end.trail) < c.fleet.audit {
		c.t.Fatalf("%d records on the audit trail, there were %d before", len(end.trail), c.fleet.audit)
	}
	if err := linear.CheckTrail(end.trail[c.fleet.audit:], ops, c.fleet.base); err != nil {
		c.t.Error(err)
	}
	for _, p := range c.nodes {
		if err := whole(p, end.view); err != nil {
			c.t.Errorf("history of %s: %v", p.Name, err)
		}
	}
	v := verdict{ops: len(ops), fired: c.fired}
	for i := range ops {
		if ops[i].Outcome == linear.Unknown {
			v.unknown++
		}
	}
	return v
}

// whole holds the history on a node's disk against the registry.
func whole(p *place, v registry.View) (err error) {
	h, err := history.Open(filepath.Join(p.Dir(), "history"), history.Options{})
	if err != nil {
		return err
	}
	m := v.History()
	return errors.Join(h.Verify(context.Background(), history.Mark{Count: m.Count, Head: m.Head}, v.Index()), h.Close())
}
