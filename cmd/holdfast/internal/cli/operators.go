package cli

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/client"
	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/output"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

// wholeFleet is how an operator without limits shows.
const wholeFleet = "the whole fleet"

func operatorsCommand(a *app) *cobra.Command {
	c := &cobra.Command{Use: "operators", Aliases: []string{"operator"}, Short: "create, list and revoke operators"}
	c.AddCommand(operatorsList(a), operatorsGet(a), operatorsCreate(a), operatorsRevoke(a))
	return c
}

func operatorsList(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "list operators", Args: takes(), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(c *client.Client) error {
				operators, err := fetch[v1.Operator](cmd.Context(), a, c, client.Query{Path: client.Path("v1", "operators")})
				if err != nil {
					return err
				}
				return printList(a, operators, operatorGrid(operators, c.Now()))
			})
		},
	}
}

func operatorGrid(operators []v1.Operator, now time.Time) *output.Grid {
	g := output.NewGrid("ID", "NAME", "ROLE", "SITES", "STATE", "USED", "FROM", "EXPIRES")
	for i := range operators {
		o := &operators[i]
		g.Row(o.State != "active", o.ID, o.Name, o.Role, limits(o.Sites), o.State, output.Ago(now, o.LastUsedAt), o.LastUsedFrom,
			output.Ago(now, o.ExpiresAt))
	}
	return g
}

// limits says what an operator may see.
func limits(sites []string) string {
	if len(sites) == 0 {
		return wholeFleet
	}
	return strings.Join(sites, ", ")
}

func operatorsGet(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "get ID", Short: "show an operator, without the token", Args: takes("ID"), ValidArgsFunction: firstArg(operatorIDs(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), func(c *client.Client) error {
				id, err := a.operatorID(cmd.Context(), c, args[0])
				if err != nil {
					return err
				}
				o, err := client.Get[v1.Operator](cmd.Context(), c, client.Path("v1", "operators", id), nil)
				if err != nil {
					return err
				}
				return a.print(o, operatorSheet(&o, c.Now()).Write)
			})
		},
	}
}

func operatorSheet(o *v1.Operator, now time.Time) *output.Sheet {
	s := &output.Sheet{}
	s.Fact("ID", o.ID)
	s.Fact("Name", o.Name)
	s.Fact("Role", o.Role)
	s.Fact("Sites", limits(o.Sites))
	s.Fact("State", o.State)
	by := "with the fleet"
	if o.CreatedBy != "" {
		by = "by " + o.CreatedBy
	}
	s.Fact("Created", output.Both(now, &o.CreatedAt)+" "+by)
	s.Fact("Expires", output.Both(now, o.ExpiresAt))
	used := output.Both(now, o.LastUsedAt)
	if o.LastUsedFrom != "" {
		used += " from " + o.LastUsedFrom
	}
	s.Fact("Used", used)
	return s
}

func operatorsRevoke(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "revoke ID", Short: "end an operator's token",
		Long: `Revoke ends an operator's token for good: every node of the core refuses it from then on, and what it has open is ended. The
record stays, for the audit trail.`,
		Args: takes("ID"), ValidArgsFunction: firstArg(operatorIDs(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), func(c *client.Client) error {
				id, err := a.operatorID(cmd.Context(), c, args[0])
				if err != nil {
					return err
				}
				o, err := client.Send[v1.Operator](cmd.Context(), c, http.MethodDelete, client.Path("v1", "operators", id), nil)
				if err != nil {
					return err
				}
				return a.did(o, "operator %s (%s): revoked; its token is refused from now on", id, o.Name)
			})
		},
	}
}

// operatorID resolves the id of an operator or its beginning.
func (a *app) operatorID(ctx context.Context, c *client.Client, given string) (string, error) {
	operators, err := fetch[v1.Operator](ctx, a, c, client.Query{Path: client.Path("v1", "operators")})
	if err != nil {
		return "", err
	}
	return findID("operator", given, idsOf(operators, func(o v1.Operator) string { return o.ID }))
}

func operatorIDs(a *app) completer {
	return fromCore(a, client.Path("v1", "operators"), func(o v1.Operator) (string, string) {
		return o.ID, o.Name + " " + o.Role + " " + o.State
	})
}

func whoamiCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "whoami", Short: "show whom the token speaks for", Args: takes(), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(c *client.Client) error {
				who, err := client.Get[v1.Whoami](cmd.Context(), c, client.Path("v1", "whoami"), nil)
				if err != nil {
					return err
				}
				s := &output.Sheet{}
				s.Fact("Operator", who.Operator)
				s.Fact("ID", who.ID)
				s.Fact("Role", who.Role)
				s.Fact("Sites", limits(who.Sites))
				s.Fact("Fleet", who.Fleet)
				return a.print(who, s.Write)
			})
		},
	}
}
