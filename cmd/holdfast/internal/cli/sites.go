package cli

import (
	"cmp"
	"net/http"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/client"
	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/output"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

func sitesCommand(a *app) *cobra.Command {
	c := &cobra.Command{Use: "sites", Aliases: []string{"site"}, Short: "list, look at and set up sites"}
	c.AddCommand(sitesList(a), sitesGet(a), sitesSet(a))
	return c
}

func sitesList(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "list sites", Args: takes(), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(c *client.Client) error {
				sites, err := fetch[v1.Site](cmd.Context(), a, c, client.Query{Path: client.Path("v1", "sites")})
				if err != nil {
					return err
				}
				return printList(a, sites, siteGrid(sites, c.Now()))
			})
		},
	}
}

func siteGrid(sites []v1.Site, now time.Time) *output.Grid {
	g := output.NewGrid("NAME", "DEVICES", "ONLINE", "GATEWAYS", "INTERVAL", "BACKLOG", "OLDEST", "UNREACHABLE")
	for _, s := range sites {
		unreachable := ""
		if s.UnreachableSince != nil {
			unreachable = "since " + output.Ago(now, s.UnreachableSince)
		}
		g.Row(s.UnreachableSince != nil, s.Name, strconv.Itoa(s.Devices), strconv.Itoa(s.Online),
			siteGateways(&s), output.Seconds(s.HeartbeatIntervalS), siteBacklog(&s), synced(now, s.Backlog.OldestAt), unreachable)
	}
	return g
}

// siteGateways is how many of a site's gateways are connected, and how many of these through a sibling.
func siteGateways(s *v1.Site) string {
	out := strconv.Itoa(s.Connected) + "/" + strconv.Itoa(s.Gateways)
	if s.Relayed > 0 {
		out += " (" + strconv.Itoa(s.Relayed) + " relayed)"
	}
	return out
}

// siteBacklog is what the gateways of a site told last in a few words; empty: none of them told anything.
func siteBacklog(s *v1.Site) string {
	b := &s.Backlog
	if b.Unknown == s.Gateways {
		return ""
	}
	waits := waiting(b.Statements, b.Bytes, b.Holding > 0)
	if b.Unknown > 0 {
		waits += ", " + strconv.Itoa(b.Unknown) + " unknown"
	}
	return waits
}

func sitesGet(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "get NAME", Short: "show a site", Args: takes("NAME"), ValidArgsFunction: firstArg(siteNames(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), func(c *client.Client) error {
				s, tag, err := client.GetTagged[v1.Site](cmd.Context(), c, client.Path("v1", "sites", args[0]), nil)
				if err != nil {
					return err
				}
				return a.print(s, siteSheet(s, ofTag(tag), c.Now()).Write)
			})
		},
	}
}

func siteSheet(s v1.Site, revision string, now time.Time) *output.Sheet {
	sh := &output.Sheet{}
	sh.Fact("Name", s.Name)
	sh.Fact("Devices", strconv.Itoa(s.Devices)+", online "+strconv.Itoa(s.Online))
	sh.Fact("Gateways connected", siteGateways(&s))
	sh.Fact("Heartbeat interval", output.Seconds(s.HeartbeatIntervalS))
	reachable := "yes"
	if s.UnreachableSince != nil {
		reachable = "no, since " + output.Both(now, s.UnreachableSince)
	} else if s.Gateways == 0 {
		reachable = "it has no gateway yet"
	}
	sh.Fact("Reachable", reachable)
	sh.Fact("Backlog", cmp.Or(siteBacklog(&s), "not known"))
	if s.Backlog.OldestAt != nil {
		sh.Sub("Oldest", output.Both(now, s.Backlog.OldestAt))
	}
	sh.Fact("Created", output.Both(now, &s.CreatedAt))
	sh.Fact("Revision", revision)
	return sh
}

func sitesSet(a *app) *cobra.Command {
	var interval string
	var expected revision
	c := &cobra.Command{
		Use: "set NAME [--heartbeat-interval DURATION]", Short: "change a site, and make it when it is new",
		Example: "  holdfast sites set plant-7 --heartbeat-interval 2s",
		Args:    takes("NAME"), ValidArgsFunction: firstArg(siteNames(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if interval != "" {
				if err := duration("heartbeat-interval", interval); err != nil {
					return err
				}
			}
			return a.with(cmd.Context(), func(c *client.Client) error {
				s, err := client.SendIf[v1.Site](cmd.Context(), c, expected.etag(), http.MethodPut, client.Path("v1", "sites", args[0]),
					v1.SetSite{HeartbeatInterval: interval})
				if err != nil {
					return err
				}
				return a.did(s, "site %s: heartbeat interval set to %s", args[0], output.Seconds(s.HeartbeatIntervalS))
			})
		},
	}
	c.Flags().StringVar(&interval, "heartbeat-interval", "", "`duration` from 1s to 1h between heartbeats of its devices")
	revisionFlag(c, &expected)
	return c
}
