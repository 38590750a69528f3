package cli

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/client"
	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/output"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

// tailEvery is how often tail -f asks for what is new.
const tailEvery = 2 * time.Second

func auditCommand(a *app) *cobra.Command {
	c := &cobra.Command{Use: "audit", Short: "show, export and verify who did what"}
	c.AddCommand(auditTail(a), auditExport(a), auditVerify(a))
	return c
}

func decodeBase64(s string) ([]byte, error) { return base64.StdEncoding.Strict().DecodeString(s) }

func auditTail(a *app) *cobra.Command {
	var follow bool
	var n uint32
	c := &cobra.Command{
		Use: "tail [-f] [-n N]", Short: "show the newest records of the audit trail",
		Long: `Tail shows the newest records. With -f it goes on with what is new, until it is interrupted; with -o json each record is then
one line.`,
		Example: "  holdfast audit tail -n 50\n  holdfast audit tail -f -o json",
		Args:    takes(), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			return a.with(ctx, func(c *client.Client) error {
				h, err := client.Get[v1.AuditHead](ctx, c, client.Path("v1", "audit", "head"), nil)
				if err != nil {
					return err
				}
				after := h.Seq - min(h.Seq, uint64(n))
				if follow {
					return a.followAudit(ctx, c, after)
				}
				records := []v1.AuditRecord{}
				if n > 0 {
					if records, err = auditAfter(ctx, c, after, int(n)); err != nil {
						return err
					}
				}
				return printList(a, records, auditGrid(records))
			})
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what is new")
	c.Flags().Uint32VarP(&n, "lines", "n", 10, "begin with so `many` of the newest records")
	return c
}

// auditAfter reads the records after the given number, at most limit (0: all).
func auditAfter(ctx context.Context, c *client.Client, after uint64, limit int) ([]v1.AuditRecord, error) {
	return client.All[v1.AuditRecord](ctx, c, client.Query{
		Path: client.Path("v1", "audit"), Params: params("after", strconv.FormatUint(after, 10)), Limit: limit,
	})
}

func auditGrid(records []v1.AuditRecord) *output.Grid {
	g := output.NewGrid("SEQ", "TIME", "ACTOR", "ACTION", "TARGET", "SITE", "OUTCOME", "FROM", "DETAIL")
	for i := range records {
		r := &records[i]
		g.Row(r.Outcome != "done", strconv.FormatUint(r.Seq, 10), output.Stamp(&r.Time), r.Actor, r.Action, r.Target, r.Site, r.Outcome,
			r.Source, output.Pairs(r.Detail))
	}
	return g
}

// followAudit shows the records after the given number and goes on with what is new, until ctx ends, which is no failure. A
// core that is away is waited for as long as followers of events wait.
func (a *app) followAudit(ctx context.Context, c *client.Client, after uint64) error {
	good, away := time.Now(), false
	for first := true; ; first = false {
		// A batch that is full is followed by the next one at once.
		records, err := auditAfter(ctx, c, after, tailBatch)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // interrupted: that is how a follower ends
		}
		switch {
		case err != nil && (first || !passing(err)):
			return err
		case err != nil && time.Since(good) > giveUp:
			return fmt.Errorf("no answer for %v: %w", giveUp, err)
		case err != nil && !away:
			a.note("the core does not answer (%v) and is asked again", err)
			away = true
		case err == nil:
			good, away = time.Now(), false
		}
		for i := range records {
			if err := a.printRecord(&records[i]); err != nil {
				return err
			}
			after = records[i].Seq
		}
		if len(records) == tailBatch {
			continue
		}
		if sleep(ctx, tailEvery) != nil {
			return nil //nolint:nilerr // as above
		}
	}
}

// tailBatch is the most records that are held at a time.
const tailBatch = 500

func (a *app) printRecord(r *v1.AuditRecord) error {
	switch a.format {
	case output.AsJSON:
		return output.JSON(a.out, r, true)
	case output.AsYAML:
		if _, err := io.WriteString(a.out, "---\n"); err != nil {
			return err
		}
		return output.YAML(a.out, r)
	case output.Table:
	}
	_, err := fmt.Fprintln(a.out, auditLine(r))
	return err
}

// auditLine is a record for people, on one line.
func auditLine(r *v1.AuditRecord) string {
	parts := []string{fmt.Sprintf("%s  %-6d %-7s %-18s  %s", output.Stamp(&r.Time), r.Seq, r.Outcome, r.Action, r.Actor)}
	about := map[string]string{}
	for k, v := range map[string]string{"target": r.Target, "site": r.Site, "from": r.Source} {
		if v != "" {
			about[k] = v
		}
	}
	for _, m := range []map[string]string{about, r.Detail} {
		if len(m) > 0 {
			parts = append(parts, output.Pairs(m))
		}
	}
	return output.Clean(strings.Join(parts, "  "), maxErrorText)
}
