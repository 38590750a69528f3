package install

import (
	"cmp"
	"slices"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
)

// A target is a file that is made of chunks: one of the release, or a patch.
type target struct {
	path   string // in the slot's directory
	chunks artifact.Chunks
	size   uint64
	digest wire.Digest // of the whole file; zero for a patch
	first  int         // number of its first chunk, counted over all targets
	skip   bool
}

// A place is where a chunk belongs, or lies.
type place struct {
	off    uint64 // in the file, in bytes
	target uint32
	chunk  uint32 // of the target
}

// places finds chunks by their digest. It holds 16 bytes for each chunk.
type places struct {
	targets []target
	sorted  []place // by digest, then by place
}

func newPlaces(targets []target) *places {
	p := &places{targets: targets}
	n := 0
	for i := range targets {
		targets[i].first = n
		n += targets[i].chunks.Len()
	}
	p.sorted = make([]place, 0, n)
	for i := range targets {
		c := 0
		for off := range targets[i].chunks.All() {
			p.sorted = append(p.sorted, place{off, uint32(i), uint32(c)}) //nolint:gosec // G115: a manifest has fewer
			c++
		}
	}
	slices.SortFunc(p.sorted, func(a, b place) int {
		return cmp.Or(p.at(a).Digest.Compare(p.at(b).Digest), cmp.Compare(a.target, b.target), cmp.Compare(a.chunk, b.chunk))
	})
	return p
}

// at is the chunk that belongs to a place.
func (p *places) at(x place) artifact.Chunk { return p.targets[x.target].chunks.At(int(x.chunk)) }

// number is the place's among all chunks of all targets.
func (p *places) number(x place) int { return p.targets[x.target].first + int(x.chunk) }

// of are all places of a chunk.
func (p *places) of(d wire.Digest) []place {
	i, found := slices.BinarySearchFunc(p.sorted, d, func(x place, d wire.Digest) int { return p.at(x).Digest.Compare(d) })
	if !found {
		return nil
	}
	n := i + 1
	for n < len(p.sorted) && p.at(p.sorted[n]).Digest == d {
		n++
	}
	return p.sorted[i:n]
}

// filesOf are the files of a manifest that lie, or are to lie, under dir.
func filesOf(m *artifact.Manifest, dir string) []target {
	var out []target
	for i := range m.Entries {
		if e := &m.Entries[i]; e.Type == artifact.TypeFile {
			out = append(out, target{path: dir + "/" + e.Path, chunks: e.Chunks, size: e.Size, digest: e.Digest})
		}
	}
	return out
}

// bits are flags, one for each chunk.
type bits []uint64

func newBits(n int) bits      { return make(bits, (n+63)/64) }
func (b bits) has(i int) bool { return b[i/64]&(1<<(i%64)) != 0 }
func (b bits) set(i int)      { b[i/64] |= 1 << (i % 64) }
func (b bits) clear(i int)    { b[i/64] &^= 1 << (i % 64) }
