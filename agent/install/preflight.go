package install

import (
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
)

// Preflight tells whether a device may install an artifact, before anything of it is fetched: whether the artifact is for hardware and
// software like this device's, and whether the device allows its unit. Room on the disk is Slot.Room's matter.
//
// What the profile does not know meets no requirement, because a probe that failed says nothing; and what the artifact does not ask for, it
// need not know.
func Preflight(m *artifact.Manifest, p wire.Profile, o Options) error {
	f := &m.Fits
	if err := oneOf(ReasonArch, "architecture", f.Arch, p.Arch, func(have, want string) bool { return have == want }); err != nil {
		return err
	}
	if err := oneOf(ReasonSoC, "SoC", f.SoC, p.SoC, func(have, want string) bool { return have == want }); err != nil {
		return err
	}
	for _, want := range f.Accelerators { // those that were found are in Value, also when another probe failed
		if !slices.Contains(p.Accelerators.Value, want) || p.Accelerators.State == wire.FactAbsent {
			return fail(ReasonAccelerators, "the artifact wants accelerator %q, this device has %s", want, said(p.Accelerators))
		}
	}
	if ram, ok := p.RAMBytes.Get(); f.MinRAM > 0 && (!ok || ram < f.MinRAM) {
		return fail(ReasonRAM, "the artifact wants %d bytes of memory, this device has %s", f.MinRAM, said(p.RAMBytes))
	}
	if err := oneOf(ReasonOS, "operating system", f.OS, p.OS, strings.HasPrefix); err != nil {
		return err
	}
	return o.allows(m.Unit)
}

// oneOf tells whether a fact is one of those that are wanted; none: any.
func oneOf(reason, what string, wanted []string, have wire.Fact[string], fits func(have, want string) bool) error {
	v, ok := have.Get()
	if len(wanted) == 0 || ok && slices.ContainsFunc(wanted, func(want string) bool { return fits(v, want) }) {
		return nil
	}
	return fail(reason, "the artifact is for %s %.200q, this device has %s", what, wanted, said(have))
}

// said is a fact as a message has it.
func said[T any](f wire.Fact[T]) string {
	switch f.State {
	case wire.FactValue:
		return fmt.Sprintf("%v", f.Value)
	case wire.FactAbsent:
		return "none"
	case wire.FactUnknown:
	}
	return "one that it does not know: " + f.Reason
}

// allows tells whether the device lets the unit be restarted; "" is none, and allowed.
func (o Options) allows(unit string) error {
	if unit == "" || slices.Contains(o.Units, unit) {
		return nil
	}
	return fail(ReasonUnit, "unit %s may not be restarted here: add it to units in agent.yaml if it may", unit)
}
