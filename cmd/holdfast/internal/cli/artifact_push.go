package cli

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/client"
	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/output"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/content/pack"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
	"github.com/holdfast-edge/holdfast/wire/artifact/build"
)

const (
	// pushPack is what one request sends at the most, in bytes: some seconds on a slow line, so that little is sent again when it breaks.
	pushPack = 4 << 20
	// pushAsk is how many chunks one request asks for; the core takes no more.
	pushAsk = 4096
	// pushRounds is how often what the core lacks is sent, when it still lacks something: a node may lose what it had meanwhile.
	pushRounds = 3
)

func artifactsPush(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "push DIR", Short: "send an artifact to the core",
		Long: `Push sends a built and signed artifact to the core, which takes it if a publisher of the fleet's current set signed it. What the core has
already, of this artifact or of another, is not sent. When push is interrupted, run it again: it goes on where it was.`,
		Example: "  holdfast artifacts push camera-1.4",
		Args:    takes("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			dirs, err := openBuilds(args)
			if err != nil {
				return err
			}
			if dirs[0].Release == nil {
				return usage("%s is not signed: run holdfast artifacts sign first", args[0])
			}
			p, err := newPush(dirs[0])
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), func(c *client.Client) error { return a.push(cmd.Context(), c, p) })
		},
	}
}

// A push is one artifact on its way to the core.
type push struct {
	dir   *build.Dir
	parts []wire.Digest          // of the manifest, in order
	more  map[wire.Digest][]byte // their stored form; that of the others is in the directory
	all   []wire.Digest          // what the core must have

	pushed
}

// pushed says what was done, for programs.
type pushed struct {
	Digest  string `json:"digest"`
	Name    string `json:"name"`
	Version string `json:"version"`
	Release uint64 `json:"release"`
	Chunks  int    `json:"chunks"` // those of the manifest included
	There   int    `json:"chunks_there"`
	Sent    int    `json:"chunks_sent"`
	Bytes   uint64 `json:"bytes_sent"`
}

func newPush(d *build.Dir) (*push, error) {
	p := &push{dir: d, more: make(map[wire.Digest][]byte)}
	p.pushed = pushed{Digest: d.Digest.String(), Name: d.Manifest.Name, Version: d.Manifest.Version, Release: d.Manifest.Number}
	packer, err := build.NewPacker()
	if err != nil {
		return nil, err
	}
	for x := range d.Chunks() {
		p.all = append(p.all, x.Digest)
	}
	for part := range slices.Chunk(d.Bytes, wire.MaxPart) {
		digest := wire.DigestOf(part)
		p.parts = append(p.parts, digest)
		p.more[digest] = packer.Pack(part)
		p.all = append(p.all, digest)
	}
	p.Chunks = len(p.all)
	return p, nil
}

// push sends what the core lacks, and then makes the artifact known.
func (a *app) push(ctx context.Context, c *client.Client, p *push) error {
	for round := 1; ; round++ {
		missing, err := p.missing(ctx, c)
		if err != nil {
			return err
		}
		if round == 1 {
			p.There = p.Chunks - len(missing)
		}
		if err := a.send(ctx, c, p, missing); err != nil {
			return fmt.Errorf("%w; what was sent stays there for a day: run push again to go on", err)
		}
		err = p.register(ctx, c)
		var problem *client.Problem
		if errors.As(err, &problem) && problem.Type == v1.ProblemContent && round < pushRounds {
			continue
		}
		if err != nil {
			return err
		}
		return a.did(p.pushed, "%s@%s, release %d: the core has it as %s; %d of %d chunks were there, %d sent (%s)",
			p.Name, p.Version, p.Release, p.Digest, p.There, p.Chunks, p.Sent, output.Bytes(p.Bytes))
	}
}

// missing asks what the core lacks.
func (p *push) missing(ctx context.Context, c *client.Client) (out []wire.Digest, err error) {
	for part := range slices.Chunk(p.all, pushAsk) {
		ask, asked := v1.AskContent{}, make(map[string]wire.Digest, len(part))
		for _, d := range part {
			ask.Digests = append(ask.Digests, d.String())
			asked[d.String()] = d
		}
		m, err := client.SendSlow[v1.MissingContent](ctx, c, http.MethodPost, client.Path("v1", "content", "missing"), ask)
		if err != nil {
			return nil, err
		}
		for _, text := range m.Missing {
			d, ok := asked[text]
			if !ok {
				return nil, fmt.Errorf("%w: it lacks %.80q, for which it was not asked", client.ErrAnswer, text)
			}
			out = append(out, d)
		}
	}
	return out, nil
}

// send sends chunks in packs.
func (a *app) send(ctx context.Context, c *client.Client, p *push, missing []wire.Digest) error {
	m := a.meter("chunks sent", len(missing))
	defer m.done()
	var b []byte
	sent, n := 0, 0
	flush := func() error {
		if n == 0 {
			return nil
		}
		_, err := client.SendBytes[v1.StoredContent](ctx, c, client.Path("v1", "content"), "application/octet-stream", b)
		if err != nil {
			return err
		}
		sent += n
		p.Sent += n
		p.Bytes += uint64(len(b))
		m.at(sent, p.Bytes)
		b, n = b[:0], 0
		return nil
	}
	m.at(0, p.Bytes)
	for _, d := range missing {
		stored, err := p.stored(d)
		if err != nil {
			return err
		}
		x := pack.Chunk{Digest: d, Stored: stored}
		if len(b)+x.Size() > pushPack {
			if err := flush(); err != nil {
				return err
			}
		}
		b = pack.Append(b, x)
		n++
	}
	return flush()
}

// stored is the stored form of a chunk, which is found to be what its digest says.
func (p *push) stored(d wire.Digest) ([]byte, error) {
	if b, ok := p.more[d]; ok {
		return b, nil
	}
	b, err := p.dir.Stored(d)
	if err != nil {
		return nil, err
	}
	codec, data, err := artifact.SplitStored(b)
	if err == nil {
		_, err = artifact.OpenChunk(d, codec, data)
	}
	if err != nil {
		return nil, usage("%s: %w: build it again", filepath.Join(p.dir.Path, "chunks", d.String()), err)
	}
	return b, nil
}

// register makes the artifact known.
func (p *push) register(ctx context.Context, c *client.Client) error {
	add := v1.AddArtifact{Manifest: p.Digest, ManifestChunks: make([]string, len(p.parts)), Release: base64.StdEncoding.EncodeToString(p.dir.Release)}
	for i, d := range p.parts {
		add.ManifestChunks[i] = d.String()
	}
	known, err := client.SendSlow[struct {
		Digest string `json:"digest"`
	}](ctx, c, http.MethodPost, client.Path("v1", "artifacts"), add)
	if err == nil && known.Digest != p.Digest {
		err = fmt.Errorf("%w: it has the artifact as %.80q", client.ErrAnswer, known.Digest)
	}
	return err
}
