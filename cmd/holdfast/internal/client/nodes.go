package client

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"
	"time"
)

const (
	// goneRounds is how often all nodes are tried when none can be reached.
	goneRounds = 2
	// waitRounds is how often all nodes are tried while one says that the core is unavailable: over an election.
	waitRounds = 4
	// firstWait and lastWait bound the waits between rounds in which no node said how long to wait.
	firstWait = 250 * time.Millisecond
	lastWait  = 2 * time.Second
	// defaultWait is for a core that is unavailable and does not say for how long: an election takes about a second.
	defaultWait = time.Second
	// maxWait is the longest that a request waits for the core; one that asks for more is told to the operator at once.
	maxWait = 10 * time.Second
)

// A slowError ends an attempt at a node that takes the connection and does not answer.
type slowError struct{ within time.Duration }

func (e slowError) Error() string { return fmt.Sprintf("no answer within %v", e.within) }

// A call is one request, whichever node answers it.
type call struct {
	method, path string
	query        url.Values
	body         []byte
	key          string // Idempotency-Key; empty: a read
	match        string // If-Match; empty: none
	slow         bool   // the core may take a minute for it
	contentType  string // of the body; empty: JSON
}

// time is how long the call may take with its answer, on all nodes together.
func (r *call) time() time.Duration {
	if r.slow {
		return slowTime
	}
	return requestTime
}

type answer struct {
	body []byte
	etag string
}

// Node is the address of the node that worked last: https://HOST:PORT.
func (c *Client) Node() string { return c.nodes[c.at.Load()] }

// Failed tells whether a node could not be reached or trusted: the list of nodes may be out of date.
func (c *Client) Failed() bool { return c.failed.Load() }

// leave makes the node after i the one to ask first, unless that was changed meanwhile.
func (c *Client) leave(i int64) { c.at.CompareAndSwap(i, (i+1)%int64(len(c.nodes))) }

// exchange sends a call to one node after the other until one answers it, and reads the whole answer.
func (c *Client) exchange(ctx context.Context, r *call) (answer, error) {
	bounded, cancel := context.WithTimeout(ctx, r.time())
	defer cancel()
	var s setbacks
	for round := 1; ; round++ {
		s.begin()
		first := c.at.Load()
		for i := range int64(len(c.nodes)) {
			node := (first + i) % int64(len(c.nodes))
			a, sent, err := c.attempt(bounded, node, r)
			if err == nil {
				c.at.Store(node)
				return a, nil
			}
			if err = cause(ctx, err, r.time()); !s.passing(err, sent && r.key != "") {
				c.keep(node, err)
				return answer{}, err
			}
			if !errors.Is(err, ErrUnavailable) {
				c.failed.Store(true)
			}
			if bounded.Err() != nil {
				return answer{}, s.verdict(len(c.nodes), r.time())
			}
		}
		wait, again := s.again(round)
		if deadline, _ := bounded.Deadline(); !again || time.Until(deadline) <= wait {
			return answer{}, s.verdict(len(c.nodes), r.time())
		}
		if err := pause(ctx, wait); err != nil {
			return answer{}, err
		}
	}
}

// keep stays with a node whose answer is a refusal: it works.
func (c *Client) keep(node int64, err error) {
	if _, ok := errors.AsType[*Problem](err); ok {
		c.at.Store(node)
	}
}

// attempt sends a call to one node. sent says that the node may have received it.
func (c *Client) attempt(ctx context.Context, node int64, r *call) (a answer, sent bool, err error) {
	var wrote atomic.Bool
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { wrote.Store(true) }})
	resp, err := c.do(traced, node, r)
	if err != nil {
		return answer{}, wrote.Load(), err
	}
	b, err := readAll(resp.Body, maxAnswer)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return answer{}, true, err
	}
	return answer{body: b, etag: resp.Header.Get("ETag")}, true, nil
}

// do sends one request to one node. The caller closes the body of the answer, whose status is 2xx.
func (c *Client) do(ctx context.Context, node int64, r *call) (*http.Response, error) {
	u := c.nodes[node] + r.path
	if len(r.query) > 0 {
		u += "?" + r.query.Encode()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	req, err := http.NewRequestWithContext(ctx, r.method, u, bytes.NewReader(r.body))
	if err != nil {
		cancel(nil)
		return nil, fmt.Errorf("make the request: %w", err)
	}
	c.header(req, r)
	within := r.time()
	switch {
	case len(c.nodes) == 1: // there is nobody else to ask
	case r.slow:
		within = slowOneOf
	default:
		within = answerOneOf
	}
	slow := time.AfterFunc(within, func() { cancel(slowError{within}) })
	defer slow.Stop()
	resp, err := c.http.Do(req)
	if err != nil {
		if e, ok := errors.AsType[slowError](context.Cause(ctx)); ok {
			err = e
		}
		cancel(nil)
		return nil, err
	}
	if at, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		c.date.Store(at.Unix())
	}
	resp.Body = &body{resp.Body, cancel}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	problem, err := readProblem(resp, c.Now())
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return nil, err
	}
	return nil, problem
}

func (c *Client) header(req *http.Request, r *call) {
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Accept", "application/json, application/problem+json, text/event-stream, application/x-ndjson")
	req.Header.Set("User-Agent", c.agent)
	if len(r.body) > 0 {
		req.Header.Set("Content-Type", cmp.Or(r.contentType, "application/json"))
	}
	if r.key != "" {
		req.Header.Set("Idempotency-Key", r.key)
	}
	if r.match != "" {
		req.Header.Set("If-Match", r.match)
	}
}

// A body is an answer's body whose context ends with it.
type body struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
}

// Close lets go of the answer.
func (b *body) Close() error {
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}
