package procs

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

// A caller speaks to single core nodes: the operator's command would go to whichever works.
type caller struct {
	client *http.Client
	bearer string
}

func (f *Fleet) caller() (*caller, error) {
	client, err := f.client()
	if err != nil {
		return nil, err
	}
	client.Timeout = 0 // every call has its own
	token, err := os.ReadFile(f.Path(adminFile))
	if err != nil {
		return nil, err
	}
	return &caller{client: client, bearer: strings.TrimSpace(string(token))}, nil
}

// answered is the error of a call that was answered with anything but success.
type answered struct {
	status  int
	problem v1.Problem
}

func (a *answered) Error() string { return fmt.Sprintf("%d %s", a.status, a.problem.Detail) }

// call sends in (nil: nothing) to a node and decodes the answer into out (nil: it is dropped). route is a method and a path; key
// is an idempotency key or empty.
func (c *caller) call(ctx context.Context, node *CoreNode, route, key string, in, out any) error {
	method, path, _ := strings.Cut(route, " ")
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+node.API+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+c.bearer)
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		a := &answered{status: resp.StatusCode}
		if err := json.NewDecoder(resp.Body).Decode(&a.problem); err != nil {
			return errors.Join(a, err)
		}
		return a
	}
	if out == nil {
		_, err := io.Copy(io.Discard, resp.Body)
		return err
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

// get is call for a read, with a deadline of its own.
func (c *caller) get(ctx context.Context, node *CoreNode, path string, out any) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second) // the API's own limit is 10 s
	defer cancel()
	return c.call(ctx, node, "GET "+path, "", nil, out)
}

// all reads a whole list from a node.
func all[T any](ctx context.Context, c *caller, node *CoreNode, path string) ([]T, error) {
	var out []T
	cursor := ""
	for {
		var l v1.List[T]
		if err := c.get(ctx, node, path+"?limit=1000&cursor="+url.QueryEscape(cursor), &l); err != nil {
			return nil, fmt.Errorf("%s of %s: %w", path, node.Name, err)
		}
		out = append(out, l.Items...)
		if cursor = l.NextCursor; cursor == "" {
			return out, nil
		}
	}
}

// A win is a write that was acknowledged.
type win struct {
	key          string
	node         string // that acknowledged it
	begun, ended time.Time
}

// A load makes enrollment tokens through all nodes at once, each under an idempotency key that is the token's comment too, so
// that what is there in the end can be held against what was acknowledged. A request that does not succeed is repeated under
// its key at the next node until it does.
type load struct {
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu    sync.Mutex
	wins  []win          // guarded by mu
	fails map[string]int // guarded by mu: attempts without success, by why
}

const (
	loadWorkers = 2                      // a node
	loadPause   = 60 * time.Millisecond  // of each worker between its writes: the API takes 200 requests a second of one operator
	loadAttempt = 3 * time.Second        // patience of one attempt: longer than an election takes
	loadRetry   = 20 * time.Millisecond  // before the next attempt
	loadSettle  = 100 * time.Millisecond // how often await looks
)

// load begins to write.
func (r *rig) load() *load {
	ctx, cancel := context.WithCancel(r.ctx)
	l := &load{stop: cancel, fails: make(map[string]int)}
	r.t.Cleanup(l.end)
	for i := range loadWorkers * len(r.cores) {
		l.wg.Go(func() { l.work(ctx, r, i) })
	}
	return l
}

// end stops the load and waits until nothing of it is on its way.
func (l *load) end() {
	l.stop()
	l.wg.Wait()
}

func (l *load) work(ctx context.Context, r *rig, i int) {
	for ctx.Err() == nil {
		key := newKey()
		for attempt := i; ctx.Err() == nil; attempt++ {
			node := r.cores[attempt%len(r.cores)]
			begun := time.Now()
			err := r.api.makeToken(ctx, node, key)
			if err == nil {
				l.won(win{key: key, node: node.Name, begun: begun, ended: time.Now()})
				break
			}
			if ctx.Err() == nil {
				l.failed(err)
			}
			pause(ctx, loadRetry)
		}
		pause(ctx, loadPause)
	}
}

// makeToken makes a token whose comment is key.
func (c *caller) makeToken(ctx context.Context, node *CoreNode, key string) error {
	ctx, cancel := context.WithTimeout(ctx, loadAttempt)
	defer cancel()
	var t v1.NewToken
	if err := c.call(ctx, node, "POST /v1/tokens", key, v1.CreateToken{Kind: "device", Site: site, Comment: key}, &t); err != nil {
		return err
	}
	if t.ID == "" {
		return errors.New("a success without a token")
	}
	return nil
}

func newKey() string {
	var b [8]byte
	rand.Read(b[:])
	return "load-" + hex.EncodeToString(b[:])
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func (l *load) won(w win) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wins = append(l.wins, w)
}

func (l *load) failed(err error) {
	why := "no answer"
	if a, ok := errors.AsType[*answered](err); ok {
		why = fmt.Sprintf("%d %s", a.status, a.problem.Type)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fails[why]++
}

// acknowledged are the keys of all writes that were acknowledged so far.
func (l *load) acknowledged() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	keys := make([]string, len(l.wins))
	for i, w := range l.wins {
		keys[i] = w.key
	}
	return keys
}

// refusals says how often attempts did not succeed, and why.
func (l *load) refusals() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprint(l.fails)
}

// next waits at most d for the first success of a write that began after the given time at another node than the one named,
// and returns how long after that time it came.
func (l *load) next(r *rig, after time.Time, not string, d time.Duration) (took time.Duration, err error) {
	return took, r.Eventually(r.ctx, d, func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		took = 0
		for _, w := range l.wins {
			if t := w.ended.Sub(after); w.begun.After(after) && w.node != not && (took == 0 || t < took) {
				took = t
			}
		}
		if took == 0 {
			return fmt.Errorf("no write succeeded at a node other than %s; attempts that failed: %v", not, l.fails)
		}
		return nil
	})
}

// missing are the keys that were acknowledged and are not among those found: what was lost. It is the one checker of all
// tests that cut something off.
func missing(acknowledged []string, found map[string]int) []string {
	var lost []string
	for _, k := range acknowledged {
		if found[k] == 0 {
			lost = append(lost, k)
		}
	}
	return lost
}

// written counts the tokens of the load by key, as a node shows them.
func (r *rig) written(node *CoreNode) map[string]int {
	r.t.Helper()
	tokens, err := all[v1.Token](r.ctx, r.api, node, "/v1/tokens")
	r.must(err)
	found := make(map[string]int)
	for _, t := range tokens {
		if strings.HasPrefix(t.Comment, "load-") {
			found[t.Comment]++
		}
	}
	return found
}

// whole holds what every one of the nodes shows against what was acknowledged: nothing is lost, and nothing was done twice.
func (r *rig) whole(acknowledged []string, nodes ...*CoreNode) {
	r.t.Helper()
	if len(acknowledged) == 0 {
		r.t.Fatal("nothing was acknowledged, so nothing is proved")
	}
	for _, node := range nodes {
		found := r.written(node)
		if lost := missing(acknowledged, found); len(lost) > 0 {
			r.t.Errorf("%s lost %d of %d acknowledged writes, such as %s", node.Name, len(lost), len(acknowledged), lost[0])
		}
		for k, n := range found {
			if n != 1 {
				r.t.Errorf("%s: %s was done %d times", node.Name, k, n)
			}
		}
	}
}

// spread is a distribution in words.
func spread(d []time.Duration) string {
	s := slices.Sorted(slices.Values(d))
	if len(s) == 0 {
		return "none"
	}
	var each []string
	for _, x := range s {
		each = append(each, fmt.Sprintf("%.2f", x.Seconds()))
	}
	return fmt.Sprintf("n=%d min %.2f s, median %.2f s, max %.2f s; all: %s", len(s), s[0].Seconds(), median(d).Seconds(), s[len(s)-1].Seconds(), strings.Join(each, " "))
}

func median(d []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return s[len(s)/2]
}
