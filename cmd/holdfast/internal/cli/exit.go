package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/client"
	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/settings"
)

// The exit codes. They are promised to scripts: exitHelp says the same in the root's help.
const (
	exitOK           = 0
	exitFailure      = 1
	exitUsage        = 2
	exitUnavailable  = 3
	exitNotFound     = 4
	exitUnauthorised = 5
	exitConflict     = 6
)

const exitHelp = `Exit codes:
  0  done
  1  failed, for a reason that has no code of its own
  2  bad usage or configuration: the command line, a file it names, or a value that the core refuses
  3  the core cannot be reached, cannot be trusted, or is unavailable: worth trying again
  4  no such device, site, token, gateway, operator or node
  5  not authorised: the token is unknown, or its role does not permit this
  6  conflict with the present state: somebody else changed it, or it is not the revision that --if-revision names`

// errUsage says that the command line is wrong.
var errUsage = errors.New("bad usage")

// A usageError is errUsage without saying so again: its text is the reason alone.
type usageError struct{ error }

func (usageError) Is(target error) bool { return target == errUsage }
func (e usageError) Unwrap() error      { return e.error }

func usage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// errAmbiguous says that an id prefix fits several.
var errAmbiguous = errors.New("ambiguous")

// classes is what an error's class means to the operator, the first that fits. In a remedy %s stands for the command, or
// for the one that lists what there is.
var classes = [...]struct {
	class  error
	code   int
	remedy string
}{
	{errUsage, exitUsage, "see '%s --help'"},
	{errAmbiguous, exitUsage, "give more of the id"},
	{errTrail, exitFailure, "compare it with another export and with the gateways' witnesses"},
	{settings.ErrConfig, exitUsage, ""},                                     // these say themselves what to do
	{client.ErrOutcome, exitFailure, "read the state before you try again"}, // before what else it may be
	{client.ErrInvalid, exitUsage, "see '%s --help'"},
	{client.ErrUntrusted, exitUnavailable, "check the address and the CA file"},
	{client.ErrUnavailable, exitUnavailable, "try again in a moment"},
	{client.ErrUnreachable, exitUnavailable, "check the address and that a core node runs there"},
	{client.ErrNotFound, exitNotFound, "see '%s'"},
	{client.ErrUnauthorised, exitUnauthorised, "run holdfast login with a valid token"},
	{client.ErrForbidden, exitUnauthorised, "ask an administrator for a token with the role it takes"},
	{client.ErrConflict, exitConflict, "look at the present state and decide again"},
	{client.ErrAnswer, exitFailure, "check that the address is a core's API and that its version fits this CLI"},
	{client.ErrTooMany, exitFailure, "ask for fewer with --limit"},
	{client.ErrFull, exitFailure, "run holdfast artifacts list to see what there is"},
	{client.ErrRefused, exitFailure, "see the core's log"},
}

// exitCode is the code for an error of a command.
func exitCode(err error) int {
	for _, c := range classes {
		if errors.Is(err, c.class) {
			return c.code
		}
	}
	return exitFailure
}

// remedy says what to do about an error, or nothing.
func remedy(cmd *cobra.Command, err error) string {
	if p, ok := errors.AsType[*client.Problem](err); ok && p.RetryAfter > 0 {
		return fmt.Sprintf("try again in %v", p.RetryAfter)
	}
	for _, c := range classes {
		if !errors.Is(err, c.class) {
			continue
		}
		switch c.code {
		case exitUsage:
			return strings.ReplaceAll(c.remedy, "%s", cmd.CommandPath())
		case exitNotFound:
			return strings.ReplaceAll(c.remedy, "%s", listing(cmd).CommandPath())
		default:
			return c.remedy
		}
	}
	return ""
}

// listing is the command that shows what there is: of the group of cmd, or of devices, which are what else is looked for.
func listing(cmd *cobra.Command) *cobra.Command {
	paths := [][]string{{"devices", "list"}}
	if p := cmd.Parent(); p != nil {
		paths = [][]string{{p.Name(), "list"}, {p.Name(), "status"}, {"devices", "list"}}
	}
	for _, path := range paths {
		if c, _, err := cmd.Root().Find(path); err == nil && c.Name() == path[1] {
			return c
		}
	}
	return cmd.Root()
}
