package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/client"
	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/output"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/internal/durable"
)

// What stands in the command for what nobody here knows.
const (
	someHost  = "HOST"
	someFile  = "FILE"
	joinDir   = "/var/lib/holdfast-core"
	nodeNamed = "core-"
)

type inviteFlags struct {
	ttl, name, host, out string
}

func clusterInvite(a *app) *cobra.Command {
	var f inviteFlags
	c := &cobra.Command{
		Use: "invite", Short: "make a token for a new core node, and say how it joins",
		Long: `Invite makes a token for one new core node, good for at most 15 minutes, and prints the command to run on the new machine. Its
ports are those of the node that leads; replace HOST by an address under which the other nodes, the gateways and you reach the
new machine, or give it with --host.`,
		Example: `  holdfast cluster invite --host core-4.example.com --token-out core-4.token
  holdfast cluster invite --ttl 5m -o json`,
		Args: takes(), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := duration("ttl", f.ttl); err != nil {
				return err
			}
			return a.invite(cmd.Context(), f)
		},
	}
	c.Flags().StringVar(&f.ttl, "ttl", "15m", "for how `long` the token can be used, from 1m to 15m")
	c.Flags().StringVar(&f.name, "name", "", "the new node's `name` (default: the next that is free, such as core-4)")
	c.Flags().StringVar(&f.host, "host", "", "`host` name or address of the new machine")
	c.Flags().StringVar(&f.out, "token-out", "", "write the token, and nothing else, to this `file`, and name it in the command")
	return c
}

// invitation is what invite prints for programs.
type invitation struct {
	v1.NewToken
	Command string `json:"command"` // to run on the new machine
}

func (a *app) invite(ctx context.Context, f inviteFlags) error {
	if err := checkWritable("token-out", f.out); err != nil {
		return err
	}
	return a.with(ctx, func(c *client.Client) error {
		s, err := getCluster(ctx, c)
		if err != nil {
			return err
		}
		join, err := joinCommand(&s, f)
		if err != nil {
			return err
		}
		ask := v1.CreateToken{Kind: "core", TTL: f.ttl}
		t, err := client.Send[v1.NewToken](ctx, c, http.MethodPost, client.Path("v1", "tokens"), ask)
		if err != nil {
			return err
		}
		if t.Token == "" || t.ID == "" {
			return fmt.Errorf("%w: a new token without its secret or id", client.ErrAnswer)
		}
		if f.out != "" {
			if err := durable.WriteFile(f.out, []byte(t.Token+"\n"), 0o600); err != nil {
				return errors.Join(err, undo(ctx, c, "token", client.Path("v1", "tokens", t.ID), t.ID))
			}
		}
		return a.print(invitation{t, join}, func(w io.Writer) error {
			if err := writeNewToken(w, t, f.out, c.Now()); err != nil {
				return err
			}
			how := "Put the token into FILE on the new machine, and run there:"
			if f.out != "" {
				how = "Copy the token's file to the new machine, and run there:"
			}
			_, err := fmt.Fprintf(w, "\n%s\n\n  %s\n", how, output.Clean(join, 0))
			return err
		})
	})
}

// joinCommand is what makes a new machine a node: with the uplink of the leader, or else of any voter.
func joinCommand(s *v1.Cluster, f inviteFlags) (string, error) {
	nodes := slices.DeleteFunc(slices.Clone(s.Nodes), func(n v1.Node) bool { return n.Uplink == "" || !n.Member || !n.Voter })
	slices.SortStableFunc(nodes, func(a, b v1.Node) int {
		switch {
		case a.Leader && !b.Leader:
			return -1
		case b.Leader && !a.Leader:
			return 1
		}
		return 0
	})
	if len(nodes) == 0 {
		return "", fmt.Errorf("%w: no node of the core that a new one could join through", client.ErrUnavailable)
	}
	through := &nodes[0]
	name, host, file := f.name, f.host, f.out
	if name == "" {
		name = freeName(s.Nodes)
	}
	if host == "" {
		host = someHost
	}
	if file == "" {
		file = someFile
	}
	at := func(like string) string {
		_, port, err := net.SplitHostPort(like)
		if err != nil {
			port = "PORT"
		}
		return net.JoinHostPort(host, port)
	}
	words := []string{
		"holdfast-core", "join", "--data-dir", joinDir, "--name", name, "--api", at(through.API), "--uplink", at(through.Uplink),
		"--cluster", at(through.Address), "--join", through.Uplink, "--token-file", file,
	}
	for i, w := range words {
		words[i] = shellWord(w)
	}
	return strings.Join(words, " "), nil
}

// freeName is the first of core-1, core-2, … that no node has.
func freeName(nodes []v1.Node) string {
	for i := 1; ; i++ {
		name := nodeNamed + strconv.Itoa(i)
		if !slices.ContainsFunc(nodes, func(n v1.Node) bool { return n.Name == name }) {
			return name
		}
	}
}

// shellWord quotes what a shell would take for more than one plain word. The core's words and file names are not ours.
func shellWord(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:@%+,", r)
	}
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
