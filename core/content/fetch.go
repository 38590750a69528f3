package content

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-edge/holdfast/core/content/pack"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
)

// ErrUnreached says that no node that was reached has a chunk, and that not all were reached. Trying again later does no harm.
var ErrUnreached = errors.New("not every node of the core was reached")

// Local is the stored form of a chunk, if this node has it. The errors are those of Store.Get.
func (k *Keeper) Local(d wire.Digest) ([]byte, error) { return k.store.Get(d) }

// Get is the stored form of a chunk, from this node or from another, which then is stored here. Whoever asks for the same chunk at the same
// time waits for one fetch. The errors are ErrMissing: no node has it; ErrUnreached; ctx's; and the disk's.
func (k *Keeper) Get(ctx context.Context, d wire.Digest) ([]byte, error) {
	stored, err := k.store.Get(d)
	if !errors.Is(err, ErrMissing) && !errors.Is(err, ErrDamaged) {
		return stored, err
	}
	out := make(chan singleflightResult, 1)
	if !k.spawn(func() {
		v, err, _ := k.flights.Do(string(d[:]), func() (any, error) { return k.fetchOne(k.base, d) })
		b, _ := v.([]byte)
		out <- singleflightResult{b, err}
	}) {
		return nil, fmt.Errorf("%w: this node stops", ErrUnreached)
	}
	select {
	case r := <-out:
		return r.stored, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("fetch a chunk from another node: %w", context.Cause(ctx))
	}
}

type singleflightResult struct {
	stored []byte
	err    error
}

// fetchOne gets one chunk from another node.
func (k *Keeper) fetchOne(ctx context.Context, d wire.Digest) (stored []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	left, err := k.fetch(ctx, []wire.Digest{d}, func(c *pack.Chunk) { stored = c.Stored })
	if stored == nil && err == nil && len(left) > 0 {
		err = fmt.Errorf("chunk %s: %w", d.Short(), ErrMissing)
	}
	if stored != nil && err != nil {
		k.log.Warn("chunk from another node not stored here", "chunk", d, "err", err)
		err = nil
	}
	return stored, err
}

// fetch gets chunks from other nodes, one node after the other, and stores them. got, if there is one, sees each before it is stored. It returns
// those that it did not get. The errors are ErrUnreached, when there are some left and not all nodes answered, and those of Store.Put.
func (k *Keeper) fetch(ctx context.Context, want []wire.Digest, got func(*pack.Chunk)) (left []wire.Digest, err error) {
	m := k.cluster.Members()
	var errs []error
	for _, node := range m.others() {
		for more := true; more && len(want) > 0; {
			list, rest, err := k.fetchFrom(ctx, node, want)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", node, err))
				break
			}
			for i := range list.chunks {
				if got != nil {
					got(&list.chunks[i])
				}
			}
			if err := k.store.Put(ctx, list); err != nil {
				return want, err
			}
			k.fetched.Add(uint64(len(list.chunks)))
			more = len(rest) < len(want)
			want = rest
		}
	}
	if len(want) > 0 && len(errs) > 0 {
		return want, fmt.Errorf("%w: %w", ErrUnreached, errors.Join(errs...))
	}
	return want, nil
}

// fetchFrom asks one node for some chunks. It returns, verified, those that came, and which of the wanted did not.
func (k *Keeper) fetchFrom(ctx context.Context, node string, want []wire.Digest) (Verified, []wire.Digest, error) {
	a, err := ask[fetchReply](ctx, k, node, CallFetch, fetchRequest{packDigests(want[:min(len(want), maxWanted)])})
	if err != nil {
		return Verified{}, want, err
	}
	list, err := pack.Read(a.Pack)
	if err != nil {
		return Verified{}, want, err
	}
	asked := make(map[wire.Digest]bool, len(want))
	for _, d := range want {
		asked[d] = true
	}
	for i := range list {
		if !asked[list[i].Digest] {
			return Verified{}, want, fmt.Errorf("chunk %s, which was not asked for, or twice: %w", list[i].Digest.Short(), pack.ErrPack)
		}
		asked[list[i].Digest] = false
	}
	v, err := Verify(list)
	if err != nil {
		return Verified{}, want, err
	}
	var rest []wire.Digest
	for _, d := range want {
		if asked[d] {
			rest = append(rest, d)
		}
	}
	return v, rest, nil
}

// Manifest reads the manifest of a registered artifact, wherever its parts are. The errors are those of Get, and of Join.
func (k *Keeper) Manifest(ctx context.Context, x *registry.Artifact) (*artifact.Manifest, error) {
	b, err := k.Join(ctx, x.Parts, x.Digest)
	if err != nil {
		return nil, fmt.Errorf("manifest of %s: %w", x.Title(), err)
	}
	return artifact.Decode(b)
}

// Join puts the parts of a manifest together and holds them against its digest. The errors are those of Get, and artifact.ErrManifest.
func (k *Keeper) Join(ctx context.Context, parts []wire.Digest, d wire.Digest) ([]byte, error) {
	if len(parts) == 0 || len(parts) > MaxParts {
		return nil, fmt.Errorf("%d parts, want 1 to %d: %w", len(parts), MaxParts, artifact.ErrManifest)
	}
	var out []byte
	for i, p := range parts {
		stored, err := k.Get(ctx, p)
		if err != nil {
			return nil, fmt.Errorf("part %d: %w", i+1, err)
		}
		plain, err := open(p, stored)
		if err != nil {
			return nil, err
		}
		if last := i == len(parts)-1; len(plain) != wire.MaxPart && !last {
			return nil, fmt.Errorf("part %d has %d bytes, all but the last have %d: %w", i+1, len(plain), wire.MaxPart, artifact.ErrManifest)
		}
		out = append(out, plain...)
	}
	if got := wire.DigestOf(out); got != d {
		return nil, fmt.Errorf("the parts have the digest %v, want %v: %w", got, d, artifact.ErrManifest)
	}
	return out, nil
}

// MaxParts is how many parts the longest manifest has: all but the last of wire.MaxPart bytes.
const MaxParts = wire.MaxManifest / wire.MaxPart

// ChunksOf are the distinct chunks that a manifest names, of its files and of its patches, in the order in which they come first.
func ChunksOf(m *artifact.Manifest) []wire.Digest {
	seen := make(map[wire.Digest]struct{})
	var out []wire.Digest
	add := func(list artifact.Chunks) {
		for _, c := range list.All() {
			if _, there := seen[c.Digest]; !there {
				seen[c.Digest] = struct{}{}
				out = append(out, c.Digest)
			}
		}
	}
	for i := range m.Entries {
		add(m.Entries[i].Chunks)
	}
	for i := range m.Patches {
		add(m.Patches[i].Chunks)
	}
	return out
}
