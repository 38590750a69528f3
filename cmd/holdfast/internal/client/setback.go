package client

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// setbacks are what the attempts of one call met, and decide whether there is another round. PURE: no clock, no network.
type setbacks struct {
	err  error // the most telling one: a core's word over a certificate that is not trusted, that over silence
	open bool  // a change may have been made: it was sent and no answer said what became of it

	// Of the round.
	told bool          // a core said that it is unavailable
	wait time.Duration // the shortest that a core asked to wait; 0: none did
}

func (s *setbacks) begin() { s.told, s.wait = false, 0 }

// passing notes the error of an attempt, and tells whether another node may do better. sent says that a change may have
// arrived at the node.
func (s *setbacks) passing(err error, sent bool) bool {
	p, refused := errors.AsType[*Problem](err)
	switch {
	case refused && p.Status == http.StatusServiceUnavailable:
		s.told = true
		if p.RetryAfter > 0 && (s.wait == 0 || p.RetryAfter < s.wait) {
			s.wait = p.RetryAfter
		}
	case refused && (p.Status == http.StatusGatewayTimeout || p.Status == http.StatusBadGateway):
		s.open = s.open || sent
	case refused:
		return false
	case errors.Is(err, ErrUnreachable):
		s.open = s.open || sent
	case !errors.Is(err, ErrUntrusted):
		return false
	}
	if rank(err) >= rank(s.err) {
		s.err = err
	}
	return true
}

func rank(err error) int {
	_, refused := errors.AsType[*Problem](err)
	switch {
	case refused:
		return 3
	case errors.Is(err, ErrUntrusted):
		return 2
	case err != nil:
		return 1
	}
	return 0
}

// again says how long to wait after the given round, counted from 1, and whether there is another one. A change whose outcome
// is open is repeated for as long as the caller has time.
func (s *setbacks) again(round int) (time.Duration, bool) {
	wait := min(firstWait<<(round-1), lastWait)
	switch {
	case s.open:
		return wait, true
	case s.told && s.wait > 0:
		return s.wait, round < waitRounds && s.wait <= maxWait
	case s.told:
		return defaultWait, round < waitRounds
	case errors.Is(s.err, ErrUntrusted):
		return 0, false
	default:
		return wait, round < goneRounds
	}
}

// verdict is the error of the whole call, which could take the given time.
func (s *setbacks) verdict(nodes int, within time.Duration) error {
	err := s.err
	if nodes > 1 {
		err = fmt.Errorf("%w (%d nodes were tried)", err, nodes)
	}
	if s.open && !errors.Is(err, ErrOutcome) {
		err = fmt.Errorf("%w: no node told it within %v: %w", ErrOutcome, within, err)
	}
	return err
}
