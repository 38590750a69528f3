package api

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

// gatewayRecord is a record as the API writes it, see siteRecord.
func (s *server) gatewayRecord(g *registry.Gateway, t *census, now time.Time) v1.Gateway {
	u := s.Tracker.Uplink(g.ID(), now)
	out := v1.Gateway{
		Site: g.Site, Name: g.Name, Listen: g.Listen, State: "active", Connected: u.Connected, LastHeardAt: stamp(u.Heard),
		Uplink: s.uplink(&u), Backlog: backlog(u.Backlog), LastSyncAt: stamp(u.Synced), Devices: t.through[g.ID()], EnrolledAt: at(g.EnrolledMS),
		RevokedAt: atOrNull(g.RevokedMS), RevokedBy: g.RevokedBy, Reason: g.Reason, Keys: keys(g.Keys),
	}
	if f := g.Forked; f != nil {
		out.Forked = &v1.Fork{At: at(f.AtMS), Reason: f.Reason}
	}
	if g.RevokedMS != 0 {
		out.State, out.Connected, out.Uplink = "revoked", false, nil
	}
	return out
}

type listGatewaysInput struct {
	Reading
	Paging
}

func (s *server) listGateways(ctx context.Context, c *call, in *listGatewaysInput) (*reply[v1.List[v1.Gateway]], error) {
	v := c.view
	t := s.takeCensus(v, "")
	now := time.Now()
	return listing[registry.Gateway, v1.Gateway]{
		visit: v.Gateways, keep: func(g *registry.Gateway) bool { return c.sees(g.Site) }, name: (*registry.Gateway).ID,
		show: func(g *registry.Gateway) v1.Gateway { return s.gatewayRecord(g, t, now) },
	}.page(ctx, in.Paging, listOf("gateways"))
}

// GatewayPath is the part of a path that names a gateway.
type GatewayPath struct {
	Site string `path:"site" maxLength:"63" doc:"1 to 63 of a-z, 0-9 and '-'"`
	Name string `path:"name" maxLength:"63" doc:"1 to 63 of a-z, 0-9 and '-'"`
}

func (p GatewayPath) gateway() (string, error) {
	if err := ident.CheckName("site", p.Site); err != nil {
		return "", invalid("path.site", "%v", err)
	}
	if err := ident.CheckName("gateway", p.Name); err != nil {
		return "", invalid("path.name", "%v", err)
	}
	return p.Site + "/" + p.Name, nil
}

func missingGateway(id string) error { return fmt.Errorf("gateway %s: %w", id, registry.ErrNotFound) }

// find is the gateway of a path.
func (p GatewayPath) find(v registry.View) (*registry.Gateway, error) {
	id, err := p.gateway()
	if err != nil {
		return nil, err
	}
	g, ok := v.Gateway(id)
	if !ok {
		return nil, missingGateway(id)
	}
	return g, nil
}

type getGatewayInput struct {
	Reading
	GatewayPath
}

func (s *server) getGateway(_ context.Context, c *call, in *getGatewayInput) (*reply[v1.Gateway], error) {
	g, err := in.find(c.view)
	if err != nil {
		return nil, err
	}
	return s.gatewayReply(c, c.view, g), nil
}

func (s *server) gatewayReply(c *call, v registry.View, g *registry.Gateway) *reply[v1.Gateway] {
	c.tag(g.Revision)
	return answer(s.gatewayRecord(g, s.takeCensus(v, ""), time.Now()))
}

const revokeText = "Its keys count no more, its session with the core is cut, and the new list of its site's gateways, by which agents leave it, goes to " +
	"the others. So do the tokens end that enrolled it. The record stays, and its name may be enrolled again with a new token."

type revokeGatewayInput struct {
	GatewayPath
	Body v1.RevokeGateway
}

func (s *server) revokeGateway(ctx context.Context, c *call, in *revokeGatewayInput) (*reply[v1.Gateway], error) {
	reason := strings.TrimSpace(in.Body.Reason)
	if !printable(reason) {
		return nil, invalid("body.reason", "has characters that do not print")
	}
	g, err := in.find(c.view)
	if err != nil {
		return nil, err
	}
	if err := c.matches(g.Revision); err != nil {
		return nil, err
	}
	g, err = propose[*registry.Gateway](ctx, s, c, &command.RevokeGateway{Gateway: g.ID(), Reason: reason})
	if err != nil {
		return nil, err
	}
	return s.gatewayReply(c, s.Registry.View(), g), nil
}
