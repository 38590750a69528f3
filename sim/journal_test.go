package sim

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/holdfast-edge/holdfast/core/history"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A logbook is the journal of a device: everything that it ever stated, and where it was admitted. It listens to what the agent logs: a statement
// lies in the outbox when the agent says so, and cannot leave it before virtual time goes on.
type logbook struct {
	slog.Handler
	dir string // the agent's

	mu     sync.Mutex
	stated [][]byte // sealed, in the order in which they were made
	at     string   // the gateway that admitted it last
	moves  int      // admissions by another gateway than before
	errs   []error
}

func newLogbook(dir string) *logbook { return &logbook{Handler: slog.DiscardHandler, dir: dir} }

func (*logbook) Enabled(context.Context, slog.Level) bool { return true }
func (j *logbook) WithAttrs([]slog.Attr) slog.Handler     { return j }
func (j *logbook) WithGroup(string) slog.Handler          { return j }

// Handle implements slog.Handler.
func (j *logbook) Handle(_ context.Context, r slog.Record) error {
	at := make(map[string]slog.Value)
	r.Attrs(func(a slog.Attr) bool { at[a.Key] = a.Value; return true })
	j.mu.Lock()
	defer j.mu.Unlock()
	switch r.Message {
	case "registration stated":
		b, err := os.ReadFile(filepath.Join(j.dir, "outbox", fmt.Sprintf("%020d-%020d", at["epoch"].Uint64(), at["seq"].Uint64())))
		if err != nil {
			j.errs = append(j.errs, err)
		}
		j.stated = append(j.stated, b)
	case "registration not stated, trying again later":
		j.errs = append(j.errs, fmt.Errorf("%s: %v", r.Message, at["err"]))
	case "attached":
		gw := at["gateway"].String()
		if j.at != "" && j.at != gw {
			j.moves++
		}
		j.at = gw
	}
	return nil
}

// all is what was stated so far.
func (j *logbook) all() [][]byte {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.stated)
}

// compare holds the history of a core node that has stopped against the journal, and how far its registry had the device.
func (j *logbook) compare(t *testing.T, c *CoreNode, a *Agent, q registry.Sequence) error {
	t.Helper()
	h, err := history.Open(filepath.Join(c.Dir(), "history"), history.Options{})
	if err != nil {
		return err
	}
	recs, _, err := h.Read(t.Context(), history.StreamID(registry.DeviceStream(deviceID(t, a))), history.Query{
		Limit: history.MaxLimit, Kinds: []history.Kind{history.Kind(registry.KindStatement)},
	})
	if err = errors.Join(err, h.Close()); err != nil {
		return err
	}
	committed := make([]registry.StatementRecord, len(recs))
	for i := range recs {
		if err := wire.Unmarshal(recs[i].Data, &committed[i]); err != nil {
			return err
		}
	}
	return errors.Join(errors.Join(j.errs...), conserved(j.all(), committed, q))
}

func deviceID(t *testing.T, a *Agent) ident.DeviceID {
	t.Helper()
	id, err := ident.ParseDeviceID(a.ID)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// conserved holds what the core has of a device against the device's journal: every statement once, to the byte (device times are
// in it), in the same order by epoch and seq, none as late or missing, and all of it covered by what a receipt is given for.
func conserved(stated [][]byte, committed []registry.StatementRecord, q registry.Sequence) error {
	want, err := parsed(stated)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if !slices.IsSortedFunc(want, byPlace) {
		return fmt.Errorf("the journal is not in order of epoch and seq")
	}
	var sealed [][]byte
	for i := range committed {
		sealed = append(sealed, committed[i].Sealed)
		if committed[i].Late {
			return fmt.Errorf("record %d had been given up although the device had it", i)
		}
	}
	got, err := parsed(sealed)
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	slices.SortStableFunc(got, byPlace)
	for i := range max(len(want), len(got)) {
		switch {
		case i >= len(got), i < len(want) && byPlace(want[i], got[i]) < 0:
			return fmt.Errorf("%s is missing at the core, which has %d of %d statements", named(want[i]), len(got), len(want))
		case i >= len(want), byPlace(want[i], got[i]) > 0:
			return fmt.Errorf("the core has %s, which was never stated, or has it twice", named(got[i]))
		case !bytes.Equal(want[i].Sealed, got[i].Sealed):
			return fmt.Errorf("the core has %s with other content", named(got[i]))
		case want[i].TimeMS != got[i].TimeMS:
			return fmt.Errorf("%s: device time %d, stated at %d", named(want[i]), got[i].TimeMS, want[i].TimeMS)
		}
	}
	if open, final := missing(q); open+final > 0 {
		return fmt.Errorf("the registry misses %d statements and has given up %d", open, final)
	}
	if c, _ := q.Covered(); len(want) > 0 {
		if last := want[len(want)-1]; c.Epoch != last.Epoch || c.Seq != last.Seq || c.Chain != last.Chain {
			return fmt.Errorf("the registry covers epoch %d, seq %d, the last statement is %s", c.Epoch, c.Seq, named(last))
		}
	}
	return nil
}

// missing counts the statements that are known to be missing at the core: those that may still come, and those given up.
func missing(q registry.Sequence) (open, final uint64) {
	for _, e := range q.Epochs {
		for _, g := range e.Gaps {
			if g.Final {
				final += g.To - g.From + 1
			} else {
				open += g.To - g.From + 1
			}
		}
	}
	return open, final
}

func parsed(sealed [][]byte) ([]*seal.SealedStatement, error) {
	var out []*seal.SealedStatement
	for i, b := range sealed {
		s, err := seal.ParseStatement(b)
		if err != nil {
			return nil, fmt.Errorf("statement %d: %w", i, err)
		}
		out = append(out, s)
	}
	return out, nil
}

func byPlace(a, b *seal.SealedStatement) int {
	return cmp.Or(cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.Seq, b.Seq))
}

func named(s *seal.SealedStatement) string { return fmt.Sprintf("epoch %d, seq %d", s.Epoch, s.Seq) }
