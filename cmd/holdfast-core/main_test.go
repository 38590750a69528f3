package main

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/holdfast-edge/holdfast/core"
	"github.com/holdfast-edge/holdfast/internal/daemon"
)

// A given is what a node is started with.
type given struct {
	s          core.Settings
	dir, level string
}

// execute runs the program, with a start that only looks.
func execute(env map[string]string, args ...string) (code int, g given, out, errs string) {
	p := program()
	for i := range p.Commands {
		if p.Commands[i].Name == "run" {
			p.Commands[i] = runCommand(func(_ context.Context, _ daemon.Env, s core.Settings, dir, level string) error {
				g = given{s, dir, level}
				return nil
			})
		}
	}
	lookup := func(k string) (string, bool) { v, ok := env[k]; return v, ok }
	var o, e bytes.Buffer
	code = p.Execute(context.Background(), args, lookup, daemon.Env{In: strings.NewReader(""), Out: &o, Err: &e})
	return code, g, o.String(), e.String()
}

// write makes a data directory with a core.yaml.
func write(t *testing.T, content string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "core.yaml"), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

const file = "fleet: acme\nname: core-1\napi: file:1\napi_san: [file.example]\nuplink: file:2\ncluster: file:3\nreport_period: 11s\ntarget_beats: 21\ncontent_quota: 2GiB\n"

// A key is one thing that can be configured: where it can be said, and how a start sees it.
type key struct {
	yaml string // "": not in the file
	flag string // "": not by flag or environment
	env  string // value said by the environment
	args string // value said by the flag
	see  func(g given) string
	// The value of the file, or without a file the default.
	def string
}

func keys(fromEnv, fromFlag string) []key {
	return []key{
		{yaml: "fleet", def: "acme", see: func(g given) string { return g.s.Fleet }},
		{yaml: "name", def: "core-1", see: func(g given) string { return g.s.Name }},
		{yaml: "api", flag: "api", def: "file:1", env: "env:1", args: "flag:1", see: func(g given) string { return g.s.API }},
		{
			yaml: "api_san", flag: "api-san", def: "[file.example]", env: "env.example,b", args: "flag.example,b",
			see: func(g given) string { return fmt.Sprint(g.s.APISAN) },
		},
		{yaml: "uplink", flag: "uplink", def: "file:2", env: "env:2", args: "flag:2", see: func(g given) string { return g.s.Uplink }},
		{yaml: "cluster", flag: "cluster", def: "file:3", env: "env:3", args: "flag:3", see: func(g given) string { return g.s.Cluster }},
		{
			yaml: "report_period", flag: "report-period", def: "11s", env: "12s", args: "13s",
			see: func(g given) string { return g.s.ReportPeriod.String() },
		},
		{
			yaml: "target_beats", flag: "target-beats", def: "21", env: "22", args: "23",
			see: func(g given) string { return strconv.FormatUint(uint64(g.s.TargetBeats), 10) },
		},
		{
			yaml: "content_quota", flag: "content-quota", def: "2GiB", env: "3GiB", args: "4GiB",
			see: func(g given) string { return g.s.ContentQuota.String() },
		},
		{flag: "log-level", def: "info", env: "warn", args: "debug", see: func(g given) string { return g.level }},
		{flag: "data-dir", env: fromEnv, args: fromFlag, see: func(g given) string { return g.dir }},
	}
}

// shown is a value as a start shows it: lists come in brackets.
func shown(k *key, v string) string {
	if k.yaml == "api_san" {
		return "[" + strings.ReplaceAll(v, ",", " ") + "]"
	}
	return v
}

// The file is overruled by the environment, and the environment by flags, key by key and for every key that there is.
func TestPrecedence(t *testing.T) {
	fromEnv, fromFlag := write(t, file), write(t, file)
	all := keys(fromEnv, fromFlag)
	for i := range all {
		k := &all[i]
		variable := daemon.EnvPrefix + strings.ToUpper(strings.ReplaceAll(k.flag, "-", "_"))
		check := func(what, want string, env map[string]string, args ...string) {
			t.Helper()
			if _, ok := env["HOLDFAST_DATA_DIR"]; !ok && k.flag != "data-dir" {
				args = append(args, "--data-dir", fromFlag)
			}
			code, g, _, errs := execute(env, append([]string{"run"}, args...)...)
			if code != daemon.ExitOK || k.see(g) != want {
				t.Errorf("%s%s from %s: %q, want %q (exit %d: %s)", k.yaml, k.flag, what, k.see(g), want, code, errs)
			}
			for j := range all { // and nothing else has changed
				if o := &all[j]; o.def != "" && o.flag != k.flag && o.see(g) != o.def {
					t.Errorf("%s from %s changed %s to %q", k.flag, what, o.flag, o.see(g))
				}
			}
		}
		if k.def != "" {
			check("the file", k.def, nil)
		}
		if k.flag == "" {
			continue
		}
		check("the environment", shown(k, k.env), map[string]string{variable: k.env})
		check("a flag", shown(k, k.args), nil, "--"+k.flag, k.args)
		check("a flag over the environment", shown(k, k.args), map[string]string{variable: k.env}, "--"+k.flag, k.args)
	}
}

// The table has every flag of run and every key of the file: a new one needs its line.
func TestPrecedenceIsComplete(t *testing.T) {
	flags, yaml := map[string]bool{}, map[string]bool{}
	for _, k := range keys("", "") {
		if k.flag != "" {
			flags[k.flag] = true
		}
		if k.yaml != "" {
			yaml[k.yaml] = true
		}
	}
	fs := pflag.NewFlagSet("run", pflag.ContinueOnError)
	run := runCommand(nil)
	run.Flags(fs)
	fs.VisitAll(func(f *pflag.Flag) {
		if !flags[f.Name] {
			t.Errorf("--%s is not in the table", f.Name)
		}
		delete(flags, f.Name)
	})
	for f := range reflect.TypeFor[core.Settings]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if !yaml[name] {
			t.Errorf("key %q of the file is not in the table", name)
		}
		delete(yaml, name)
	}
	if len(flags)+len(yaml) > 0 {
		t.Errorf("the table has more: %v %v", slices.Collect(maps.Keys(flags)), slices.Collect(maps.Keys(yaml)))
	}
}
