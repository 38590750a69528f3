package link

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-edge/holdfast/internal/backoff"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	wirelink "github.com/holdfast-edge/holdfast/wire/link"
)

// Limits of a session.
const (
	waiting       = 8   // frames that were read and not taken: a little more than a gateway says in a burst
	beatJitter    = 0.1 // of the interval, either way
	maxUnanswered = 3   // heartbeats; then the session is given up
	renewCheck    = 10 * time.Minute
)

// A session is one admitted session. One goroutine reads and hands over; one does everything else, and owns the fields.
type session struct {
	*Link
	link      *wirelink.Session
	number    uint64 // of its newest attach
	welcome   *wire.Welcome
	gateway   ident.ID
	interval  time.Duration
	keepAlive time.Duration

	in     chan frame   // to the one who owns the fields
	claims atomic.Bool  // the gateway says that it has an uplink, or has not said anything yet
	beatIn atomic.Int64 // ns from the newest answered heartbeat to its answer; negative: none was answered

	unanswered int
	acked      uint64   // number of the newest heartbeat that was answered, or was sent before this session
	accused    bool     // the gateway has been named for saying what cannot be
	said       *doubted // what its newest attach says
	lastBeat   time.Time
	up         *upload
}

// A frame is what the reader hands over.
type frame struct {
	t    wire.Type
	body any
}

// errSilent gives up a gateway that keeps the connection and answers nothing.
var errSilent = errors.New("the gateway answers no heartbeats")

// errWithheld gives up a gateway that takes statements and brings no receipts.
var errWithheld = errors.New("the gateway takes statements and brings no receipt")

// errFalse gives up a gateway that answers what it was not sent.
var errFalse = errors.New("the gateway answers what it was not sent")

// errGoAway is a gateway that stops.
var errGoAway = errors.New("the gateway stops")

// run holds the session until it ends. It always returns an error.
func (s *session) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, s.link.Close)
	defer stop()
	g.Go(func() error { return s.read(ctx) })
	g.Go(func() error { return s.loop(ctx) })
	return g.Wait()
}

// read decodes what comes and hands it over.
func (s *session) read(ctx context.Context) error {
	for {
		t, body, err := s.link.Recv()
		if err != nil {
			return err
		}
		f := frame{t: t}
		switch t {
		case wire.TypeHeartbeatAck:
			f.body = new(wire.HeartbeatAck)
		case wire.TypeCustody:
			f.body = new(wire.Custody)
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
		case s.in <- f:
		case <-ctx.Done():
			return ctx.Err()
		}
		if t == wire.TypeGoAway { // the end of the stream is right behind it, and must not be taken for the reason
			return nil
		}
	}
}

// loop beats, sends the outbox, and takes what the gateway says.
func (s *session) loop(ctx context.Context) error {
	// The attach has just told that the device lives. The first heartbeat comes at any moment of the interval, so that devices that
	// came back together do not beat together.
	s.lastBeat, s.acked = time.Now(), s.sent
	beat := time.NewTimer(rand.N(s.interval)) //nolint:gosec // spreads heartbeats
	defer beat.Stop()
	defer s.up.stop()
	attach := time.NewTicker(backoff.Jitter(attachEvery, attachJitter))
	defer attach.Stop()
	renew := time.NewTimer(s.untilRenewal())
	defer renew.Stop()
	fraction := 0.6 + 0.2*rand.Float64() //nolint:gosec // spreads renewals
	for {
		var err error
		before := s.interval
		select {
		case <-beat.C:
			err = s.beat()
			beat.Reset(backoff.Jitter(s.interval, beatJitter))
		case <-s.up.wait.C:
			err = s.again()
		case <-s.up.doubt.C:
			err = s.doubted()
		case <-s.wake:
			err = s.send()
		case <-s.named:
			err = s.pass()
		case <-attach.C:
			err = s.attach()
		case <-renew.C:
			err = s.renew(fraction)
			renew.Reset(s.untilRenewal())
		case f := <-s.in:
			err = s.take(f)
		case <-ctx.Done():
			return ctx.Err()
		}
		if err != nil {
			return err
		}
		if s.interval != before {
			beat.Reset(s.untilBeat())
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
	s.lives()
	h := wire.Heartbeat{
		Run: s.Link.run, Number: s.sent, Answered: s.answered.Load(), UptimeMS: uint64(s.Uptime().Milliseconds()), IntervalMS: wire.Millis(s.interval), //nolint:gosec // G115: time since boot is positive
	}
	if s.Desired != nil {
		h.Desired, h.Running, h.Publishers = s.Desired.Beat()
	}
	return s.link.Send(wire.TypeHeartbeat, h)
}

// take acts on one message of the gateway.
func (s *session) take(f frame) error {
	switch m := f.body.(type) {
	case *wire.HeartbeatAck:
		switch {
		case m.Number == 0:
		case m.Number <= s.acked || m.Number > s.sent:
			if err := s.accuse("heartbeat_ack", "number", m.Number); err != nil {
				return err
			}
		default:
			s.answered.Add(1)
			s.unanswered, s.acked = 0, m.Number
			s.claims.Store(m.Uplink)
			if m.Number == s.sent {
				s.beatIn.Store(int64(time.Since(s.lastBeat)))
			}
		}
		s.told(m.IntervalMS)
		s.uplink(m.Uplink)
		if len(m.List) > 0 {
			s.learn(m.List)
			if err := s.dropped(); err != nil {
				return err
			}
		}
		if err := s.ordered(m); err != nil {
			return err
		}
		if len(m.Receipt) > 0 {
			return s.receipt(m.Receipt)
		}
	case *wire.Custody:
		return s.custody(m)
	case *wire.Error:
		s.refused(m)
	case *wire.GoAway:
		return &wire.Error{Code: wire.CodeUnavailable, Detail: errGoAway.Error(), RetryAfterMS: m.RetryAfterMS}
	case *wire.Renewed:
		if err := s.Credential.Renewed(m.Chain); err != nil {
			s.Log.Error("renewed certificate not taken", "err", err)
			return nil
		}
		s.renewed = time.Now()
		s.Log.Info("certificate renewed", "expires", s.Credential.Certificate().Leaf.NotAfter)
	}
	return nil
}

// roundTrip is the session's round-trip time, 0 when it is not known. Like what a probe measures it is the shorter one of the
// transport's, which may have the peer's delays of acknowledgements in it, and an answer's.
func (s *session) roundTrip() time.Duration {
	rtt := s.link.RTT()
	if beat := time.Duration(s.beatIn.Load()); beat >= 0 {
		rtt = min(rtt, beat)
	}
	return rtt
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

// renew asks for a new certificate once the present one is old enough.
func (s *session) renew(fraction float64) error {
	if s.renewedLately() || s.Wall().Before(s.Credential.RenewAt(fraction)) {
		return nil
	}
	csr, err := ident.NewCSR(s.Credential.Key)
	if err != nil {
		return fmt.Errorf("renew: %w", err)
	}
	return s.link.Send(wire.TypeRenew, wire.Renew{CSR: csr})
}
