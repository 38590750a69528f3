package link

import (
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-edge/holdfast/internal/backoff"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

// known are the gateways by the lists that the authority signed and by hand, each once: first those that were given by hand and
// are listed, then the rest of the lists, then the rest of what was given by hand.
func (l *Link) known() []string {
	listed := l.Lists.Addresses()
	var first, fallback []string
	for _, a := range l.Gateways {
		if slices.Contains(listed, a) {
			first = append(first, a)
		} else {
			fallback = append(fallback, a)
		}
	}
	var all []string
	for _, a := range slices.Concat(first, listed, fallback) {
		if !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	return all
}

// refresh brings the gateways to try in line with what is known. Those that are tried already keep their order.
func (l *Link) refresh() {
	all := l.known()
	l.gateways = slices.DeleteFunc(l.gateways, func(a string) bool { return !slices.Contains(all, a) })
	for _, a := range all {
		if !slices.Contains(l.gateways, a) {
			l.gateways = append(l.gateways, a)
		}
	}
}

// learn takes a signed list of gateways. One that does not verify or cannot be stored is reported and changes nothing.
func (s *session) learn(sealed []byte) {
	list, err := s.Lists.Learn(sealed)
	if err == nil && list != nil {
		s.Log.Info("list of gateways", "site", list.Site, "number", list.Number, "gateways", len(list.Gateways))
		err = s.State.RaiseFloor(list.LogTime())
	}
	if err != nil {
		s.Log.Error("list of gateways not taken", "gateway", s.gateway.String(), "err", err)
	}
}

// errDropped refuses a gateway, or leaves it, because it has ended by the list of its site.
var errDropped = fmt.Errorf("the authority's list of its site no longer has the gateway: %w", ident.ErrUntrusted)

// dropped is errDropped when the session's gateway has ended by what was learned since the session began.
func (s *session) dropped() error {
	if p, ok := s.link.Peer(s.Wall()); ok && s.Lists.Drops(p.ID, p.Key, p.Issued()) {
		return errDropped
	}
	return nil
}

// Times of a renewal by a device whose certificate has expired: it is in only because its gateway knows its key, so it does
// not wait for its turn. A plant's devices come back together, and spread their requests.
const (
	renewExpired = time.Minute
	renewSpread  = 0.5 // of it
	// renewAgain is how long a device that has just renewed does not ask again, whatever its clock says: one that runs ahead
	// makes every certificate look old.
	renewAgain = 12 * time.Hour
)

// untilRenewal is when to look next whether the certificate is due.
func (s *session) untilRenewal() time.Duration {
	if s.renewedLately() || s.Wall().Before(s.Credential.Certificate().Leaf.NotAfter) {
		return renewCheck
	}
	return backoff.Jitter(renewExpired, renewSpread)
}

func (l *Link) renewedLately() bool { return !l.renewed.IsZero() && time.Since(l.renewed) < renewAgain }
