package cli

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/client"
	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/settings"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

// learnTime bounds what a command waits for the list of nodes after its own work.
const learnTime = 2 * time.Second

// answered tells whether a command that ended with err got its answers from the core.
func answered(err error) bool {
	_, refused := errors.AsType[*client.Problem](err)
	return err == nil || refused
}

// learnNodes stores which nodes the core has, the one that worked in front, when the list is a day old or a node has failed.
// That it cannot is no reason to trouble the operator: the next command tries again.
func (a *app) learnNodes(ctx context.Context, c *client.Client, path string, stored settings.Context) {
	if !c.Failed() && !stored.Stale(c.Now()) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, learnTime)
	defer cancel()
	nodes, err := nodesOf(ctx, c)
	if !answered(err) {
		return
	}
	if err != nil { // the core does not tell this operator: do not ask again before tomorrow
		nodes = append([]string{c.Node()}, slices.DeleteFunc(stored.Nodes, func(n string) bool { return n == c.Node() })...)
	}
	settings.SaveNodes(path, stored, nodes, c.Now()) //nolint:errcheck // see above
}

// nodesOf asks the core for the addresses of its nodes, and puts the one that worked in front.
func nodesOf(ctx context.Context, c *client.Client) ([]string, error) {
	s, err := client.Get[v1.Cluster](ctx, c, client.Path("v1", "cluster"), nil)
	if err != nil {
		return nil, err
	}
	told := make([]string, len(s.Nodes))
	for i, n := range s.Nodes {
		told[i] = n.API
	}
	return settings.Nodes(c.Node(), told), nil
}
