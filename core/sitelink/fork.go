package sitelink

import (
	"context"
	"errors"
	"time"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
)

// single admits a gateway of which there is one, with its own spool, and refuses a copy. What the record knows already takes no
// entry of the log: that is one for each start of a gateway, and for a copy.
func (s *Server) single(ctx context.Context, ses *link.Session, peer *ident.Peer, gw string, hello *wire.UplinkHello) error {
	if hello.Spool == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, proposeTime)
	defer cancel()
	for range 3 { // the mark may go on meanwhile
		rec, ok := s.Registry.View().Gateway(gw)
		if !ok {
			return wire.Refuse(wire.CodeUnknownKey, "no gateway %s", gw)
		}
		c := &command.Uplinked{Gateway: gw, Key: peer.Key, Run: hello.Run, Spool: *hello.Spool}
		reason, settled := rec.Fork(c.Run, &c.Spool, 0, nil)
		if !settled {
			c.Asked = rec.Spool.Upto.Seq
			proof, err := prove(ses, c.Asked)
			if err != nil {
				return err
			}
			if c.Proof = proof.Point; proof.Spool != nil && proof.Spool.Incarnation == c.Spool.Incarnation {
				c.Spool = *proof.Spool
			}
			reason, _ = rec.Fork(c.Run, &c.Spool, c.Asked, c.Proof)
		}
		if reason == "" && rec.Known(c.Run, &c.Spool) {
			return nil
		}
		_, err := s.Registry.Propose(ctx, c)
		if e, refused := errors.AsType[*wire.Error](err); refused {
			return (&wire.Error{Code: e.Code, Detail: e.Detail}).After(againForked)
		}
		switch {
		case err == nil:
			return nil
		case errors.Is(err, registry.ErrRetry):
		default:
			s.Log.Warn("gateway not admitted: its start is not committed", "gateway", gw, "err", err)
			return wire.Refuse(wire.CodeUnavailable, "the core cannot decide now").After(2 * time.Second)
		}
	}
	return wire.Refuse(wire.CodeUnavailable, "the core cannot decide now").After(2 * time.Second)
}

// againForked is how long a copy of a gateway waits before it tries again: only an operator changes the answer.
const againForked = 5 * time.Minute

// prove asks a gateway for the point behind a record of its spool, and where that ends by now.
func prove(ses *link.Session, seq uint64) (m wire.Proof, err error) {
	if err := ses.Send(wire.TypeProve, wire.Prove{Seq: seq}); err != nil {
		return m, err
	}
	t, body, err := ses.RecvWithin(openingTime)
	if err != nil {
		return m, err
	}
	if t != wire.TypeProof {
		return m, wire.Refuse(wire.CodeMalformed, "want a proof, got %v", t)
	}
	return m, wire.Unmarshal(body, &m)
}

// mark is how far the gateway's spool is committed with a batch, and as which run it comes; nil: the gateway does not tell.
func (u *uplink) mark(b *batch) *command.Mark {
	if u.spool == nil {
		return nil
	}
	m := &command.Mark{Gateway: u.gw, Run: u.run, Incarnation: u.spool.Incarnation}
	if b.Upto != nil {
		m.Upto = *b.Upto
	}
	return m
}

// replaced is why the session ends when another run of the gateway was admitted since; nil: it goes on.
func (u *uplink) replaced(v registry.View) error {
	g, ok := v.Gateway(u.gw)
	if u.spool == nil || !ok || g.Known(u.run, u.spool) {
		return nil
	}
	refusal := wire.Refuse(wire.CodeConflict, "another run of gateway %s was admitted", u.gw)
	u.ses.CloseWith(refusal)
	return refusal
}

// fork is the error of a commit as one that ends the session; nil: it does not.
func (u *uplink) fork(err error) error {
	e, refused := errors.AsType[*wire.Error](err)
	if errors.Is(err, registry.ErrReplaced) {
		e, refused = wire.Refuse(wire.CodeConflict, "another run of gateway %s was admitted", u.gw), true
	}
	if !refused {
		return nil
	}
	u.ses.CloseWith(e)
	return e
}
