package build

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/holdfast-edge/holdfast/internal/config"
	"github.com/holdfast-edge/holdfast/internal/durable"
	"github.com/holdfast-edge/holdfast/wire/artifact"
)

// maxSpec bounds a description, in bytes.
const maxSpec = 1 << 20

// A Spec describes an artifact: what its author writes, as YAML. The fields are those of the manifest.
type Spec struct {
	Name    string      `yaml:"name"`
	Version string      `yaml:"version"`
	Release uint64      `yaml:"release"` // from 1; grows from release to release of a name
	Kind    string      `yaml:"kind"`    // tree or file; "": what the source is
	Fits    SpecFits    `yaml:"fits"`
	Health  []SpecCheck `yaml:"health"`
	Start   Duration    `yaml:"start"`
	Soak    Duration    `yaml:"soak"`
	Unit    string      `yaml:"unit"`
}

// SpecFits says which devices the artifact is for.
type SpecFits struct {
	Arch         []string     `yaml:"arch"`
	SoC          []string     `yaml:"soc"`
	Accelerators []string     `yaml:"accelerators"`
	MinRAM       config.Bytes `yaml:"min_ram"`
	OS           []string     `yaml:"os"`
}

// A SpecCheck is a health check. Exactly one of File, Exec, HTTP, TCP and Unit is set.
type SpecCheck struct {
	File    string    `yaml:"file"`
	Exec    []string  `yaml:"exec"` // a path in the release, and arguments
	HTTP    *SpecHTTP `yaml:"http"`
	TCP     uint16    `yaml:"tcp"` // port
	Unit    string    `yaml:"unit"`
	Timeout Duration  `yaml:"timeout"`
	Every   Duration  `yaml:"every"`
}

// SpecHTTP says what is asked for on loopback.
type SpecHTTP struct {
	Port uint16 `yaml:"port"`
	Path string `yaml:"path"`
}

// A Duration is a length of time of whole milliseconds, 0 to artifact.MaxSoak, as "90s" or "5m".
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler. A number without a unit is refused: nobody would know which was meant.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil || v < 0 || v > artifact.MaxSoak || v%time.Millisecond != 0 {
		return fmt.Errorf("%.80q is no duration from 0s to %v, such as 90s or 5m", b, artifact.MaxSoak)
	}
	*d = Duration(v)
	return nil
}

func (d Duration) ms() uint32 {
	return uint32(min(time.Duration(d).Milliseconds(), math.MaxUint32)) //nolint:gosec // G115: bounded, see UnmarshalText
}

// ReadSpec reads a description. Keys that are not known are refused with their line.
func ReadSpec(path string) (*Spec, error) {
	b, err := durable.ReadFile(path, maxSpec)
	if err != nil {
		return nil, err
	}
	s := new(Spec)
	if err := config.DecodeYAML(b, s); err != nil {
		if t, ok := errors.AsType[*yaml.TypeError](err); ok {
			return nil, fmt.Errorf("%s: %s", path, strings.Join(t.Errors, "; "))
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// manifest is the manifest without its entries.
func (s *Spec) manifest(kind artifact.Kind) (*artifact.Manifest, error) {
	if s.Kind != "" && s.Kind != kind.String() {
		return nil, refuse("kind is %.80q, but the source makes an artifact of kind %v", s.Kind, kind)
	}
	m := &artifact.Manifest{
		Format: artifact.Format, Name: s.Name, Version: s.Version, Number: s.Release, Kind: kind,
		Fits: artifact.Compatibility{
			Arch: s.Fits.Arch, SoC: s.Fits.SoC, Accelerators: s.Fits.Accelerators, MinRAM: uint64(s.Fits.MinRAM), OS: s.Fits.OS, //nolint:gosec // G115: never negative
		},
		StartMS: s.Start.ms(), SoakMS: s.Soak.ms(), Unit: s.Unit,
	}
	for i := range s.Health {
		c, err := s.Health[i].check()
		if err != nil {
			return nil, refuse("health check %d: %w", i+1, err)
		}
		m.Health = append(m.Health, c)
	}
	return m, nil
}

func (c *SpecCheck) check() (artifact.Check, error) {
	out := artifact.Check{TimeoutMS: c.Timeout.ms(), EveryMS: c.Every.ms()}
	kinds := 0
	set := func(there bool, kind artifact.CheckKind) {
		if there {
			kinds++
			out.Kind = kind
		}
	}
	set(c.File != "", artifact.CheckFile)
	set(len(c.Exec) > 0, artifact.CheckExec)
	set(c.HTTP != nil, artifact.CheckHTTP)
	set(c.TCP != 0, artifact.CheckTCP)
	set(c.Unit != "", artifact.CheckUnit)
	if kinds != 1 {
		return out, errors.New("want exactly one of file, exec, http, tcp and unit")
	}
	out.Path, out.Port, out.Unit = c.File, c.TCP, c.Unit
	switch {
	case c.HTTP != nil:
		out.Path, out.Port = c.HTTP.Path, c.HTTP.Port
	case len(c.Exec) > 0:
		out.Path = c.Exec[0]
		if len(c.Exec) > 1 {
			out.Args = c.Exec[1:]
		}
	}
	return out, nil
}
