package api

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
)

// minPrefix is how many digits of a digest name an artifact at least.
const minPrefix = 8

// ArtifactPath is the part of a path that names an artifact.
type ArtifactPath struct {
	ID string `path:"id" maxLength:"140" doc:"digest, at least 8 digits of it, or NAME@VERSION"`
}

// findArtifact finds an artifact by its digest, a unique beginning of it, or NAME@VERSION. at says where in the request the text is.
func findArtifact(v registry.View, at, text string) (*registry.Artifact, error) {
	name, version, titled := strings.Cut(text, "@")
	switch d, err := wire.ParseDigest(text); {
	case err == nil:
		if x, ok := v.Artifact(d); ok {
			return x, nil
		}
	case titled:
		if artifact.CheckName(name) != nil || artifact.CheckVersion(version) != nil {
			return nil, invalid(at, "%.140q is no NAME@VERSION", text)
		}
		if x, ok := v.ArtifactNamed(text); ok {
			return x, nil
		}
	case len(text) < minPrefix || len(text) >= 2*len(d) || strings.Trim(text, "0123456789abcdef") != "":
		return nil, invalid(at, "%.140q is neither a digest, nor %d or more of its digits, nor NAME@VERSION", text, minPrefix)
	default:
		return findPrefix(v, at, text)
	}
	return nil, fmt.Errorf("artifact %s: %w", text, registry.ErrNotFound)
}

func findPrefix(v registry.View, at, prefix string) (found *registry.Artifact, err error) {
	v.Artifacts(wire.Digest{}, func(x *registry.Artifact) bool {
		if !strings.HasPrefix(x.Digest.String(), prefix) {
			return found == nil // they are in order
		}
		if found != nil {
			err = invalid(at, "%s is the beginning of several artifacts, such as %v and %v", prefix, found.Digest, x.Digest)
			return false
		}
		found = x
		return true
	})
	if err == nil && found == nil {
		err = fmt.Errorf("artifact %s…: %w", prefix, registry.ErrNotFound)
	}
	return found, err
}

// uses counts, by artifact, the devices that the call's operator sees.
func (c *call) uses() map[wire.Digest]int {
	out := make(map[wire.Digest]int)
	c.view.Assigned(func(d *registry.Device) bool {
		if !c.sees(d.Site) {
			return true
		}
		once := make(map[wire.Digest]bool, 1)
		for i := range d.Desired.Assignments {
			if of := d.Desired.Assignments[i].Artifact; !once[of] {
				once[of] = true
				out[of]++
			}
		}
		return true
	})
	return out
}

// artifactRecord is a record as the API writes it.
func artifactRecord(x *registry.Artifact, uses map[wire.Digest]int) v1.Artifact {
	return v1.Artifact{
		Digest: x.Digest.String(), Name: x.Name, Version: x.Version, Number: x.Number, Kind: x.Kind.String(), Size: x.Size, ManifestSize: x.ManifestSize,
		Chunks: x.Chunks, Publisher: x.Publisher, Signer: x.Signer.String(), Devices: uses[x.Digest], AddedAt: at(x.AddedMS), AddedBy: x.By,
		Release: base64.StdEncoding.EncodeToString(x.Release),
	}
}

type listArtifactsInput struct {
	Reading
	Paging
	Name string `query:"name" maxLength:"64" doc:"only versions of this one"`
}

func (s *server) listArtifacts(ctx context.Context, c *call, in *listArtifactsInput) (*reply[v1.List[v1.Artifact]], error) {
	if in.Name != "" && artifact.CheckName(in.Name) != nil {
		return nil, invalid("query.name", "%.64q is no name of an artifact", in.Name)
	}
	uses := c.uses()
	return listing[registry.Artifact, v1.Artifact]{
		visit: c.view.ArtifactsByName,
		keep:  func(x *registry.Artifact) bool { return in.Name == "" || x.Name == in.Name },
		name:  func(x *registry.Artifact) string { return fmt.Sprintf("%s\x00%020d", x.Name, x.Number) },
		show:  func(x *registry.Artifact) v1.Artifact { return artifactRecord(x, uses) },
	}.page(ctx, in.Paging, listOf("artifacts", in.Name))
}

type getArtifactInput struct {
	Reading
	ArtifactPath
}

func (s *server) getArtifact(_ context.Context, c *call, in *getArtifactInput) (*reply[v1.Artifact], error) {
	x, err := findArtifact(c.view, "path.id", in.ID)
	if err != nil {
		return nil, err
	}
	c.tag(x.Revision)
	return answer(artifactRecord(x, c.uses())), nil
}

type deleteArtifactInput struct{ ArtifactPath }

func (s *server) deleteArtifact(ctx context.Context, c *call, in *deleteArtifactInput) (*reply[v1.Artifact], error) {
	cmd := new(command.DeleteArtifact)
	d, whole := wire.ParseDigest(in.ID)
	x, err := findArtifact(c.view, "path.id", in.ID)
	switch {
	case err == nil:
		if err := c.matches(x.Revision); err != nil {
			return nil, err
		}
		cmd.Digest = x.Digest
	case whole == nil && c.once != nil: // a repetition gets the result of the first time
		cmd.Digest = d
	default:
		return nil, err
	}
	x, err = propose[*registry.Artifact](ctx, s, c, cmd)
	if err != nil {
		return nil, err
	}
	c.tag(x.Revision)
	return answer(artifactRecord(x, nil)), nil
}
