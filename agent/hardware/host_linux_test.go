package hardware

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-edge/holdfast/wire"
)

// TestHost compares the profile of the machine that runs the test with what other interfaces of its kernel say.
func TestHost(t *testing.T) {
	got := Detect(Host())

	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		t.Fatal(err)
	}
	if want := wire.Known(uint64(info.Totalram) * uint64(info.Unit)); got.RAMBytes != want { //nolint:unconvert // 32 bits on 32-bit machines
		t.Errorf("RAM %+v, want %+v of sysinfo(2)", got.RAMBytes, want)
	}
	if want := wire.Known(onlineInStat(t)); got.CPUCores != want {
		t.Errorf("cores %+v, want %+v of /proc/stat", got.CPUCores, want)
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		t.Fatal(err)
	}
	if want := wire.Known(unix.ByteSliceToString(uts.Release[:])); got.Kernel != want {
		t.Errorf("kernel %+v, want %+v of uname(2)", got.Kernel, want)
	}
	machine := unix.ByteSliceToString(uts.Machine[:])
	if src := Host(); src.Machine != machine {
		t.Errorf("Host has the machine %q, want %q of uname(2)", src.Machine, machine)
	}
	if arch, ok := got.Arch.Get(); !ok || !kernelCalls(arch, machine) {
		t.Errorf("architecture %+v on a kernel that calls itself %s", got.Arch, machine)
	}
	if name := shellPrettyName(t, "/etc/os-release"); name != "" && got.OS != wire.Known(name) {
		t.Errorf("OS %+v, want %q as the shell reads it", got.OS, name)
	}
	for name, f := range map[string]wire.FactState{"Model": got.Model.State, "SoC": got.SoC.State, "Accelerators": got.Accelerators.State} {
		if f == wire.FactUnknown {
			t.Errorf("%s is unknown on this machine: %+v", name, got)
		}
	}
}

// kernelCalls reports whether a kernel of Go's architecture can call itself machine, by a rule other than the package's.
func kernelCalls(arch, machine string) bool {
	switch arch {
	case "amd64":
		return machine == "x86_64"
	case "arm64":
		return machine == "aarch64"
	case "386":
		return len(machine) == 4 && machine[0] == 'i' && strings.HasSuffix(machine, "86")
	default:
		return strings.HasPrefix(machine, strings.TrimSuffix(arch, "64")[:2])
	}
}

// onlineInStat counts the lines of /proc/stat that have a processor's times, one for each that is online.
func onlineInStat(t *testing.T) uint32 {
	t.Helper()
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	var n uint32
	for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
		line := s.Text()
		if len(line) > 3 && strings.HasPrefix(line, "cpu") && line[3] >= '0' && line[3] <= '9' {
			n++
		}
	}
	return n
}

// shellPrettyName is PRETTY_NAME as the shell comes to it, empty if there is no such file.
func shellPrettyName(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "/bin/sh", "-c", `PRETTY_NAME=; if [ -r "$1" ]; then . "$1"; fi; printf %s "$PRETTY_NAME"`, "sh", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// TestOSReleaseAsTheShellReadsIt has a shell read the assignments that os-release(5) allows.
func TestOSReleaseAsTheShellReadsIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "os-release")
	for _, a := range assignments {
		if !a.plain {
			continue
		}
		if err := os.WriteFile(path, []byte(a.line+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := shellPrettyName(t, path); got != a.want {
			t.Errorf("the shell reads %q as %q, want %q", a.line, got, a.want)
		}
	}
}
