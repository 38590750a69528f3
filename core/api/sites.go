package api

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

func (s *server) siteRoutes() {
	add(s, op(http.MethodGet, "/v1/sites", "list-sites", "List sites in order of name"), s.listSites)
	add(s, missable(op(http.MethodGet, "/v1/sites/{name}", "get-site", "One site")), s.getSite)
	add(s, op(http.MethodPut, "/v1/sites/{name}", "set-site", "Make or change a site"), s.setSite)
	add(s, op(http.MethodGet, "/v1/gateways", "list-gateways", "List gateways in order of site and name"), s.listGateways)
}

// A tally counts what belongs to each site and gateway.
type tally struct {
	devices, online, gateways map[string]int // by site
	through                   map[string]int // by gateway: devices online through it
}

// count tallies the whole fleet in one pass.
func (s *server) count(ctx context.Context, v registry.View) (*tally, error) {
	t := &tally{devices: make(map[string]int), online: make(map[string]int), gateways: make(map[string]int), through: make(map[string]int)}
	_, _, err := gather(ctx, 0, func(f func(*registry.Device) bool) { v.Devices(ident.DeviceID{}, f) }, func(d *registry.Device) bool {
		t.devices[d.Site]++
		if s.verdict(v, d).Online {
			t.online[d.Site]++
			t.through[d.Presence.Gateway]++
		}
		return false
	})
	v.Gateways(func(g *registry.Gateway) bool {
		t.gateways[g.Site]++
		return true
	})
	return t, err
}

func site(v registry.View, r *registry.Site, t *tally) v1.Site {
	return v1.Site{
		Name: r.Name, HeartbeatIntervalS: v.SiteInterval(r.Name).Seconds(), Devices: t.devices[r.Name], Online: t.online[r.Name],
		Gateways: t.gateways[r.Name], UnreachableSince: atOrNull(r.UnreachableMS), CreatedAt: at(r.CreatedMS),
	}
}

type listSitesInput struct {
	Reading
	Paging
}

func (s *server) listSites(ctx context.Context, in *listSitesInput) (*reply[v1.List[v1.Site]], error) {
	v, err := s.view(ctx, in.Reading)
	if err != nil {
		return nil, err
	}
	t, err := s.count(ctx, v)
	if err != nil {
		return nil, err
	}
	return namedPage(ctx, in.Paging, listOf("sites"), v.Sites,
		func(r *registry.Site) string { return r.Name },
		func(r *registry.Site) v1.Site { return site(v, r, t) })
}

// SitePath is the part of a path that names a site.
type SitePath struct {
	Name string `path:"name" maxLength:"63" doc:"1 to 63 of a-z, 0-9 and '-'"`
}

func (p SitePath) check() error {
	if err := ident.CheckName("site", p.Name); err != nil {
		return invalid("path.name", "%v", err)
	}
	return nil
}

type getSiteInput struct {
	Reading
	SitePath
}

func (s *server) getSite(ctx context.Context, in *getSiteInput) (*reply[v1.Site], error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	v, err := s.view(ctx, in.Reading)
	if err != nil {
		return nil, err
	}
	r, ok := v.Site(in.Name)
	if !ok {
		return nil, fmt.Errorf("site %s: %w", in.Name, registry.ErrNotFound)
	}
	return s.siteReply(ctx, v, r)
}

func (s *server) siteReply(ctx context.Context, v registry.View, r *registry.Site) (*reply[v1.Site], error) {
	t, err := s.count(ctx, v)
	if err != nil {
		return nil, err
	}
	return answer(site(v, r, t)), nil
}

type setSiteInput struct {
	SitePath
	Body v1.SetSite
}

func (s *server) setSite(ctx context.Context, in *setSiteInput) (*reply[v1.Site], error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	c := &command.SetSite{By: operator(ctx).Name, Site: in.Name}
	if in.Body.HeartbeatInterval != "" {
		var err error
		if c.IntervalMS, err = interval(in.Body.HeartbeatInterval); err != nil {
			return nil, err
		}
	}
	r, err := propose[*registry.Site](ctx, s.Registry, c)
	if err != nil {
		return nil, err
	}
	return s.siteReply(ctx, s.Registry.View(), r)
}

type listGatewaysInput struct {
	Reading
	Paging
}

func (s *server) listGateways(ctx context.Context, in *listGatewaysInput) (*reply[v1.List[v1.Gateway]], error) {
	v, err := s.view(ctx, in.Reading)
	if err != nil {
		return nil, err
	}
	t, err := s.count(ctx, v)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return namedPage(ctx, in.Paging, listOf("gateways"), v.Gateways, (*registry.Gateway).ID, func(g *registry.Gateway) v1.Gateway {
		heard, connected := s.Tracker.LastHeard(g.ID(), now)
		return v1.Gateway{
			Site: g.Site, Name: g.Name, Listen: g.Listen, Connected: connected, LastHeardAt: stamp(heard),
			Devices: t.through[g.ID()], EnrolledAt: at(g.EnrolledMS), Keys: keys(g.Keys),
		}
	})
}
