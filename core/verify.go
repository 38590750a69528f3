package core

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/holdfast-edge/holdfast/core/history"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/internal/durable"
	"github.com/holdfast-edge/holdfast/wire"
)

// A Verified is what Verify found to be sound.
type Verified struct {
	Records uint64        // of the whole history
	Audit   registry.Mark // of the audit trail
}

// errTrail marks a record of the audit trail that does not follow the one before.
var errTrail = errors.New("the audit trail is broken")

// Verify reads the whole history in a data directory that no process uses: the checksum of each record, and the chain of the
// audit trail. The error names the place of what is wrong first. What checksums and chain cannot show is a history that was
// written anew as a whole: the registry's hash over it shows that when the node runs, and a witness shows it of the trail.
func Verify(ctx context.Context, dir string) (_ Verified, err error) {
	if _, err := LoadSettings(dir); err != nil {
		return Verified{}, err
	}
	lock, err := durable.LockDir(dir)
	if err != nil {
		return Verified{}, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	h, err := history.Open(filepath.Join(dir, historyDir), history.Options{Logger: slog.New(slog.DiscardHandler)}) //nolint:contextcheck // opening the history is not given up half way
	if err != nil {
		return Verified{}, err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	var out Verified
	err = h.Scan(ctx, 0, func(r *history.Record) error {
		out.Records++
		if r.Kind != history.Kind(registry.KindAudit) {
			return nil
		}
		var a registry.AuditRecord
		if err := wire.Unmarshal(r.Data, &a); err != nil {
			return fmt.Errorf("%w: record %d, at log index %d: %w", errTrail, out.Audit.Count+1, r.Index, err)
		}
		if a.Seq != out.Audit.Count+1 || a.Prev != out.Audit.Head {
			return fmt.Errorf("%w: record %d, at log index %d, does not follow record %d", errTrail, a.Seq, r.Index, out.Audit.Count)
		}
		out.Audit = registry.Mark{Count: a.Seq, Head: registry.AuditHash(r.Data)}
		return nil
	})
	return out, err
}
