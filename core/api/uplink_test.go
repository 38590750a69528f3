package api

import (
	"net/http"
	"testing"
	"time"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire"
)

// What gateways told of themselves shows, also of one that is gone, and sums up for their site.
func TestBacklogShows(t *testing.T) {
	c := newCore(t)
	for _, name := range []string{"gw-a", "gw-b", "gw-c"} {
		c.gateway("plant-7", name)
	}
	now := time.Now()
	tell := func(gw string, at time.Time, b wire.Backlog) {
		c.tracker.Opened(gw, 1, at)
		c.tracker.Carried(gw, 1, "tcp", "gw-b")
		c.tracker.Digest(gw, 1, &wire.Presence{Digest: true, Backlog: &wire.Backlog{}}, at.Add(-time.Second), at)
		c.tracker.Digest(gw, 1, &wire.Presence{Digest: true, Backlog: &b}, at, at)
	}
	tell("plant-7/gw-a", now, wire.Backlog{Statements: 3, Bytes: 4096, OldestMS: start.UnixMilli(), Refused: 1})
	tell("plant-7/gw-b", now.Add(-time.Hour), wire.Backlog{Statements: 4, Bytes: 100, OldestMS: start.Add(-time.Hour).UnixMilli(), Holding: true, Lost: 2})

	all := ask[v1.List[v1.Gateway]](c, http.MethodGet, "/v1/gateways", "", http.StatusOK).Items
	here, gone, never := all[0], all[1], all[2]
	if !here.Connected || here.Uplink == nil || here.Uplink.Node != "core-1" || here.Uplink.Carrier != "tcp" || here.Uplink.Relay != "gw-b" || here.Backlog.Statements != 3 ||
		here.Backlog.Refused != 1 || !here.Backlog.OldestAt.Equal(start) || here.LastSyncAt == nil || !here.LastSyncAt.Before(here.Backlog.ToldAt) {
		t.Errorf("%+v, uplink %+v, backlog %+v", here, here.Uplink, here.Backlog)
	}
	if gone.Connected || gone.Uplink != nil || gone.Backlog == nil || !gone.Backlog.Holding || gone.Backlog.Lost != 2 ||
		gone.Backlog.ToldAt.After(now.Add(-time.Hour)) {
		t.Errorf("%+v, uplink %+v, backlog %+v", gone, gone.Uplink, gone.Backlog)
	}
	if never.Connected || never.Uplink != nil || never.Backlog != nil || never.LastSyncAt != nil {
		t.Errorf("%+v", never)
	}
	c.commit(&command.SetSite{By: byAdmin, Site: "plant-8"})
	sites := ask[v1.List[v1.Site]](c, http.MethodGet, "/v1/sites", "", http.StatusOK).Items
	s := sites[0]
	if s.Gateways != 3 || s.Connected != 1 || s.Relayed != 1 || s.Backlog.Statements != 7 || s.Backlog.Bytes != 4196 || s.Backlog.Holding != 1 || s.Backlog.Unknown != 1 ||
		!s.Backlog.OldestAt.Equal(start.Add(-time.Hour)) {
		t.Errorf("%+v", s)
	}
	if len(sites) != 2 || sites[1].Backlog != (v1.SiteBacklog{}) {
		t.Errorf("%+v; the second is without gateways", sites)
	}
}
