package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/client"
	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/output"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

// fetch reads all pages of a list, counting on the operator's terminal when there are several.
func fetch[T any](ctx context.Context, a *app, c *client.Client, q client.Query) ([]T, error) {
	shown := false
	if terminal(a.err) {
		q.Page = func(n int) {
			shown = true
			fmt.Fprintf(a.err, "\rread %d…", n) //nolint:errcheck // a count that cannot be shown is no reason to fail
		}
	}
	items, err := client.All[T](ctx, c, q)
	if shown {
		fmt.Fprint(a.err, "\r\x1b[K") //nolint:errcheck // as above
	}
	return items, err
}

// printList prints a whole list; people lays it out for the table format.
func printList[T any](a *app, items []T, people *output.Grid) error {
	return a.format.Object(a.out, v1.List[T]{Items: items}, func(w io.Writer) error { return people.Write(w, a.colour()) })
}
