package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/client"
	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/settings"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

func loginCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "login https://HOST:PORT", Short: "check a token with a core and store it for later commands",
		Long: `Login asks the core whom the token speaks for and stores address, CA and token for later commands, readable by you alone.
With them it stores the addresses of all nodes of the core: later commands go to whichever of them works.
It needs --ca-file and --token-file, or their environment variables. A former context is replaced once the core has answered.`,
		Example: "  holdfast login https://core-1.example.com:8443 --ca-file ca.pem --token-file admin.token",
		Args:    cobra.MaximumNArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error { return a.login(cmd.Context(), args) },
	}
}

// loggedIn is what login prints for programs. It never holds the token.
type loggedIn struct {
	URL      string `json:"url"`
	Operator string `json:"operator"`
	Role     string `json:"role"`
	Fleet    string `json:"fleet"`
	Config   string `json:"config"` // where the context is stored
}

func (a *app) login(ctx context.Context, args []string) error {
	o := a.overrides()
	if len(args) == 1 {
		if a.flags.URL != "" {
			return usage("the address is given twice: as an argument and as --url")
		}
		o.URL = args[0]
	}
	path, err := settings.Path(a.env)
	if err != nil {
		return err
	}
	// The stored context lends nothing to a login: it is about to be replaced.
	switch {
	case o.URL == "":
		return usage("https://HOST:PORT is missing")
	case o.CAFile == "":
		return usage("--ca-file is missing")
	case o.TokenFile == "":
		return usage("--token-file is missing")
	}
	t, err := settings.Resolve(o, settings.Context{}, a.in)
	if err != nil {
		return err
	}
	c := a.newClient(t)
	defer c.Close()
	who, err := client.Get[v1.Whoami](ctx, c, client.Path("v1", "whoami"), nil)
	if err != nil {
		return err
	}
	stored := settings.Context{URL: t.URL.String(), Token: t.Token, CA: t.CA, Fleet: who.Fleet, Operator: who.Operator}
	// A core that does not tell its nodes is asked again later; its address alone will do until then.
	if nodes, err := nodesOf(ctx, c); err == nil {
		stored.Nodes, stored.NodesAt = nodes, c.Now()
	}
	if err := settings.Save(path, stored); err != nil {
		return err
	}
	return a.did(loggedIn{URL: stored.URL, Operator: who.Operator, Role: who.Role, Fleet: who.Fleet, Config: path},
		"logged in to fleet %s at %s as %s (role %s); stored in %s", who.Fleet, stored.URL, who.Operator, who.Role, path)
}
