package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/sim/linear"
)

// A grant is a token or an operator that was made.
type grant struct {
	key    linear.Key
	path   string // of the one that was made
	list   string // path that makes them
	body   any    // that made it
	once   string // idempotency key that made it
	bearer string // of an operator
	got    linear.State
}

// A repeatable is a change of a record that was answered with success.
type repeatable struct {
	rec  record
	req  change
	got  linear.State
	path string
}

// A client asks one node after the other, and records what it is answered.
type client struct {
	*chaos
	n    int
	r    *rand.Rand
	seen map[linear.Key]uint64 // newest revision that it was shown
	last *repeatable           // newest change with an idempotency key that was answered with success

	removing string // path of the node that a fault removes; empty: of a client that is none
}

// run asks until the storm is over.
func (k *client) run() {
	for k.pause(time.Duration(k.r.Int64N(int64(thinkTime)))) {
		k.step()
	}
}

// step does one operation.
func (k *client) step() {
	recs := k.fleet.records()
	rec := recs[k.r.IntN(len(recs))]
	switch n := k.r.IntN(100); {
	case n < 28:
		k.read(rec, k.anywhere(), false)
	case n < 40:
		k.read(rec, k.anywhere(), true)
	case n < 70:
		k.write(rec)
	case n < 74:
		k.repeat()
	case n < 83:
		k.make()
	default:
		k.grant(n)
	}
}

func (k *client) anywhere() *place { return k.nodes[k.r.IntN(len(k.nodes))] }

// A change is a request that changes something.
type change struct {
	method, path string
	body         any
	once         string // idempotency key; empty: none
	ifMatch      uint64 // revision; 0: none
	bearer       string // whose request it is; empty: the administrator's
}

// ask makes one request of a node. The answer is nil when the node does not serve.
func (k *client) ask(p *place, c change, patience time.Duration) *httptest.ResponseRecorder {
	ctx, cancel := context.WithTimeout(k.ctx, patience)
	defer cancel()
	r := k.request(ctx, c.method, c.path, c.body)
	// An address of its own, because each may only try a few tokens that its node does not know.
	r.RemoteAddr = fmt.Sprintf("10.9.%d.%d:1024", k.n, k.r.IntN(256))
	if c.once != "" {
		r.Header.Set("Idempotency-Key", c.once)
	}
	if c.ifMatch != 0 {
		r.Header.Set("If-Match", fmt.Sprintf(`"r%d"`, c.ifMatch))
	}
	if c.bearer != "" {
		r.Header.Set("Authorization", "Bearer "+c.bearer)
	}
	rec, err := p.Do(r)
	if err != nil {
		return nil
	}
	return rec
}

// patience is how long a client waits for an answer: sometimes so short that it leaves in the middle.
func (k *client) patience() time.Duration {
	if k.r.IntN(5) == 0 {
		return 5*time.Millisecond + time.Duration(k.r.Int64N(int64(80*time.Millisecond)))
	}
	return time.Second + time.Duration(k.r.Int64N(int64(2*time.Second)))
}

// outcome reads what an answer says was done.
func (k *client) outcome(c change, a *httptest.ResponseRecorder) linear.Outcome {
	if a == nil {
		return linear.Refused
	}
	if a.Code < http.StatusMultipleChoices {
		return linear.Done
	}
	var p v1.Problem
	if err := json.Unmarshal(a.Body.Bytes(), &p); err != nil {
		k.t.Errorf("%s %s: %d without a problem: %v", c.method, c.path, a.Code, err)
	}
	switch p.Type {
	case v1.ProblemNotLeader, v1.ProblemUnavailable, v1.ProblemConflict:
		return linear.Refused
	case v1.ProblemOutcomeUnknown:
		return linear.Unknown
	case v1.ProblemNotFound:
		return linear.Missing
	case v1.ProblemPrecondition:
		return linear.Changed
	case v1.ProblemUnauthorized:
		return linear.Denied
	case v1.ProblemReused:
		return linear.Reused
	case v1.ProblemInvalid:
		if c.path == k.removing { // the other two did not both answer
			return linear.Refused
		}
	}
	k.t.Errorf("%s %s: %d %s: %s", c.method, c.path, a.Code, p.Type, p.Detail)
	return linear.Unknown
}

// read reads a record.
func (k *client) read(rec record, p *place, local bool) {
	c := change{method: http.MethodGet, path: rec.path}
	if local {
		c.path += "?consistency=local"
	}
	run := p.runs.Load()
	op := linear.Op{Client: k.n, Key: rec.key, Act: linear.Read, Local: local, Node: fmt.Sprintf("%s run %d", p.Name, run), Start: k.hist.Begin()}
	a := k.ask(p, c, k.patience())
	if op.Outcome = k.outcome(c, a); op.Outcome != linear.Done || local && p.runs.Load() != run {
		return // it says nothing, or nobody knows which process answered
	}
	k.got(&op, rec, a)
	k.hist.Add(op)
}

// got notes the record that an answer shows.
func (k *client) got(op *linear.Op, rec record, a *httptest.ResponseRecorder) {
	var err error
	if op.Got, err = rec.show(a); err != nil {
		k.t.Errorf("%s: %v", rec.path, err)
	}
	if !op.Local {
		k.seen[rec.key] = op.Got.Revision
	}
}

// write changes a field of a record.
func (k *client) write(rec record) {
	v := k.values.Add(1)
	op := linear.Op{Client: k.n, Key: rec.key, Act: linear.Write, Field: k.r.IntN(rec.fields)}
	c := change{path: rec.path}
	switch {
	case op.Field > 0:
		tag := []string{"", "a", "b"}[op.Field]
		op.Value, op.Detail = fmt.Sprintf("v%d", v), "set."+tag
		c.method, c.path, c.body = http.MethodPatch, rec.path+"/tags", v1.SetTags{Set: map[string]string{tag: op.Value}}
	default:
		op.Value, op.Detail = fmt.Sprint(1000+v), "heartbeat_interval_ms"
		c.method, c.body = http.MethodPatch, map[string]string{"heartbeat_interval": op.Value + "ms"}
		if rec.fields == 1 {
			c.method = http.MethodPut
		}
	}
	if k.r.IntN(3) > 0 {
		c.once = fmt.Sprintf("write-%d", v)
	}
	if k.r.IntN(3) == 0 {
		op.If = k.seen[rec.key]
		c.ifMatch = op.If
	}
	op.Start = k.hist.Begin()
	if a := k.change(&op, c, 4); op.Outcome == linear.Done {
		k.got(&op, rec, a)
		if c.once != "" {
			k.last = &repeatable{rec, c, op.Got, c.path}
		}
	}
	k.hist.Add(op)
}

// change asks for a change: with an idempotency key until the outcome is certain, but at most so many times, each at another
// node. The last answer is returned.
func (k *client) change(op *linear.Op, c change, tries int) *httptest.ResponseRecorder {
	unknown := false
	for try := range tries {
		if try > 0 {
			time.Sleep(time.Duration(k.r.Int64N(int64(500 * time.Millisecond))))
		}
		a := k.ask(k.anywhere(), c, k.patience())
		if a != nil {
			op.Requests = append(op.Requests, a.Header().Get("X-Request-Id"))
		}
		switch op.Outcome = k.outcome(c, a); op.Outcome {
		case linear.Unknown:
			unknown = true
		case linear.Refused:
		default:
			return a
		}
		if c.once == "" {
			return a
		}
	}
	if unknown {
		op.Outcome = linear.Unknown
	}
	return nil
}

// repeat sends the newest change once more.
func (k *client) repeat() {
	l := k.last
	if l == nil {
		return
	}
	op := linear.Op{Client: k.n, Key: l.rec.key, Act: linear.Repeat, First: l.got, Start: k.hist.Begin()}
	if a := k.change(&op, l.req, 1); op.Outcome == linear.Done {
		var err error
		if op.Got, err = l.rec.show(a); err != nil {
			k.t.Errorf("%s: %v", l.path, err)
		}
	}
	k.hist.Add(op)
}

// make makes a token or an operator.
func (k *client) make() {
	n := k.names.Add(1)
	g := &grant{once: fmt.Sprintf("make-%d", n)}
	if k.r.IntN(2) == 0 {
		g.key, g.list = linear.Key{Kind: linear.KindGrant, Name: fmt.Sprintf("token/%d", n)}, "/v1/tokens"
		g.body = v1.CreateToken{Kind: "device", Site: chaosSites[k.r.IntN(2)], Uses: 1, TTL: "1h"}
	} else {
		g.key, g.list = linear.Key{Kind: linear.KindGrant, Name: fmt.Sprintf("operator/%d", n)}, "/v1/operators"
		g.body = v1.CreateOperator{Name: fmt.Sprintf("operator %d", n), Role: "viewer"}
	}
	k.makeGrant(g, 4)
}

// makeGrant makes a grant, and makes it known to all clients.
func (k *client) makeGrant(g *grant, tries int) bool {
	op := linear.Op{Client: k.n, Key: g.key, Act: linear.Make, Start: k.hist.Begin()}
	a := k.change(&op, change{method: http.MethodPost, path: g.list, body: g.body, once: g.once}, tries)
	if op.Outcome == linear.Done {
		g.bearer = bearerIn(a)
		g.path = a.Header().Get("Location")
		g.got = linear.State{Made: true, Value: g.path + " " + g.bearer}
		op.Got = g.got
	}
	k.hist.Add(op)
	if op.Outcome != linear.Done {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.grants = append(k.grants, g)
	return true
}

// grant does something with a grant that is there.
func (k *client) grant(n int) {
	k.mu.Lock()
	if len(k.grants) == 0 {
		k.mu.Unlock()
		return
	}
	g := k.grants[k.r.IntN(len(k.grants))]
	k.mu.Unlock()
	operator := g.list == "/v1/operators"
	switch {
	case n < 87:
		k.look(g, k.anywhere())
	case n < 91:
		op := linear.Op{Client: k.n, Key: g.key, Act: linear.End, Start: k.hist.Begin()}
		once := ""
		if k.r.IntN(2) == 0 {
			once = fmt.Sprintf("end-%d", k.names.Add(1))
		}
		k.change(&op, change{method: http.MethodDelete, path: g.path, once: once}, 4)
		k.hist.Add(op)
	case n < 96 && operator:
		c := change{method: http.MethodGet, path: "/v1/sites/" + chaosSites[0], bearer: g.bearer}
		op := linear.Op{Client: k.n, Key: g.key, Act: linear.Use, Start: k.hist.Begin()}
		op.Outcome = k.outcome(c, k.ask(k.anywhere(), c, k.patience()))
		k.hist.Add(op)
	case n < 98:
		op := linear.Op{Client: k.n, Key: g.key, Act: linear.Repeat, First: g.got, Start: k.hist.Begin()}
		if a := k.change(&op, change{method: http.MethodPost, path: g.list, body: g.body, once: g.once}, 1); op.Outcome == linear.Done {
			op.Got = linear.State{Made: true, Value: a.Header().Get("Location") + " " + bearerIn(a)}
		}
		k.hist.Add(op)
	default:
		op := linear.Op{Client: k.n, Key: g.key, Act: linear.Reuse, Start: k.hist.Begin()}
		k.change(&op, change{method: http.MethodPut, path: "/v1/sites/" + chaosSites[0], body: v1.SetSite{HeartbeatInterval: "59m"}, once: g.once}, 1)
		k.hist.Add(op)
	}
}

// bearerIn is the secret in an answer that shows a token or an operator that was made: both call it the same.
func bearerIn(a *httptest.ResponseRecorder) string {
	var m struct {
		Token string `json:"token"`
	}
	if json.Unmarshal(a.Body.Bytes(), &m) != nil {
		return ""
	}
	return m.Token
}

// look reads a grant.
func (k *client) look(g *grant, p *place) {
	c := change{method: http.MethodGet, path: g.path}
	op := linear.Op{Client: k.n, Key: g.key, Act: linear.Read, Start: k.hist.Begin()}
	a := k.ask(p, c, k.patience())
	if op.Outcome = k.outcome(c, a); op.Outcome == linear.Done {
		var m struct {
			State string `json:"state"`
		}
		if err := json.Unmarshal(a.Body.Bytes(), &m); err != nil {
			k.t.Errorf("%s: %v", g.path, err)
		}
		op.Got = linear.State{Made: true, Ended: m.State == "revoked"}
	}
	k.hist.Add(op)
}
