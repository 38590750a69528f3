package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/holdfast-edge/holdfast/internal/floor"
)

// topEntries is how many lines of a profile the report shows.
const topEntries = 10

// hostedChild is a child that can take profiles, and what the report calls it.
type hostedChild struct {
	name  string
	child *floor.Child
}

// topList is the head of a profile.
type topList struct {
	title string
	lines []string // as pprof prints them
}

// profile takes CPU profiles of children while load runs, outside of every measured round.
func (b *bench) profile(ctx context.Context, name string, children []hostedChild, load func() error) error {
	paths := make([]string, len(children))
	for i, c := range children {
		paths[i] = b.profilePath(name, c.name, "cpu")
		if err := c.child.Ask(ctx, commandProfile+" "+paths[i], nil); err != nil {
			return err
		}
	}
	if err := load(); err != nil {
		return err
	}
	for i, c := range children {
		if err := c.child.Ask(ctx, commandEnd, nil); err != nil {
			return err
		}
		title := fmt.Sprintf("CPU of the %s under the load of %s", c.name, name)
		if err := b.top(ctx, title, paths[i]); err != nil {
			return err
		}
		if err := b.top(ctx, title+", by our own functions with what they call", paths[i], "-cum", "-show=holdfast-edge/holdfast"); err != nil {
			return err
		}
	}
	return nil
}

// heapProfile takes one of what is in use.
func (b *bench) heapProfile(ctx context.Context, name string, c hostedChild) error {
	path := b.profilePath(name, c.name, "heap")
	if err := c.child.Ask(ctx, commandHeap+" "+path, nil); err != nil {
		return err
	}
	return b.top(ctx, fmt.Sprintf("heap of the %s with all devices attached", c.name), path, "-sample_index=inuse_space")
}

func (b *bench) profilePath(parts ...string) string {
	dir := b.opt.profileDir
	if dir == "" {
		dir = b.world.dir
	}
	return filepath.Join(dir, strings.ReplaceAll(strings.Join(parts, "-"), " ", "-")+".pprof")
}

// top adds the head of a profile to the report.
func (b *bench) top(ctx context.Context, title, path string, flags ...string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own executable: %w", err)
	}
	args := append([]string{"tool", "pprof", "-top"}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, self, path)...) //nolint:gosec // G204: our own profile
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("read profile %s: %w", path, err)
	}
	b.profiles = append(b.profiles, topList{title, head(string(out))})
	return nil
}

// maxLine bounds a line of a profile, in bytes: names of generic functions may spell out whole types.
const maxLine = 130

func clip(l string) string {
	if len(l) <= maxLine {
		return l
	}
	return l[:maxLine] + " ..."
}

// head is the table of what pprof prints: its heading and the first entries, without those of pprof itself.
func head(out string) []string {
	_, table, found := strings.Cut(out, "\n      flat ")
	if !found {
		return nil
	}
	lines := []string{"      flat " + strings.SplitN(table, "\n", 2)[0]}
	for _, l := range strings.Split(table, "\n")[1:] {
		if len(lines) > topEntries {
			break
		}
		if strings.TrimSpace(l) != "" {
			lines = append(lines, clip(l))
		}
	}
	return lines
}
