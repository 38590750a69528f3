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
	// relayAfter is how long direct ways are tried before siblings are asked beside them, where none has failed sooner: a black hole
	// says nothing. TCP, which is dialled 2 s after QUIC, has a session by then over any WAN but a satellite's, and that one moves
	// back. With a shorter report period it is less: of the three periods after which a core gives a gateway up, a dead link takes
	// one to be noticed, and there may have been no word for one before.
	relayAfter = 4 * time.Second
	// relayTime bounds one attempt through a sibling, which dials, too.
	relayTime  = 15 * time.Second
	minBackoff = 250 * time.Millisecond
	maxBackoff = 30 * time.Second
	// healthyAfter is how long a session lasts that was no failure of its node.
	healthyAfter = 10 * time.Second

	minKeepAlive = 750 * time.Millisecond
	maxKeepAlive = link.DefaultKeepAlive
	usualPeriod  = 10 * time.Second // a core's report period, before it has told its own
)

// A way leads to the core: to the node at an address, or through a sibling, which chooses the node. One of the two is set.
type way struct {
	core string // host:port
	via  string // a sibling's name
}

// String is the way in logs.
func (w way) String() string {
	if w.via != "" {
		return "relay " + w.via
	}
	return w.core
}

// ways lead to the nodes at these addresses.
func ways(cores []string) []way {
	out := make([]way, len(cores))
	for i, a := range cores {
		out[i].core = a
	}
	return out
}

// siblings are the ways through the gateways that may relay.
func (l *Link) siblings() []way {
	if l.Siblings == nil {
		return nil
	}
	var out []way
	for _, name := range l.Siblings() {
		out = append(out, way{via: name})
	}
	return out
}

// A round is what was tried since the last wait, or since the last session that was healthy. Every way gets one attempt in
// it, so that no node that admits and then fails keeps the link busy.
type round struct {
	tried map[way]bool
	held  map[way]time.Time // who asked for patience, and until when
	last  way               // of the newest session: the others come first

	refused bool      // a node has decided about this gateway: a relay would hear the same
	until   time.Time // and asked for patience
}

func newRound() *round {
	return &round{tried: make(map[way]bool), held: make(map[way]time.Time)}
}

// next is what to try now, in this order: nodes by chance, siblings as they are given.
func (r *round) next(all []way, now time.Time) []way {
	var out []way
	for _, w := range all {
		if !r.tried[w] && !now.Before(r.held[w]) && w != r.last {
			out = append(out, w)
		}
	}
	if len(out) > 0 && out[0].via == "" {
		rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] }) //nolint:gosec // spreads gateways over the nodes
	}
	if w := r.last; slices.Contains(all, w) && !r.tried[w] && !now.Before(r.held[w]) {
		out = append(out, w)
	}
	return out
}

// failed notes a failure, and the patience that was asked for.
func (r *round) failed(w way, err error, now time.Time) {
	r.tried[w] = true
	e, ok := errors.AsType[*wire.Error](err)
	if ok && e.RetryAfter() > 0 {
		r.held[w] = now.Add(e.RetryAfter())
	}
	if ok && w.via == "" && e.Code != wire.CodeUnavailable {
		r.refused = true
		if until := r.held[w]; until.After(r.until) {
			r.until = until
		}
	}
}

// decided tells whether the core was reached and does not want this gateway now.
func (r *round) decided(now time.Time) bool { return r.refused || now.Before(r.until) }

// begin is a new round after a session that was healthy.
func (r *round) begin(last way) {
	clear(r.tried)
	r.refused, r.last = false, last
}

// over ends the round and says how long to wait before the next: at least least, and until one way may be tried.
func (r *round) over(all []way, least time.Duration, now time.Time) time.Duration {
	wait := time.Duration(-1)
	for _, a := range all {
		if left := max(r.held[a].Sub(now), 0); wait < 0 || left < wait {
			wait = left
		}
	}
	clear(r.tried)
	r.refused = false
	for a, until := range r.held { // of ways that are no longer in the list, too
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
		cores, siblings := ways(l.Cores.All()), l.siblings()
		if r.decided(time.Now()) {
			siblings = nil
		}
		direct, relays := r.next(cores, time.Now()), r.next(siblings, time.Now())
		if len(direct)+len(relays) == 0 {
			wait := r.over(append(cores, siblings...), b.Next(), time.Now())
			l.Log.Warn("no core node can be reached", "cores", l.Cores.All(), "siblings", len(siblings), "retry_in", wait.Round(time.Millisecond).String())
			backoff.Sleep(ctx, wait)
			continue
		}
		s := l.race(ctx, direct, relays, r)
		if s == nil {
			continue
		}
		before := l.keepAlive
		if l.keepAlive = keepAlive(s.period); l.keepAlive < before/2 {
			s.Close() // once: this session would notice a dead node too late
			continue
		}
		start := time.Now()
		s, err := l.hold(ctx, s)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // an end that was asked for is no error
		}
		l.Log.Warn("uplink lost", "core", s.way.core, "node", s.node, "relay", s.way.via, "err", err)
		if time.Since(start) > healthyAfter {
			b.Reset()
			r.begin(s.way)
			continue
		}
		r.failed(s.way, err, time.Now())
	}
	return nil
}

// open is admitted by a core node, within attemptTime or relayTime.
func (l *Link) open(ctx context.Context, w way, o link.Options) (*session, error) {
	if w.via != "" {
		return l.openRelayed(ctx, w, o)
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	return link.Open(ctx, l.dialer, l.target(w.core, o), func(ls *link.Session) (*session, error) { return l.greet(ls, w) })
}

// openRelayed is open through a sibling: TLS, hello and welcome are with the core node.
func (l *Link) openRelayed(ctx context.Context, w way, o link.Options) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, relayTime)
	defer cancel()
	ls, err := l.relayed(ctx, w.via, o)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, ls.Close)
	s, err := l.greet(ls, w)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		ls.Close()
		return nil, err
	}
	return s, nil
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
func (l *Link) greet(ls *link.Session, w way) (*session, error) {
	s := &session{Session: ls, way: w, pending: make(map[uint64]*request)}
	if p, ok := ls.Peer(l.Wall()); ok {
		s.node = p.ID.Name
	}
	return s, l.hello(s)
}
