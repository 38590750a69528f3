package build

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-edge/holdfast/wire/artifact"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// chunkFile is the file of the first chunk of a file.
func chunkFile(tb testing.TB, d *Dir, path string) string {
	tb.Helper()
	for i := range d.Manifest.Entries {
		if e := &d.Manifest.Entries[i]; e.Path == path {
			return filepath.Join(d.Path, chunksDir, e.Chunks.At(0).Digest.String())
		}
	}
	tb.Fatalf("no file %s", path)
	return ""
}

func edit(tb testing.TB, path string, change func([]byte) []byte) {
	tb.Helper()
	b, err := os.ReadFile(path)
	fatal(tb, err)
	fatal(tb, os.WriteFile(path, change(b), 0o644))
}

func TestVerifyRefuses(t *testing.T) {
	for name, change := range map[string]func(b []byte) []byte{
		"flipped bit":   func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"truncated":     func(b []byte) []byte { return b[:len(b)-1] },
		"extra byte":    func(b []byte) []byte { return append(b, 0) },
		"another codec": func(b []byte) []byte { b[0] ^= 1; return b },
		"nothing":       func([]byte) []byte { return nil },
		"too large":     func([]byte) []byte { return make([]byte, artifact.MaxStored+1) },
	} {
		for _, file := range []string{"bin/server", "etc/server.conf"} {
			r := mustBuild(t, sample(t), 1)
			path := chunkFile(t, r.Dir, file)
			edit(t, path, change)
			if _, err := r.Verify(t.Context()); err == nil || !strings.Contains(err.Error(), file) {
				t.Errorf("%s in %s: error %v", name, file, err)
			}
		}
	}
	r := mustBuild(t, sample(t), 1)
	stray := filepath.Join(r.Path, chunksDir, "stray")
	write(t, stray, nil, 0o644)
	if _, err := r.Verify(t.Context()); !errors.Is(err, artifact.ErrChunk) {
		t.Errorf("a file that belongs to nothing: error %v", err)
	}
	fatal(t, os.Rename(chunkFile(t, r.Dir, "bin/server"), stray))
	if _, err := r.Verify(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a chunk that is not there: error %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Verify(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want Canceled", err)
	}
}

// Chunks that are right, each by itself, make no file that is right.
func TestVerifyHoldsWholeFiles(t *testing.T) {
	r := mustBuild(t, sample(t), 1)
	for i := range r.Manifest.Entries {
		if e := &r.Manifest.Entries[i]; e.Path == "bin/server" {
			first := e.Chunks.At(0)
			swapped := append(bytes.Clone(e.Chunks[36:]), e.Chunks[:36]...)
			if e.Chunks = swapped; e.Chunks.At(e.Chunks.Len()-1) != first {
				t.Fatal("the test swaps nothing")
			}
		}
	}
	if _, err := r.Verify(t.Context()); !errors.Is(err, artifact.ErrChunk) {
		t.Errorf("error %v, want ErrChunk", err)
	}
}

func TestVerifyRefusesPatches(t *testing.T) {
	one, two := filepath.Join(t.TempDir(), "x"), filepath.Join(t.TempDir(), "x")
	write(t, one, executable(1), 0o755)
	write(t, two, executable(2), 0o755)
	s := spec(1)
	s.Health = nil
	a, err := Build(t.Context(), Options{Source: one, Spec: s, Out: filepath.Join(t.TempDir(), "out")})
	fatal(t, err)
	s.Release = 2
	b, err := Build(t.Context(), Options{Source: two, Spec: s, Out: filepath.Join(t.TempDir(), "out"), From: []*Dir{a.Dir}})
	fatal(t, err)
	good := b.Manifest.Patches[0]
	for name, change := range map[string]func(*artifact.Patch){
		"other chunks":    func(p *artifact.Patch) { p.Chunks = artifact.Chunks(bytes.Repeat([]byte{0, 0, 0, 1}, 9)) },
		"another base":    func(p *artifact.Patch) { p.BaseSize-- },
		"another file":    func(p *artifact.Patch) { p.File[0] ^= 1 },
		"a longer patch":  func(p *artifact.Patch) { p.Chunks.Add(p.Chunks.At(0)) },
		"a shorter patch": func(p *artifact.Patch) { p.Chunks = nil },
	} {
		p := good
		p.Chunks = bytes.Clone(good.Chunks)
		change(&p)
		b.Manifest.Patches[0] = p
		if _, err := b.Verify(t.Context(), a.Dir); err == nil || !strings.Contains(err.Error(), "patch from") {
			t.Errorf("%s: error %v", name, err)
		}
	}
	// A patch that makes another file of the same size.
	good.File[0] ^= 1
	if _, err := verifyPatch(filepath.Join(b.Path, chunksDir), &good, b.Manifest.Size(), []*Dir{a.Dir}); !errors.Is(err, artifact.ErrChunk) {
		t.Errorf("another file of the same size: error %v, want ErrChunk", err)
	}
}

func TestOpenReadsWhatWasBuilt(t *testing.T) {
	r := mustBuild(t, sample(t), 1)
	fatal(t, r.Sign(publisherKey))
	d, err := Open(r.Path)
	fatal(t, err)
	if d.Digest != r.Digest || !bytes.Equal(d.Bytes, r.Bytes) || !bytes.Equal(d.Release, r.Release) || d.Manifest.Name != "camera" {
		t.Errorf("%+v", d)
	}
	if p, err := d.CheckSignature(publishers(otherKey, publisherKey)); err != nil || p.Name != "publisher 2" {
		t.Errorf("signed by %q, error %v", p.Name, err)
	}
	if _, err := Open(t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an empty directory: error %v", err)
	}
	edit(t, filepath.Join(r.Path, manifestFile), func(b []byte) []byte { return b[:len(b)-1] })
	if _, err := Open(r.Path); !errors.Is(err, artifact.ErrManifest) {
		t.Errorf("half a manifest: error %v", err)
	}
}

func TestCheckSignatureRefuses(t *testing.T) {
	source := sample(t)
	r, newer := mustBuild(t, source, 1), mustBuild(t, source, 2)
	if _, err := r.CheckSignature(publishers(publisherKey)); !errors.Is(err, ErrUnsigned) {
		t.Errorf("unsigned: error %v", err)
	}
	fatal(t, r.Sign(otherKey))
	if _, err := r.CheckSignature(publishers(publisherKey)); !errors.Is(err, seal.ErrPublisher) {
		t.Errorf("signed by somebody else: error %v", err)
	}
	fatal(t, r.Sign(publisherKey))
	newer.Release = r.Release
	if _, err := newer.CheckSignature(publishers(publisherKey)); !errors.Is(err, seal.ErrSignature) {
		t.Errorf("signature of another release: error %v", err)
	}
	for bit := range 8 * len(r.Release) {
		r.Release[bit/8] ^= 1 << (bit % 8)
		if _, err := r.CheckSignature(publishers(publisherKey)); err == nil {
			t.Errorf("bit %d of the signature does not count", bit)
		}
		r.Release[bit/8] ^= 1 << (bit % 8)
	}
}
