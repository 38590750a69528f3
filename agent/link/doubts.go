package link

import (
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A doubted is what is held against a gateway, by its SPIFFE id.
type doubted struct {
	gateway string
	reason  seal.Doubt
}

// Doubt has the next attach name a gateway, and say what for. A session with another gateway says it at once; one with the gateway itself
// is left, if there is another one. It may be called from any goroutine but the session's.
func (l *Link) Doubt(gateway ident.ID, reason seal.Doubt) {
	l.doubt(gateway, reason)
	select {
	case l.named <- struct{}{}:
	default:
	}
}

// doubt remembers whom the next attach is to name, and for what.
func (l *Link) doubt(gateway ident.ID, reason seal.Doubt) {
	l.doubts.Store(&doubted{gateway.String(), reason})
}

// accuse gives up a gateway that says what cannot be: it says so to the next one. It is done once in a session.
func (s *session) accuse(message, what string, value uint64) error {
	if s.accused {
		return nil
	}
	s.Log.Error("the gateway answers what it was not sent", "gateway", s.gateway.String(), "message", message, what, value)
	s.doubt(s.gateway, seal.DoubtAnswers)
	return s.leave()
}

// leave gives up the gateway, or, where there is no other one, says what is held against it in another attach, which may get to the core.
func (s *session) leave() error {
	s.accused = true
	if len(s.gateways) == 1 {
		return s.attach()
	}
	return errFalse
}

// pass says what Doubt brought.
func (s *session) pass() error {
	d := s.doubts.Load()
	switch {
	case d == nil || d == s.said:
		return nil
	case d.gateway == s.gateway.String():
		if s.accused {
			return nil
		}
		return s.leave()
	}
	if err := s.attach(); err != nil {
		return err
	}
	s.heard()
	return nil
}

// heard forgets a doubt that the attach has told to another gateway than the one that it names.
func (s *session) heard() {
	if d := s.said; d != nil && d.gateway != s.gateway.String() {
		s.doubts.CompareAndSwap(d, nil)
	}
}

// ordered takes what the gateway says of orders and publishers.
func (s *session) ordered(m *wire.HeartbeatAck) error {
	if s.Desired == nil {
		return nil
	}
	if m.Publishers > 0 {
		s.Desired.Publishers(m.Publishers)
	}
	if len(m.Order) == 0 {
		return nil
	}
	err := s.Desired.Order(m.Order)
	if err == nil || s.accused {
		return nil
	}
	s.Log.Error("the gateway brought an order that is not obeyed", "gateway", s.gateway.String(), "err", err)
	s.doubt(s.gateway, seal.DoubtOrder)
	return s.leave()
}
