package build

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-edge/holdfast/wire/artifact"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// noise is n bytes that do not compress, the same for the same seed.
func noise(n int, seed byte) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// executable is a content as compilers make them: an edit of one line moves addresses all over it.
func executable(version byte) []byte {
	b := noise(400_000, 1)
	for i := 0; i < len(b); i += 5000 {
		b[i] += version
	}
	return append(b, noise(int(version)*10, version)...)
}

func fatal(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func write(tb testing.TB, path string, b []byte, mode fs.FileMode) {
	tb.Helper()
	fatal(tb, os.MkdirAll(filepath.Dir(path), 0o755))
	fatal(tb, os.WriteFile(path, b, mode))
	fatal(tb, os.Chmod(path, mode))
}

// sample makes a directory with one of everything that an artifact may have.
func sample(tb testing.TB) string {
	tb.Helper()
	dir := filepath.Join(tb.TempDir(), "source")
	write(tb, filepath.Join(dir, "bin", "server"), noise(700_000, 1), 0o755)
	write(tb, filepath.Join(dir, "etc", "server.conf"), bytes.Repeat([]byte("key = value\n"), 20_000), 0o644)
	write(tb, filepath.Join(dir, "etc-more"), nil, 0o600)
	write(tb, filepath.Join(dir, "lib", "a.so"), noise(5000, 2), 0o644)
	fatal(tb, os.Mkdir(filepath.Join(dir, "empty"), 0o700))
	fatal(tb, os.Symlink("a.so", filepath.Join(dir, "lib", "b.so")))
	fatal(tb, os.Symlink("./../bin//server", filepath.Join(dir, "lib", "up")))
	fatal(tb, os.Link(filepath.Join(dir, "lib", "a.so"), filepath.Join(dir, "lib", "c.so")))
	return dir
}

func spec(release uint64) *Spec {
	return &Spec{Name: "camera", Version: fmt.Sprintf("1.%d", release), Release: release, Health: []SpecCheck{{File: "bin/server"}}}
}

func mustBuild(tb testing.TB, source string, release uint64, from ...*Dir) *Result {
	tb.Helper()
	r, err := Build(tb.Context(), Options{Source: source, Spec: spec(release), Out: filepath.Join(tb.TempDir(), "out"), From: from})
	fatal(tb, err)
	return r
}

var (
	publisherKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))
	otherKey     = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, 32))
)

func publishers(keys ...ed25519.PrivateKey) *seal.PublisherSet {
	s := &seal.PublisherSet{Number: 1}
	for i, k := range keys {
		s.Publishers = append(s.Publishers, seal.Publisher{Name: fmt.Sprint("publisher ", i+1), Key: k.Public().(ed25519.PublicKey)})
	}
	return s
}

// content is a file as its chunks make it.
func content(tb testing.TB, d *Dir, path string) []byte {
	tb.Helper()
	for i := range d.Manifest.Entries {
		if e := &d.Manifest.Entries[i]; e.Path == path && e.Type == artifact.TypeFile {
			b, err := readContent(filepath.Join(d.Path, chunksDir), e.Size, e.Chunks)
			fatal(tb, err)
			return b
		}
	}
	tb.Fatalf("no file %s", path)
	return nil
}
