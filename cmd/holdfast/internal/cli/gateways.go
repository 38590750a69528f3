package cli

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/client"
	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/output"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

func gatewaysCommand(a *app) *cobra.Command {
	c := &cobra.Command{Use: "gateways", Aliases: []string{"gateway"}, Short: "list, look at and revoke gateways"}
	c.AddCommand(gatewaysList(a), gatewaysGet(a), gatewaysRevoke(a))
	return c
}

func gatewaysList(a *app) *cobra.Command {
	var site string
	c := &cobra.Command{
		Use: "list", Short: "list gateways", Args: takes(), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(c *client.Client) error {
				gateways, err := fetch[v1.Gateway](cmd.Context(), a, c, client.Query{Path: client.Path("v1", "gateways")})
				if err != nil {
					return err
				}
				if site != "" {
					gateways = slices.DeleteFunc(gateways, func(g v1.Gateway) bool { return g.Site != site })
				}
				return printList(a, gateways, gatewayGrid(gateways, c.Now()))
			})
		},
	}
	c.Flags().StringVar(&site, "site", "", "only those of this `site`")
	completeBy(c, "site", siteNames(a))
	return c
}

func gatewayGrid(gateways []v1.Gateway, now time.Time) *output.Grid {
	t := output.NewGrid("SITE", "NAME", "CONNECTED", "HEARD", "DEVICES", "BACKLOG", "OLDEST", "SYNCED", "LISTEN")
	for _, g := range gateways {
		connected := "no"
		if g.Uplink != nil {
			connected = g.Uplink.Node
			if g.Uplink.Relay != "" {
				connected += " via " + g.Uplink.Relay
			}
		} else if g.State == gatewayRevoked {
			connected = g.State
		}
		if g.Forked != nil {
			connected += ", copy refused"
		}
		waits, oldest := "", ""
		if b := g.Backlog; b != nil {
			waits = waiting(b.Statements, b.Bytes, b.Holding)
			if !g.Connected {
				waits += ", told " + output.Ago(now, &b.ToldAt)
			}
			if b.OldestAt != nil {
				oldest = output.Ago(now, b.OldestAt)
			}
		}
		bad := !g.Connected || g.Forked != nil || g.Backlog != nil && (g.Backlog.Holding || g.Backlog.Failing)
		t.Row(bad, g.Site, g.Name, connected, output.Ago(now, g.LastHeardAt), strconv.Itoa(g.Devices), waits, oldest, synced(now, g.LastSyncAt), g.Listen)
	}
	return t
}

// waiting is a backlog in a few words.
func waiting(statements, bytes uint64, holding bool) string {
	s := strconv.FormatUint(statements, 10)
	if statements > 0 {
		s += " (" + output.Bytes(bytes) + ")"
	}
	if holding {
		s += ", full"
	}
	return s
}

func synced(now time.Time, at *time.Time) string {
	if at == nil {
		return ""
	}
	return output.Ago(now, at)
}

func gatewaysGet(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "get SITE/NAME", Short: "show a gateway", Args: takes("SITE/NAME"), Example: "  holdfast gateways get plant-7/gw-a",
		ValidArgsFunction: firstArg(gatewayNames(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), func(c *client.Client) error {
				path, err := gatewayPath(args[0])
				if err != nil {
					return err
				}
				g, tag, err := client.GetTagged[v1.Gateway](cmd.Context(), c, path, nil)
				if err != nil {
					return err
				}
				return a.print(g, gatewaySheet(&g, ofTag(tag), c.Now()).Write)
			})
		},
	}
}

func gatewayName(g v1.Gateway) string { return g.Site + "/" + g.Name }

// gatewayRevoked is the state of a gateway that has ended.
const gatewayRevoked = "revoked"

func gatewayNames(a *app) completer {
	return fromCore(a, client.Path("v1", "gateways"), func(g v1.Gateway) (string, string) { return gatewayName(g), g.Listen })
}

// gatewayPath is the path of the gateway that SITE/NAME names.
func gatewayPath(arg string, more ...string) (string, error) {
	site, name, ok := strings.Cut(arg, "/")
	if !ok || site == "" || name == "" {
		return "", usage("gateway %q: want SITE/NAME, such as plant-7/gw-a", arg)
	}
	if err := errors.Join(ident.CheckName("site", site), ident.CheckName("gateway", name)); err != nil {
		return "", usage("gateway %q: %v", arg, err)
	}
	return client.Path(append([]string{"v1", "gateways", site, name}, more...)...), nil
}

func gatewaysRevoke(a *app) *cobra.Command {
	var reason string
	var expected revision
	c := &cobra.Command{
		Use: "revoke SITE/NAME [--reason TEXT]", Short: "end a gateway for good",
		Long: `Revoke ends a gateway, be it up, lost or stolen. At once: the core cuts its session and takes nothing from it any more; the
tokens that enrolled it end; the site's new list of gateways, without it, goes to the others, and agents that know that list
leave it or refuse it. The gateway itself stops for good when it hears of it (exit code 77) and deletes nothing.

What it had taken from devices and not yet passed on comes again from these devices, through another gateway. Only what a device
that never comes back had stated there is lost with its disk.

The record stays, as revoked. To bring the machine back, or another one under the name, make a token of kind gateway and enroll it
into an empty data directory.`,
		Example: "  holdfast gateways revoke plant-7/gw-a --reason stolen",
		Args:    takes("SITE/NAME"), ValidArgsFunction: firstArg(gatewayNames(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := gatewayPath(args[0], "revoke")
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), func(c *client.Client) error {
				g, err := client.SendIf[v1.Gateway](cmd.Context(), c, expected.etag(), http.MethodPost, path, v1.RevokeGateway{Reason: reason})
				if err != nil {
					return err
				}
				s, err := client.Get[v1.Site](cmd.Context(), c, client.Path("v1", "sites", g.Site), nil)
				if err != nil {
					return fmt.Errorf("gateway %s is revoked, but reading its site failed: %w", gatewayName(g), err)
				}
				left := "its agents go to the other gateways of the site: " + strconv.Itoa(s.Gateways)
				if s.Gateways == 0 {
					left = "site " + s.Name + " has no gateway left: its devices wait for one"
				}
				return a.did(g, "gateway %s: revoked; the core takes nothing from it any more, and %s", gatewayName(g), left)
			})
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, `text` for the record and the audit trail")
	revisionFlag(c, &expected)
	return c
}

func gatewaySheet(g *v1.Gateway, revision string, now time.Time) *output.Sheet {
	sh := &output.Sheet{}
	sh.Fact("Gateway", gatewayName(*g))
	sh.Fact("State", g.State)
	if g.RevokedAt != nil {
		sh.Sub("Revoked", output.Both(now, g.RevokedAt)+" by "+g.RevokedBy)
		sh.Sub("Reason", g.Reason)
	}
	if f := g.Forked; f != nil {
		sh.Fact("Copy refused", output.Both(now, &f.At))
		sh.Sub("Reason", f.Reason)
	}
	sh.Fact("Listens at", g.Listen)
	sh.Fact("Devices online", strconv.Itoa(g.Devices))
	if u := g.Uplink; u != nil {
		sh.Fact("Uplink", "with "+u.Node+" over "+u.Carrier)
		if u.Relay != "" {
			sh.Sub("Relayed by", u.Relay)
		}
		sh.Sub("Since", output.Both(now, &u.Since))
	} else {
		sh.Fact("Uplink", "not connected")
	}
	sh.Fact("Heard", output.Both(now, g.LastHeardAt))
	if b := g.Backlog; b != nil {
		sh.Fact("Backlog", strconv.FormatUint(b.Statements, 10)+" statements")
		sh.Sub("Told", output.Both(now, &b.ToldAt))
		sh.Sub("Oldest", output.Both(now, b.OldestAt))
		sh.Sub("Disk", output.Bytes(b.Bytes)+spoolState(b))
		sh.Sub("Refused by the core", strconv.FormatUint(b.Refused, 10))
		sh.Sub("Lost by its disk", strconv.FormatUint(b.Lost, 10))
	} else {
		sh.Fact("Backlog", "not known")
	}
	if g.LastSyncAt != nil {
		sh.Fact("Nothing waited", output.Both(now, g.LastSyncAt))
	}
	sh.Fact("Enrolled", output.Both(now, &g.EnrolledAt))
	for _, k := range g.Keys {
		sh.Fact("Key", k.ID+" "+k.State)
	}
	sh.Fact("Revision", revision)
	return sh
}

func spoolState(b *v1.Backlog) string {
	switch {
	case b.Holding:
		return ", no room: devices keep what they state"
	case b.Failing:
		return ", the disk takes nothing at present"
	}
	return ""
}
