package sibling

import (
	"context"
	"fmt"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
)

// Dial opens a session with a sibling. The error is ErrNotSibling when the list lacks it, a *wire.Error when the sibling refuses,
// and link.ErrClosed when it does not answer.
func (p *Peers) Dial(ctx context.Context, name string, purpose wire.Purpose) (*Conn, error) {
	g, ok := p.listed(name)
	if !ok || g.Listen == "" {
		return nil, fmt.Errorf("dial gateway %q: %w", name, ErrNotSibling)
	}
	accept := func(peer ident.Peer) error {
		if peer.ID.Name != name {
			return fmt.Errorf("%v answers where %q is: %w", peer.ID, name, ErrNotSibling)
		}
		return p.check(&peer)
	}
	to := link.Target{Addr: g.Listen, TLS: p.Endpoint.Client(wire.ALPNSite, ident.RoleGateway, accept), Options: link.Options{Limits: link.SiblingLimits}}
	ls, err := link.Open(ctx, p.Dialer, to, func(ls *link.Session) (*link.Session, error) { return ls, p.greet(ls, purpose) }) //nolint:contextcheck // the session is forgotten at its own end
	if err != nil {
		return nil, fmt.Errorf("dial gateway %q for %v: %w", name, purpose, err)
	}
	return newConn(ls, p.Self.Name, name, true), nil
}

// greet says what the session is for and waits for the welcome.
func (p *Peers) greet(ls *link.Session, purpose wire.Purpose) error {
	if err := ls.Send(wire.TypeSiblingHello, wire.SiblingHello{Capability: wire.Capability, Purpose: purpose}); err != nil {
		return err
	}
	t, body, err := ls.RecvWithin(welcomeTime)
	if err != nil {
		return err
	}
	switch t {
	case wire.TypeSiblingWelcome:
		if err := wire.Unmarshal(body, new(wire.SiblingWelcome)); err != nil {
			return err
		}
	case wire.TypeError:
		e := new(wire.Error)
		if err := wire.Unmarshal(body, e); err != nil {
			return err
		}
		return e
	default:
		return fmt.Errorf("want a welcome, got %v: %w", t, wire.ErrMalformed)
	}
	peer, _ := ls.Peer(p.Endpoint.Wall())
	forget, err := p.keep(ls, peer)
	if err != nil {
		return err
	}
	context.AfterFunc(ls.Context(), forget)
	return nil
}
