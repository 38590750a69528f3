// Package fetch brings content to a device: chunks, manifests, releases and sets of publishers, in sessions of their own with the site's gateways.
//
// Nothing that a gateway brings is believed: content is held against its digest, and what has none is shown to whoever asked. A gateway that brings
// something else is named to the core and left for another one, and so is, unnamed, one that is too slow to be of use. What was
// delivered is not fetched again. A call tries every gateway and returns; when to call again is the caller's business.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
	"github.com/holdfast-edge/holdfast/wire/ident"
	wirelink "github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// Times of a session.
const (
	openWithin = 20 * time.Second
	// A gateway must bring leastBytes in every paceWithin, or what remains: a chunk of the greatest size takes that long at 2 KiB/s. One that trickles
	// would otherwise hold a device for as long as it likes.
	paceWithin = 2 * time.Minute
	leastBytes = 64 << 10
	// avoidFor is how long a gateway that brought something else, or was too slow, is asked after all others.
	avoidFor = time.Hour
)

// ErrSlow says that a gateway brings content too slowly.
var ErrSlow = errors.New("the gateway brings content too slowly")

// Gateways are the gateways that there are; *link.Link behind the agent.
type Gateways interface {
	// Sources are their addresses, in the order in which to ask them.
	Sources() []string
	// Content opens a session with the gateway at an address.
	Content(ctx context.Context, addr string) (*wirelink.Session, error)
	// Doubt has the core told what is held against a gateway.
	Doubt(gateway ident.ID, reason seal.Doubt)
}

// A Client fetches. It may be used from any goroutine.
type Client struct {
	via  Gateways
	wall func() time.Time
	log  *slog.Logger

	mu    sync.Mutex
	avoid map[string]time.Time // address of a gateway to ask last, until then
}

// New makes a client.
func New(via Gateways, wall func() time.Time, log *slog.Logger) *Client {
	return &Client{via: via, wall: wall, log: log}
}

// A job is what one call fetches.
type job struct {
	ask  func(i int) (wire.Fetch, bool) // request i; false: there is none, or not yet
	take func(i int, b *wire.Blob) error
	done func(n int) bool // whether n answers, one after the other, are all
	next int              // answers that were taken

	begin func() // at the beginning of a session, which then brings all from the beginning; nil: it goes on where the one before ended
}

// ownError wraps an error for which no gateway is to blame: it ends the call.
type ownError struct{ error }

// Unwrap is the cause.
func (e ownError) Unwrap() error { return e.error }

// run has a job done by one gateway after the other, until all of them in a row have brought nothing. The error is the one that says most.
func (c *Client) run(ctx context.Context, j *job) error {
	addrs := c.order()
	if len(addrs) == 0 {
		return errors.New("no gateway is known")
	}
	var worst error
	for failed := 0; failed < len(addrs); {
		before := j.next
		err := c.session(ctx, addrs[0], j)
		own, isOwn := errors.AsType[ownError](err)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case isOwn:
			return own.error
		}
		c.log.Info("content not fetched", "gateway", addrs[0], "err", err)
		if j.next > before && j.begin == nil {
			failed, worst = 0, nil
		}
		failed++
		addrs = append(addrs[1:], addrs[0])
		if worst == nil || rank(err) >= rank(worst) {
			worst = err
		}
	}
	return worst
}

// contentError marks that what came is not what was asked for, by whoever can tell.
type contentError struct{ error }

// Unwrap is the cause.
func (e contentError) Unwrap() error { return e.error }

// rank is how much an error says of what is fetched: that it was seen and is wrong, that it is not there, or that nobody answered.
func rank(err error) int {
	_, seen := errors.AsType[contentError](err)
	e, answered := errors.AsType[*wire.Error](err)
	switch {
	case seen:
		return 3
	case answered && e.Code == wire.CodeNoContent:
		return 1
	case answered:
		return 2
	}
	return 0
}

// order is in which order to ask the gateways now.
func (c *Client) order() []string {
	all := c.via.Sources()
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for a, until := range c.avoid {
		if now.After(until) || !slices.Contains(all, a) {
			delete(c.avoid, a)
		}
	}
	var first, last []string
	for _, a := range all {
		if _, avoided := c.avoid[a]; avoided {
			last = append(last, a)
		} else {
			first = append(first, a)
		}
	}
	return append(first, last...)
}

func (c *Client) avoids(addr string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.avoid == nil {
		c.avoid = make(map[string]time.Time)
	}
	c.avoid[addr] = time.Now().Add(avoidFor)
}

// session has a gateway go on with a job.
func (c *Client) session(ctx context.Context, addr string, j *job) error {
	opening, cancel := context.WithTimeout(ctx, openWithin)
	defer cancel()
	s, err := c.via.Content(opening, addr)
	if err != nil {
		return err
	}
	defer s.Close()
	defer context.AfterFunc(ctx, s.Close)()
	peer, ok := s.Peer(c.wall())
	if !ok {
		return fmt.Errorf("the gateway shows no identity: %w", ident.ErrUntrusted)
	}
	err = exchange(s, j)
	if isFalse(err) {
		c.log.Error("a gateway brought content that is not what was asked for", "gateway", peer.ID.String(), "err", err)
		c.via.Doubt(peer.ID, seal.DoubtContent)
		c.avoids(addr)
	}
	if errors.Is(err, ErrSlow) {
		c.avoids(addr)
	}
	return err
}

// isFalse tells whether an error says that a gateway brought what is not what it says.
func isFalse(err error) bool {
	return errors.Is(err, artifact.ErrChunk) || errors.Is(err, wire.ErrMalformed) || errors.Is(err, seal.ErrSignature)
}

// exchange asks and takes answers until the job is done. Up to wire.MaxFetches are under way.
func exchange(s *wirelink.Session, j *job) error {
	if j.begin != nil {
		j.begin()
	}
	sent, bytes, since := j.next, 0, time.Now()
	for !j.done(j.next) {
		for sent-j.next < wire.MaxFetches {
			f, ok := j.ask(sent)
			if !ok {
				break
			}
			f.Capability = wire.Capability
			if err := s.Send(wire.TypeFetch, f); err != nil {
				return err
			}
			sent++
		}
		left := time.Until(since.Add(paceWithin))
		t, body, err := s.RecvWithin(max(left, time.Millisecond))
		if err != nil {
			if time.Since(since) >= paceWithin {
				return fmt.Errorf("%w: %d bytes in %v", ErrSlow, bytes, paceWithin)
			}
			return err
		}
		if bytes += len(body); bytes >= leastBytes {
			bytes, since = 0, time.Now()
		}
		b, err := answer(t, body)
		if err != nil {
			return err
		}
		if err := j.take(j.next, b); err != nil {
			return err
		}
		j.next++
	}
	return nil
}

// answer reads an answer. A refusal is a *wire.Error.
func answer(t wire.Type, body []byte) (*wire.Blob, error) {
	switch t {
	case wire.TypeBlob:
		b := new(wire.Blob)
		if err := wire.Unmarshal(body, b); err != nil {
			return nil, err
		}
		if b.Code != wire.CodeNone {
			return nil, &wire.Error{Code: b.Code, Detail: b.Detail, RetryAfterMS: b.RetryAfterMS}
		}
		return b, nil
	case wire.TypeError:
		e := new(wire.Error)
		if err := wire.Unmarshal(body, e); err != nil {
			return nil, err
		}
		return nil, e
	default:
		return nil, fmt.Errorf("got %v, want a %v: %w", t, wire.TypeBlob, wire.ErrMalformed)
	}
}
