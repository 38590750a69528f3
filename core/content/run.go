package content

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-edge/holdfast/core/content/pack"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
)

const (
	// lookEvery is how often a node looks for artifacts whose content it may lack.
	lookEvery = 2 * time.Second
	// retryAfter is the wait after a look that found something that no node had, or could be asked for.
	retryAfter = 15 * time.Second
	// sweepEvery is how often a node looks for chunks that nobody needs.
	sweepEvery = time.Hour
	// barrierTime bounds the wait for the newest state before a sweep.
	barrierTime = 10 * time.Second
)

// Run fetches what this node lacks, and removes what nothing refers to, until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	look, sweep := time.NewTimer(lookEvery), time.NewTicker(sweepEvery)
	defer look.Stop()
	defer sweep.Stop()
	whole := make(map[wire.Digest]struct{}) // artifacts of which this node has everything
	for {
		select {
		case <-look.C:
			wait := lookEvery
			if !k.look(ctx, whole) {
				wait = retryAfter
			}
			look.Reset(wait)
		case <-k.store.Damage():
			clear(whole)
		case <-sweep.C:
			if err := k.Collect(ctx); err != nil && ctx.Err() == nil {
				k.log.Warn("unused content not collected, trying again in an hour", "err", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// look fetches what registered artifacts refer to and this node lacks, and takes into whole what is there. It returns false when something is
// still lacking.
func (k *Keeper) look(ctx context.Context, whole map[wire.Digest]struct{}) bool {
	v, lacking := k.cluster.View(), int64(0)
	for d := range whole {
		if _, ok := v.Artifact(d); !ok {
			delete(whole, d)
		}
	}
	var list []*registry.Artifact
	v.Artifacts(wire.Digest{}, func(x *registry.Artifact) bool {
		if _, ok := whole[x.Digest]; !ok {
			list = append(list, x)
		}
		return true
	})
	for _, x := range list {
		n, err := k.complete(ctx, x)
		switch {
		case ctx.Err() != nil:
			return false
		case err != nil:
			k.log.Warn("content of an artifact is not all here", "artifact", x.Title(), "lacking", n, "err", err)
		case n == 0:
			whole[x.Digest] = struct{}{}
		}
		lacking += int64(n)
		k.lacking.Store(lacking)
	}
	k.lacking.Store(lacking)
	return lacking == 0
}

// complete fetches what this node lacks of an artifact. It returns how many chunks it still lacks; while the manifest cannot be read, of that.
func (k *Keeper) complete(ctx context.Context, x *registry.Artifact) (lacking int, err error) {
	if left, err := k.fetchAll(ctx, x.Title(), x.Parts); len(left) > 0 || err != nil {
		return max(1, len(left)), err
	}
	m, err := k.Manifest(ctx, x)
	if err != nil {
		return 1, err
	}
	left, err := k.fetchAll(ctx, x.Title(), ChunksOf(m))
	if err != nil {
		return max(1, len(left)), err
	}
	return len(left), nil
}

// fetchAll fetches those chunks that this node lacks, no faster than it may. It returns what nobody had.
func (k *Keeper) fetchAll(ctx context.Context, title string, list []wire.Digest) (left []wire.Digest, err error) {
	want := slices.DeleteFunc(slices.Clone(list), k.store.Has)
	slices.SortFunc(want, wire.Digest.Compare)
	want = slices.Compact(want)
	for i := 0; i < len(want); i += maxWanted {
		bytes := 0
		none, err := k.fetch(ctx, want[i:min(i+maxWanted, len(want))], func(c *pack.Chunk) { bytes += len(c.Stored) })
		left = append(left, none...)
		if err != nil {
			return append(left, want[min(i+maxWanted, len(want)):]...), err
		}
		if err := k.rate.WaitN(ctx, bytes); err != nil {
			return left, err
		}
	}
	if len(want) > len(left) {
		k.log.Info("content fetched from other nodes", "artifact", title, "chunks", len(want)-len(left), "lacking", len(left))
	}
	return left, nil
}

// Collect removes chunks that nothing refers to and that nobody has put or asked for within the grace time. The package comment has the
// reasons why it takes none that is needed.
func (k *Keeper) Collect(ctx context.Context) error {
	before := time.Now().Add(-k.grace)
	stale := k.store.Stale(before)
	unused, err := k.unused(ctx, stale)
	if err != nil {
		return err
	}
	n, bytes, err := k.store.Sweep(unused, before)
	if n > 0 {
		k.log.Info("unused content removed", "chunks", n, "bytes", bytes)
	}
	return err
}

// unused returns those chunks that no registered artifact refers to. The others it touches, so that they are not looked at again soon.
func (k *Keeper) unused(ctx context.Context, stale []wire.Digest) ([]wire.Digest, error) {
	if len(stale) == 0 {
		return nil, nil
	}
	limited, cancel := context.WithTimeout(ctx, barrierTime)
	defer cancel()
	if err := k.cluster.Barrier(limited); err != nil {
		return nil, fmt.Errorf("learn which artifacts there are: %w", err)
	}
	used := make(map[wire.Digest]bool, len(stale))
	for _, d := range stale {
		used[d] = false
	}
	mark := func(list []wire.Digest) {
		for _, d := range list {
			if _, ok := used[d]; ok {
				used[d] = true
			}
		}
	}
	var failed error
	k.cluster.View().Artifacts(wire.Digest{}, func(x *registry.Artifact) bool {
		mark(x.Parts)
		m, err := k.Manifest(ctx, x)
		if err != nil {
			failed = errors.Join(ctx.Err(), err)
			return false
		}
		mark(ChunksOf(m))
		return true
	})
	if failed != nil {
		return nil, failed
	}
	var unused, rest []wire.Digest
	for _, d := range stale {
		if used[d] {
			rest = append(rest, d)
		} else {
			unused = append(unused, d)
		}
	}
	k.store.Touch(rest)
	return unused, nil
}
