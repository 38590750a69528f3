package cli

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/client"
	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/output"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/internal/durable"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

func publishersList(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "list the sets of publishers that the core has; the last is in force", Args: takes(), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(c *client.Client) error {
				sets, err := fetch[v1.PublisherSet](cmd.Context(), a, c, client.Query{Path: client.Path("v1", "publishers")})
				if err != nil {
					return err
				}
				return printList(a, sets, publisherGrid(sets, c.Now()))
			})
		},
	}
}

func publisherGrid(sets []v1.PublisherSet, now time.Time) *output.Grid {
	g := output.NewGrid("SET", "PUBLISHERS", "ROOT KEYS", "SET AT", "BY")
	for _, p := range sets {
		names := make([]string, len(p.Publishers))
		for i, x := range p.Publishers {
			names[i] = x.Name
		}
		g.Row(false, strconv.FormatUint(p.Number, 10), strings.Join(names, ", "), strconv.Itoa(p.Threshold)+" of "+strconv.Itoa(len(p.Roots)),
			output.Ago(now, &p.SetAt), p.SetBy)
	}
	return g
}

func publishersPush(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "push FILE", Short: "give the core the next set of publishers",
		Long: `Push gives the core the next set of publishers. Set 1 needs no signature: the core has its authority sign it. A later one must carry
signatures of enough root keys of the set before; see "holdfast publishers sign". Devices and gateways verify it for themselves.
FILE then holds set 1 with the core's signature: the next set is made and signed from it.`,
		Example: "  holdfast publishers push publishers-1.set",
		Args:    takes("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			set, err := readSet(args[0])
			if err != nil {
				return err
			}
			body, err := set.request()
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), func(c *client.Client) error {
				p, err := client.Send[v1.PublisherSet](cmd.Context(), c, http.MethodPost, client.Path("v1", "publishers"), body)
				if err != nil {
					return err
				}
				if err := set.keep(&p); err != nil {
					return err
				}
				return a.did(p, "set %d of publishers is in force: %d publishers, the next takes %d of %d root keys", p.Number, len(p.Publishers), p.Threshold, len(p.Roots))
			})
		},
	}
}

// keep puts set 1, as the core sealed it, in the place of the bare one in the file.
func (s *setFile) keep(p *v1.PublisherSet) error {
	if s.sealed != nil {
		return nil
	}
	failed := func(err error) error {
		return fmt.Errorf("set %d is in force, but %s does not hold it as the core sealed it, see publishers list -o json: %w", p.Number, s.path, err)
	}
	sealed, err := base64.StdEncoding.DecodeString(p.Sealed)
	if err != nil {
		return failed(err)
	}
	if _, err := seal.PeekPublisherSet(sealed); err != nil {
		return failed(err)
	}
	if err := durable.WriteFile(s.path, sealed, 0o644); err != nil {
		return failed(err)
	}
	return nil
}

// request is the set as the core takes it.
func (s *setFile) request() (v1.SetPublishers, error) {
	switch {
	case s.Number > 1 && s.sealed == nil:
		return v1.SetPublishers{}, usage("%s is set %d and nobody signed it: root keys of the set before must, see publishers sign", s.path, s.Number)
	case s.Number > 1:
		return v1.SetPublishers{Sealed: base64.StdEncoding.EncodeToString(s.sealed)}, nil
	}
	payload, err := wire.Marshal(s.PublisherSet)
	return v1.SetPublishers{Payload: base64.StdEncoding.EncodeToString(payload)}, err
}
