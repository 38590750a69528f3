package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/client"
	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/output"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/internal/durable"
)

func operatorsCreate(a *app) *cobra.Command {
	var ask v1.CreateOperator
	var out string
	c := &cobra.Command{
		Use: "create NAME --role viewer|operator|admin", Short: "create an operator with a token",
		Long: `Create makes an operator and shows its token this once. With --token-out the token goes to a file that you alone can read; give
that file to holdfast login.

A viewer reads; an operator also changes devices and sites and makes tokens for them; an admin may do everything, operators and
the core itself included. With --site, once or more often, the operator sees and changes those sites alone.`,
		Example: `  holdfast operators create ci --role viewer --ttl 720h --token-out ci.token
  holdfast operators create shift-a --role operator --site plant-7 --site plant-8`,
		Args: takes("NAME"), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			ask.Name = args[0]
			if ask.Role == "" {
				return usage("--role is missing: viewer, operator or admin")
			}
			if ask.TTL != "" {
				if err := duration("ttl", ask.TTL); err != nil {
					return err
				}
			}
			return a.createOperator(cmd.Context(), ask, out)
		},
	}
	f := c.Flags()
	f.StringVar(&ask.Role, "role", "", "what it may do: `viewer`, operator or admin")
	f.StringArrayVar(&ask.Sites, "site", nil, "limit it to this `site`; may be repeated (default: the whole fleet)")
	f.StringVar(&ask.TTL, "ttl", "", "for how `long` its token is good, from 1m to 87600h (default: without end)")
	f.StringVar(&out, "token-out", "", "write the token, and nothing else, to this `file`")
	complete(c, "role", "viewer", "operator", "admin")
	completeBy(c, "site", siteNames(a))
	return c
}

func (a *app) createOperator(ctx context.Context, ask v1.CreateOperator, out string) error {
	if err := checkWritable("token-out", out); err != nil {
		return err
	}
	return a.with(ctx, func(c *client.Client) error {
		n, err := client.Send[v1.NewOperator](ctx, c, http.MethodPost, client.Path("v1", "operators"), ask)
		if err != nil {
			return err
		}
		id := n.Operator.ID
		if n.Token == "" || id == "" {
			return fmt.Errorf("%w: a new operator without its token or id", client.ErrAnswer)
		}
		if out != "" {
			if err := durable.WriteFile(out, []byte(n.Token+"\n"), 0o600); err != nil {
				return errors.Join(err, undo(ctx, c, "operator", client.Path("v1", "operators", id), id))
			}
		}
		return a.print(n, func(w io.Writer) error { return writeNewOperator(w, &n, out, c.Now()) })
	})
}

// writeNewOperator says what was created. The token stands on a line of its own, or in the file that holds it.
func writeNewOperator(w io.Writer, n *v1.NewOperator, out string, now time.Time) error {
	o := &n.Operator
	expires := "expires never"
	if o.ExpiresAt != nil {
		expires = fmt.Sprintf("expires %s (%s)", output.Ago(now, o.ExpiresAt), output.Stamp(o.ExpiresAt))
	}
	text := fmt.Sprintf("created operator %s (%s): role %s for %s, %s", o.ID, o.Name, o.Role, limits(o.Sites), expires)
	return writeSecret(w, text, n.Token, out)
}

// writeSecret says what was created, and shows the secret this once, or names the file that holds it.
func writeSecret(w io.Writer, text, secret, file string) error {
	if file != "" {
		_, err := fmt.Fprintln(w, output.Clean(text+"; stored in "+file, 0))
		return err
	}
	_, err := fmt.Fprintf(w, "%s\n%s\n", output.Clean(text+"; shown this once:", 0), output.Clean(secret, 0))
	return err
}
