package corelink

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/holdfast-edge/holdfast/internal/backoff"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
)

// Times of connecting.
const (
	// attemptTime bounds one attempt: name, handshake and welcome. It is long enough for a satellite, because nobody waits for
	// it: after stagger the next node is tried beside it.
	attemptTime = 10 * time.Second
	stagger     = 500 * time.Millisecond
	minBackoff  = 250 * time.Millisecond
	maxBackoff  = 30 * time.Second
	// healthyAfter is how long a session lasts that was no failure of its node.
	healthyAfter = 10 * time.Second

	minKeepAlive = 750 * time.Millisecond
	maxKeepAlive = link.DefaultKeepAlive
	usualPeriod  = 10 * time.Second // a core's report period, before it has told its own
)

// A round is what was tried since the last wait, or since the last session that was healthy. Every node gets one attempt in
// it, so that no node that admits and then fails keeps the link busy.
type round struct {
	tried map[string]bool
	held  map[string]time.Time // nodes that asked for patience, and until when
	last  string               // the node of the newest session: the others come first
}

func newRound() *round {
	return &round{tried: make(map[string]bool), held: make(map[string]time.Time)}
}

// next is whom to try now, in this order.
func (r *round) next(all []string, now time.Time) []string {
	var out []string
	for _, a := range all {
		if !r.tried[a] && !now.Before(r.held[a]) && a != r.last {
			out = append(out, a)
		}
	}
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] }) //nolint:gosec // spreads gateways over the nodes
	if a := r.last; slices.Contains(all, a) && !r.tried[a] && !now.Before(r.held[a]) {
		out = append(out, a)
	}
	return out
}

// failed notes the failure of a node, and the patience that it asked for.
func (r *round) failed(core string, err error, now time.Time) {
	r.tried[core] = true
	if e, ok := errors.AsType[*wire.Error](err); ok && e.RetryAfter() > 0 {
		r.held[core] = now.Add(e.RetryAfter())
	}
}

// over ends the round and says how long to wait before the next: at least least, and until one node may be tried.
func (r *round) over(all []string, least time.Duration, now time.Time) time.Duration {
	wait := time.Duration(-1)
	for _, a := range all {
		if left := max(r.held[a].Sub(now), 0); wait < 0 || left < wait {
			wait = left
		}
	}
	clear(r.tried)
	for a, until := range r.held { // of nodes that are no longer in the list, too
		if !now.Before(until) {
			delete(r.held, a)
		}
	}
	return max(wait, least)
}

// keepAlive is the one to use with a core of the given report period. A core calls a site unreachable after three periods
// without a word. A gateway whose node died notices after 2.4 keep-alives, so it has two periods left to find another node;
// more often than that a quiet link need not be disturbed.
func keepAlive(period time.Duration) time.Duration {
	return min(max(period*3/8, minKeepAlive), maxKeepAlive)
}

// Run keeps a session with one of the core nodes until ctx ends.
func (l *Link) Run(ctx context.Context) error {
	b := backoff.Backoff{Min: minBackoff, Max: maxBackoff}
	r := newRound()
	l.keepAlive = keepAlive(usualPeriod)
	for ctx.Err() == nil {
		all := l.Cores.All()
		order := r.next(all, time.Now())
		if len(order) == 0 {
			wait := r.over(all, b.Next(), time.Now())
			l.Log.Warn("no core node can be reached", "cores", all, "retry_in", wait.Round(time.Millisecond).String())
			backoff.Sleep(ctx, wait)
			continue
		}
		s := l.race(ctx, order, r)
		if s == nil {
			continue
		}
		before := l.keepAlive
		if l.keepAlive = keepAlive(s.period); l.keepAlive < before/2 {
			s.Close() // once: this session would notice a dead node too late
			continue
		}
		start := time.Now()
		err := l.hold(ctx, s)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // an end that was asked for is no error
		}
		l.Log.Warn("uplink lost", "core", s.core, "node", s.node, "err", err)
		if time.Since(start) > healthyAfter {
			b.Reset()
			clear(r.tried)
			r.last = s.core
			continue
		}
		r.failed(s.core, err, time.Now())
	}
	return nil
}

// race tries the nodes in order, each when the one before failed or has not answered for a while, and returns the first
// session that is admitted; nil: none. It notes in r who failed. Whoever is still being tried at the end has not.
func (l *Link) race(ctx context.Context, order []string, r *round) *session {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		core string
		s    *session
		err  error
	}
	results := make(chan result)
	o := l.options()
	t := time.NewTimer(0) // the first is due at once
	defer t.Stop()
	var won *session
	for started, running := 0, 0; ; {
		due := t.C
		if started == len(order) || won != nil || ctx.Err() != nil {
			due = nil
		}
		if due == nil && running == 0 {
			return won
		}
		select {
		case <-due:
			core := order[started]
			started++
			running++
			go func() {
				s, err := l.open(ctx, core, o)
				results <- result{core, s, err}
			}()
			t.Reset(stagger)
		case out := <-results:
			running--
			switch {
			case won != nil || ctx.Err() != nil:
				if out.s != nil {
					out.s.Close()
				}
			case out.err != nil:
				l.Log.Warn("core node does not admit this gateway", "core", out.core, "err", out.err)
				r.failed(out.core, out.err, time.Now())
				t.Reset(0)
			default:
				won = out.s
				cancel()
			}
		}
	}
}

// open dials a core node and is admitted, within attemptTime.
func (l *Link) open(ctx context.Context, core string, o link.Options) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	return link.Open(ctx, l.dialer, l.target(core, o), func(ls *link.Session) (*session, error) { return l.greet(ls, core) })
}

// options are those of the next session.
func (l *Link) options() link.Options {
	return link.Options{Limits: link.UplinkLimits, KeepAlive: l.keepAlive}
}

// target is a core node as one to dial.
func (l *Link) target(core string, o link.Options) link.Target {
	// A core node's certificate is renewed by itself; an expired one would lock the whole plant out, and what speaks for the
	// node is its key in the fleet's own CA.
	admit := func(ident.Peer) error { return nil }
	return link.Target{Addr: core, TLS: l.Credential.Endpoint(l.Wall).Client(wire.ALPNUplink, ident.RoleCore, admit), Options: o}
}

// greet says hello on a session that was just opened, and waits for the welcome.
func (l *Link) greet(ls *link.Session, core string) (*session, error) {
	s := &session{Session: ls, core: core, pending: make(map[uint64]*request)}
	if p, ok := ls.Peer(l.Wall()); ok {
		s.node = p.ID.Name
	}
	return s, l.hello(s)
}
