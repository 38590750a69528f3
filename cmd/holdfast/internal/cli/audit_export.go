package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/client"
	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/output"
)

// exportTries is how often in turn an export may be cut without bringing a record.
const exportTries = 5

func auditExport(a *app) *cobra.Command {
	var after uint64
	var out string
	c := &cobra.Command{
		Use: "export [--after SEQ] [--out FILE]", Short: "write the audit trail as lines of JSON",
		Long: `Export writes the records of the audit trail, one line of JSON each, as verify reads them. A connection that breaks is opened
again, at another node where there is one. With --out a file that holds a part of the trail is continued behind its last whole
line, so that an export that was interrupted goes on, and one of last week grows by what is new.`,
		Example: "  holdfast audit export --out trail.ndjson\n  holdfast audit export --after 4711",
		Args:    takes(), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "" {
				return a.with(cmd.Context(), func(c *client.Client) error {
					return (&export{a: a, c: c, w: bufio.NewWriter(a.out), last: after}).run(cmd.Context())
				})
			}
			return a.exportTo(cmd.Context(), out, after)
		},
	}
	c.Flags().Uint64Var(&after, "after", 0, "begin behind the record of this `number`")
	c.Flags().StringVar(&out, "out", "", "write to this `file`, readable by you alone, or continue it")
	return c
}

// exported is what export prints for programs when it wrote to a file.
type exported struct {
	Records uint64 `json:"records"` // written by this run
	Last    uint64 `json:"last"`    // number of the file's last record; 0: none
	File    string `json:"file"`
}

// exportTo writes to a file, behind what it holds already.
func (a *app) exportTo(ctx context.Context, path string, after uint64) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // G304: the operator names it
	if err != nil {
		return usage("--out: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	last, err := continueAt(f)
	switch {
	case err != nil:
		return fmt.Errorf("--out %s: %w", path, err)
	case last > 0 && after > 0:
		return usage("--out %s goes on behind record %d, which it holds: leave out --after", path, last)
	case last == 0:
		last = after
	}
	return a.with(ctx, func(c *client.Client) error {
		progress, done := a.counter("exported")
		e := &export{a: a, c: c, w: bufio.NewWriter(f), last: last, progress: progress}
		err := e.run(ctx)
		done()
		if err := errors.Join(err, f.Sync()); err != nil {
			return err
		}
		return a.did(exported{Records: e.n, Last: e.last, File: path}, "exported %d records, up to %d, to %s", e.n, e.last, path)
	})
}

// continueAt finds the last whole line of an export, cuts off what is behind it, and leaves the file there. It returns the
// number of that line's record, 0 where there is none.
func continueAt(f *os.File) (last uint64, err error) {
	r := bufio.NewReaderSize(f, maxAuditLine)
	end := int64(0)
	for i := 1; ; i++ {
		line, err := r.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, fmt.Errorf("line %d: %w", i, err)
		}
		seq, err := seqOf(line)
		if err != nil {
			return 0, usage("line %d is no record of an audit trail: %w", i, err)
		}
		last, end = seq, end+int64(len(line))
	}
	if err := f.Truncate(end); err != nil {
		return 0, err
	}
	_, err = f.Seek(end, io.SeekStart)
	return last, err
}

// seqOf is the number of the record on a line.
func seqOf(line []byte) (uint64, error) {
	var r struct {
		Seq uint64 `json:"seq"`
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return 0, err
	}
	if r.Seq == 0 {
		return 0, errors.New("it has no number")
	}
	return r.Seq, nil
}

// An export copies the trail from the core.
type export struct {
	a        *app
	c        *client.Client
	w        *bufio.Writer
	last     uint64 // number of the last record that was written, or to begin behind
	n        uint64 // records written
	progress func(n int)
}

// run copies until the core has no more. What came is written, even when it fails.
func (e *export) run(ctx context.Context) error {
	wait := firstWait
	for failed := 0; ; {
		had := e.n
		err := e.copy(ctx)
		if flushed := e.w.Flush(); flushed != nil {
			return flushed
		}
		if local, ours := errors.AsType[emitError](err); ours {
			return local.error
		}
		if err == nil || ctx.Err() != nil || !passing(err) {
			return err
		}
		if failed++; e.n > had {
			failed, wait = 0, firstWait
		}
		if failed == exportTries {
			return fmt.Errorf("cut behind record %d: %w", e.last, err)
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
		wait = min(2*wait, maxWait)
	}
}

// copy copies what one connection brings. Nil: all of it came.
func (e *export) copy(ctx context.Context) error {
	lines, err := e.c.Lines(ctx, client.Path("v1", "audit", "export"), params("after", strconv.FormatUint(e.last, 10)))
	if err != nil {
		return err
	}
	defer lines.Close() //nolint:errcheck // an answer that ended has nothing to lose
	for {
		line, err := lines.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		seq, err := seqOf(line)
		if err == nil && seq != e.last+1 {
			err = fmt.Errorf("record %d behind record %d", seq, e.last)
		}
		if err != nil {
			return fmt.Errorf("%w: audit trail: %w", client.ErrAnswer, err)
		}
		// Written by the encoder of everything else, since a terminal may be the reader.
		if err := output.JSON(e.w, json.RawMessage(line), true); err != nil {
			return emitError{err}
		}
		e.last, e.n = seq, e.n+1
		if e.progress != nil && e.n%1000 == 0 {
			e.progress(int(e.n)) //nolint:gosec // G115: far below 2⁶³
		}
	}
}
