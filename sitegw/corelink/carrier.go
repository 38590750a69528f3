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

// hold serves a session that was admitted until it ends. One over TCP is left as soon as the core node has admitted the gateway
// over QUIC, too: what is new goes over the new session, and the older one is closed when all that was asked on it is answered.
// It always returns an error.
func (l *Link) hold(ctx context.Context, first *session) error {
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
			return err
		}
		older.Go(func() { l.settle(ctx, s) })
		current = next
	}
}

// admitted notes what an admission proves. Nobody else may be using the credential.
func (l *Link) admitted(s *session) {
	l.Log.Info("uplink open", "core", s.core, "node", s.node, "carrier", s.Carrier().String())
	l.Cores.Worked(s.core)
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
	if s.Carrier() == link.TCP {
		g.Go(func() error {
			to := func() link.Target { return l.target(s.core, l.options()) }
			n, err := link.OpenQUIC(ctx, l.dialer, s.Session, to, func(ls *link.Session) (*session, error) { return l.greet(ls, s.core) })
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
