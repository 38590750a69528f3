package cli

import (
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/client"
	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/output"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

func clusterCommand(a *app) *cobra.Command {
	c := &cobra.Command{Use: "cluster", Short: "look at the core's nodes"}
	c.AddCommand(&cobra.Command{
		Use: "status", Short: "show the core's nodes and who leads", Args: takes(), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(c *client.Client) error {
				s, err := client.Get[v1.Cluster](cmd.Context(), c, client.Path("v1", "cluster"), nil)
				if err != nil {
					return err
				}
				if s.Nodes == nil {
					s.Nodes = []v1.Node{}
				}
				return a.print(s, func(w io.Writer) error { return a.writeCluster(w, s) })
			})
		},
	})
	return c
}

func (a *app) writeCluster(w io.Writer, s v1.Cluster) error {
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
	g := output.NewGrid("NODE", "ADDRESS", "ROLE", "")
	for _, n := range s.Nodes {
		role := "learner"
		switch {
		case n.Leader:
			role = "leader"
		case n.Voter:
			role = "voter"
		}
		here := " "
		if n.Self {
			here = "asked"
		}
		g.Row(false, n.Name, n.Address, role, here)
	}
	return g.Write(w, a.colour())
}
