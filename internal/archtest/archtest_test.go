package archtest_test

import (
	"maps"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/holdfast-edge/holdfast/internal/archtest"
)

// root is the module's root, seen from this package.
const root = "../.."

// programs are checked with everything that is linked into them.
var programs = []string{"cmd/holdfast-agent", "cmd/holdfast-gateway", "cmd/holdfast-core"}

func TestTree(t *testing.T) {
	t.Parallel()
	files, err := archtest.Parse(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	dirs := make(map[string]bool)
	for i := range files {
		dirs[files[i].Dir] = true
	}
	// A walk that began in the wrong place would find nothing wrong.
	for _, d := range append([]string{"wire", "raftstore", "core/registry", "core/command", "sitegw", "agent", "internal/archtest"}, programs...) {
		if !dirs[d] {
			t.Errorf("%s was not looked at", d)
		}
	}
	for _, p := range archtest.Check(files) {
		t.Error(p)
	}
}

func TestPrograms(t *testing.T) {
	t.Parallel()
	for _, p := range programs {
		cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "./"+p)
		cmd.Dir, cmd.Stderr = root, os.Stderr
		cmd.Env = append(os.Environ(), "GOOS=linux", "CGO_ENABLED=0")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go list %s: %v", p, err)
		}
		deps := strings.Fields(string(out))
		if !slices.Contains(deps, archtest.Module+"/wire") {
			t.Errorf("%s: the list of %d packages lacks wire: it is not what was asked for", p, len(deps))
		}
		for _, problem := range archtest.CheckProgram(p, deps) {
			t.Error(problem)
		}
	}
}

const module = archtest.Module

// source is a Go file with a package comment and the given imports and body.
func source(pkg, body string, imports ...string) string {
	var b strings.Builder
	b.WriteString("// Package " + pkg + " is here to be checked.\npackage " + pkg + "\n\n")
	for _, im := range imports {
		b.WriteString("import " + im + "\n")
	}
	return b.String() + body + "\n"
}

func q(path string) string { return `"` + path + `"` }

// Each case is a tree in memory. want is a part of the one problem that it has; empty: it has none.
var trees = map[string]struct {
	files map[string]string
	want  string
}{
	"core imports what it may": {files: map[string]string{
		"core/a.go": source("core", "", q(module+"/raftstore"), q(module+"/wire/seal"), q(module+"/internal/durable"), q(module+"/core/api")),
	}},
	"core imports agent": {
		files: map[string]string{"core/a.go": source("core", "", q(module+"/agent/link"))},
		want:  "core/a.go: core must not import agent/link",
	},
	"a test of core imports sitegw": {
		files: map[string]string{"core/a_test.go": source("core", "", q(module+"/sitegw"))},
		want:  "core/a_test.go: core must not import sitegw",
	},
	"sitegw imports core": {
		files: map[string]string{"sitegw/x/a.go": source("x", "", q(module+"/core"))},
		want:  "sitegw must not import core",
	},
	"sitegw imports raftstore": {
		files: map[string]string{"sitegw/a.go": source("sitegw", "", q(module+"/raftstore"))},
		want:  "sitegw must not import raftstore",
	},
	"agent imports sitegw under another name": {
		files: map[string]string{"agent/a.go": source("agent", "", "x "+q(module+"/sitegw"))},
		want:  "agent must not import sitegw",
	},
	"core imports sim": {
		files: map[string]string{"core/a.go": source("core", "", q(module+"/sim/procs"))},
		want:  "core must not import sim/procs",
	},
	"wire imports core": {
		files: map[string]string{"wire/a.go": source("wire", "", q(module+"/core/registry"))},
		want:  "wire must not import core/registry",
	},
	"raftstore imports wire": {
		files: map[string]string{"raftstore/a.go": source("raftstore", "", q(module+"/wire"))},
		want:  "raftstore must not import wire",
	},
	"internal imports the product": {
		files: map[string]string{"internal/x/a.go": source("x", "", q(module+"/wire"))},
		want:  "internal must not import wire",
	},
	"sim imports all three": {files: map[string]string{
		"sim/a.go": source("sim", "", q(module+"/core"), q(module+"/sitegw"), q(module+"/agent")),
	}},
	"a directory that nobody planned": {
		files: map[string]string{"util/a.go": source("util", "", q(module+"/wire"))},
		want:  `"util" is not a directory of the architecture`,
	},
	"core sees the consensus library": {
		files: map[string]string{"core/a.go": source("core", "", q("github.com/hashicorp/raft"))},
		want:  "only raftstore sees the consensus library",
	},
	"agent sees its store, of a major version": {
		files: map[string]string{"agent/a.go": source("agent", "", q("github.com/hashicorp/raft-boltdb/v2"))},
		want:  "only raftstore sees the consensus library",
	},
	"raftstore and floor see it": {files: map[string]string{
		"raftstore/a.go":        source("raftstore", "", q("github.com/hashicorp/raft")),
		"internal/floor/x/a.go": source("x", "", q("github.com/hashicorp/raft-boltdb/v2")),
	}},
	"the old logger":       {files: map[string]string{"agent/a.go": source("agent", "", q("log"))}, want: "use log/slog"},
	"the new logger":       {files: map[string]string{"agent/a.go": source("agent", "", q("log/slog"))}},
	"the old random":       {files: map[string]string{"agent/a.go": source("agent", "", q("math/rand"))}, want: "use math/rand/v2"},
	"the new random":       {files: map[string]string{"agent/a.go": source("agent", "", q("math/rand/v2"))}},
	"registry reads files": {files: map[string]string{"core/registry/a.go": source("registry", "", q("os"))}, want: "must not import os"},
	"registry knows URLs":  {files: map[string]string{"core/registry/a.go": source("registry", "", q("net/url"))}, want: "must not import net/url"},
	"command draws":        {files: map[string]string{"core/command/a.go": source("command", "", q("crypto/rand"))}, want: "must not import crypto/rand"},
	"command rolls dice":   {files: map[string]string{"core/command/a.go": source("command", "", q("math/rand/v2"))}, want: "must not import math/rand/v2"},
	"a test of registry draws": {files: map[string]string{
		"core/registry/a.go": source("registry", ""), "core/registry/a_test.go": "package registry\n\nimport _ \"math/rand/v2\"\n",
	}},
	"registry reads the clock": {
		files: map[string]string{"core/registry/a.go": source("registry", "var t = time.Now()", q("time"))},
		want:  "must not use time.Now",
	},
	"registry hands the clock on under another name": {
		files: map[string]string{"core/registry/a.go": source("registry", "var f = clock.Since", "clock "+q("time"))},
		want:  "must not use time.Since",
	},
	"registry imports the clock with a dot": {
		files: map[string]string{"core/registry/a.go": source("registry", "var t = Now()", ". "+q("time"))},
		want:  "by a dot import",
	},
	"registry computes with times": {files: map[string]string{
		"core/registry/a.go": source("registry", "var t = time.UnixMilli(1).Add(time.Hour)", q("time")),
	}},
	"registry starts a goroutine": {
		files: map[string]string{"core/registry/a.go": source("registry", "func f() { go f() }")},
		want:  "must not start goroutines",
	},
	"a program uses a test helper": {
		files: map[string]string{"sitegw/a.go": source("sitegw", "", q(module+"/wire/ident/identtest"))},
		want:  "only tests may import wire/ident/identtest",
	},
	"a program uses the simulated disk": {
		files: map[string]string{"sitegw/a.go": source("sitegw", "", q(module+"/internal/disk/simdisk"))},
		want:  "only tests may import internal/disk/simdisk",
	},
	"a test uses a test helper": {files: map[string]string{
		"sitegw/a.go": source("sitegw", ""), "sitegw/a_test.go": "package sitegw\n\nimport _ \"" + module + "/wire/ident/identtest\"\n",
	}},
	"no package comment": {
		files: map[string]string{"wire/a.go": "package wire\n", "wire/b.go": "package wire\n"},
		want:  "wire: no package comment",
	},
	"a detached comment is none": {
		files: map[string]string{"wire/a.go": "// Copyright.\n\npackage wire\n"},
		want:  "wire: no package comment",
	},
	"two package comments": {
		files: map[string]string{"wire/a.go": source("wire", ""), "wire/b.go": source("wire", "")},
		want:  "package comments in a.go and b.go",
	},
	"tests need none":     {files: map[string]string{"wire/a.go": source("wire", ""), "wire/a_test.go": "package wire\n"}},
	"a program too thick": {files: map[string]string{"cmd/x/main.go": source("main", strings.Repeat("\n", 250))}, want: "lines in package main"},
	"two files make it so": {files: map[string]string{
		"cmd/x/main.go": source("main", strings.Repeat("\n", 125)), "cmd/x/b.go": "package main\n" + strings.Repeat("\n", 125),
	}, want: "lines in package main"},
	"a thin program":     {files: map[string]string{"cmd/x/main.go": source("main", strings.Repeat("\n", 200))}},
	"a library of cmd":   {files: map[string]string{"cmd/x/internal/y/a.go": source("y", strings.Repeat("\n", 300))}},
	"what go ignores":    {files: map[string]string{"wire/testdata/a.go": "not Go", "_x/a.go": "not Go", ".y/a.go": "not Go"}},
	"files of any build": {files: map[string]string{"agent/a_windows.go": source("agent", "", q(module+"/core"))}, want: "agent must not import core"},
}

func TestRules(t *testing.T) {
	t.Parallel()
	for _, name := range slices.Sorted(maps.Keys(trees)) {
		c := trees[name]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tree := fstest.MapFS{}
			for p, src := range c.files {
				tree[path.Clean(p)] = &fstest.MapFile{Data: []byte(src)}
			}
			files, err := archtest.Parse(tree)
			if err != nil {
				t.Fatal(err)
			}
			problems := archtest.Check(files)
			switch {
			case c.want == "" && len(problems) > 0:
				t.Errorf("problems %q, want none", problems)
			case c.want != "" && (len(problems) != 1 || !strings.Contains(problems[0], c.want)):
				t.Errorf("problems %q, want one with %q", problems, c.want)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	_, err := archtest.Parse(fstest.MapFS{"wire/broken.go": {Data: []byte("package")}})
	if err == nil || !strings.Contains(err.Error(), "wire/broken.go") {
		t.Errorf("error %v, want one that names the file", err)
	}
}

func TestCheckProgram(t *testing.T) {
	t.Parallel()
	deps := []string{"net", module + "/agent", module + "/wire", "github.com/hashicorp/raft", "github.com/hashicorp/raftly", module + "/corelike"}
	want := []string{"cmd/holdfast-agent contains github.com/hashicorp/raft"}
	if got := archtest.CheckProgram("cmd/holdfast-agent", deps); !slices.Equal(got, want) {
		t.Errorf("agent: %q, want %q", got, want)
	}
	want = []string{"cmd/holdfast-core contains " + module + "/agent"}
	if got := archtest.CheckProgram("cmd/holdfast-core", deps); !slices.Equal(got, want) {
		t.Errorf("core: %q, want %q", got, want)
	}
}
