// Package cli holds the commands of the operators' CLI. Run is the whole program but for the process around it: streams and
// environment are handed in, and the result is the exit code.
//
// Every command follows one course: check the command line, connect, ask the core, write the result in the format asked for.
// A command that changes something says what it did.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/client"
	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/output"
	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/settings"
)

// maxErrorText bounds an error line, in characters: the core's words may be long, and devices' names may be in them.
const maxErrorText = 2000

// errInterrupted says that the operator, or the system, ended the command.
var errInterrupted = errors.New("interrupted")

// Run runs one command line, without the program's name, until it ends or ctx does. env looks up a variable, "" when it is
// not set. The result is one of the exit codes.
func Run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer, env func(string) string) int {
	return (&app{in: stdin, out: stdout, err: stderr, env: env, format: output.Table}).run(ctx, args)
}

func (a *app) run(ctx context.Context, args []string) int {
	root := newRoot(a) //nolint:contextcheck // the commands get ctx when they run
	// With nil arguments cobra would read those of the process.
	root.SetArgs(append([]string{}, args...))
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	if ctx.Err() != nil {
		err = errInterrupted
	}
	fmt.Fprintln(a.err, errorLine(cmd, err)) //nolint:errcheck // there is nobody else to tell
	return exitCode(err)
}

// errorLine is "holdfast: what: why; what to do".
func errorLine(cmd *cobra.Command, err error) string {
	what := strings.TrimSpace(strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()))
	if what != "" {
		what += ": "
	}
	line := "holdfast: " + output.Clean(what+err.Error(), maxErrorText)
	if do := remedy(cmd, err); do != "" {
		line += "; " + do
	}
	return line
}

// An app is one run of the CLI.
type app struct {
	in       io.Reader
	out, err io.Writer
	env      func(string) string
	network  http.RoundTripper // nil: the real one
	warned   bool              // of a stored context that others can read

	flags  settings.Overrides
	format output.Format
}

// overrides are the flags over the environment.
func (a *app) overrides() settings.Overrides { return a.flags.Over(settings.FromEnv(a.env)) }

// context reads the stored context and where it is stored.
func (a *app) context() (path string, stored settings.Context, err error) {
	if path, err = settings.Path(a.env); err != nil {
		return "", settings.Context{}, err
	}
	stored, open, err := settings.Load(path)
	if open && !a.warned {
		a.warned = true
		a.note("%s holds a token and is open to other users: chmod 600 it", path)
	}
	return path, stored, err
}

func (a *app) newClient(t settings.Target) *client.Client {
	return client.New(client.Config{
		URLs: t.Nodes, Roots: t.Roots, Token: t.Token, Agent: "holdfast/" + ownVersion().Version, Transport: a.network,
	})
}

// with runs f with a client for the core that this run talks to.
func (a *app) with(ctx context.Context, f func(*client.Client) error) error {
	path, stored, err := a.context()
	if err != nil {
		return err
	}
	t, err := settings.Resolve(a.overrides(), stored, a.in)
	if err != nil {
		return err
	}
	c := a.newClient(t)
	defer c.Close()
	err = f(c)
	if o := a.overrides(); o.URL == "" && o.CAFile == "" && answered(err) {
		a.learnNodes(ctx, c, path, stored)
	}
	return err
}

// print writes v in a format for programs, or what people writes in the table format.
func (a *app) print(v any, people func(io.Writer) error) error {
	return a.format.Object(a.out, v, people)
}

// did says on one line what a command did, or prints v in a format for programs.
func (a *app) did(v any, format string, args ...any) error {
	return a.print(v, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, output.Clean(fmt.Sprintf(format, args...), 0))
		return err
	})
}

// note tells the operator something beside the result. That it cannot be written is no reason to fail.
func (a *app) note(format string, args ...any) {
	fmt.Fprintln(a.err, "holdfast: "+output.Clean(fmt.Sprintf(format, args...), maxErrorText)) //nolint:errcheck // see above
}

// colour tells whether the result may hold colours.
func (a *app) colour() bool {
	return a.env("NO_COLOR") == "" && a.env("TERM") != "dumb" && terminal(a.out)
}

func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
