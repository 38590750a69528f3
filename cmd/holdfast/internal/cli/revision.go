package cli

import (
	"errors"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// A revision is a flag's value: the number that a record's ETag carries, or empty for none. It is the record's revision that a
// change is meant for.
type revision string

var errRevision = errors.New(`must be a revision such as 12 or r12`)

// Set implements pflag.Value. It takes the number, r and the number, or the whole ETag.
func (r *revision) Set(s string) error {
	n, err := strconv.ParseUint(strings.TrimPrefix(strings.Trim(s, `"`), "r"), 10, 64)
	if err != nil {
		return errRevision
	}
	*r = revision(strconv.FormatUint(n, 10))
	return nil
}

// String implements pflag.Value.
func (r *revision) String() string { return string(*r) }

// Type implements pflag.Value.
func (r *revision) Type() string { return "revision" }

// etag is the revision as If-Match names it; empty: no condition.
func (r *revision) etag() string {
	if *r == "" {
		return ""
	}
	return `"r` + string(*r) + `"`
}

// ofTag is the revision that an ETag carries, or nothing.
func ofTag(etag string) string {
	var r revision
	if r.Set(etag) != nil {
		return ""
	}
	return string(r)
}

// revisionFlag gives a command --if-revision and, for those who know it from HTTP, --if-match.
func revisionFlag(c *cobra.Command, r *revision) {
	c.Flags().Var(r, "if-revision", "change nothing unless the record still has this `revision`, as get shows it")
	c.Flags().Var(r, "if-match", "the same as --if-revision")
}
