package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/demo"
	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/output"
)

const rootLong = `Holdfast keeps fleets of edge devices in plants whose uplink fails.

This is the operators' tool. Log in once; the context is stored in $HOLDFAST_CONFIG, or else in
~/.config/holdfast/config.yaml. The environment (HOLDFAST_URL, HOLDFAST_CA_FILE, HOLDFAST_TOKEN_FILE) overrides the stored
context, and flags override both. Where the core has several nodes, a command goes to whichever of them works, unless an address
is named. Tokens are read from files or, with -, from standard input; never from the command line.

Wherever a device, an artifact, a token or an operator is named, the beginning of its id will do while no other begins so.`

// The groups of commands in the root's help.
const (
	groupFleet     = "fleet"
	groupArtifacts = "artifacts"
	groupCore      = "core"
	groupLocal     = "local"
)

// newRoot makes the tree of commands.
func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use: "holdfast", Short: "manage a fleet of edge devices", Long: rootLong + "\n\n" + exitHelp,
		SilenceErrors: true, SilenceUsage: true,
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	f := root.PersistentFlags()
	f.StringVar(&a.flags.URL, "url", "", "the core's `address`, https://HOST:PORT (HOLDFAST_URL)")
	f.StringVar(&a.flags.CAFile, "ca-file", "", "PEM `file` of the CA that vouches for the core (HOLDFAST_CA_FILE)")
	f.StringVar(&a.flags.TokenFile, "token-file", "", "`file` with the operator's token, - for standard input (HOLDFAST_TOKEN_FILE)")
	f.VarP(&a.format, "output", "o", "how to write the result")
	root.AddGroup(&cobra.Group{ID: groupFleet, Title: "The fleet:"}, &cobra.Group{ID: groupArtifacts, Title: "What runs on it:"},
		&cobra.Group{ID: groupCore, Title: "The core:"}, &cobra.Group{ID: groupLocal, Title: "This tool:"})
	root.SetHelpCommandGroupID(groupLocal)
	root.SetCompletionCommandGroupID(groupLocal)
	// Every command of the CLI, in the order of its group's heading. A further one is a file of its own and a line here.
	root.AddCommand(
		in(groupFleet, devicesCommand(a)),
		in(groupFleet, sitesCommand(a)),
		in(groupFleet, gatewaysCommand(a)),
		in(groupFleet, tokensCommand(a)),
		in(groupArtifacts, artifactsCommand(a)),
		in(groupArtifacts, publishersCommand(a)),
		in(groupArtifacts, keysCommand(a)),
		in(groupCore, clusterCommand(a)),
		in(groupCore, operatorsCommand(a)),
		in(groupCore, auditCommand(a)),
		in(groupCore, eventsCommand(a)),
		in(groupLocal, demo.Command()),
		in(groupLocal, loginCommand(a)),
		in(groupLocal, whoamiCommand(a)),
		in(groupLocal, versionCommand(a)),
	)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	prepare(root)
	complete(root, "output", output.Formats()...)
	return root
}

func in(group string, c *cobra.Command) *cobra.Command {
	c.GroupID = group
	return c
}

// prepare makes every refusal of a command line a usage error, so that it gets its exit code: of a flag, of arguments, and
// of a command that only groups others.
func prepare(c *cobra.Command) {
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	switch check := c.Args; {
	case c.HasSubCommands() && c.Name() != "help":
		c.Args = noSuchCommand
		c.RunE = needsCommand
	case check != nil:
		c.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usageError{err}
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		prepare(sub)
	}
}

func noSuchCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	text := fmt.Sprintf("no command %q", args[0])
	c.SuggestionsMinimumDistance = 1 // a slip of the finger; with 2, most short names are alike
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		text += ", did you mean " + strings.Join(near, " or ") + "?"
	}
	return usage("%s", text)
}

func needsCommand(c *cobra.Command, _ []string) error {
	var names []string
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	return usage("which command? %s", strings.Join(names, ", "))
}

// takes checks that exactly these arguments are given.
func takes(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return fmt.Errorf("%s is missing", names[len(args)])
		case len(args) > len(names):
			return fmt.Errorf("unexpected argument %q", args[len(names)])
		default:
			return nil
		}
	}
}
