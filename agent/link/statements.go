package link

import (
	"time"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// keptWithin is how long a gateway may take to keep a statement or to refuse it, before it is sent again.
const keptWithin = time.Minute

// maxPeriod is the longest report period that a gateway is believed, and what counts when it says none: it must not put off for ever the
// receipts that it owes.
const maxPeriod = 10 * time.Minute

// doubtAfter is after how many report periods without a receipt a gateway that has taken statements, and says that it has an
// uplink, is doubted.
const doubtAfter = 3

// An upload brings the outbox to one gateway: a few statements under way, then as custody is answered the next. Statements in
// custody wait for the core's receipt; nothing else lets go of them.
type upload struct {
	last     place   // the newest statement sent on this session, or in the gateway's custody from before
	kept     place   // the newest in its custody
	underWay []place // sent, neither kept nor refused
	wait     *time.Timer
	paused   bool // by a refusal, until wait is over

	owing    time.Time     // since when a receipt is owed: something is in custody, and the gateway has an uplink; zero: none is
	period   time.Duration // the core's report period; 0: not told, and nothing is expected
	hopeless bool          // the core refused something: no receipt is to be expected from anybody
	doubt    *time.Timer
}

// A place is a statement's in the device's sequence.
type place struct{ epoch, seq uint64 }

func (p place) before(o place) bool { return p.epoch < o.epoch || p.epoch == o.epoch && p.seq < o.seq }

func newUpload() *upload {
	u := &upload{wait: time.NewTimer(0), doubt: time.NewTimer(time.Hour)}
	u.doubt.Stop()
	return u
}

func (u *upload) stop() {
	u.wait.Stop()
	u.doubt.Stop()
}

// begin takes over what a welcome says: up to where the gateway has this device's statements already, if they are the same.
func (s *session) begin(w *wire.Welcome) {
	s.up.period = maxPeriod
	if w.PeriodMS > 0 {
		s.up.period = min(max(time.Duration(w.PeriodMS)*time.Millisecond, MinInterval), maxPeriod)
	}
	if k := w.Kept; k != nil && s.State.Holds(k.Epoch, k.Seq, k.Chain) {
		s.up.last = place{k.Epoch, k.Seq}
		s.up.kept = s.up.last
	}
}

// stated tells whether the device has ever made a statement at a place.
func (s *session) stated(p place) bool {
	a := s.State.Attach()
	return !(place{a.Epoch, a.Highest}).before(p)
}

// send brings up what may be under way.
func (s *session) send() error {
	u := s.up
	for !u.paused && len(u.underWay) < wire.MaxUnkept {
		st := s.State.After(u.last.epoch, u.last.seq)
		if st == nil {
			return nil
		}
		if len(u.underWay) == 0 {
			u.wait.Reset(keptWithin)
		}
		u.last = place{st.Epoch, st.Seq}
		u.underWay = append(u.underWay, u.last)
		if err := s.link.Send(wire.TypeStatement, wire.Statement{Sealed: st.Sealed}); err != nil {
			return err
		}
	}
	return nil
}

// again goes back to the oldest statement that is not in the gateway's custody.
func (s *session) again() error {
	s.up.last, s.up.underWay, s.up.paused = s.up.kept, nil, false
	return s.send()
}

// custody notes what the gateway keeps.
func (s *session) custody(m *wire.Custody) error {
	u := s.up
	p := place{m.Epoch, m.Seq}
	if !s.stated(p) {
		return s.accuse("custody", "seq", m.Seq)
	}
	if u.last.before(p) || p.before(u.kept) {
		s.Log.Error("the gateway keeps what it was not sent", "gateway", s.gateway.String(), "epoch", m.Epoch, "seq", m.Seq)
		return nil
	}
	u.kept = p
	u.settled()
	return s.send()
}

// settled drops from underWay what is in custody.
func (u *upload) settled() {
	for len(u.underWay) > 0 && !u.kept.before(u.underWay[0]) {
		u.underWay = u.underWay[1:]
	}
	switch {
	case u.paused:
	case len(u.underWay) == 0:
		u.wait.Stop()
	default:
		u.wait.Reset(keptWithin)
	}
}

// refused acts on a refusal. The session goes on unless the gateway ends it.
func (s *session) refused(e *wire.Error) {
	if e.Ref != wire.TypeStatement {
		s.Log.Warn("gateway refused", "message", e.Ref.String(), "err", e)
		return
	}
	wait := max(e.RetryAfter(), time.Second)
	if !e.Code.Temporary() {
		wait = max(wait, refusedMax) // kept, because the core may change its mind after an upgrade or an operator's word
		s.up.hopeless = true
		s.expect()
	}
	s.Log.Warn("statement not taken", "behind_epoch", s.up.kept.epoch, "behind_seq", s.up.kept.seq, "err", e, "retry_in", wait.String())
	s.up.paused = true
	s.up.wait.Reset(wait)
}

// receipt verifies a receipt and lets go of what it covers. One that does not verify or fit is reported and changes nothing.
func (s *session) receipt(b []byte) error {
	oldest := s.State.Oldest()
	r, err := seal.OpenReceipt(b, s.Credential.Authority)
	if err == nil {
		err = s.State.Receipted(r)
	}
	if err != nil {
		s.Log.Error("receipt not taken", "gateway", s.gateway.String(), "err", err)
		return nil
	}
	u := s.up
	if p := (place{r.Epoch, r.Seq}); u.kept.before(p) {
		u.kept = p
		if u.last.before(p) {
			u.last = p
		}
		u.settled()
	}
	if s.State.Oldest() != oldest { // an old receipt, shown again, pays no debt
		u.owing = time.Time{}
	}
	s.expect()
	return s.send()
}

// uplink notes whether the gateway says that it has an uplink.
func (s *session) uplink(has bool) {
	if !has {
		s.up.owing = time.Time{}
		s.up.doubt.Stop()
		return
	}
	s.expect()
}

// expect begins to wait for a receipt if one is owed.
func (s *session) expect() {
	u := s.up
	oldest := s.State.Oldest()
	owed := !u.hopeless && u.period > 0 && oldest != nil && !u.kept.before(place{oldest.Epoch, oldest.Seq})
	switch {
	case !owed:
		u.owing = time.Time{}
		u.doubt.Stop()
	case u.owing.IsZero():
		u.owing = time.Now()
		u.doubt.Reset(doubtAfter * u.period)
	}
}

// doubted gives up a gateway that takes statements, says that it has an uplink, and brings no receipt: it says so to the next
// one. Where there is no other gateway there is nothing to gain.
func (s *session) doubted() error {
	if s.up.owing.IsZero() {
		return nil
	}
	s.Log.Error("no receipt for statements that the gateway took, although it says that it has an uplink",
		"gateway", s.gateway.String(), "since", s.up.owing, "elsewhere", len(s.gateways) > 1)
	s.doubt(s.gateway, seal.DoubtWithholds)
	if len(s.gateways) == 1 {
		return s.attach() // which says it to the core, if it gets there
	}
	return errWithheld
}
