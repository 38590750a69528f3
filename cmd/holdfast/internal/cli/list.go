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
	progress, done := a.counter("read")
	defer done()
	q.Page = progress
	return client.All[T](ctx, c, q)
}

// counter counts long work on the operator's terminal: progress shows how far it is, done takes the count away.
func (a *app) counter(what string) (progress func(n int), done func()) {
	shown, there := false, terminal(a.err)
	progress = func(n int) {
		if there {
			shown = true
			fmt.Fprintf(a.err, "\r%s %d…", what, n) //nolint:errcheck // a count that cannot be shown is no reason to fail
		}
	}
	return progress, func() {
		if shown {
			fmt.Fprint(a.err, "\r\x1b[K") //nolint:errcheck // as above
		}
	}
}

// printList prints a whole list; people lays it out for the table format.
func printList[T any](a *app, items []T, people *output.Grid) error {
	return a.format.Object(a.out, v1.List[T]{Items: items}, func(w io.Writer) error { return people.Write(w, a.colour()) })
}
