package cli

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/client"
	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/output"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/wire"
)

// shortDigest is how many digits of a digest people are shown.
const shortDigest = 12

// artifactLabel is an artifact as people know it.
func artifactLabel(digest, name, version string) string {
	switch {
	case name != "":
		return name + "@" + version
	case digest == "":
		return "nothing"
	}
	return digest[:min(len(digest), shortDigest)]
}

// artifactID resolves the beginning of a digest. NAME@VERSION and whole digests are not looked up: what is done with them will tell.
func (a *app) artifactID(ctx context.Context, c *client.Client, given string) (string, error) {
	if _, err := wire.ParseDigest(given); err == nil || strings.Contains(given, "@") {
		return given, nil
	}
	all, err := fetch[v1.Artifact](ctx, a, c, client.Query{Path: client.Path("v1", "artifacts")})
	if err != nil {
		return "", err
	}
	return findID("artifact", given, idsOf(all, func(x v1.Artifact) string { return x.Digest }))
}

// artifactTitles completes with NAME@VERSION.
func artifactTitles(a *app) completer {
	return fromCore(a, client.Path("v1", "artifacts"), func(x v1.Artifact) (string, string) {
		return x.Name + "@" + x.Version, x.Kind + " " + output.Bytes(x.Size)
	})
}

func artifactsList(a *app) *cobra.Command {
	var name string
	var limit uint32
	c := &cobra.Command{
		Use: "list", Short: "list the artifacts that the core has", Args: takes(), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(c *client.Client) error {
				all, err := fetch[v1.Artifact](cmd.Context(), a, c, client.Query{
					Path: client.Path("v1", "artifacts"), Params: params("name", name), Limit: int(limit),
				})
				if err != nil {
					return err
				}
				return printList(a, all, artifactGrid(all, c.Now()))
			})
		},
	}
	c.Flags().StringVar(&name, "name", "", "only versions of this `artifact`")
	limitFlag(c, &limit)
	return c
}

func artifactGrid(all []v1.Artifact, now time.Time) *output.Grid {
	g := output.NewGrid("NAME", "VERSION", "RELEASE", "DIGEST", "KIND", "SIZE", "DEVICES", "PUBLISHER", "ADDED")
	for _, x := range all {
		g.Row(false, x.Name, x.Version, strconv.FormatUint(x.Number, 10), artifactLabel(x.Digest, "", ""), x.Kind, output.Bytes(x.Size), strconv.Itoa(x.Devices),
			x.Publisher, output.Ago(now, &x.AddedAt))
	}
	return g
}

// withArtifact runs f with a client and what names the artifact given by NAME@VERSION, its digest or the beginning of that.
func (a *app) withArtifact(ctx context.Context, given string, f func(c *client.Client, id string) error) error {
	return a.with(ctx, func(c *client.Client) error {
		id, err := a.artifactID(ctx, c, given)
		if err != nil {
			return err
		}
		return f(c, id)
	})
}

func artifactsGet(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "get ARTIFACT", Short: "show an artifact that the core has", Example: "  holdfast artifacts get camera@1.4",
		Args: takes("ARTIFACT"), ValidArgsFunction: firstArg(artifactTitles(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withArtifact(cmd.Context(), args[0], func(c *client.Client, id string) error {
				x, tag, err := client.GetTagged[v1.Artifact](cmd.Context(), c, client.Path("v1", "artifacts", id), nil)
				if err != nil {
					return err
				}
				return a.print(x, artifactSheet(&x, ofTag(tag), c.Now()).Write)
			})
		},
	}
}

func artifactSheet(x *v1.Artifact, revision string, now time.Time) *output.Sheet {
	s := &output.Sheet{}
	s.Fact("Artifact", x.Name+"@"+x.Version)
	s.Fact("Release", strconv.FormatUint(x.Number, 10))
	s.Fact("Digest", x.Digest)
	s.Fact("Kind", x.Kind)
	s.Fact("Size", output.Bytes(x.Size))
	s.Fact("Chunks", strconv.FormatUint(x.Chunks, 10))
	s.Fact("Manifest", output.Bytes(x.ManifestSize))
	s.Fact("Publisher", because(x.Publisher, "key "+artifactLabel(x.Signer, "", "")))
	s.Fact("Assigned to", strconv.Itoa(x.Devices)+" devices")
	s.Fact("Added", output.Both(now, &x.AddedAt)+" by "+x.AddedBy)
	s.Fact("Revision", revision)
	return s
}

func artifactsDelete(a *app) *cobra.Command {
	var expected revision
	c := &cobra.Command{
		Use: "delete ARTIFACT", Short: "have the core forget an artifact that is assigned to no device",
		Args: takes("ARTIFACT"), ValidArgsFunction: firstArg(artifactTitles(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withArtifact(cmd.Context(), args[0], func(c *client.Client, id string) error {
				x, err := client.SendIf[v1.Artifact](cmd.Context(), c, expected.etag(), http.MethodDelete, client.Path("v1", "artifacts", id), nil)
				if err != nil {
					return err
				}
				return a.did(x, "artifact %s (%s): deleted", artifactLabel(x.Digest, x.Name, x.Version), artifactLabel(x.Digest, "", ""))
			})
		},
	}
	revisionFlag(c, &expected)
	return c
}
