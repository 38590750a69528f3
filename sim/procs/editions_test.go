package procs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

// An edition is a published version of an app, and where it was made from.
type edition struct{ name, digest, source string }

// editions are what the devices of a test go to and fro between. Each is made from the ones before, so that there are patches; the content of
// good[1] is that of the first one, of which nobody has heard.
type editions struct {
	good [2]edition
	bad  edition // its health check fails
}

// publishEditions makes them. Checks come every 200 ms; a good one soaks 400 ms, and a bad one has 600 ms to start.
func (r *rig) publishEditions(pub *Publisher) *editions {
	r.t.Helper()
	const describe = "name: app\nversion: %d.0.0\nrelease: %d\nhealth:\n  - exec: [bin/health]\n    every: 200ms\nstart: %s\nsoak: 400ms\n"
	var built []string
	publish := func(release int, start, health string, seed byte) edition {
		e := edition{name: fmt.Sprintf("app@%d.0.0", release), source: r.Path(fmt.Sprintf("app-%d", release))}
		writeApp(r.t, e.source, health, seed)
		dir, a, err := pub.Publish(r.ctx, e.name, e.source, fmt.Sprintf(describe, release, release, start), built...)
		r.must(err)
		built, e.digest = append(built, dir), a.Digest
		return e
	}
	const passes, fails = "test -s data/random", "test -s data/none"
	publish(1, "20s", passes, 1)
	var e editions
	e.good[0] = publish(2, "20s", passes, 2)
	e.good[1] = publish(3, "20s", passes, 1)
	e.bad = publish(4, "600ms", fails, 3)
	return &e
}

const appProgram = 600 << 10 // bytes

// writeApp makes the files of an app: a program of which a little changes with the seed, so that a patch is made; data that is another with each; files
// that never change; and a directory of small ones.
func writeApp(t *testing.T, dir, health string, seed byte) {
	t.Helper()
	program := make([]byte, appProgram)
	rand.NewChaCha8([32]byte{1}).Read(program) //nolint:errcheck // never fails
	for i := range 40 {                        // in every chunk
		program[i*15<<10] = seed
	}
	data := make([]byte, 200<<10)
	rand.NewChaCha8([32]byte{2, seed}).Read(data) //nolint:errcheck // never fails
	write(t, filepath.Join(dir, "bin/app"), program, 0o755)
	write(t, filepath.Join(dir, "bin/health"), []byte("#!/bin/sh\n"+health+"\n"), 0o755)
	write(t, filepath.Join(dir, "data/random"), data, 0o644)
	write(t, filepath.Join(dir, "data/same"), program[:100<<10], 0o644)
	for i := range 3 {
		write(t, filepath.Join(dir, fmt.Sprintf("etc/part-%d", i)), fmt.Appendf(nil, "%d of edition %d\n", i, seed), 0o644)
	}
	if err := os.Symlink("part-0", filepath.Join(dir, "etc/first")); err != nil {
		t.Fatal(err)
	}
}

// runs is the edition that current of a slot points to. It is an error when there is none, or when what lies there differs from what it was made
// from in anything.
func (e *editions) runs(slot string) (*edition, error) {
	link := filepath.Join(slot, "current")
	target, err := os.Readlink(link)
	if err != nil {
		return nil, err
	}
	for _, x := range []*edition{&e.good[0], &e.good[1], &e.bad} {
		if target == "releases/"+x.digest {
			if err := alike(x.source, filepath.Join(slot, target)); err != nil {
				return nil, fmt.Errorf("%s points to %s, which is not whole: %w", link, x.name, err)
			}
			return x, nil
		}
	}
	return nil, fmt.Errorf("%s points to %s, which is no edition", link, target)
}

// alike compares two trees, with modes.
func alike(want, got string) error {
	have, err := inventory(got)
	if err != nil {
		return err
	}
	wanted, err := inventory(want)
	for path, w := range wanted {
		if h, there := have[path]; !there || h.mode != w.mode || !bytes.Equal(h.content, w.content) {
			err = errors.Join(err, fmt.Errorf("%s is not as it was made: there %v, mode %v, want %v; %d bytes, want %d", path, there, h.mode, w.mode, len(h.content), len(w.content)))
		}
		delete(have, path)
	}
	for path := range have {
		err = errors.Join(err, fmt.Errorf("%s is too much", path))
	}
	return err
}

type item struct {
	mode    fs.FileMode
	content []byte // of a file; of a symbolic link where it points to
}

// inventory is what lies under a directory.
func inventory(dir string) (map[string]item, error) {
	all := make(map[string]item)
	return all, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		it := item{mode: info.Mode()}
		switch {
		case it.mode.IsRegular():
			it.content, err = os.ReadFile(path)
		case it.mode.Type() == fs.ModeSymlink:
			var target string
			target, err = os.Readlink(path)
			it.content = []byte(target)
		}
		all[strings.TrimPrefix(path, dir+"/")] = it
		return err
	})
}

// An ending is how a device has to end with an order.
type ending struct {
	order   uint64
	of      *edition // that was ordered
	state   string
	running *edition
}

// final tells whether a device does nothing more by itself in a state.
func final(state string) bool {
	switch state {
	case "healthy", "rolled_back", "failed", "removed", "drifted":
		return true
	}
	return false
}

// once says what is wrong with how a history has an order end: it does once, as it has to.
func (e *ending) once(history []v1.HistoryItem) error {
	var err error
	n := 0
	for i := range history {
		s := history[i].Status
		if s == nil || s.Order != e.order || !final(s.State) {
			continue
		}
		n++
		if s.State != e.state || s.Artifact != e.of.digest || s.Running != e.running.digest {
			err = errors.Join(err, fmt.Errorf("order %d ended with %.12s %s (%s: %s) while %.12s ran, want %s %.12s %s while %s %.12s runs", e.order, s.Artifact, s.State, s.Reason,
				s.Detail, s.Running, e.of.name, e.of.digest, e.state, e.running.name, e.running.digest))
		}
	}
	if n != 1 {
		err = errors.Join(err, fmt.Errorf("order %d, %s, ended %d times", e.order, e.of.name, n))
	}
	return err
}
