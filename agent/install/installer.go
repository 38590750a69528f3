package install

import (
	"context"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
)

// An installer is what kinds of artifacts do differently once a release lies verified on the disk.
type installer interface {
	// put makes the release the one that runs. It is one step, or can be repeated until it is done.
	put(s *Slot, d wire.Digest) error
	// activate starts what is in the release that put has made the one that runs.
	activate(ctx context.Context, s *Slot, m *artifact.Manifest) error
}

// installerOf is the installer of a kind.
func installerOf(k artifact.Kind) (installer, error) {
	switch k {
	case artifact.KindTree, artifact.KindFile:
		return linked{}, nil
	}
	return nil, fail(ReasonManifest, "this agent installs nothing of %v: a newer one is needed", k)
}

// linked installs by the symbolic link current. What it points to is a directory for a file, too, so that one is replaced like the other.
type linked struct{}

func (linked) put(s *Slot, d wire.Digest) error { return s.link(d) }

func (linked) activate(ctx context.Context, s *Slot, m *artifact.Manifest) error {
	if m.Unit == "" {
		return nil
	}
	return s.restart(ctx, m.Unit)
}

// Activate starts what is in the current release, whose manifest is m: it restarts the unit that the manifest names, if any and if the
// device's settings allow it, and waits until it has started. It may be repeated. When ctx ends, its error is returned as it is.
func (s *Slot) Activate(ctx context.Context, m *artifact.Manifest) error {
	in, err := installerOf(m.Kind)
	if err != nil {
		return err
	}
	return in.activate(ctx, s, m)
}
