package build

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/holdfast-edge/holdfast/wire/artifact"
)

func TestReadSpec(t *testing.T) {
	path := filepath.Join(t.TempDir(), "artifact.yaml")
	write(t, path, []byte(`
name: camera
version: 1.10
release: 7
kind: tree
fits:
  arch: [arm64, amd64]
  soc: [nvidia-jetson-xavier-nx]
  accelerators: [nvidia-gpu]
  min_ram: 512MiB
  os: [Ubuntu 22.04]
health:
  - file: bin/server
  - exec: [bin/check, --fast]
    timeout: 3s
    every: 500ms
  - http: {port: 8080, path: /healthz}
  - tcp: 5432
  - unit: camera.service
start: 90s
soak: 5m
unit: camera.service
`), 0o644)
	s, err := ReadSpec(path)
	fatal(t, err)
	m, err := s.manifest(artifact.KindTree)
	fatal(t, err)
	want := &artifact.Manifest{
		Format: 1, Name: "camera", Version: "1.10", Number: 7, Kind: artifact.KindTree,
		Fits: artifact.Compatibility{
			Arch: []string{"arm64", "amd64"}, SoC: []string{"nvidia-jetson-xavier-nx"}, Accelerators: []string{"nvidia-gpu"},
			MinRAM: 512 << 20, OS: []string{"Ubuntu 22.04"},
		},
		Health: []artifact.Check{
			{Kind: artifact.CheckFile, Path: "bin/server"},
			{Kind: artifact.CheckExec, Path: "bin/check", Args: []string{"--fast"}, TimeoutMS: 3000, EveryMS: 500},
			{Kind: artifact.CheckHTTP, Port: 8080, Path: "/healthz"},
			{Kind: artifact.CheckTCP, Port: 5432},
			{Kind: artifact.CheckUnit, Unit: "camera.service"},
		},
		StartMS: 90_000, SoakMS: 300_000, Unit: "camera.service",
	}
	if !reflect.DeepEqual(m, want) {
		t.Errorf("%+v, want\n%+v", m, want)
	}
	fatal(t, m.Check())
}

func TestReadSpecRefuses(t *testing.T) {
	for name, c := range map[string]struct{ yaml, want string }{
		"unknown key":         {"name: a\ntitel: b\n", "line 2: field titel not found"},
		"unknown key of fits": {"name: a\nfits:\n  cpu: [x]\n", "line 3: field cpu not found"},
		"unknown check":       {"health:\n  - ping: x\n", "line 2: field ping not found"},
		"a key twice":         {"name: a\nname: b\n", "line 2"},
		"negative release":    {"release: -1\n", "line 1"},
		"port too high":       {"health: [{tcp: 65536}]\n", "line 1"},
		"time without a unit": {"soak: 30\n", `"30" is no duration`},
		"negative time":       {"soak: -3s\n", "is no duration"},
		"time too long":       {"soak: 25h\n", "is no duration"},
		"less than a ms":      {"start: 10us\n", "is no duration"},
		"bytes":               {"fits: {min_ram: lots}\n", "no amount of bytes"},
		"two documents":       {"name: a\n---\nname: b\n", "more than one document"},
		"no mapping":          {"- a\n", "line 1"},
		"no check in a check": {"health: [{timeout: 3s}]\n", "health check 1: want exactly one"},
		"two checks in one":   {"health: [{tcp: 1}, {tcp: 1, unit: a.service}]\n", "health check 2: want exactly one"},
	} {
		path := filepath.Join(t.TempDir(), "artifact.yaml")
		write(t, path, []byte(c.yaml), 0o644)
		s, err := ReadSpec(path)
		if err == nil {
			_, err = s.manifest(artifact.KindTree)
		} else if !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v does not name the file", name, err)
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
	}
}
