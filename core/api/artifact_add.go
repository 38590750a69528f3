package api

import (
	"context"
	"encoding/base64"
	"fmt"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/content"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

const addText = "The manifest and all chunks that it names must have been sent before. A publisher of the set in force must have signed the release. " +
	"The same artifact again is no change."

type addArtifactInput struct{ Body v1.AddArtifact }

func (s *server) addArtifact(ctx context.Context, c *call, in *addArtifactInput) (*reply[v1.Artifact], error) {
	d, err := wire.ParseDigest(in.Body.Manifest)
	if err != nil {
		return nil, invalid("body.manifest", "%v", err)
	}
	cmd := new(command.AddArtifact)
	if cmd.Parts, err = digestsOf("body.manifest_chunks", in.Body.ManifestChunks); err != nil {
		return nil, err
	}
	if cmd.Release, err = base64.StdEncoding.DecodeString(in.Body.Release); err != nil {
		return nil, invalid("body.release", "is no base64")
	}
	r, err := releaseOf(c.view, cmd.Release)
	if err != nil {
		return nil, err
	}
	m, err := s.manifest(ctx, cmd.Parts, d, r)
	if err != nil {
		return nil, err
	}
	chunks := content.ChunksOf(m)
	lacking, err := s.Content.Lacking(ctx, append(chunks, cmd.Parts...))
	if err != nil {
		return nil, err
	}
	if n := len(lacking); n > 0 {
		return nil, fmt.Errorf("%d chunks of %s@%s, the first of them %s: %w", n, m.Name, m.Version, lacking[0].Short(), content.ErrMissing)
	}
	cmd.Kind, cmd.Size, cmd.Chunks = uint8(m.Kind), m.Size(), uint64(len(chunks))
	x, err := propose[*registry.Artifact](ctx, s, c, cmd)
	if err != nil {
		return nil, err
	}
	return answer(artifactRecord(x, c.uses())), nil
}

// releaseOf verifies a release by the publishers in force, as applying the command does again.
func releaseOf(v registry.View, sealed []byte) (*seal.Release, error) {
	set, err := v.PublishersInForce()
	if err != nil {
		return nil, err
	}
	r, err := seal.OpenRelease(sealed, set)
	if err != nil {
		return nil, invalid("body.release", "%v", err)
	}
	return r, nil
}

// manifest reads a manifest that was sent, and holds it against what its publisher signed.
func (s *server) manifest(ctx context.Context, parts []wire.Digest, d wire.Digest, r *seal.Release) (*artifact.Manifest, error) {
	if r.Manifest != d {
		return nil, invalid("body.release", "is of manifest %v, not of %v", r.Manifest, d)
	}
	b, err := s.Content.Join(ctx, parts, d)
	if err != nil {
		return nil, err
	}
	m, err := artifact.Decode(b)
	if err != nil {
		return nil, err
	}
	if r.Name != m.Name || r.Version != m.Version || r.Number != m.Number || r.Size != uint64(len(b)) {
		return nil, invalid("body.release", "is of %s@%s, release %d, with a manifest of %d bytes; the manifest is of %s@%s, release %d, with %d bytes: sign it again",
			r.Name, r.Version, r.Number, r.Size, m.Name, m.Version, m.Number, len(b))
	}
	return m, nil
}
