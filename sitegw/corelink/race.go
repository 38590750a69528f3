package corelink

import (
	"context"
	"slices"
	"time"
)

// An order is in which ways are tried, and when: the direct ones stagger after one another, the relays when no direct one has
// answered for a while or all have failed, and each at once when the one before it has failed.
type order struct {
	ways    []way
	direct  int       // so many of them
	relayed time.Time // when the first relay is due

	started, failed int
}

func newOrder(direct, relays []way, patience time.Duration) *order {
	return &order{ways: slices.Concat(direct, relays), direct: len(direct), relayed: time.Now().Add(patience)}
}

// done tells whether all have been started.
func (o *order) done() bool { return o.started == len(o.ways) }

// next starts one, and says how long to wait before the next.
func (o *order) next() (way, time.Duration) {
	w := o.ways[o.started]
	o.started++
	if o.started == o.direct {
		return w, time.Until(o.relayed)
	}
	return w, stagger
}

// lost notes a failure. hurry: the next is due at once. With decided there is no use in relays that were not started.
func (o *order) lost(w way, decided bool) (hurry bool) {
	o.failed++
	if decided {
		o.ways = o.ways[:max(o.started, o.direct)]
	}
	return o.started < o.direct || o.failed == o.started || w.via != ""
}

// race tries the direct ways and the relays in order and returns the first session that is admitted; nil: none. It notes in r who
// failed. Whoever is still being tried at the end has not.
func (l *Link) race(ctx context.Context, direct, relays []way, r *round) *session {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		way way
		s   *session
		err error
	}
	results := make(chan result)
	o := newOrder(direct, relays, min(relayAfter, l.Period()*2/5))
	opts := l.options()
	t := time.NewTimer(0) // the first is due at once
	defer t.Stop()
	var won *session
	for running := 0; ; {
		due := t.C
		if o.done() || won != nil || ctx.Err() != nil {
			due = nil
		}
		if due == nil && running == 0 {
			return won
		}
		select {
		case <-due:
			w, wait := o.next()
			running++
			go func() {
				s, err := l.open(ctx, w, opts)
				results <- result{w, s, err}
			}()
			t.Reset(wait)
		case out := <-results:
			running--
			switch {
			case won != nil || ctx.Err() != nil:
				if out.s != nil {
					out.s.Close()
				}
			case out.err != nil:
				l.Log.Warn("no uplink this way", "way", out.way.String(), "err", out.err)
				now := time.Now()
				r.failed(out.way, out.err, now)
				if o.lost(out.way, r.decided(now)) {
					t.Reset(0)
				}
			default:
				won = out.s
				cancel()
			}
		}
	}
}
