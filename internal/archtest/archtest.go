// Package archtest holds the source tree against the architecture: who may import whom, which packages are pure, where the
// consensus library may be seen, and that every package says what it is for. The rules are the tables below; the test
// applies them to the tree.
package archtest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Module is the path of the module whose tree is checked.
const Module = "github.com/holdfast-edge/holdfast"

// mayImport says for each top-level directory which others its packages may import. Itself is always permitted. It holds for
// tests too: a test that needs two of core, sitegw and agent belongs into sim.
var mayImport = map[string][]string{
	"internal":  {},
	"wire":      {"internal"},
	"raftstore": {"internal"},
	"core":      {"raftstore", "wire", "internal"},
	"sitegw":    {"wire", "internal"},
	"agent":     {"wire", "internal"},
	"sim":       {"core", "sitegw", "agent", "raftstore", "wire", "internal"},
	"cmd":       {"core", "sitegw", "agent", "sim", "raftstore", "wire", "internal"},
}

// A library is code from elsewhere that only a few directories may see.
type library struct {
	prefixes []string
	in       []string
	why      string
}

var libraries = []library{
	{
		prefixes: []string{"github.com/hashicorp/raft", "github.com/hashicorp/raft-boltdb", "go.etcd.io/bbolt"},
		in:       []string{"raftstore", "internal/floor"}, // floor measures the library itself
		why:      "only raftstore sees the consensus library",
	},
	{
		prefixes: []string{"github.com/hashicorp/memberlist", "github.com/hashicorp/go-msgpack"},
		in:       []string{"sitegw/mesh"},
		why:      "only the mesh sees the gossip library",
	},
	{
		prefixes: []string{"github.com/godbus/dbus", "github.com/coreos/go-systemd/v22/dbus"},
		in:       []string{"agent/install"},
		why:      "only what installs talks to systemd",
	},
	{prefixes: []string{"log"}, in: []string{"raftstore"}, why: "use log/slog"}, // hclog's interface names its type
	{prefixes: []string{"github.com/pkg/errors"}, why: "use errors and fmt"},
	{prefixes: []string{"math/rand"}, why: "use math/rand/v2"},
}

// noPart lists what a program must not contain, however it would get there.
var noPart = map[string][]string{
	"cmd/holdfast-agent":   {"core", "sitegw", "sim", "raftstore", "internal/floor", "github.com/hashicorp/raft", "github.com/hashicorp/raft-boltdb", "go.etcd.io/bbolt", "github.com/hashicorp/memberlist", "wire/artifact/build"},
	"cmd/holdfast-gateway": {"core", "agent", "sim", "raftstore", "internal/floor", "github.com/hashicorp/raft", "github.com/hashicorp/raft-boltdb", "go.etcd.io/bbolt", "wire/artifact/build"},
	"cmd/holdfast-core":    {"sitegw", "agent", "sim", "internal/floor", "github.com/hashicorp/memberlist", "wire/artifact/build"},
}

// pure packages decide and do nothing else: what they compute depends on their arguments alone. Their tests are free.
var pure = []string{"core/registry", "core/command", "core/rollout"}

// impure is what a pure package must not import; subdirectories are included.
var impure = []string{"net", "os", "syscall", "math/rand", "crypto/rand", "log", "runtime", "golang.org/x/sys"}

// maxMain bounds a program's main package, in lines: it reads flags and starts what others built.
const maxMain = 250

// Check holds files against the rules and returns what breaks them, sorted, one line each.
func Check(files []File) []string {
	var out []string
	for i := range files {
		f := &files[i]
		out = append(out, directions(f)...)
		out = append(out, seen(f)...)
		out = append(out, purity(f)...)
		out = append(out, helpers(f)...)
	}
	out = append(out, comments(files)...)
	out = append(out, mains(files)...)
	slices.Sort(out)
	return slices.Compact(out)
}

// CheckProgram holds everything that is linked into a program against what must not be in it. program is its directory, deps
// are import paths.
func CheckProgram(program string, deps []string) []string {
	var out []string
	for _, d := range deps {
		local := strings.TrimPrefix(d, Module+"/")
		for _, no := range noPart[program] {
			if within(local, no) {
				out = append(out, fmt.Sprintf("%s contains %s", program, d))
			}
		}
	}
	return out
}

// within tells whether path is dir, or lies in it. A major version counts as lying in it.
func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// directions checks who imports whom among the top-level directories.
func directions(f *File) []string {
	var out []string
	from := f.area()
	for _, im := range f.Imports {
		if !within(im, Module) {
			continue
		}
		to, _, _ := strings.Cut(strings.TrimPrefix(im, Module+"/"), "/")
		allowed, known := mayImport[from]
		switch {
		case !known:
			out = append(out, fmt.Sprintf("%s: %q is not a directory of the architecture: add it to the table or move it", f.path(), from))
		case to != from && !slices.Contains(allowed, to):
			out = append(out, fmt.Sprintf("%s: %s must not import %s", f.path(), from, strings.TrimPrefix(im, Module+"/")))
		}
	}
	return out
}

// seen checks who sees libraries that are kept to a few.
func seen(f *File) []string {
	var out []string
	for _, im := range f.Imports {
		for _, l := range libraries {
			if slices.ContainsFunc(l.in, func(dir string) bool { return within(f.Dir, dir) }) {
				continue
			}
			for _, p := range l.prefixes {
				// Of the standard library exactly the package is meant: log is not log/slog.
				if im == p || strings.Contains(p, ".") && within(im, p) {
					out = append(out, fmt.Sprintf("%s: imports %s: %s", f.path(), im, l.why))
				}
			}
		}
	}
	return out
}

func purity(f *File) []string {
	if f.Test || !slices.ContainsFunc(pure, func(p string) bool { return within(f.Dir, p) }) {
		return nil
	}
	var out []string
	for _, im := range f.Imports {
		if slices.ContainsFunc(impure, func(no string) bool { return within(im, no) }) {
			out = append(out, fmt.Sprintf("%s: a pure package must not import %s", f.path(), im))
		}
	}
	for _, c := range f.Clock {
		out = append(out, fmt.Sprintf("%s: a pure package must not use time.%s: take the time as an argument", f.path(), c))
	}
	if f.Go {
		out = append(out, fmt.Sprintf("%s: a pure package must not start goroutines", f.path()))
	}
	return out
}

// helpers checks that packages which help tests, named …test or like the simulated disk, stay out of programs.
func helpers(f *File) []string {
	if f.Test || f.area() == "sim" || isHelper(f.Dir) {
		return nil
	}
	var out []string
	for _, im := range f.Imports {
		if within(im, Module) && isHelper(im) {
			out = append(out, fmt.Sprintf("%s: only tests may import %s", f.path(), strings.TrimPrefix(im, Module+"/")))
		}
	}
	return out
}

func isHelper(path string) bool {
	return strings.HasSuffix(path, "test") || within(strings.TrimPrefix(path, Module+"/"), "internal/disk/simdisk")
}

// comments checks that every package has exactly one package comment.
func comments(files []File) []string {
	docs := make(map[string][]string)
	for i := range files {
		f := &files[i]
		if f.Test {
			continue
		}
		d := docs[f.Dir] // a package without any must be in the map too
		if f.Doc {
			d = append(d, f.Name)
		}
		docs[f.Dir] = d
	}
	var out []string
	for _, dir := range slices.Sorted(maps.Keys(docs)) {
		switch d := docs[dir]; {
		case len(d) == 0:
			out = append(out, fmt.Sprintf("%s: no package comment", dir))
		case len(d) > 1:
			out = append(out, fmt.Sprintf("%s: package comments in %s: keep one", dir, strings.Join(d, " and ")))
		}
	}
	return out
}

// mains checks that programs are thin.
func mains(files []File) []string {
	lines := make(map[string]int)
	for i := range files {
		if f := &files[i]; f.area() == "cmd" && f.Package == "main" && !f.Test {
			lines[f.Dir] += f.Lines
		}
	}
	var out []string
	for _, dir := range slices.Sorted(maps.Keys(lines)) {
		if n := lines[dir]; n >= maxMain {
			out = append(out, fmt.Sprintf("%s: %d lines in package main, want fewer than %d: a program reads flags and starts what others built", dir, n, maxMain))
		}
	}
	return out
}
