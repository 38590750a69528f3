package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/client"
	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/output"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

// completeTime bounds what a press of the tab key may wait for the core.
const completeTime = 2 * time.Second

// completeItems is the most items that a completion reads.
const completeItems = 1000

type completer = cobra.CompletionFunc

// complete gives a flag a fixed set of values.
func complete(c *cobra.Command, flag string, values ...string) {
	completeBy(c, flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

// completeBy gives a flag a completer. The flag exists, as every test that builds the tree finds.
func completeBy(c *cobra.Command, flag string, f completer) {
	if err := c.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic("no flag --" + flag + " on " + c.Name() + ": " + err.Error())
	}
}

// firstArg completes the first argument alone.
func firstArg(f completer) completer {
	return func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return f(cmd, args, prefix)
	}
}

// fromCore completes with what the core lists.
func fromCore[T any](a *app, path string, word func(T) (value, about string)) completer {
	return func(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return a.suggest(cmd.Context(), func(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
			items, err := client.All[T](ctx, c, client.Query{Path: path, Limit: completeItems})
			var words []cobra.Completion
			for _, it := range items {
				words = append(words, suggestion(word(it)))
			}
			return words, err
		})
	}
}

// suggest completes with what ask finds out. Whatever goes wrong, there is nothing to complete with.
func (a *app) suggest(ctx context.Context, ask func(context.Context, *client.Client) ([]cobra.Completion, error)) ([]cobra.Completion, cobra.ShellCompDirective) {
	const none = cobra.ShellCompDirectiveNoFileComp
	if a.overrides().TokenFile == "-" {
		return nil, none // standard input belongs to the shell now
	}
	ctx, cancel := context.WithTimeout(ctx, completeTime)
	defer cancel()
	var words []cobra.Completion
	err := a.with(ctx, func(c *client.Client) (err error) {
		words, err = ask(ctx, c)
		return err
	})
	if err != nil {
		return nil, none
	}
	return words, none
}

func suggestion(value, about string) cobra.Completion {
	return cobra.CompletionWithDesc(output.Clean(value, 0), output.Clean(about, 60))
}

func deviceIDs(a *app) completer {
	return fromCore(a, client.Path("v1", "devices"), func(d v1.Device) (string, string) {
		return d.ID, d.Site + " " + d.Presence + " " + text(d.Profile.Model)
	})
}

func siteNames(a *app) completer {
	return fromCore(a, client.Path("v1", "sites"), func(s v1.Site) (string, string) { return s.Name, "" })
}

func tokenIDs(a *app) completer {
	return fromCore(a, client.Path("v1", "tokens"), func(t v1.Token) (string, string) {
		return t.ID, t.Kind + " " + t.Site + " " + t.State + " " + t.Comment
	})
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
