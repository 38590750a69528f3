package sitelink

import (
	"errors"
	"slices"
	"time"

	"github.com/holdfast-edge/holdfast/core/facts"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/link"
)

// retired is why a gateway's key is not admitted; nil: it is. A key that the record does not have at all may be one that a
// recovered core has forgotten: it is unknown, and nobody says that it has ended.
func retired(g *registry.Gateway, key ident.KeyID) *wire.Error {
	if _, ok := g.ActiveKey(key); ok {
		return nil
	}
	switch {
	case !slices.ContainsFunc(g.Keys, func(k registry.Key) bool { return k.ID == key }):
		return wire.Refuse(wire.CodeUnknownKey, "the key is not one of gateway %s", g.ID())
	case g.RevokedMS != 0:
		return wire.Refuse(wire.CodeRetired, "gateway %s was revoked", g.ID())
	}
	return wire.Refuse(wire.CodeRetired, "another key was enrolled for gateway %s", g.ID())
}

// farewell shows a gateway whose key has ended the list that says so, signed, because it stops for nothing less. It returns the
// refusal.
func (s *Server) farewell(ses *link.Session, v registry.View, gw string, refusal *wire.Error) error {
	g, ok := v.Gateway(gw)
	if !ok || refusal.Code != wire.CodeRetired {
		return refusal
	}
	list, err := facts.List(v, g.Site, s.Authority)
	if err != nil {
		return errors.Join(refusal, err)
	}
	if err := ses.Send(wire.TypeSite, wire.Site{Version: v.Index(), List: list}); err != nil {
		return errors.Join(refusal, err)
	}
	return refusal
}

// farewellTime bounds the wait for a gateway to end the session on which it was told that its key has ended.
const farewellTime = time.Second

// admittedStill ends the session when its gateway's key has ended: then it returns the refusal that the gateway was told.
func (u *uplink) admittedStill(v registry.View) error {
	g, ok := v.Gateway(u.gw)
	if !ok {
		return nil
	}
	refusal := retired(g, u.peer.Key)
	if refusal == nil {
		return nil
	}
	u.Log.Warn("gateway cut off", "gateway", u.gw, "reason", refusal.Detail)
	err := u.farewell(u.ses, v, u.gw, refusal)
	if u.ses.Send(wire.TypeError, refusal) == nil {
		u.ses.CloseSend(farewellTime)
	}
	u.ses.CloseWith(refusal)
	return err
}
