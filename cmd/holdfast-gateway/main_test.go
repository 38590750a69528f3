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

	"github.com/holdfast-edge/holdfast/internal/daemon"
	"github.com/holdfast-edge/holdfast/sitegw"
)

// A given is what a gateway is started with.
type given struct {
	s          sitegw.Settings
	dir, level string
}

// execute runs the program, with a start that only looks.
func execute(env map[string]string, args ...string) (code int, g given, out, errs string) {
	p := program()
	for i := range p.Commands {
		if p.Commands[i].Name == "run" {
			p.Commands[i] = runCommand(func(_ context.Context, _ daemon.Env, s sitegw.Settings, dir, level string) error {
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

// write makes a data directory with a gateway.yaml.
func write(t *testing.T, content string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "gateway.yaml"), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

const file = "name: gw-a\nlisten: file:1\ncores: [file:2, file:3]\nops: file:4\ntarget_beats: 21\nspool_quota: 2GiB\ncache_quota: 3GiB\n"

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
		{yaml: "name", def: "gw-a", see: func(g given) string { return g.s.Name }},
		{yaml: "listen", flag: "listen", def: "file:1", env: "env:1", args: "flag:1", see: func(g given) string { return g.s.Listen }},
		{
			yaml: "cores", flag: "core", def: "[file:2 file:3]", env: "env:2,env:3", args: "flag:2,flag:3",
			see: func(g given) string { return fmt.Sprint(g.s.Cores) },
		},
		{yaml: "ops", flag: "ops", def: "file:4", env: "env:4", args: "flag:4", see: func(g given) string { return g.s.Ops }},
		{
			yaml: "target_beats", flag: "target-beats", def: "21", env: "22", args: "23",
			see: func(g given) string { return strconv.FormatUint(uint64(g.s.TargetBeats), 10) },
		},
		{
			yaml: "spool_quota", flag: "spool-quota", def: "2GiB", env: "3MiB", args: "4MiB",
			see: func(g given) string { return g.s.SpoolQuota.String() },
		},
		{
			yaml: "cache_quota", flag: "cache-quota", def: "3GiB", env: "65MiB", args: "66MiB",
			see: func(g given) string { return g.s.CacheQuota.String() },
		},
		{flag: "log-level", def: "info", env: "warn", args: "debug", see: func(g given) string { return g.level }},
		{flag: "data-dir", env: fromEnv, args: fromFlag, see: func(g given) string { return g.dir }},
	}
}

// shown is a value as a start shows it: lists come in brackets.
func shown(k *key, v string) string {
	if k.yaml == "cores" {
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
	for f := range reflect.TypeFor[sitegw.Settings]().Fields() {
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

func TestAddressesByHand(t *testing.T) {
	dir := write(t, file)
	for _, args := range [][]string{{"--core", "a:1,b:2"}, {"--core", "a:1", "--core", "b:2"}} {
		code, g, _, errs := execute(nil, append([]string{"run", "--data-dir", dir}, args...)...)
		if code != daemon.ExitOK || !slices.Equal(g.s.Cores, []string{"a:1", "b:2"}) {
			t.Errorf("%v: exit %d, %v: %s", args, code, g.s.Cores, errs)
		}
	}
}

func TestBadQuota(t *testing.T) {
	dir := write(t, file)
	for said, c := range map[string]struct{ dir, flag string }{
		"spool_quota": {dir: write(t, strings.Replace(file, "2GiB", "1023KiB", 1))},
		"cache_quota": {dir: write(t, strings.Replace(file, "3GiB", "63MiB", 1))},
		"2 GB":        {dir: write(t, strings.Replace(file, "2GiB", "2 GB", 1))},
		"spool-quota": {dir: dir, flag: "2GB"},
	} {
		args := []string{"run", "--data-dir", c.dir}
		if c.flag != "" {
			args = append(args, "--spool-quota", c.flag)
		}
		if code, _, _, errs := execute(nil, args...); code != daemon.ExitConfig || !strings.Contains(errs, said) {
			t.Errorf("%v: exit %d, said %q, want %q", args, code, errs, said)
		}
	}
}

func TestWitness(t *testing.T) {
	dir := t.TempDir()
	code, _, out, errs := execute(nil, "witness", "--data-dir", dir)
	if code != daemon.ExitConfig || out != "" || !strings.Contains(errs, "no head of the audit trail is kept here") || !strings.Contains(errs, dir) {
		t.Errorf("without a witness: exit %d, printed %q, said %q", code, out, errs)
	}
	line := `{"seq":7,"hash":"` + strings.Repeat("ab", 32) + `","log_time":"2026-11-23T12:00:00Z","cluster_epoch":1,"sealed":"aGVhZA=="}` + "\n"
	if err := os.WriteFile(filepath.Join(dir, "witness.log"), []byte(line+line[:50]), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, out, errs := execute(nil, "witness", "--data-dir", dir); code != daemon.ExitOK || out != line || errs != "" {
		t.Errorf("exit %d, printed %q, said %q", code, out, errs)
	}
	if code, _, _, errs := execute(nil, "witness"); code != daemon.ExitConfig || !strings.Contains(errs, "data-dir") {
		t.Errorf("without a directory: exit %d, said %q", code, errs)
	}
}
