package cli

import (
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/client"
	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/output"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

func gatewaysCommand(a *app) *cobra.Command {
	c := &cobra.Command{Use: "gateways", Aliases: []string{"gateway"}, Short: "list gateways"}
	c.AddCommand(gatewaysList(a))
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
	t := output.NewGrid("SITE", "NAME", "CONNECTED", "HEARD", "DEVICES", "LISTEN")
	for _, g := range gateways {
		connected := "no"
		if g.Connected {
			connected = "yes"
		}
		t.Row(!g.Connected, g.Site, g.Name, connected, output.Ago(now, g.LastHeardAt), strconv.Itoa(g.Devices), g.Listen)
	}
	return t
}
