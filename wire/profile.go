package wire

import "strings"

// A FactState tells what a probe found out.
type FactState uint8

// The states of a fact. The zero state is FactUnknown, so that a fact nobody set claims nothing.
const (
	FactUnknown FactState = iota // the probe failed; Reason says why
	FactAbsent                   // the probe worked and the machine has no such thing
	FactValue                    // Value holds what was found
)

// A Fact is one detected property of a machine: a value, absent, or unknown with the reason that its probe failed.
type Fact[T any] struct {
	State  FactState `cbor:"1,keyasint,omitempty"`
	Value  T         `cbor:"2,keyasint,omitempty"` // meaningful only in state FactValue
	Reason string    `cbor:"3,keyasint,omitempty"` // set only in state FactUnknown; at most MaxReason bytes
}

// MaxReason bounds the reason of an unknown fact, in bytes.
const MaxReason = 200

// Known is a fact with a value.
func Known[T any](v T) Fact[T] { return Fact[T]{State: FactValue, Value: v} }

// Absent is a fact that the machine does not have.
func Absent[T any]() Fact[T] { return Fact[T]{State: FactAbsent} }

// Unknown is a fact whose probe failed for reason, of which what does not print becomes spaces: a probe's error may have
// several lines, and a fact that Check refuses would keep the whole machine from registering.
func Unknown[T any](reason string) Fact[T] {
	reason = strings.Map(func(r rune) rune {
		if !prints(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(reason, "?"))
	return Fact[T]{Reason: clip(reason, MaxReason)}
}

// Get is the value and whether there is one.
func (f Fact[T]) Get() (T, bool) { return f.Value, f.State == FactValue }

// A Profile is the hardware and system profile that a device reports of itself.
type Profile struct {
	Model        Fact[string]   `cbor:"1,keyasint,omitempty"` // as the maker writes it: "NVIDIA Jetson Xavier NX Developer Kit"
	SoC          Fact[string]   `cbor:"2,keyasint,omitempty"` // vendor-family-part: "nvidia-jetson-xavier-nx"
	Arch         Fact[string]   `cbor:"3,keyasint,omitempty"` // as Go names it: amd64, arm64, arm, riscv64, …
	RAMBytes     Fact[uint64]   `cbor:"4,keyasint,omitempty"` // memory the kernel manages (MemTotal), bytes
	CPUCores     Fact[uint32]   `cbor:"5,keyasint,omitempty"` // logical processors that are online
	Accelerators Fact[[]string] `cbor:"6,keyasint,omitempty"` // sorted, each once: "google-edgetpu", "nvidia-gpu"; absent: none found; unknown: one probe failed, Value lists what the others found
	OS           Fact[string]   `cbor:"7,keyasint,omitempty"` // PRETTY_NAME of os-release
	Kernel       Fact[string]   `cbor:"8,keyasint,omitempty"` // release, as uname -r prints it
	Hints        Hints          `cbor:"9,keyasint,omitempty"`
}

// Hints are hardware ids. They help an operator to recognise a machine; they are never an identity and never a reason to
// refuse one.
type Hints struct {
	Serial    string   `cbor:"1,keyasint,omitempty"`
	MachineID string   `cbor:"2,keyasint,omitempty"`
	MACs      []string `cbor:"3,keyasint,omitempty"` // of physical interfaces, sorted, at most 16
}
