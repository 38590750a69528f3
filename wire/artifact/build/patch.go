package build

import (
	"cmp"
	"context"
	"fmt"
	"math/bits"
	"path/filepath"
	"slices"

	"github.com/klauspost/compress/zstd"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
)

// A candidate is a file that may be made out of an earlier one.
type candidate struct {
	from      *Dir
	base, now *artifact.Entry
	missing   uint64 // stored bytes that somebody who has the earlier build lacks of the file
}

// candidates are the files of m that differ from those at the same path in an earlier build, those that lack the most first.
func candidates(from *Dir, m *artifact.Manifest, sizes map[wire.Digest]int) []candidate {
	before := make(map[string]*artifact.Entry)
	there := make(map[wire.Digest]bool)
	for i := range from.Manifest.Entries {
		e := &from.Manifest.Entries[i]
		if e.Type == artifact.TypeFile {
			before[pathOf(m, e)] = e
		}
		for _, x := range e.Chunks.All() {
			there[x.Digest] = true
		}
	}
	var out []candidate
	for i := range m.Entries {
		e := &m.Entries[i]
		base := before[pathOf(m, e)]
		if e.Type != artifact.TypeFile || base == nil || base.Size == 0 || base.Digest == e.Digest || base.Size+e.Size > artifact.MaxPatched {
			continue
		}
		c := candidate{from: from, base: base, now: e}
		for _, x := range e.Chunks.All() {
			if !there[x.Digest] {
				c.missing += uint64(sizes[x.Digest]) //nolint:gosec // G115: sizes are not negative
			}
		}
		if c.missing > 0 {
			out = append(out, c)
		}
	}
	slices.SortStableFunc(out, func(a, b candidate) int { return cmp.Compare(b.missing, a.missing) })
	return out
}

// pathOf is the path that says which files are versions of one another. The one file of an artifact of kind file may have any name.
func pathOf(m *artifact.Manifest, e *artifact.Entry) string {
	if m.Kind == artifact.KindFile {
		return ""
	}
	return e.Path
}

// patches adds the patches that pay to m: those that have less than three quarters of the bytes that they save.
func patches(ctx context.Context, m *artifact.Manifest, from []*Dir, s *store) error {
	var all []candidate
	for _, f := range from {
		all = append(all, candidates(f, m, s.sizes)...)
	}
	type pair struct{ base, file wire.Digest }
	seen := make(map[pair]bool)
	for _, c := range all {
		p := pair{c.base.Digest, c.now.Digest}
		if seen[p] {
			continue
		}
		if len(m.Patches) == artifact.MaxPatches {
			break
		}
		seen[p] = true
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := c.patch(m, s); err != nil {
			return fmt.Errorf("patch of %s: %w", c.now.Path, err)
		}
	}
	slices.SortFunc(m.Patches, func(a, b artifact.Patch) int {
		return cmp.Or(a.Base.Compare(b.Base), a.File.Compare(b.File))
	})
	return nil
}

func (c *candidate) patch(m *artifact.Manifest, s *store) error {
	base, err := readContent(filepath.Join(c.from.Path, chunksDir), c.base.Size, c.base.Chunks)
	if err != nil {
		return err
	}
	file, err := readContent(s.dir, c.now.Size, c.now.Chunks)
	if err != nil {
		return err
	}
	data, err := makePatch(base, file)
	if err != nil || uint64(len(data)) >= c.missing/4*3 {
		return err
	}
	p := artifact.Patch{Base: c.base.Digest, BaseSize: c.base.Size, File: c.now.Digest, Size: uint64(len(data))}
	for piece := range slices.Chunk(data, wire.MaxChunk) { // nothing in a patch comes again elsewhere: it need not be cut where its bytes say
		x := artifact.Chunk{Digest: wire.DigestOf(piece), Size: uint32(len(piece))} //nolint:gosec // G115: at most wire.MaxChunk
		if err := s.put(x, piece); err != nil {
			return err
		}
		p.Chunks.Add(x)
	}
	m.Patches = append(m.Patches, p)
	return nil
}

// makePatch makes what artifact.OpenPatch applies. Only the best level looks far enough into a dictionary of this size, and only with a window
// from the end of the file to the beginning of the base. The frame itself names the file's size as its window.
func makePatch(base, file []byte) ([]byte, error) {
	window := max(zstd.MinWindowSize, 1<<bits.Len(uint(len(base)+len(file)-1)))
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderDictRaw(0, base),
		zstd.WithWindowSize(window), zstd.WithLowerEncoderMem(true), zstd.WithSingleSegment(true), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, fmt.Errorf("encoder: %w", err)
	}
	return e.EncodeAll(file, nil), nil
}
