package hardware

import (
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/holdfast-edge/holdfast/wire"
)

// A board is a tree in testdata with what uname prints on the machine and the profile that it must give.
type board struct {
	name    string
	machine string
	want    wire.Profile
}

func boards() []board {
	return []board{
		{"jetson-xavier-nx", "aarch64", wire.Profile{
			Model:        wire.Known("NVIDIA Jetson Xavier NX Developer Kit"),
			SoC:          wire.Known("nvidia-jetson-xavier-nx"),
			Arch:         wire.Known("arm64"),
			RAMBytes:     wire.Known(uint64(7950336 * 1024)),
			CPUCores:     wire.Known(uint32(6)),
			Accelerators: wire.Known([]string{"nvidia-gpu"}),
			OS:           wire.Known("Ubuntu 18.04.6 LTS"),
			Kernel:       wire.Known("4.9.253-tegra"),
			Hints: wire.Hints{
				Serial: "1420020012345", MachineID: "5f1d6c2a9b3e4d7f8a0c1b2d3e4f5a6b",
				MACs: []string{"48:b0:2d:01:02:03", "48:b0:2d:01:02:04"},
			},
		}},
		{"raspberry-pi-4", "aarch64", wire.Profile{
			Model:        wire.Known("Raspberry Pi 4 Model B Rev 1.4"),
			SoC:          wire.Known("broadcom-bcm2711"),
			Arch:         wire.Known("arm64"),
			RAMBytes:     wire.Known(uint64(7998628 * 1024)),
			CPUCores:     wire.Known(uint32(4)),
			Accelerators: wire.Known([]string{"google-edgetpu"}),
			OS:           wire.Known("Debian GNU/Linux 10 (buster)"),
			Kernel:       wire.Known("5.4.42-v8+"),
			Hints: wire.Hints{
				Serial: "10000000abcdef01", MachineID: "0f9e8d7c6b5a49382716fedcba987654",
				MACs: []string{"dc:a6:32:01:02:03", "dc:a6:32:01:02:04"},
			},
		}},
		{"x86-server-nvidia", "x86_64", wire.Profile{
			Model:        wire.Known("Dell Inc. PowerEdge R740"),
			SoC:          wire.Absent[string](),
			Arch:         wire.Known("amd64"),
			RAMBytes:     wire.Known(uint64(197605744 * 1024)),
			CPUCores:     wire.Known(uint32(48)),
			Accelerators: wire.Known([]string{"nvidia-gpu"}),
			OS:           wire.Known("Ubuntu 22.04.2 LTS"),
			Kernel:       wire.Known("5.15.0-69-generic"),
			Hints: wire.Hints{
				Serial: "ABC1234", MachineID: "00112233445566778899aabbccddeeff",
				MACs: []string{"e4:43:4b:01:02:03", "e4:43:4b:01:02:04"},
			},
		}},
		{"coral-dev-board", "aarch64", wire.Profile{
			Model:        wire.Known("Freescale i.MX8MQ Phanbell"),
			SoC:          wire.Known("nxp-imx8mq"),
			Arch:         wire.Known("arm64"),
			RAMBytes:     wire.Known(uint64(1002136 * 1024)),
			CPUCores:     wire.Known(uint32(4)),
			Accelerators: wire.Known([]string{"google-edgetpu"}),
			OS:           wire.Known("Mendel GNU/Linux 5 (Eagle)"),
			Kernel:       wire.Known("4.14.98-imx"),
			Hints: wire.Hints{
				MachineID: "a1b2c3d4e5f60718293a4b5c6d7e8f90",
				MACs:      []string{"7c:d9:5c:01:02:03", "7c:d9:5c:01:02:04"},
			},
		}},
		{"microvm", "", wire.Profile{
			Model:        wire.Absent[string](),
			SoC:          wire.Absent[string](),
			Arch:         wire.Known("amd64"),
			RAMBytes:     wire.Known(uint64(997908 * 1024)),
			CPUCores:     wire.Known(uint32(2)),
			Accelerators: wire.Absent[[]string](),
			OS:           wire.Known("Ubuntu 24.04.1 LTS"),
			Kernel:       wire.Known("6.1.128"),
			Hints:        wire.Hints{MACs: []string{"06:00:ac:10:00:02"}},
		}},
	}
}

// findBoard returns the board called name.
func findBoard(t *testing.T, name string) board {
	t.Helper()
	for _, b := range boards() {
		if b.name == name {
			return b
		}
	}
	t.Fatalf("no board %q in the table", name)
	return board{}
}

// plant copies the tree of a board to a directory of its own, with the colons back in its names.
func plant(t *testing.T, name string) string {
	t.Helper()
	from, to := filepath.Join("testdata", name, "root"), t.TempDir()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, strings.ReplaceAll(rel, "%3A", ":"))
		if d.IsDir() {
			return os.MkdirAll(target, 0o755)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, data, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// put writes a file of a planted tree.
func put(t *testing.T, root, name, content string) {
	t.Helper()
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestDetectBoards(t *testing.T) {
	for _, b := range boards() {
		t.Run(b.name, func(t *testing.T) {
			got := Detect(Source{Root: plant(t, b.name), Machine: b.machine})
			sameProfile(t, got, b.want)
		})
	}
}

// sameProfile compares fact by fact, so that a failure names the one that differs.
func sameProfile(t *testing.T, got, want wire.Profile) {
	t.Helper()
	g, w := reflect.ValueOf(got), reflect.ValueOf(want)
	for i := range g.NumField() {
		if !reflect.DeepEqual(g.Field(i).Interface(), w.Field(i).Interface()) {
			t.Errorf("%s = %+v, want %+v", g.Type().Field(i).Name, g.Field(i).Interface(), w.Field(i).Interface())
		}
	}
}

// TestEveryFileHasASource keeps the trees and their lists of sources together.
func TestEveryFileHasASource(t *testing.T) {
	entries, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	var trees int
	for _, e := range entries {
		if !e.IsDir() || e.Name() == "fuzz" {
			continue
		}
		trees++
		findBoard(t, e.Name())
		text, err := os.ReadFile(filepath.Join("testdata", e.Name(), "SOURCES.md"))
		if err != nil {
			t.Fatal(err)
		}
		for _, top := range []string{"etc/machine-id", "os-release", "meminfo", "osrelease", "cpuinfo", "cpu/online", "sys/class/net", "platform/devices"} {
			if !strings.Contains(string(text), top) {
				t.Errorf("%s/SOURCES.md does not say where %s comes from", e.Name(), top)
			}
		}
	}
	if trees != len(boards()) {
		t.Errorf("%d trees for %d boards", trees, len(boards()))
	}
}

// TestRootIsTheDefault checks that an empty Source reads the running machine's files.
func TestRootIsTheDefault(t *testing.T) {
	if got, want := Detect(Source{GOARCH: "amd64"}), Detect(Source{Root: "/", GOARCH: "amd64"}); !reflect.DeepEqual(got, want) {
		t.Errorf("Detect without a root = %+v, want %+v", got, want)
	}
}

func BenchmarkDetect(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		Detect(Host())
	}
}
