// Package contenttest makes artifacts for tests, signed by a publisher whom a fleet of a test lets publish.
package contenttest

import (
	"crypto"
	"crypto/ed25519"
	"fmt"
	"slices"
	"testing"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/content/pack"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// Key is an ed25519 key that is the same in every run.
func Key(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(slices.Repeat([]byte{n}, ed25519.SeedSize))
}

// publisher signs the artifacts of tests.
var publisher = Key(11)

func public(k ed25519.PrivateKey) []byte { return k.Public().(ed25519.PublicKey) } //nolint:forcetypeassert // an ed25519 key's

// Set is set 1 of a fleet, not signed.
func Set(fleet string) *seal.PublisherSet {
	return &seal.PublisherSet{
		Format: seal.PublisherSetFormat, Fleet: fleet, Number: 1, Roots: [][]byte{public(Key(1))}, Threshold: 1,
		Publishers: []seal.Publisher{{Name: "ada", Key: public(publisher)}},
	}
}

// Publishers makes set 1, in which the publisher of this package may publish.
func Publishers(tb testing.TB, fleet string, authority crypto.Signer) *command.SetPublishers {
	tb.Helper()
	sig, err := seal.SignPublisherSet(Set(fleet), authority)
	if err != nil {
		tb.Fatal(err)
	}
	b, err := seal.JoinPublisherSet(sig)
	if err != nil {
		tb.Fatal(err)
	}
	return &command.SetPublishers{Sealed: b}
}

// An Artifact is one with all that it consists of.
type Artifact struct {
	Manifest *artifact.Manifest
	Bytes    []byte // of the manifest
	Digest   wire.Digest
	Parts    []pack.Chunk // of the manifest
	Chunks   []pack.Chunk // that it names; the last one is that of a patch
	Release  []byte
}

// Raw is a chunk of these bytes as they are.
func Raw(plain []byte) pack.Chunk {
	return pack.Chunk{Digest: wire.DigestOf(plain), Stored: append([]byte{byte(wire.CodecRaw)}, plain...)}
}

// New makes an artifact with one file, of n chunks of its own, one patch, and so many directories.
func New(tb testing.TB, name string, number uint64, n, dirs int) *Artifact {
	tb.Helper()
	a := new(Artifact)
	var whole []byte
	file := artifact.Entry{Path: "file", Type: artifact.TypeFile, Mode: 0o644}
	for i := range n {
		plain := fmt.Appendf(nil, "chunk %d of %s %d", i, name, number)
		c := Raw(plain)
		a.Chunks = append(a.Chunks, c)
		file.Chunks.Add(artifact.Chunk{Digest: c.Digest, Size: uint32(len(plain))}) //nolint:gosec // G115: a line of text
		whole = append(whole, plain...)
	}
	file.Digest, file.Size = wire.DigestOf(whole), uint64(len(whole))
	delta := fmt.Appendf(nil, "patch of %s %d", name, number)
	patch := artifact.Patch{Base: wire.DigestOf([]byte("base")), BaseSize: 4, File: file.Digest, Size: uint64(len(delta))}
	patch.Chunks.Add(artifact.Chunk{Digest: wire.DigestOf(delta), Size: uint32(len(delta))}) //nolint:gosec // G115: as above
	a.Chunks = append(a.Chunks, Raw(delta))
	a.Manifest = &artifact.Manifest{
		Format: artifact.Format, Name: name, Version: fmt.Sprintf("1.%d", number), Number: number, Kind: artifact.KindTree, Patches: []artifact.Patch{patch},
	}
	for i := range dirs {
		a.Manifest.Entries = append(a.Manifest.Entries, artifact.Entry{Path: fmt.Sprintf("dir-%08d", i), Type: artifact.TypeDir, Mode: 0o755})
	}
	a.Manifest.Entries = append(a.Manifest.Entries, file)
	var err error
	if a.Bytes, a.Digest, err = a.Manifest.Encode(); err != nil {
		tb.Fatal(err)
	}
	for part := range slices.Chunk(a.Bytes, wire.MaxPart) {
		a.Parts = append(a.Parts, Raw(part))
	}
	a.Release = a.Sign(tb, publisher)
	return a
}

// Sign makes the release anew, by another key.
func (a *Artifact) Sign(tb testing.TB, key crypto.Signer) []byte {
	tb.Helper()
	b, err := seal.SealRelease(&seal.Release{
		Format: seal.ReleaseFormat, Name: a.Manifest.Name, Version: a.Manifest.Version, Number: a.Manifest.Number, Manifest: a.Digest, Size: uint64(len(a.Bytes)),
	}, key)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// All are the chunks of the artifact and of its manifest.
func (a *Artifact) All() []pack.Chunk { return slices.Concat(a.Chunks, a.Parts) }

// Digests are those of some chunks.
func Digests(list []pack.Chunk) []wire.Digest {
	out := make([]wire.Digest, len(list))
	for i := range list {
		out[i] = list[i].Digest
	}
	return out
}

// Add is the command that makes the artifact known.
func (a *Artifact) Add() *command.AddArtifact {
	return &command.AddArtifact{
		Release: a.Release, Parts: Digests(a.Parts), Kind: uint8(a.Manifest.Kind), Size: a.Manifest.Size(), Chunks: uint64(len(a.Chunks)),
	}
}
