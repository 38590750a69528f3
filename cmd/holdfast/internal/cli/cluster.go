package cli

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/client"
	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/output"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

func clusterCommand(a *app) *cobra.Command {
	c := &cobra.Command{Use: "cluster", Short: "look at and change the core's nodes"}
	c.AddCommand(clusterStatus(a), clusterInvite(a), clusterRemove(a), clusterSnapshot(a), clusterTransfer(a))
	return c
}

func clusterStatus(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "show the core's nodes and who leads", Args: takes(), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(c *client.Client) error {
				s, err := getCluster(cmd.Context(), c)
				if err != nil {
					return err
				}
				return a.print(s, func(w io.Writer) error { return a.writeCluster(w, &s) })
			})
		},
	}
}

func getCluster(ctx context.Context, c *client.Client) (v1.Cluster, error) {
	s, err := client.Get[v1.Cluster](ctx, c, client.Path("v1", "cluster"), nil)
	if s.Nodes == nil {
		s.Nodes = []v1.Node{}
	}
	return s, err
}

func (a *app) writeCluster(w io.Writer, s *v1.Cluster) error {
	sh := &output.Sheet{}
	sh.Fact("Fleet", s.Fleet)
	leader := s.Leader
	if leader == "" {
		leader = "none known at present"
	}
	sh.Fact("Leader", leader)
	sh.Fact("Log index", strconv.FormatUint(s.Index, 10))
	sh.Fact("Version", s.Version)
	if err := sh.Write(w); err != nil {
		return err
	}
	if _, err := io.WriteString(w, "\n"); err != nil {
		return err
	}
	g := output.NewGrid("NODE", "ROLE", "ADDRESS", "API", "HEARD", "INDEX", "CATCHING UP")
	for i := range s.Nodes {
		n := &s.Nodes[i]
		role, name, index, catching := nodeRole(n), n.Name, "", "no"
		if n.Self {
			name += " (asked)"
		}
		if n.Index != nil {
			index = strconv.FormatUint(*n.Index, 10)
		}
		if n.CatchingUp {
			catching = "yes"
		}
		g.Row(role == roleJoining || role == roleLeaving || n.CatchingUp, name, role, n.Address, n.API, heard(n.LastContactS), index, catching)
	}
	return g.Write(w, a.colour())
}

// The roles of a node.
const (
	roleLeader  = "leader"
	roleVoter   = "voter"
	roleJoining = "joining"
	roleLeaving = "leaving"
)

func nodeRole(n *v1.Node) string {
	switch {
	case !n.Member:
		return roleLeaving
	case n.Leader:
		return roleLeader
	case n.Voter:
		return roleVoter
	default:
		return roleJoining
	}
}

// heard says how long ago the node that was asked heard of another one; nil: it does not hear of it directly.
func heard(seconds *float64) string {
	if seconds == nil {
		return ""
	}
	return output.Span(time.Duration(*seconds*float64(time.Second))) + " ago"
}

// nodeNames completes with the names of the core's nodes.
func nodeNames(a *app) completer {
	return func(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return a.suggest(cmd.Context(), func(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
			s, err := getCluster(ctx, c)
			var words []cobra.Completion
			for i := range s.Nodes {
				words = append(words, suggestion(s.Nodes[i].Name, nodeRole(&s.Nodes[i])))
			}
			return words, err
		})
	}
}

// nodeRemoved is what remove prints for programs.
type nodeRemoved struct {
	Removed string `json:"removed"` // name of the node
}

func clusterRemove(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "take a node out of the core",
		Long: `Remove takes a node out of the core for good, be it up or lost: the others refuse it from then on, and the fleet's keys are
wrapped anew without it. To bring the machine back, invite it as a new node with an empty data directory.`,
		Args: takes("NAME"), ValidArgsFunction: firstArg(nodeNames(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), func(c *client.Client) error {
				path := client.Path("v1", "cluster", "nodes", args[0])
				if _, err := client.SendSlow[json.RawMessage](cmd.Context(), c, http.MethodDelete, path, nil); err != nil {
					return err
				}
				return a.did(nodeRemoved{args[0]}, "node %s: removed from the core", args[0])
			})
		},
	}
}

func clusterSnapshot(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "snapshot", Short: "have a node write a snapshot now",
		Long: `Snapshot has the node that answers write its state to disk now and drop the log before it. Nodes do so by themselves; by hand it is
for before an upgrade or a backup. Name the node with --url.`,
		Args: takes(), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(c *client.Client) error {
				s, err := client.SendSlow[v1.Snapshot](cmd.Context(), c, http.MethodPost, client.Path("v1", "cluster", "snapshot"), nil)
				if err != nil {
					return err
				}
				return a.did(s, "node %s: wrote a snapshot up to log index %d", s.Node, s.Index)
			})
		},
	}
}

// leads is what transfer-leadership prints for programs.
type leads struct {
	Leader string `json:"leader"` // empty: none known yet
}

func clusterTransfer(a *app) *cobra.Command {
	var to string
	c := &cobra.Command{
		Use: "transfer-leadership [--to NAME]", Short: "hand leadership to another node",
		Long: `Transfer-leadership has the leader hand over to the node named, or to whichever is up to date. It is for before the leader's
machine is taken down; a leader that is lost is replaced without it.`,
		Args: takes(), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(c *client.Client) error {
				path := client.Path("v1", "cluster", "transfer-leadership")
				if _, err := client.SendSlow[json.RawMessage](cmd.Context(), c, http.MethodPost, path, v1.TransferLeadership{To: to}); err != nil {
					return err
				}
				s, err := getCluster(cmd.Context(), c)
				if err != nil {
					return err
				}
				if s.Leader == "" {
					return a.did(leads{}, "leadership was handed over; who leads is not known yet")
				}
				return a.did(leads{s.Leader}, "leadership was handed over; node %s leads", s.Leader)
			})
		},
	}
	c.Flags().StringVar(&to, "to", "", "`name` of the node that is to lead (default: whichever is up to date)")
	completeBy(c, "to", nodeNames(a))
	return c
}
