package agentlink

import (
	"crypto/ecdsa"
	"sync"

	"github.com/holdfast-edge/holdfast/sitegw/custody"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// statement verifies a statement and takes it into custody.
func (s *session) statement(body []byte) *wire.Error {
	var m wire.Statement
	if err := wire.Unmarshal(body, &m); err != nil {
		return malformed(err)
	}
	if len(m.Sealed) == 0 || len(m.Sealed) > wire.MaxStatement {
		return s.refuseStatement(wire.Refuse(wire.CodeMalformed, "statement of %d bytes, limit %d", len(m.Sealed), wire.MaxStatement))
	}
	st, err := seal.ParseStatement(m.Sealed)
	if err != nil {
		return s.refuseStatement(malformed(err))
	}
	if st.Key != s.peer.Key || st.Device != s.peer.ID.Device {
		return s.refuseStatement(wire.Refuse(wire.CodeForbidden, "the statement names another device or key than the certificate"))
	}
	round, first, wanted := s.flow.take(st)
	if !wanted {
		return nil // sent before the agent knew that one before it was refused
	}
	if pub, ok := s.peer.Leaf.PublicKey.(*ecdsa.PublicKey); !ok || st.Verify(pub) != nil {
		s.flow.refuse(round, st)
		return s.refuseStatement(wire.Refuse(wire.CodeMalformed, "the statement's signature does not verify"))
	}
	if s.unkept.Add(1) > wire.MaxUnkept {
		s.unkept.Add(-1)
		s.flow.refuse(round, st)
		return s.refuseStatement(wire.Refuse(wire.CodeBusy, "more than %d statements without custody", wire.MaxUnkept).After(busyAfter))
	}
	s.Custody.Keep(st, first, func(e *wire.Error) {
		s.unkept.Add(-1)
		if e == nil {
			s.counters.Statements.Add(wire.CodeNone)
			if s.flow.stands(round, st) {
				s.news.tell(s, news{custody: &wire.Custody{Epoch: st.Epoch, Seq: st.Seq}})
			}
			return
		}
		s.counters.Statements.Add(e.Code)
		if s.flow.refuse(round, st) {
			e.Ref = wire.TypeStatement
			s.news.tell(s, news{refusal: e})
		}
	})
	return nil
}

func (s *session) refuseStatement(e *wire.Error) *wire.Error {
	s.counters.Statements.Add(e.Code)
	return e
}

// A flow keeps a session's statements in order. After a refusal the agent takes a step back; what it had sent behind the
// refused one before it knew is not taken, so that nothing is in custody whose predecessor is not.
type flow struct {
	mu      sync.Mutex
	round   uint64 // counts the refusals
	blocked bool   // since a refusal: only what is not behind from is taken
	from    custody.Position
	last    custody.Position
}

func position(st *seal.SealedStatement) custody.Position {
	return custody.Position{Epoch: st.Epoch, Seq: st.Seq, Chain: st.Chain}
}

// take says whether a statement is wanted, in which round, and whether it is one that follows no other.
func (f *flow) take(st *seal.SealedStatement) (round uint64, first, wanted bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := position(st)
	if f.blocked && f.from.Before(&p) {
		return 0, false, false
	}
	first = f.last == custody.Position{}
	f.blocked, f.last = false, p
	return f.round, first, true
}

// refuse notes that a statement was refused; false: one before it was.
func (f *flow) refuse(round uint64, st *seal.SealedStatement) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if round != f.round {
		return false
	}
	f.round++
	f.blocked, f.from = true, position(st)
	return true
}

// stands tells whether nothing before a statement of a round was refused.
func (f *flow) stands(round uint64, st *seal.SealedStatement) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := position(st)
	return round == f.round || f.blocked && p.Before(&f.from)
}

// news is what an agent is to be told that none of its messages waits for: the newest of each kind.
type news struct {
	custody *wire.Custody
	receipt []byte
	refusal *wire.Error
}

// A teller tells one agent the news. Whoever has some does not wait for an agent that does not read: a goroutine sends, while
// there is something to send.
type teller struct {
	mu    sync.Mutex
	news  news
	busy  bool
	ended bool
	wg    sync.WaitGroup
}

// tell sends what of n is set, soon.
func (t *teller) tell(s *session, n news) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n.custody != nil {
		t.news.custody = n.custody
	}
	if n.receipt != nil {
		t.news.receipt = n.receipt
	}
	if n.refusal != nil {
		t.news.refusal = n.refusal
	}
	if t.busy || t.ended {
		return
	}
	t.busy = true
	t.wg.Go(func() { t.run(s) })
}

// next is what is to be sent now; false: nothing.
func (t *teller) next() (n news, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, t.news = t.news, news{}
	t.busy = !t.ended && (n.custody != nil || n.receipt != nil || n.refusal != nil)
	return n, t.busy
}

func (t *teller) run(s *session) {
	for n, ok := t.next(); ok; n, ok = t.next() {
		if err := n.send(s); err != nil {
			s.broken()
		}
	}
}

func (n *news) send(s *session) error {
	if n.custody != nil {
		if err := s.link.Send(wire.TypeCustody, n.custody); err != nil {
			return err
		}
	}
	if n.refusal != nil {
		if err := s.link.Send(wire.TypeError, n.refusal); err != nil {
			return err
		}
	}
	if n.receipt != nil {
		return s.link.Send(wire.TypeHeartbeatAck, wire.HeartbeatAck{Receipt: n.receipt, Uplink: s.Uplink.Connected()})
	}
	return nil
}

// end waits for what is being sent. The session must be closed.
func (t *teller) end() {
	t.mu.Lock()
	t.ended = true
	t.mu.Unlock()
	t.wg.Wait()
}

// Receipts takes receipts that came from the core, and passes each on to its device if that is here.
func (s *Server) Receipts(items []wire.DeviceReceipt) {
	for i := range items {
		it := &items[i]
		if !s.Custody.Receipted(it.Device, it.Receipt, s.Authority) {
			continue
		}
		if ses, ok := s.Roster.SessionOf(it.Device); ok {
			ses.Receipt(it.Receipt)
		}
	}
}

// Refused tells devices what of theirs the core will never take: they hold it, and may learn something from it.
func (s *Server) Refused(all []custody.Refused) {
	for i := range all {
		r := &all[i]
		st, err := seal.ParseStatement(r.Sealed)
		if err != nil {
			continue // it was parsed when it came
		}
		s.Log.Error("the core does not take a statement", "device", st.Device.String(), "epoch", st.Epoch, "seq", st.Seq, "code", r.Code.String(), "detail", r.Detail)
		if ses, ok := s.Roster.SessionOf(st.Device); ok {
			ses.Refused(&wire.Error{Code: r.Code, Detail: r.Detail, Ref: wire.TypeStatement})
		}
	}
}

// Receipt implements roster.Session.
func (s *session) Receipt(sealed []byte) { s.news.tell(s, news{receipt: sealed}) }

// Refused implements roster.Session.
func (s *session) Refused(e *wire.Error) { s.news.tell(s, news{refusal: e}) }

// kept is what a welcome says of the statements that are in custody from before.
func (s *Server) kept(d ident.DeviceID) *wire.Kept {
	p := s.Custody.Kept(d)
	if p.Epoch == 0 {
		return nil
	}
	return &wire.Kept{Epoch: p.Epoch, Seq: p.Seq, Chain: p.Chain[:]}
}
