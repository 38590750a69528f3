package corelink

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-edge/holdfast/wire/link"
)

// settleEvery is how often a session that the link has left is looked at: whether anything asked on it waits for its answer.
const settleEvery = 100 * time.Millisecond

// errMoved ends the work on a session that the link leaves.
var errMoved = errors.New("the link has moved to another session")

// hold serves a session that was admitted until it ends. It is left as soon as there is a better one: over QUIC where it runs over
// TCP, direct where it is relayed. What is new goes over the new session, and the older one is closed when all that was asked on it
// is answered. It returns the session that was the last, and always an error.
func (l *Link) hold(ctx context.Context, first *session) (last *session, err error) {
	var older sync.WaitGroup
	defer older.Wait()
	for current := first; ; {
		s := current
		l.admitted(s)
		l.attach(s)
		ended := make(chan error, 1) // the reading outlives the work on a session that is left
		older.Go(func() { ended <- l.read(s) })
		next, err := l.work(ctx, s, ended)
		if next == nil {
			s.Close()
			l.detach(s)
			return s, err
		}
		older.Go(func() { l.settle(ctx, s) })
		current = next
	}
}

// admitted notes what an admission proves. Nobody else may be using the credential.
func (l *Link) admitted(s *session) {
	l.Log.Info("uplink open", "core", s.way.core, "node", s.node, "carrier", s.Carrier().String(), "relay", s.way.via)
	if s.way.core != "" {
		l.Cores.Worked(s.way.core)
	}
	if err := l.Credential.Confirm(); err != nil {
		l.Log.Error("the renewed certificate works but cannot be stored", "err", err)
	}
}

// work reports, submits and renews until the session ends, or until there is another one to do that on. Without that one there
// is an error.
func (l *Link) work(ctx context.Context, s *session, ended <-chan error) (next *session, err error) {
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() {
		if !errors.Is(context.Cause(ctx), errMoved) {
			s.Close() // whoever is sending on it would wait
		}
	})
	defer stop()
	g.Go(func() error {
		select {
		case err := <-ended:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	g.Go(func() error { return l.report(ctx, s) })
	g.Go(func() error { return l.submit(ctx) })
	g.Go(func() error { return l.renew(ctx) })
	if s.way.via != "" || s.Carrier() == link.TCP {
		g.Go(func() error {
			n, err := l.better(ctx, s)
			if err != nil {
				return nil //nolint:nilerr // the session goes on, or its end has another reason
			}
			next = n
			return errMoved
		})
	}
	err = g.Wait()
	return next, err
}

// directEvery is about how often direct ways are tried while the session is relayed, and directJitter its share of chance: 30 to
// 60 s. A relayed session costs the sibling, and reports through it are as late as both.
const (
	directEvery  = 45 * time.Second
	directJitter = 1.0 / 3
)

// errNone says that no core node admits the gateway.
var errNone = errors.New("no core node admits this gateway")

// better gets a session that is better than s.
func (l *Link) better(ctx context.Context, s *session) (*session, error) {
	if s.way.via == "" {
		to := func() link.Target { return l.target(s.way.core, l.options()) }
		return link.OpenQUIC(ctx, l.dialer, s.Session, to, func(ls *link.Session) (*session, error) { return l.greet(ls, s.way) })
	}
	return link.Meanwhile(ctx, s.Session, directEvery, directJitter, func(ctx context.Context) (*session, error) {
		r := newRound()
		if n := l.race(ctx, r.next(ways(l.Cores.All()), time.Now()), nil, r); n != nil {
			return n, nil
		}
		return nil, errNone
	})
}

// settle closes a session that the link has left, once nobody waits for an answer on it.
func (l *Link) settle(ctx context.Context, s *session) {
	t := time.NewTicker(settleEvery)
	defer t.Stop()
	late := time.NewTimer(requestTime)
	defer late.Stop()
	for waiting := true; waiting; {
		select {
		case <-t.C:
			waiting = l.waiting(s)
		case <-late.C:
			waiting = false
		case <-s.Context().Done():
			waiting = false
		case <-ctx.Done():
			waiting = false
		}
	}
	s.Close()
	l.detach(s)
}

// waiting tells whether anything asked on a session waits for its answer.
func (l *Link) waiting(s *session) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(s.pending) > 0
}
