package api

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

// A census is what belongs to each site and gateway. Online is who shows online, as liveness.Tracker.Verdict has it: what the
// record says, unless the site is silent.
type census struct {
	devices, online, gateways map[string]int // by site
	through                   map[string]int // by gateway: devices online through it
	connected                 map[string]int // by site: gateways
	relayed                   map[string]int // by site: of those
	backlog                   map[string]v1.SiteBacklog
}

// takeCensus sums up the registry's own counts: of one site, or of all if it is empty.
func (s *server) takeCensus(v registry.View, site string) *census {
	t := &census{
		devices: make(map[string]int), online: make(map[string]int), gateways: make(map[string]int), through: make(map[string]int),
		connected: make(map[string]int), relayed: make(map[string]int), backlog: make(map[string]v1.SiteBacklog),
	}
	add := func(c *registry.Count) bool {
		switch {
		case !c.Online:
			t.devices[c.Site] += c.Devices
		case v.SilentSince(c.Gateway) == 0:
			t.online[c.Site] += c.Devices
			t.through[c.Gateway] += c.Devices
		}
		return true
	}
	if site == "" {
		v.Counts(add)
	} else {
		v.SiteCounts(site, add)
	}
	now := time.Now()
	v.Gateways(func(g *registry.Gateway) bool {
		if g.RevokedMS != 0 {
			return true
		}
		t.gateways[g.Site]++
		u := s.Tracker.Uplink(g.ID(), now)
		if u.Connected {
			t.connected[g.Site]++
			if u.Relay != "" {
				t.relayed[g.Site]++
			}
		}
		t.backlog[g.Site] = addBacklog(t.backlog[g.Site], backlog(u.Backlog))
		return true
	})
	return t
}

// siteRecord is a record as the API writes it. The record need not be the view's: the answer to a change shows what the change
// made, which goes with its ETag, and not what others have made of it since.
func siteRecord(v registry.View, r *registry.Site, t *census) v1.Site {
	return v1.Site{
		Name: r.Name, HeartbeatIntervalS: v.IntervalOf(r).Seconds(), Devices: t.devices[r.Name], Online: t.online[r.Name],
		Gateways: t.gateways[r.Name], Connected: t.connected[r.Name], Relayed: t.relayed[r.Name], Backlog: t.backlog[r.Name],
		Content: contentLimit(r.Content), UnreachableSince: atOrNull(r.UnreachableMS), CreatedAt: at(r.CreatedMS),
	}
}

func contentLimit(l *wire.ContentLimit) v1.Content {
	if l == nil {
		return v1.Content{}
	}
	return v1.Content{BytesPerSecond: l.BytesPerSecond, Window: l.Window}
}

type listSitesInput struct {
	Reading
	Paging
}

func (s *server) listSites(ctx context.Context, c *call, in *listSitesInput) (*reply[v1.List[v1.Site]], error) {
	v := c.view
	t := s.takeCensus(v, "")
	return listing[registry.Site, v1.Site]{
		visit: v.Sites,
		keep:  func(r *registry.Site) bool { return c.sees(r.Name) },
		name:  func(r *registry.Site) string { return r.Name },
		show:  func(r *registry.Site) v1.Site { return siteRecord(v, r, t) },
	}.page(ctx, in.Paging, listOf("sites"))
}

// SitePath is the part of a path that names a site.
type SitePath struct {
	Name string `path:"name" maxLength:"63" doc:"1 to 63 of a-z, 0-9 and '-'"`
}

func (p SitePath) site() (string, error) {
	if err := ident.CheckName("site", p.Name); err != nil {
		return "", invalid("path.name", "%v", err)
	}
	return p.Name, nil
}

func missingSite(name string) error { return fmt.Errorf("site %s: %w", name, registry.ErrNotFound) }

type getSiteInput struct {
	Reading
	SitePath
}

func (s *server) getSite(_ context.Context, c *call, in *getSiteInput) (*reply[v1.Site], error) {
	v := c.view
	r, ok := v.Site(in.Name)
	if !ok {
		return nil, missingSite(in.Name)
	}
	return s.siteReply(c, v, r), nil
}

func (s *server) siteReply(c *call, v registry.View, r *registry.Site) *reply[v1.Site] {
	c.tag(r.Revision)
	return answer(siteRecord(v, r, s.takeCensus(v, r.Name)))
}

type setSiteInput struct {
	SitePath
	Body v1.SetSite
}

func (s *server) setSite(ctx context.Context, c *call, in *setSiteInput) (*reply[v1.Site], error) {
	cmd := &command.SetSite{Site: in.Name}
	if in.Body.HeartbeatInterval != "" {
		var err error
		if cmd.IntervalMS, err = interval(in.Body.HeartbeatInterval); err != nil {
			return nil, err
		}
	}
	cmd.ContentRate, cmd.ContentWindow = in.Body.ContentRate, in.Body.ContentWindow
	if cmd.ContentWindow != nil {
		if _, _, err := wire.ParseWindow(*cmd.ContentWindow); err != nil {
			return nil, invalid("body.content_window", "%v", err)
		}
	}
	if old, ok := c.view.Site(in.Name); ok {
		if err := c.matches(old.Revision); err != nil {
			return nil, err
		}
	}
	r, err := propose[*registry.Site](ctx, s, c, cmd)
	if err != nil {
		return nil, err
	}
	return s.siteReply(c, s.Registry.View(), r), nil
}
