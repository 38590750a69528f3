package sibling

import (
	"context"
	"errors"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
)

// A Handler serves one request of a sibling: it accepts or refuses it, and returns when the session is over. What it accepted is
// closed when it returns, and fails when ctx ends.
type Handler func(ctx context.Context, r *Request)

// A Request is a session that a sibling has dialled and that is not admitted yet.
type Request struct {
	From string // the sibling's name
	ls   *link.Session
	self string
	who  ident.ID
	conn *Conn
	over bool // accepted or refused
}

// Accept welcomes the sibling.
func (r *Request) Accept() (*Conn, error) {
	r.over = true
	if err := r.ls.Send(wire.TypeSiblingWelcome, wire.SiblingWelcome{Capability: wire.Capability, Identity: r.who.String()}); err != nil {
		return nil, err
	}
	r.conn = newConn(r.ls, r.self, r.From, false)
	return r.conn, nil
}

// Refuse tells the sibling why it is not welcome.
func (r *Request) Refuse(e *wire.Error) {
	r.over = true
	r.ls.Refuse(e)
}

// Serve serves a session that was dialled by ALPNSite until it ends or ctx does, and closes it. opened is called when the sibling
// has been told whether it is admitted, or as soon as its handler decides about that.
func (p *Peers) Serve(ctx context.Context, ls *link.Session, opened func()) {
	defer ls.Close()
	stop := context.AfterFunc(ctx, ls.Close)
	defer stop()
	peer, purpose, err := p.admit(ls)
	var release func()
	if err == nil {
		release, err = p.place(ls, peer, purpose)
	}
	if err != nil {
		e, ok := errors.AsType[*wire.Error](err)
		if !ok {
			e = wire.Refuse(wire.CodeMalformed, "the opening does not read")
		}
		p.Log.Info("gateway not admitted", "remote", ls.RemoteAddr().String(), "err", err)
		ls.Refuse(e)
		return
	}
	defer release()
	opened()
	r := &Request{From: peer.ID.Name, ls: ls, self: p.Self.Name, who: peer.ID}
	p.Handlers[purpose](ctx, r)
	switch {
	case r.conn != nil:
		r.conn.Close() //nolint:errcheck // it never fails
	case !r.over:
		r.Refuse(wire.Refuse(wire.CodeInternal, "the gateway failed").After(busyAfter))
	}
}

// admit reads a sibling's hello. The error is what it is to be told.
func (p *Peers) admit(ls *link.Session) (peer ident.Peer, purpose wire.Purpose, err error) {
	peer, ok := ls.Peer(p.Endpoint.Wall())
	if !ok || peer.ID.Role != ident.RoleGateway {
		return peer, 0, wire.Refuse(wire.CodeForbidden, "not a gateway")
	}
	if err := p.check(&peer); err != nil {
		return peer, 0, wire.Refuse(wire.CodeForbidden, "%v", err)
	}
	t, body, err := ls.RecvWithin(helloTime)
	if err != nil {
		return peer, 0, err
	}
	if t != wire.TypeSiblingHello {
		return peer, 0, wire.Refuse(wire.CodeMalformed, "want a sibling_hello, got %v", t)
	}
	var m wire.SiblingHello
	if err := wire.Unmarshal(body, &m); err != nil {
		return peer, 0, err
	}
	if p.Handlers[m.Purpose] == nil {
		return peer, 0, wire.Refuse(wire.CodeUnsupported, "sessions for %v are not served here", m.Purpose)
	}
	return peer, m.Purpose, nil
}

// place finds room for a session. The error is what the sibling is to be told.
func (p *Peers) place(ls *link.Session, peer ident.Peer, purpose wire.Purpose) (release func(), err error) {
	k := served{peer.ID.Name, purpose}
	p.mu.Lock()
	full := p.served[k] >= maxSessions
	if !full {
		p.served[k]++
	}
	p.mu.Unlock()
	if full {
		return nil, wire.Refuse(wire.CodeBusy, "%d sessions for %v are open", maxSessions, purpose).After(busyAfter)
	}
	leave := func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.served[k]--; p.served[k] == 0 {
			delete(p.served, k)
		}
	}
	forget, err := p.keep(ls, peer)
	if err != nil {
		leave()
		return nil, wire.Refuse(wire.CodeForbidden, "%v", err)
	}
	return func() { forget(); leave() }, nil
}
