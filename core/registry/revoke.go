package registry

import (
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-edge/holdfast/core/command"
)

// revokeGateway retires all keys of a gateway, and ends the tokens that enrolled them: whoever has such a token could be back
// at once. The record stays, and its name may be enrolled anew. Result: *Gateway.
func (a *applier) revokeGateway(c *command.RevokeGateway) any {
	old, ok := a.view.gateways.get(c.Gateway)
	if !ok {
		return fmt.Errorf("gateway %s: %w", c.Gateway, ErrNotFound)
	}
	if old.RevokedMS != 0 {
		return old
	}
	g := *old
	g.RevokedMS, g.RevokedBy, g.Reason, g.Revision = a.ms, c.By.Operator, c.Reason, a.revision()
	g.Keys = slices.Clone(old.Keys)
	for i := range g.Keys {
		if g.Keys[i].State != KeyRetired {
			g.Keys[i].State, g.Keys[i].SinceMS = KeyRetired, a.ms
		}
	}
	a.putGateway(old, &g)
	for _, t := range a.tokensOf(old) {
		a.revokeToken(&command.RevokeToken{By: c.By, ID: t.ID})
	}
	a.event(EventGatewayRevoked, Subject{Site: g.Site, Gateway: g.ID()}, map[string]string{"by": c.By.Operator, "reason": c.Reason})
	return &g
}

// tokensOf are the tokens that enrolled a gateway's keys and would enroll more.
func (a *applier) tokensOf(g *Gateway) (out []*Token) {
	a.view.tokens.all(func(t *Token) bool {
		if t.Retriable(a.now) && slices.ContainsFunc(g.Keys, func(k Key) bool { _, used := a.view.UseOf(t.ID, k.ID); return used }) {
			out = append(out, t)
		}
		return true
	})
	return out
}

// revokeDetail is what the trail says of a revocation besides its target.
func (a *applier) revokeDetail(c *command.RevokeGateway, g *Gateway) map[string]string {
	detail := map[string]string{"reason": c.Reason}
	if g.RevokedMS != 0 {
		return detail
	}
	var ids []string
	for _, t := range a.tokensOf(g) {
		ids = append(ids, t.ID.String())
	}
	if len(ids) > 0 {
		detail["tokens"] = strings.Join(ids, ",")
	}
	return detail
}

// revoked tells whether a gateway is known and revoked. What it says no longer counts.
func (a *applier) revoked(gateway string) bool {
	g, ok := a.view.gateways.get(gateway)
	return ok && g.RevokedMS != 0
}
