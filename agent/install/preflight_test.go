package install

import (
	"testing"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
)

func TestPreflight(t *testing.T) {
	t.Parallel()
	board := wire.Profile{
		Arch: wire.Known("arm64"), SoC: wire.Known("nvidia-jetson-xavier-nx"), RAMBytes: wire.Known(uint64(8 << 30)),
		Accelerators: wire.Known([]string{"google-edgetpu", "nvidia-gpu"}), OS: wire.Known("Ubuntu 22.04.5 LTS"),
	}
	dark := wire.Profile{Arch: wire.Unknown[string]("uname failed"), Accelerators: wire.Fact[[]string]{Value: []string{"nvidia-gpu"}, Reason: "usb: no such directory"}}
	bare := wire.Profile{Arch: wire.Known("amd64"), SoC: wire.Absent[string](), Accelerators: wire.Absent[[]string]()}
	for name, tc := range map[string]struct {
		fits   artifact.Compatibility
		unit   string
		p      wire.Profile
		reason string
	}{
		"wants nothing, knows nothing":   {},
		"all of it":                      {artifact.Compatibility{Arch: []string{"amd64", "arm64"}, SoC: []string{"nvidia-jetson-xavier-nx"}, Accelerators: []string{"nvidia-gpu"}, MinRAM: 8 << 30, OS: []string{"Debian", "Ubuntu 22.04"}}, "app.service", board, ""},
		"arch":                           {artifact.Compatibility{Arch: []string{"amd64"}}, "", board, ReasonArch},
		"arch, unknown":                  {artifact.Compatibility{Arch: []string{"amd64"}}, "", dark, ReasonArch},
		"soc":                            {artifact.Compatibility{SoC: []string{"broadcom-bcm2711"}}, "", board, ReasonSoC},
		"soc, absent":                    {artifact.Compatibility{SoC: []string{"broadcom-bcm2711"}}, "", bare, ReasonSoC},
		"accelerator":                    {artifact.Compatibility{Accelerators: []string{"nvidia-gpu", "hailo-8"}}, "", board, ReasonAccelerators},
		"accelerator, none":              {artifact.Compatibility{Accelerators: []string{"nvidia-gpu"}}, "", bare, ReasonAccelerators},
		"accelerator, one probe failed":  {artifact.Compatibility{Accelerators: []string{"google-edgetpu"}}, "", dark, ReasonAccelerators},
		"accelerator, found by another":  {artifact.Compatibility{Accelerators: []string{"nvidia-gpu"}}, "", dark, ""},
		"ram":                            {artifact.Compatibility{MinRAM: 8<<30 + 1}, "", board, ReasonRAM},
		"ram, unknown":                   {artifact.Compatibility{MinRAM: 1}, "", dark, ReasonRAM},
		"os":                             {artifact.Compatibility{OS: []string{"Ubuntu 24.04"}}, "", board, ReasonOS},
		"os, only the whole is in it":    {artifact.Compatibility{OS: []string{"22.04"}}, "", board, ReasonOS},
		"os, unknown":                    {artifact.Compatibility{OS: []string{"Ubuntu"}}, "", dark, ReasonOS},
		"unit that nobody allowed":       {artifact.Compatibility{}, "ssh.service", board, ReasonUnit},
		"unit that begins like another":  {artifact.Compatibility{}, "app.service.d", board, ReasonUnit},
		"incompatible before other ends": {artifact.Compatibility{Arch: []string{"amd64"}}, "ssh.service", board, ReasonArch},
	} {
		err := Preflight(&artifact.Manifest{Fits: tc.fits, Unit: tc.unit}, tc.p, Options{Units: []string{"app.service"}})
		if got := ReasonOf(err); got != tc.reason {
			t.Errorf("%s: %v, want reason %q", name, err, tc.reason)
		}
	}
}
