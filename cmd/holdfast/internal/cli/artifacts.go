package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/output"
	"github.com/holdfast-edge/holdfast/wire/artifact/build"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

func artifactsCommand(a *app) *cobra.Command {
	c := &cobra.Command{Use: "artifacts", Aliases: []string{"artifact"}, Short: "build, sign, send, list and delete what is installed on devices"}
	c.AddCommand(artifactsBuild(a), artifactsSign(a), artifactsVerify(a), artifactsPush(a), artifactsList(a), artifactsGet(a), artifactsDelete(a))
	return c
}

// localArtifact is what build, sign and verify print for programs: an artifact in a directory of this machine.
type localArtifact struct {
	Digest        string `json:"digest"` // names the artifact
	Name          string `json:"name"`
	Version       string `json:"version"`
	Release       uint64 `json:"release"`
	Kind          string `json:"kind"`
	Directory     string `json:"directory"`
	Entries       int    `json:"entries"` // files, directories and links
	Bytes         uint64 `json:"bytes"`   // of the files
	Patches       int    `json:"patches"`
	ManifestBytes int    `json:"manifest_bytes"`
	Signed        bool   `json:"signed"` // a signature is there, whoever's

	Chunks      *int    `json:"chunks,omitempty"`       // build, verify: different ones
	StoredBytes *uint64 `json:"stored_bytes,omitempty"` // build: of the chunks, as they are stored
	PatchBytes  *uint64 `json:"patch_bytes,omitempty"`  // build

	Applied  *int   `json:"patches_applied,omitempty"` // verify: of which the base was at hand
	SignedBy string `json:"signed_by,omitempty"`       // verify: name of the publisher whose signature was verified
}

func localArtifactOf(d *build.Dir) localArtifact {
	m := d.Manifest
	return localArtifact{
		Digest: d.Digest.String(), Name: m.Name, Version: m.Version, Release: m.Number, Kind: m.Kind.String(), Directory: d.Path,
		Entries: len(m.Entries), Bytes: m.Size(), Patches: len(m.Patches), ManifestBytes: len(d.Bytes), Signed: d.Release != nil,
	}
}

func (l *localArtifact) sheet() *output.Sheet {
	s := &output.Sheet{}
	s.Fact("Artifact", l.Name+"@"+l.Version)
	s.Fact("Release", fmt.Sprint(l.Release))
	s.Fact("Digest", l.Digest)
	s.Fact("Kind", l.Kind)
	s.Fact("Directory", l.Directory)
	s.Fact("Content", fmt.Sprintf("%d entries, %s", l.Entries, output.Bytes(l.Bytes)))
	if l.Chunks != nil {
		text := fmt.Sprint(*l.Chunks)
		if l.StoredBytes != nil {
			text += ", " + output.Bytes(*l.StoredBytes) + " stored"
		}
		s.Fact("Chunks", text)
	}
	text := fmt.Sprint(l.Patches)
	switch {
	case l.PatchBytes != nil && l.Patches > 0:
		text += ", " + output.Bytes(*l.PatchBytes)
	case l.Applied != nil && l.Patches > 0:
		text += fmt.Sprintf(", %d applied to their base", *l.Applied)
	}
	s.Fact("Patches", text)
	switch {
	case l.SignedBy != "":
		s.Fact("Signed", "by "+l.SignedBy)
	case l.Signed:
		s.Fact("Signed", "by a key that was not looked up")
	default:
		s.Fact("Signed", "no")
	}
	return s
}

// openBuilds opens directories of builds.
func openBuilds(paths []string) ([]*build.Dir, error) {
	dirs := make([]*build.Dir, len(paths))
	for i, p := range paths {
		var err error
		if dirs[i], err = build.Open(p); err != nil {
			return nil, usage("%w", err)
		}
	}
	return dirs, nil
}

func artifactsSign(a *app) *cobra.Command {
	var key string
	c := &cobra.Command{
		Use: "sign DIR --key FILE", Short: "sign an artifact as a publisher",
		Long: `Sign binds name, version, release and manifest of a built artifact to a publisher's key, and writes the signature into its
directory. Devices install what a publisher of the fleet's current set signed. It asks no core.`,
		Example: "  holdfast artifacts sign camera-1.4 --key ci.key",
		Args:    takes("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := needs(cmd, "key"); err != nil {
				return err
			}
			dirs, err := openBuilds(args)
			if err != nil {
				return err
			}
			k, err := a.privateKey(key)
			if err != nil {
				return err
			}
			d := dirs[0]
			if err := d.Sign(k); err != nil {
				return err
			}
			id := seal.PublisherKeyOf(publicOf(k)).String()
			return a.did(struct {
				localArtifact
				Key string `json:"key"`
			}{localArtifactOf(d), id}, "%s@%s, release %d: signed by key %s", d.Manifest.Name, d.Manifest.Version, d.Manifest.Number, id)
		},
	}
	c.Flags().StringVar(&key, "key", "", "`file` with the publisher's private key")
	return c
}
