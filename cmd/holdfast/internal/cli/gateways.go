package cli

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/client"
	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/output"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

func gatewaysCommand(a *app) *cobra.Command {
	c := &cobra.Command{Use: "gateways", Aliases: []string{"gateway"}, Short: "list and look at gateways"}
	c.AddCommand(gatewaysList(a), gatewaysGet(a))
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
		bad := !g.Connected || g.Backlog != nil && (g.Backlog.Holding || g.Backlog.Failing)
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
		ValidArgsFunction: firstArg(fromCore(a, client.Path("v1", "gateways"), func(g v1.Gateway) (string, string) { return gatewayName(g), g.Listen })),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), func(c *client.Client) error {
				gateways, err := fetch[v1.Gateway](cmd.Context(), a, c, client.Query{Path: client.Path("v1", "gateways")})
				if err != nil {
					return err
				}
				i := slices.IndexFunc(gateways, func(g v1.Gateway) bool { return gatewayName(g) == args[0] })
				if i < 0 {
					return fmt.Errorf("gateway %q: %w", args[0], client.ErrNotFound)
				}
				return a.print(gateways[i], gatewaySheet(&gateways[i], c.Now()).Write)
			})
		},
	}
}

func gatewayName(g v1.Gateway) string { return g.Site + "/" + g.Name }

func gatewaySheet(g *v1.Gateway, now time.Time) *output.Sheet {
	sh := &output.Sheet{}
	sh.Fact("Gateway", gatewayName(*g))
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
