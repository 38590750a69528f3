package build

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
)

// A Verified is what Verify found to be as the manifest says.
type Verified struct {
	Files   int
	Bytes   uint64 // of the files
	Chunks  int    // different ones
	Patches int
	Applied int // patches whose base was at hand, so that they were applied
}

// Verify reads every chunk, puts every file together, and opens every patch; patches of files that are in bases are applied. The first thing
// that is not as the manifest says is the error.
func (d *Dir) Verify(ctx context.Context, bases ...*Dir) (v Verified, err error) {
	dir := filepath.Join(d.Path, chunksDir)
	files := make(map[wire.Digest]uint64)
	for i := range d.Manifest.Entries {
		e := &d.Manifest.Entries[i]
		if e.Type != artifact.TypeFile {
			continue
		}
		if err := verifyFile(ctx, dir, e); err != nil {
			return v, err
		}
		files[e.Digest] = e.Size
		v.Files++
		v.Bytes += e.Size
	}
	for i := range d.Manifest.Patches {
		if err := ctx.Err(); err != nil {
			return v, err
		}
		p := &d.Manifest.Patches[i]
		applied, err := verifyPatch(dir, p, files[p.File], bases)
		if err != nil {
			return v, fmt.Errorf("patch from %s to %s: %w", p.Base.Short(), p.File.Short(), err)
		}
		v.Patches++
		if applied {
			v.Applied++
		}
	}
	known := make(map[string]bool)
	for x := range d.Chunks() {
		known[x.Digest.String()] = true
	}
	v.Chunks = len(known)
	return v, onlyKnown(dir, known)
}

func verifyFile(ctx context.Context, dir string, e *artifact.Entry) error {
	h := sha256.New()
	for _, x := range e.Chunks.All() {
		if err := ctx.Err(); err != nil {
			return err
		}
		b, err := readChunk(dir, x)
		if err != nil {
			return fmt.Errorf("%s: %w", e.Path, err)
		}
		h.Write(b)
	}
	if got := wire.Digest(h.Sum(nil)); got != e.Digest {
		return fmt.Errorf("%s: its chunks make a file with digest %s, want %s: %w", e.Path, got.Short(), e.Digest.Short(), artifact.ErrChunk)
	}
	return nil
}

// verifyPatch opens the chunks of a patch and, if its base is at hand, applies it.
func verifyPatch(dir string, p *artifact.Patch, size uint64, bases []*Dir) (applied bool, err error) {
	for _, x := range p.Chunks.All() {
		if _, err := readChunk(dir, x); err != nil {
			return false, err
		}
	}
	base, from := find(bases, p.Base)
	if base == nil {
		return false, nil
	}
	old, err := readContent(filepath.Join(from.Path, chunksDir), base.Size, base.Chunks)
	if err != nil {
		return false, err
	}
	if got := wire.DigestOf(old); got != p.Base || base.Size != p.BaseSize {
		return false, fmt.Errorf("%s in %s has %d bytes and digest %s, want %d: %w", base.Path, from.Path, base.Size, got.Short(), p.BaseSize, artifact.ErrChunk)
	}
	data, err := readContent(dir, p.Size, p.Chunks)
	if err != nil {
		return false, err
	}
	file, err := artifact.OpenPatch(old, data, size)
	if err != nil {
		return false, err
	}
	if got := wire.DigestOf(file); got != p.File {
		return false, fmt.Errorf("it makes a file with digest %s: %w", got.Short(), artifact.ErrChunk)
	}
	return true, nil
}

// find looks for a file with a digest that may be patched.
func find(bases []*Dir, digest wire.Digest) (*artifact.Entry, *Dir) {
	for _, d := range bases {
		for i := range d.Manifest.Entries {
			if e := &d.Manifest.Entries[i]; e.Type == artifact.TypeFile && e.Digest == digest && e.Size <= artifact.MaxPatched {
				return e, d
			}
		}
	}
	return nil, nil
}

// onlyKnown sees to it that nothing else lies among the chunks.
func onlyKnown(dir string, known map[string]bool) error {
	f, err := os.Open(dir) //nolint:gosec // G304: the directory that was named
	if errors.Is(err, os.ErrNotExist) && len(known) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read only
	for {
		names, err := f.Readdirnames(listBatch)
		for _, n := range names {
			if !known[n] {
				return fmt.Errorf("%s belongs to nothing in the manifest: %w", filepath.Join(dir, n), artifact.ErrChunk)
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}
