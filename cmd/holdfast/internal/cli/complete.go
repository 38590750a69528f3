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

// fromCore completes with what the core lists. Whatever goes wrong, there is nothing to complete with.
func fromCore[T any](a *app, path string, word func(T) (value, about string)) completer {
	return func(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		const none = cobra.ShellCompDirectiveNoFileComp
		if a.overrides().TokenFile == "-" {
			return nil, none // standard input belongs to the shell now
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completeTime)
		defer cancel()
		var words []cobra.Completion
		err := a.with(func(c *client.Client) error {
			items, err := client.All[T](ctx, c, client.Query{Path: path, Limit: completeItems})
			for _, it := range items {
				value, about := word(it)
				words = append(words, cobra.CompletionWithDesc(output.Clean(value, 0), output.Clean(about, 60)))
			}
			return err
		})
		if err != nil {
			return nil, none
		}
		return words, none
	}
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
