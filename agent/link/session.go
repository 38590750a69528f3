package link

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-edge/holdfast/internal/backoff"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	wirelink "github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// Limits of a session.
const (
	beatJitter     = 0.1              // of the interval, either way
	maxUnanswered  = 3                // heartbeats; then the session is given up
	statementRetry = 15 * time.Second // a statement without receipt or refusal is sent again
	renewCheck     = 10 * time.Minute
)

// A session is one admitted session. One goroutine reads and hands over; one does everything else, and owns the fields.
type session struct {
	*Link
	link      *wirelink.Session
	gateway   ident.ID
	interval  time.Duration
	keepAlive time.Duration

	unanswered int
	lastBeat   time.Time
	sending    *seal.SealedStatement // sent and neither receipted nor refused
}

// A frame is what the reader hands over.
type frame struct {
	t    wire.Type
	body any
}

// errSilent gives up a gateway that keeps the connection and answers nothing.
var errSilent = errors.New("the gateway answers no heartbeats")

// errGoAway is a gateway that stops.
var errGoAway = errors.New("the gateway stops")

// run holds the session until it ends. It always returns an error.
func (s *session) run(ctx context.Context) error {
	in := make(chan frame, 8) // a little more than a gateway says in a burst; then the reading waits
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, s.link.Close)
	defer stop()
	g.Go(func() error { return s.read(ctx, in) })
	g.Go(func() error { return s.loop(ctx, in) })
	return g.Wait()
}

// read decodes what comes and hands it over.
func (s *session) read(ctx context.Context, in chan<- frame) error {
	for {
		t, body, err := s.link.Recv()
		if err != nil {
			return err
		}
		f := frame{t: t}
		switch t {
		case wire.TypeHeartbeatAck:
			f.body = new(wire.HeartbeatAck)
		case wire.TypeError:
			f.body = new(wire.Error)
		case wire.TypeRenewed:
			f.body = new(wire.Renewed)
		case wire.TypeGoAway:
			f.body = new(wire.GoAway)
		default:
			continue // from a newer gateway: nothing that this build could use
		}
		if err := wire.Unmarshal(body, f.body); err != nil {
			return err
		}
		select {
		case in <- f:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// loop beats, sends the outbox, and takes what the gateway says.
func (s *session) loop(ctx context.Context, in <-chan frame) error {
	beat := time.NewTimer(0) // the first heartbeat goes out at once
	defer beat.Stop()
	retry := time.NewTimer(0)
	defer retry.Stop()
	attach := time.NewTicker(backoff.Jitter(attachEvery, attachJitter))
	defer attach.Stop()
	renew := time.NewTimer(renewCheck)
	defer renew.Stop()
	fraction := 0.6 + 0.2*rand.Float64() //nolint:gosec // spreads renewals
	for {
		select {
		case <-beat.C:
			if err := s.beat(); err != nil {
				return err
			}
			beat.Reset(backoff.Jitter(s.interval, beatJitter))
		case <-retry.C:
			s.sending = nil
			if err := s.next(retry); err != nil {
				return err
			}
		case <-s.wake:
			if err := s.next(retry); err != nil {
				return err
			}
		case <-attach.C:
			if err := s.attach(); err != nil {
				return err
			}
		case <-renew.C:
			if err := s.renew(fraction); err != nil {
				return err
			}
			renew.Reset(renewCheck)
		case f := <-in:
			before := s.interval
			if err := s.take(f, retry); err != nil {
				return err
			}
			if s.interval != before {
				beat.Reset(s.untilBeat())
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// untilBeat is the wait to the next heartbeat under a new interval, counted from the last one.
func (s *session) untilBeat() time.Duration {
	return max(0, backoff.Jitter(s.interval, beatJitter)-time.Since(s.lastBeat))
}

// beat sends a heartbeat.
func (s *session) beat() error {
	if s.unanswered >= maxUnanswered {
		return errSilent
	}
	s.sent++
	s.unanswered++
	s.lastBeat = time.Now()
	return s.link.Send(wire.TypeHeartbeat, wire.Heartbeat{
		Run: s.Link.run, Number: s.sent, Answered: s.answered, UptimeMS: uint64(s.Uptime().Milliseconds()), IntervalMS: wire.Millis(s.interval), //nolint:gosec // G115: time since boot is positive
	})
}

// next sends the oldest statement of the outbox, unless one is under way.
func (s *session) next(retry *time.Timer) error {
	if s.sending != nil {
		return nil
	}
	oldest := s.State.Oldest()
	if oldest == nil {
		return nil
	}
	s.sending = oldest
	retry.Reset(statementRetry)
	return s.link.Send(wire.TypeStatement, wire.Statement{Sealed: oldest.Sealed})
}

// take acts on one message of the gateway.
func (s *session) take(f frame, retry *time.Timer) error {
	switch m := f.body.(type) {
	case *wire.HeartbeatAck:
		if m.Number != 0 {
			s.answered++
			s.unanswered = 0
		}
		s.told(m.IntervalMS)
		if len(m.Receipt) > 0 {
			return s.receipt(m.Receipt, retry)
		}
	case *wire.Error:
		return s.refused(m, retry)
	case *wire.Renewed:
		if err := s.Credential.Renewed(m.Chain); err != nil {
			s.Log.Error("renewed certificate not taken", "err", err)
			return nil
		}
		s.Log.Info("certificate renewed", "expires", s.Credential.Certificate().Leaf.NotAfter)
	case *wire.GoAway:
		return &wire.Error{Code: wire.CodeUnavailable, Detail: errGoAway.Error(), RetryAfterMS: m.RetryAfterMS}
	}
	return nil
}

// told takes over an interval.
func (s *session) told(ms uint32) {
	if ms == 0 {
		return
	}
	s.interval = clamp(time.Duration(ms) * time.Millisecond)
	if err := s.State.Told(s.interval, s.keepAlive); err != nil {
		s.Log.Error("interval not stored", "err", err)
	}
}

// receipt verifies a receipt and lets go of what it covers. One that does not verify or fit is reported and changes nothing.
func (s *session) receipt(b []byte, retry *time.Timer) error {
	r, err := seal.OpenReceipt(b, s.Credential.Authority)
	if err == nil {
		err = s.State.Receipted(r)
	}
	if err != nil {
		s.Log.Error("receipt not taken", "gateway", s.gateway.String(), "err", err)
		return nil
	}
	if s.sending != nil && (r.Epoch > s.sending.Epoch || r.Epoch == s.sending.Epoch && r.Seq >= s.sending.Seq) {
		s.sending = nil
	}
	return s.next(retry)
}

// refused acts on a refusal. The session goes on unless the gateway ends it.
func (s *session) refused(e *wire.Error, retry *time.Timer) error {
	if e.Ref != wire.TypeStatement || s.sending == nil {
		s.Log.Warn("gateway refused", "message", e.Ref.String(), "err", e)
		return nil
	}
	wait := e.RetryAfter()
	if !e.Code.Temporary() {
		wait = max(wait, refusedMax) // kept, because the core may change its mind after an upgrade or an operator's word
	}
	s.Log.Warn("statement not taken", "epoch", s.sending.Epoch, "seq", s.sending.Seq, "err", e, "retry_in", wait.String())
	retry.Reset(max(wait, time.Second))
	return nil
}

// renew asks for a new certificate once the present one is old enough.
func (s *session) renew(fraction float64) error {
	if s.Wall().Before(s.Credential.RenewAt(fraction)) {
		return nil
	}
	csr, err := ident.NewCSR(s.Credential.Key)
	if err != nil {
		return fmt.Errorf("renew: %w", err)
	}
	return s.link.Send(wire.TypeRenew, wire.Renew{CSR: csr})
}
