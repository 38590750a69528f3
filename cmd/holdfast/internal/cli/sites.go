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
	"github.com/holdfast-edge/holdfast/wire"
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
	sh.Fact("Content", contentWords(&s.Content))
	sh.Fact("Created", output.Both(now, &s.CreatedAt))
	sh.Fact("Revision", revision)
	return sh
}

func sitesSet(a *app) *cobra.Command {
	var interval, rate, window string
	var expected revision
	c := &cobra.Command{
		Use: "set NAME [--heartbeat-interval DURATION] [--content-rate RATE] [--content-window WINDOW]", Short: "change a site, and make it when it is new",
		Example: "  holdfast sites set plant-7 --heartbeat-interval 2s\n  holdfast sites set plant-7 --content-rate 2MiB/s --content-window 22:00-05:00",
		Args:    takes("NAME"), ValidArgsFunction: firstArg(siteNames(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if interval != "" {
				if err := duration("heartbeat-interval", interval); err != nil {
					return err
				}
			}
			change := v1.SetSite{HeartbeatInterval: interval}
			if err := contentChange(&change, rate, window); err != nil {
				return err
			}
			return a.with(cmd.Context(), func(c *client.Client) error {
				s, err := client.SendIf[v1.Site](cmd.Context(), c, expected.etag(), http.MethodPut, client.Path("v1", "sites", args[0]), change)
				if err != nil {
					return err
				}
				did := "heartbeat interval set to " + output.Seconds(s.HeartbeatIntervalS)
				if rate != "" || window != "" {
					if did += ", "; interval == "" {
						did = ""
					}
					did += "content comes " + contentWords(&s.Content)
				}
				return a.did(s, "site %s: %s", args[0], did)
			})
		},
	}
	c.Flags().StringVar(&interval, "heartbeat-interval", "", "`duration` from 1s to 1h between heartbeats of its devices")
	c.Flags().StringVar(&rate, "content-rate", "", "most that its gateways together fetch over the WAN: a `rate` such as 2MiB/s, or none")
	c.Flags().StringVar(&window, "content-window", "", "when they may, each day in UTC: a `window` such as 22:00-05:00, or always")
	revisionFlag(c, &expected)
	return c
}

// contentChange reads the flags of a site's limit. Empty ones leave what is.
func contentChange(change *v1.SetSite, rate, window string) error {
	if rate != "" {
		n, err := byteRate("content-rate", rate)
		if err != nil {
			return err
		}
		change.ContentRate = &n
	}
	if window != "" {
		if window == "always" {
			window = ""
		}
		if _, _, err := wire.ParseWindow(window); err != nil {
			return usage("--content-window: %w", err)
		}
		change.ContentWindow = &window
	}
	return nil
}

// contentWords is a site's limit in a few words.
func contentWords(l *v1.Content) string {
	rate, window := "as fast as it can", "always"
	if l.BytesPerSecond > 0 {
		rate = "at " + output.Bytes(l.BytesPerSecond) + "/s"
	}
	if l.Window != "" {
		window = l.Window + " UTC"
	}
	return rate + ", " + window
}
