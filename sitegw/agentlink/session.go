package agentlink

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/holdfast-edge/holdfast/sitegw/roster"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// Limits of one session. A device that means well is far below them.
const (
	maxFrames      = 50 // a second
	burstFrames    = 200
	maxRefusals    = 8 // messages that this side had to refuse
	renewalTimeout = 20 * time.Second
)

// A session is one attached agent. It costs one goroutine, which reads and answers, and a second one while there is news.
type session struct {
	*Server
	link   *link.Session
	peer   ident.Peer
	entry  *roster.Entry
	frames *rate.Limiter

	flow     flow
	unkept   atomic.Int32 // statements that wait for the disk
	news     teller
	renewing atomic.Bool
	leaving  atomic.Bool // goodbye was said, and is on its way

	listMu sync.Mutex
	list   seal.Stamp // of the list of gateways that the agent has, or is being sent

	ordersMu sync.Mutex
	orders   orders
}

var _ roster.Session = (*session)(nil)

// serve reads until the session ends.
func (s *session) serve(ctx context.Context) {
	for refusals := 0; refusals < maxRefusals; {
		t, body, err := s.link.Recv()
		if err != nil {
			s.ending(err)
			return
		}
		// A device that was long alone has much to state: its statements are taken at the limit. Nothing else is said so often.
		if t == wire.TypeStatement {
			if s.frames.Wait(ctx) != nil {
				return
			}
		} else if !s.frames.Allow() {
			s.Drop(wire.Refuse(wire.CodeBusy, "more than %d messages a second", maxFrames).After(busyAfter))
			return
		}
		if e := s.handle(ctx, t, body); e != nil {
			if e.Code != wire.CodeUnavailable { // in an outage a device with an expired certificate asks for months, and means well
				refusals++
			}
			e.Ref = t
			if s.link.Send(wire.TypeError, e) != nil {
				return
			}
		}
	}
	s.Drop(wire.Refuse(wire.CodeMalformed, "too many messages that had to be refused"))
}

// broken ends a session on which something could not be sent. Once goodbye is said nothing can, and to close the session would
// overtake it: then the agent ends it, or the deadline does.
func (s *session) broken() {
	if !s.leaving.Load() {
		s.link.Close()
	}
}

// ending closes a session whose frames do not read.
func (s *session) ending(err error) {
	if errors.Is(err, wire.ErrMalformed) {
		s.link.CloseWith(wire.Refuse(wire.CodeMalformed, "a frame does not read"))
	}
}

// handle takes one message. What it returns is told to the agent.
func (s *session) handle(ctx context.Context, t wire.Type, body []byte) *wire.Error {
	switch t {
	case wire.TypeHeartbeat:
		return s.heartbeat(body)
	case wire.TypeStatement:
		return s.statement(body)
	case wire.TypeAttach:
		return s.attachAgain(body)
	case wire.TypeRenew:
		return s.renew(ctx, body)
	default:
		return wire.Refuse(wire.CodeUnsupported, "message type %d", uint16(t))
	}
}

func malformed(err error) *wire.Error { return wire.Refuse(wire.CodeMalformed, "%v", err) }

func (s *session) heartbeat(body []byte) *wire.Error {
	var h wire.Heartbeat
	if err := wire.Unmarshal(body, &h); err != nil {
		return malformed(err)
	}
	if h.Number == 0 || clampInterval(h.IntervalMS).Milliseconds() != int64(h.IntervalMS) {
		return wire.Refuse(wire.CodeMalformed, "heartbeat %d with an interval of %d ms", h.Number, h.IntervalMS)
	}
	s.counters.Heartbeats.Add(1)
	interval := s.Roster.Beat(s.entry, &h)
	ack := wire.HeartbeatAck{Number: h.Number, IntervalMS: wire.Millis(interval), Uplink: s.Uplink.Connected()}
	s.holds(&h)
	s.ordered(&ack)
	if err := s.link.Send(wire.TypeHeartbeatAck, ack); err != nil {
		s.broken()
	}
	return nil
}

// attachAgain takes an attach that renews the device's word on a session that goes on.
func (s *session) attachAgain(body []byte) *wire.Error {
	var m wire.Attach
	if err := wire.Unmarshal(body, &m); err != nil {
		return malformed(err)
	}
	a, err := s.checkAttach(&s.peer, m.Sealed)
	if err != nil {
		if e, ok := errors.AsType[*wire.Error](err); ok {
			return e
		}
		return malformed(err)
	}
	s.delivered(a)
	s.Roster.Refreshed(s.entry, a.Sealed)
	s.Mirror.Seen(a.Device)
	s.hasList(&m)
	return nil
}

// renew passes a request for a new certificate on, one at a time.
func (s *session) renew(ctx context.Context, body []byte) *wire.Error {
	var m wire.Renew
	if err := wire.Unmarshal(body, &m); err != nil {
		return malformed(err)
	}
	if !s.renewing.CompareAndSwap(false, true) {
		return wire.Refuse(wire.CodeBusy, "a renewal is under way").After(busyAfter)
	}
	defer s.renewing.Store(false)
	ctx, cancel := context.WithTimeout(ctx, renewalTimeout)
	defer cancel()
	out, err := s.Uplink.Renew(ctx, s.peer.ID.Device, m)
	if err != nil {
		if e, ok := errors.AsType[*wire.Error](err); ok {
			return &wire.Error{Code: e.Code, Detail: e.Detail, RetryAfterMS: e.RetryAfterMS}
		}
		return wire.Refuse(wire.CodeInternal, "the gateway failed").After(busyAfter)
	}
	if err := s.link.Send(wire.TypeRenewed, out); err != nil {
		s.broken()
	}
	return nil
}

// Tell implements roster.Session.
func (s *session) Tell(interval time.Duration) {
	if err := s.link.Send(wire.TypeHeartbeatAck, wire.HeartbeatAck{IntervalMS: wire.Millis(interval)}); err != nil {
		s.broken()
	}
}

// Drop implements roster.Session. It does not wait for the peer.
func (s *session) Drop(e *wire.Error) { s.link.CloseWith(e) }
