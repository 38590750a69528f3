package cli

import (
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/client"
	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/output"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

func tokensCommand(a *app) *cobra.Command {
	c := &cobra.Command{Use: "tokens", Aliases: []string{"token"}, Short: "create, list and revoke enrollment tokens"}
	c.AddCommand(tokensCreate(a), tokensList(a), tokensGet(a), tokensRevoke(a))
	return c
}

func tokensList(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "list enrollment tokens", Args: takes(), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(c *client.Client) error {
				tokens, err := fetch[v1.Token](cmd.Context(), a, c, client.Query{Path: client.Path("v1", "tokens")})
				if err != nil {
					return err
				}
				return printList(a, tokens, tokenGrid(tokens, c.Now()))
			})
		},
	}
}

func tokenGrid(tokens []v1.Token, now time.Time) *output.Grid {
	g := output.NewGrid("ID", "KIND", "SITE", "STATE", "USED", "EXPIRES", "BY", "TAGS", "COMMENT")
	for _, t := range tokens {
		g.Row(false, t.ID, t.Kind, t.Site, t.State, used(t), output.Ago(now, &t.ExpiresAt), t.CreatedBy, output.Pairs(t.Tags), t.Comment)
	}
	return g
}

func used(t v1.Token) string { return fmt.Sprintf("%d of %d", t.Used, t.Uses) }

func tokensGet(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "get ID", Short: "show an enrollment token, without its secret", Args: takes("ID"),
		ValidArgsFunction: firstArg(tokenIDs(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), func(c *client.Client) error {
				id, err := a.tokenID(cmd.Context(), c, args[0])
				if err != nil {
					return err
				}
				t, err := client.Get[v1.Token](cmd.Context(), c, client.Path("v1", "tokens", id), nil)
				if err != nil {
					return err
				}
				return a.print(t, tokenSheet(t, c.Now()).Write)
			})
		},
	}
}

func tokenSheet(t v1.Token, now time.Time) *output.Sheet {
	s := &output.Sheet{}
	s.Fact("ID", t.ID)
	s.Fact("Kind", t.Kind)
	s.Fact("Site", t.Site)
	s.Fact("State", t.State)
	s.Fact("Used", used(t))
	s.Fact("Tags", output.Pairs(t.Tags))
	s.Fact("Created", output.Both(now, &t.CreatedAt)+" by "+t.CreatedBy)
	s.Fact("Expires", output.Both(now, &t.ExpiresAt))
	s.Fact("Comment", t.Comment)
	return s
}

func tokensRevoke(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "revoke ID", Short: "end an enrollment token before its time",
		Long: "Revoke ends a token: it enrolls nothing any more. What it has enrolled stays.",
		Args: takes("ID"), ValidArgsFunction: firstArg(tokenIDs(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), func(c *client.Client) error {
				id, err := a.tokenID(cmd.Context(), c, args[0])
				if err != nil {
					return err
				}
				path := client.Path("v1", "tokens", id)
				t, err := client.Send[v1.Token](cmd.Context(), c, http.MethodDelete, path, nil)
				if err != nil {
					return err
				}
				if t.ID == "" { // the core answered without a body
					if t, err = client.Get[v1.Token](cmd.Context(), c, path, nil); err != nil {
						return fmt.Errorf("revoked, but reading it again failed: %w", err)
					}
				}
				return a.did(t, "token %s: revoked; used %s", id, used(t))
			})
		},
	}
}
