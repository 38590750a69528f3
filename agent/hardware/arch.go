package hardware

import (
	"fmt"
	"strings"

	"github.com/holdfast-edge/holdfast/wire"
)

// arch is the architecture of the kernel, hence of the hardware as software can use it: a 32-bit agent below a 64-bit
// kernel reports 64 bits. The kernel's own file comes first because uname(2) lies to a process that runs under a 32-bit
// personality; it exists since Linux 6.1.
func arch(t tree, machine, goarch string) wire.Fact[string] {
	const path = "/proc/sys/kernel/arch"
	named, err := t.text(path)
	for _, m := range []string{named, machine} {
		if a := goArch(m, goarch); a != "" {
			return wire.Known(a)
		}
	}
	switch {
	case err != nil && !missing(err):
		return unknown[string](err)
	case goarch != "":
		return wire.Known(goarch)
	case err != nil && machine == "":
		return unknown[string](err)
	default:
		return unknown[string](fmt.Errorf("read %s: %w: machines %q and %q have no known name", path, errMalformed, named, machine))
	}
}

// goArch is Go's name for the kernel's machine name, empty if there is none. goarch resolves what the kernel's name
// leaves open, the byte order of MIPS.
func goArch(machine, goarch string) string {
	switch machine {
	case "x86_64":
		return "amd64"
	case "i386", "i486", "i586", "i686":
		return "386"
	case "aarch64", "armv8l": // armv8l is what a 64-bit kernel tells a process with a 32-bit personality
		return "arm64"
	case "riscv64", "ppc64", "ppc64le", "s390x":
		return machine
	case "loongarch64":
		return "loong64"
	case "mips", "mips64":
		if !strings.HasPrefix(goarch, "mips") {
			return ""
		}
		if strings.HasSuffix(goarch, "le") {
			return machine + "le"
		}
		return machine
	}
	if strings.HasPrefix(machine, "armv") { // armv5tel, armv6l, armv7l
		return "arm"
	}
	return ""
}
