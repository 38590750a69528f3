package build

import (
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path/filepath"

	"github.com/holdfast-edge/holdfast/internal/durable"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// What lies in the directory of a build.
const (
	manifestFile = "manifest.cbor"
	releaseFile  = "release.cose" // after it was signed
	chunksDir    = "chunks"
)

// maxRelease bounds a sealed release, in bytes.
const maxRelease = 16 << 10

// A Dir is the directory that a build made.
type Dir struct {
	Path     string
	Manifest *artifact.Manifest
	Bytes    []byte      // the manifest as it is
	Digest   wire.Digest // of these: names the artifact
	Release  []byte      // sealed by a publisher; nil: not signed yet
}

// Open reads the manifest and the signature in a directory. No chunk and no signature is verified.
func Open(path string) (*Dir, error) {
	b, err := durable.ReadFile(filepath.Join(path, manifestFile), wire.MaxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is no directory that a build made: %w", path, err)
	}
	if err != nil {
		return nil, err
	}
	d := &Dir{Path: path, Bytes: b, Digest: wire.DigestOf(b)}
	if d.Manifest, err = artifact.Decode(b); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(path, manifestFile), err)
	}
	d.Release, err = durable.ReadFile(filepath.Join(path, releaseFile), maxRelease)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return d, nil
}

// Chunks visits every chunk of the files and the patches once, in the manifest's order.
func (d *Dir) Chunks() iter.Seq[artifact.Chunk] {
	return func(yield func(artifact.Chunk) bool) {
		seen := make(map[wire.Digest]bool)
		lists := make([]artifact.Chunks, 0, len(d.Manifest.Entries)+len(d.Manifest.Patches))
		for i := range d.Manifest.Entries {
			lists = append(lists, d.Manifest.Entries[i].Chunks)
		}
		for i := range d.Manifest.Patches {
			lists = append(lists, d.Manifest.Patches[i].Chunks)
		}
		for _, l := range lists {
			for _, x := range l.All() {
				if seen[x.Digest] {
					continue
				}
				seen[x.Digest] = true
				if !yield(x) {
					return
				}
			}
		}
	}
}

// Stored reads the stored form of a chunk, as it is; artifact.SplitStored takes it apart.
func (d *Dir) Stored(c wire.Digest) ([]byte, error) {
	return readStored(filepath.Join(d.Path, chunksDir), c)
}

func readStored(dir string, c wire.Digest) ([]byte, error) {
	return durable.ReadFile(filepath.Join(dir, c.String()), artifact.MaxStored)
}

// release is what a publisher signs of the artifact.
func (d *Dir) release() seal.Release {
	m := d.Manifest
	return seal.Release{Format: seal.ReleaseFormat, Name: m.Name, Version: m.Version, Number: m.Number, Manifest: d.Digest, Size: uint64(len(d.Bytes))}
}

// Sign puts a publisher's signature into the directory, in the place of one that is there.
func (d *Dir) Sign(key crypto.Signer) error {
	r := d.release()
	b, err := seal.SealRelease(&r, key)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(d.Path, releaseFile), b, 0o644); err != nil {
		return err
	}
	d.Release = b
	return nil
}

// ErrUnsigned says that an artifact has no signature.
var ErrUnsigned = errors.New("it is not signed")

// CheckSignature verifies the signature by a set of publishers: that one of them signed, whom it returns, and this artifact.
func (d *Dir) CheckSignature(set *seal.PublisherSet) (seal.Publisher, error) {
	if d.Release == nil {
		return seal.Publisher{}, fmt.Errorf("%s: %w", d.Path, ErrUnsigned)
	}
	path, want := filepath.Join(d.Path, releaseFile), d.release()
	for _, p := range set.Publishers {
		r, err := seal.OpenRelease(d.Release, &seal.PublisherSet{Number: set.Number, Publishers: []seal.Publisher{p}})
		switch {
		case errors.Is(err, seal.ErrPublisher):
			continue
		case err != nil:
			return seal.Publisher{}, fmt.Errorf("%s: %w", path, err)
		case *r != want:
			return seal.Publisher{}, fmt.Errorf("%s: it is for release %d, %.80s@%.80s of manifest %s, not for release %d, %s@%s of manifest %s: %w", path,
				r.Number, r.Name, r.Version, r.Manifest.Short(), want.Number, want.Name, want.Version, want.Manifest.Short(), seal.ErrSignature)
		}
		return p, nil
	}
	return seal.Publisher{}, fmt.Errorf("%s: %w", path, seal.ErrPublisher)
}
