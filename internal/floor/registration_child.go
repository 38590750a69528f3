package floor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-edge/holdfast/internal/floor/load"
	"github.com/holdfast-edge/holdfast/internal/floor/proc"
	"github.com/holdfast-edge/holdfast/internal/floor/raftcommit"
)

const roleRegistration = "registration"

// commandRound makes the children that measure themselves (registration, verification) do one round.
const commandRound = "round"

// electionLimit bounds the wait for a leader.
const electionLimit = 20 * time.Second

// registrar is the cluster and the batch that is registered over and over: what is in a record costs nothing, and
// signing new ones would cost more than the checks.
type registrar struct {
	cfg     RegistrationConfig
	cluster *raftcommit.Cluster
	batch   []signedRecord
}

func openRegistration(ctx context.Context, config json.RawMessage) (Service, error) {
	cfg, err := decodeConfig[RegistrationConfig](config)
	if err != nil {
		return nil, err
	}
	r := &registrar{cfg: cfg, batch: make([]signedRecord, cfg.Batch)}
	for i := range r.batch {
		if r.batch[i], err = newSignedRecord(cfg.RecordBytes); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, electionLimit)
	defer cancel()
	if r.cluster, err = raftcommit.Start(ctx, cfg.Dir, cfg.Nodes); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *registrar) Do(ctx context.Context, command string) (any, error) {
	if command != commandRound {
		return nil, fmt.Errorf("%w: %s", ErrUnknownCommand, command)
	}
	return r.round(ctx)
}

// round lets all appliers work for one window.
func (r *registrar) round(ctx context.Context) (RegistrationRound, error) {
	cpu, err := proc.CPUTime(os.Getpid())
	if err != nil {
		return RegistrationRound{}, err
	}
	applied, begin := r.cluster.Applied(), time.Now()
	var commits load.Histogram
	var verified atomic.Uint64
	g, ctx := errgroup.WithContext(ctx)
	for range r.cfg.Appliers {
		g.Go(func() error {
			for ctx.Err() == nil && time.Since(begin) < r.cfg.Window {
				n, err := r.register(&commits)
				if err != nil {
					return err
				}
				verified.Add(n)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return RegistrationRound{}, err
	}
	elapsed := time.Since(begin)
	end, err := proc.CPUTime(os.Getpid())
	if err != nil {
		return RegistrationRound{}, err
	}
	counts := commits.Snapshot()
	return RegistrationRound{
		Registrations: counts.Count() * uint64(r.cfg.Batch), //nolint:gosec // G115: validated to be positive
		Verified:      verified.Load(), AppliedBytes: r.cluster.Applied() - applied,
		Elapsed: elapsed, CPU: end - cpu,
		CommitP50: counts.Percentile(0.50), CommitP99: counts.Percentile(0.99),
	}, nil
}

// register checks one batch and commits it, and returns how many signatures it has checked.
func (r *registrar) register(commits *load.Histogram) (uint64, error) {
	var verified uint64
	entry := make([]byte, 0, r.cfg.Batch*r.cfg.RecordBytes)
	for i := range r.batch {
		for range r.cfg.Signatures {
			if !r.batch[i].verify() {
				return 0, errBadSignature
			}
			verified++
		}
		entry = append(entry, r.batch[i].body...)
	}
	begin := time.Now()
	if err := r.cluster.Commit(entry); err != nil {
		return 0, err
	}
	commits.Add(time.Since(begin))
	return verified, nil
}

func (r *registrar) Close() error { return r.cluster.Close() }

var errBadSignature = errors.New("own signature is not valid")
