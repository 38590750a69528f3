package wire

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestCheckTag(t *testing.T) {
	for _, tc := range []struct {
		k, v string
		ok   bool
	}{
		{"line", "3", true},
		{"a", "", true},
		{"area/line.robot_1-b", "halle ü, 日本", true},
		{strings.Repeat("k", 63), strings.Repeat("v", 256), true},
		{"line", "emoji 🦾 of any year \U0001FAE9", true},
		{"", "v", false},
		{strings.Repeat("k", 64), "v", false},
		{"Line", "v", false},
		{"-line", "v", false},
		{"line/", "v", false},
		{"line\n", "v", false},
		{"lïne", "v", false},
		{"site", "berlin", false},
		{"line", strings.Repeat("v", 257), false},
		{"line", "a\nb", false},
		{"line", "a\x00b", false},
		{"line", "a\x1b[31mb", false},
		{"line", "a\u009bb", false},
		{"line", "\xff", false},
		{"line", "abc\u202egpj.exe", false},
		{"line", "zero\u200bwidth", false},
		{"line", "\ufeffmark", false},
		{"line", "sep\u2028", false},
		{"line", "tag \U000e0041", false},
		{"line", "\uffff", false},
	} {
		err := CheckTag(tc.k, tc.v)
		if (err == nil) != tc.ok || err != nil && !errors.Is(err, ErrTags) {
			t.Errorf("tag %q=%q: %v", tc.k, tc.v, err)
		}
	}
}

func TestCheckTags(t *testing.T) {
	tags := make(map[string]string)
	for i := range MaxTags {
		tags[fmt.Sprintf("k%d", i)] = "v"
	}
	if err := CheckTags(tags); err != nil {
		t.Errorf("%d tags: %v", len(tags), err)
	}
	tags["one-more"] = "v"
	if err := CheckTags(tags); !errors.Is(err, ErrTags) {
		t.Errorf("%d tags: %v", len(tags), err)
	}
	if err := CheckTags(nil); err != nil {
		t.Error(err)
	}
}

// The core applies registrations on every node, and what it says must be the same on each.
func TestErrorsNameTheSameThingEachTime(t *testing.T) {
	tags := map[string]string{"a": "\x00", "b": "\x00", "c": "\x00", "d": "\x00", "site": "x", "E": ""}
	bad := Fact[string]{State: FactValue, Value: "\x00"}
	p := Profile{Model: bad, SoC: bad, Arch: bad, OS: bad, Kernel: bad}
	tagErr, profileErr := CheckTags(tags).Error(), p.Check().Error()
	for range 50 {
		if got := CheckTags(tags).Error(); got != tagErr {
			t.Fatalf("%q, then %q", tagErr, got)
		}
		if got := p.Check().Error(); got != profileErr {
			t.Fatalf("%q, then %q", profileErr, got)
		}
	}
}

func TestProfileCheck(t *testing.T) {
	long := strings.Repeat("x", maxFact+1)
	many := make([]string, 17)
	good := Profile{
		Model: Known("NVIDIA Jetson Xavier NX Developer Kit"), SoC: Absent[string](), Arch: Known("arm64"), RAMBytes: Known[uint64](8 << 30),
		CPUCores: Unknown[uint32]("permission denied"), Accelerators: Known([]string{"google-edgetpu", "nvidia-gpu"}),
		Hints: Hints{Serial: "14226", MACs: make([]string, 16)},
	}
	if err := good.Check(); err != nil {
		t.Errorf("a good profile: %v", err)
	}
	if err := new(Profile).Check(); err != nil {
		t.Errorf("an empty profile: %v", err)
	}
	for name, spoil := range map[string]func(*Profile){
		"state":            func(p *Profile) { p.SoC.State = 3 },
		"ram state":        func(p *Profile) { p.RAMBytes.State = 200 },
		"cores reason":     func(p *Profile) { p.CPUCores.Reason = long },
		"model":            func(p *Profile) { p.Model.Value = long },
		"arch prints":      func(p *Profile) { p.Arch.Value = "\x07" },
		"os reason":        func(p *Profile) { p.OS.Reason = "a\nb" },
		"kernel":           func(p *Profile) { p.Kernel.Value = "\xff" },
		"accelerators":     func(p *Profile) { p.Accelerators.Value = many },
		"one accelerator":  func(p *Profile) { p.Accelerators.Value = []string{"ok", long} },
		"hardware address": func(p *Profile) { p.Hints.MACs = many },
		"serial":           func(p *Profile) { p.Hints.Serial = long },
		"machine id":       func(p *Profile) { p.Hints.MachineID = "\x00" },
	} {
		p := good
		spoil(&p)
		if err := p.Check(); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got %v, want ErrMalformed", name, err)
		}
	}
}

// Whatever a probe's error says, the fact must not keep the machine from registering.
func TestUnknownFactsAlwaysPass(t *testing.T) {
	for _, reason := range []string{
		"", "open /proc/device-tree/model: no such file", "two\nlines\tand a tab", "\x1b[31mred", strings.Repeat("ü", 300),
		"x" + strings.Repeat("日", 300), "\xff\xfe", strings.Repeat("\xff", 500),
	} {
		p := Profile{Model: Unknown[string](reason)}
		if err := p.Check(); err != nil {
			t.Errorf("%q: %v", reason, err)
		}
		if len(p.Model.Reason) > MaxReason {
			t.Errorf("reason of %d bytes", len(p.Model.Reason))
		}
		if _, ok := p.Model.Get(); ok {
			t.Error("an unknown fact has a value")
		}
	}
	if got := Unknown[string]("two\nlines").Reason; got != "two lines" {
		t.Errorf("reason became %q", got)
	}
	if v, ok := Known(7).Get(); v != 7 || !ok {
		t.Error("a known fact has no value")
	}
	if _, ok := Absent[int]().Get(); ok {
		t.Error("an absent fact has a value")
	}
}
