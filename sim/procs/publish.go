package procs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

// A Publisher makes artifacts for a fleet, with keys of its own.
type Publisher struct {
	fleet *Fleet
	dir   string
}

// NewPublisher makes a root key and a publisher's key, and has the fleet trust them.
func (f *Fleet) NewPublisher(ctx context.Context, fleet string) (*Publisher, error) {
	p := &Publisher{fleet: f, dir: f.Path("publisher")}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return nil, err
	}
	set := filepath.Join(p.dir, "publishers.cbor")
	for _, args := range [][]string{
		{"keys", "generate", p.key("root")},
		{"keys", "generate", p.key("line")},
		{"publishers", "new", set, "--fleet", fleet, "--root", p.key("root") + ".pub", "--publisher", "line=" + p.key("line") + ".pub"},
		{"publishers", "push", set},
	} {
		if _, err := f.CLI(ctx, args...); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *Publisher) key(name string) string { return filepath.Join(p.dir, name+".key") }

// Build builds an artifact from a directory or file and its description in YAML, signs it, and returns the directory that it is in. from are
// directories of earlier builds.
func (p *Publisher) Build(ctx context.Context, name, source, description string, from ...string) (dir string, err error) {
	dir = filepath.Join(p.dir, name)
	file := dir + ".yaml"
	if err := os.WriteFile(file, []byte(description), 0o600); err != nil {
		return "", err
	}
	args := []string{"artifacts", "build", source, "--manifest", file, "--out", dir}
	for _, d := range from {
		args = append(args, "--from", d)
	}
	if _, err := p.fleet.CLI(ctx, args...); err != nil {
		return "", err
	}
	_, err = p.fleet.CLI(ctx, "artifacts", "sign", dir, "--key", p.key("line"))
	return dir, err
}

// Publish is Build, and brings the artifact to the core. It returns the directory and what the core says of it.
func (p *Publisher) Publish(ctx context.Context, name, source, description string, from ...string) (dir string, a v1.Artifact, err error) {
	if dir, err = p.Build(ctx, name, source, description, from...); err != nil {
		return "", a, err
	}
	if _, err := p.fleet.CLI(ctx, "artifacts", "push", dir); err != nil {
		return "", a, err
	}
	return dir, a, p.fleet.JSON(ctx, &a, "artifacts", "get", name)
}

// SlotOf is what a device stated last of a slot.
func SlotOf(d *v1.Device, slot string) (v1.Slot, error) {
	for _, s := range d.Reported.Slots {
		if s.Slot == slot {
			return s, nil
		}
	}
	return v1.Slot{}, fmt.Errorf("device %s has stated nothing of slot %s", d.ID, slot)
}
