package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/client"
	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/output"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/internal/durable"
)

// undoTime bounds the revocation of a token that could not be stored.
const undoTime = 5 * time.Second

func tokensCreate(a *app) *cobra.Command {
	var ask v1.CreateToken
	var tags []string
	var out string
	c := &cobra.Command{
		Use: "create --kind device|gateway|core", Short: "create an enrollment token",
		Long: `Create makes a token with which a device, a gateway or a core node enrolls. Its secret is shown this once. With --out it goes
to a file that you alone can read; give that file to the enrolling program.`,
		Example: `  holdfast tokens create --kind gateway --site plant-7 --out gw.token
  holdfast tokens create --kind device --site plant-7 --uses 10 --ttl 8h --tag line=3 -o json`,
		Args: takes(), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if ask.Kind == "" {
				return usage("--kind is missing: device, gateway or core")
			}
			if ask.TTL != "" {
				if err := duration("ttl", ask.TTL); err != nil {
					return err
				}
			}
			var err error
			if ask.Tags, err = keyValues("tag", tags); err != nil {
				return err
			}
			return a.createToken(cmd.Context(), ask, out)
		},
	}
	f := c.Flags()
	f.StringVar(&ask.Kind, "kind", "", "what it enrolls: `device`, gateway or core")
	f.StringVar(&ask.Site, "site", "", "the `site` of what it enrolls; not for core")
	f.StringVar(&ask.TTL, "ttl", "", "for how `long` it can be used, at most 720h (default 1h)")
	f.Uint32Var(&ask.Uses, "uses", 0, "how `often` it can be used (default 1)")
	f.StringArrayVar(&tags, "tag", nil, "`KEY=VALUE` preset on every device that it enrolls; may be repeated")
	f.StringVar(&ask.Comment, "comment", "", "what it is for")
	f.StringVar(&out, "out", "", "write the token, and nothing else, to this `file`")
	complete(c, "kind", "device", "gateway", "core")
	completeBy(c, "site", siteNames(a))
	return c
}

func (a *app) createToken(ctx context.Context, ask v1.CreateToken, out string) error {
	// A token whose secret cannot be stored is a token for nobody: find that out first.
	if err := checkWritable("out", out); err != nil {
		return err
	}
	return a.with(ctx, func(c *client.Client) error {
		t, err := client.Send[v1.NewToken](ctx, c, http.MethodPost, client.Path("v1", "tokens"), ask)
		if err != nil {
			return err
		}
		if t.Token == "" || t.ID == "" {
			return fmt.Errorf("%w: a new token without its secret or id", client.ErrAnswer)
		}
		if out != "" {
			if err := durable.WriteFile(out, []byte(t.Token+"\n"), 0o600); err != nil {
				return errors.Join(err, undo(ctx, c, "token", client.Path("v1", "tokens", t.ID), t.ID))
			}
		}
		return a.print(t, func(w io.Writer) error { return writeNewToken(w, t, out, c.Now()) })
	})
}

// undo revokes a token or an operator whose secret nobody holds, even when ctx has ended.
func undo(ctx context.Context, c *client.Client, what, path, id string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	if _, err := client.Send[json.RawMessage](ctx, c, http.MethodDelete, path, nil); err != nil {
		return fmt.Errorf("%s %s was created, has no holder and could not be revoked: %w", what, id, err)
	}
	return nil
}

// checkWritable finds out whether a file can be written at path, the value of a flag; an empty path is none.
func checkWritable(flag, path string) error {
	if path == "" {
		return nil
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return usage("--%s %s is not a plain file", flag, path)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".holdfast-*")
	if err != nil {
		return usage("--%s: %w", flag, err)
	}
	if err := errors.Join(f.Close(), os.Remove(f.Name())); err != nil {
		return usage("--%s: %w", flag, err)
	}
	return nil
}

// writeNewToken says what was created. The secret stands on a line of its own, or in the file that holds it.
func writeNewToken(w io.Writer, t v1.NewToken, out string, now time.Time) error {
	r := t.Record
	site := ""
	if r.Site != "" {
		site = " for site " + r.Site
	}
	uses := "1 use"
	if r.Uses != 1 {
		uses = fmt.Sprintf("%d uses", r.Uses)
	}
	text := fmt.Sprintf("created %s token %s%s: %s, expires %s (%s)", r.Kind, t.ID, site, uses,
		output.Ago(now, &r.ExpiresAt), output.Stamp(&r.ExpiresAt))
	return writeSecret(w, text, t.Token, out)
}
