package wire

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// Limits of tags.
const (
	MaxTags     = 64
	maxTagValue = 256
)

// TagSite is the reserved tag that the core alone sets.
const TagSite = "site"

// ErrTags is the sentinel of tags that break a rule.
var ErrTags = errors.New("bad tags")

var tagKeyRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9._/-]{0,61}[a-z0-9])?$`)

// CheckTags holds tags against the rules: at most MaxTags; a key is 1 to 63 of a-z, 0-9, '.', '_', '/' and '-', starting and
// ending with a letter or digit; a value is at most 256 bytes of printable UTF-8; the reserved tag "site" is not among them.
// The error names the first bad key in alphabetical order: the same tags give the same error on every node.
func CheckTags(tags map[string]string) error {
	if len(tags) > MaxTags {
		return fmt.Errorf("%d tags, limit %d: %w", len(tags), MaxTags, ErrTags)
	}
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		if err := CheckTag(k, tags[k]); err != nil {
			return err
		}
	}
	return nil
}

// CheckTag is CheckTags for one tag.
func CheckTag(k, v string) error {
	switch {
	case !tagKeyRE.MatchString(k):
		return fmt.Errorf("tag %.80q: a key is 1 to 63 of a-z, 0-9, '.', '_', '/' and '-', starting and ending with a letter or digit: %w", k, ErrTags)
	case k == TagSite:
		return fmt.Errorf("tag %q is reserved: the core sets it: %w", k, ErrTags)
	case len(v) > maxTagValue:
		return fmt.Errorf("tag %q: value of %d bytes, limit %d: %w", k, len(v), maxTagValue, ErrTags)
	case !printable(v):
		return fmt.Errorf("tag %q: value has characters that do not print: %w", k, ErrTags)
	}
	return nil
}

// printable tells whether s is valid UTF-8 without control characters, so that it can be shown anywhere.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !prints(r) })
}

// prints tells whether r neither controls a terminal nor hides or reorders text. The set is fixed here and not taken from
// package unicode, whose tables grow with Go releases: nodes of two builds must not disagree about the same registration.
func prints(r rune) bool {
	switch {
	case r < 0x20, 0x7f <= r && r < 0xa0: // C0, DEL, C1
		return false
	case r == 0x00ad, r == 0x061c, 0x200b <= r && r <= 0x200f: // soft hyphen, Arabic mark, zero width and marks
		return false
	case 0x2028 <= r && r <= 0x202e, 0x2060 <= r && r <= 0x206f: // separators, embeddings, isolates, invisible operators
		return false
	case r == 0xfeff, 0xfff9 <= r && r <= 0xfffb: // byte order mark, annotations
		return false
	case 0xe0000 <= r && r <= 0xe0fff, r&0xfffe == 0xfffe: // tags and selectors, no characters
		return false
	}
	return true
}

// Check holds a profile against the limits of what a device may report: states that exist, strings that print and are not
// too long. The error is ErrMalformed and names the facts, in a fixed order.
func (p *Profile) Check() error {
	if len(p.Accelerators.Value) > 16 {
		return fmt.Errorf("profile: %d accelerators: %w", len(p.Accelerators.Value), ErrMalformed)
	}
	return errors.Join(
		checkFact("model", p.Model.State, p.Model.Reason, p.Model.Value),
		checkFact("soc", p.SoC.State, p.SoC.Reason, p.SoC.Value),
		checkFact("arch", p.Arch.State, p.Arch.Reason, p.Arch.Value),
		checkFact("os", p.OS.State, p.OS.Reason, p.OS.Value),
		checkFact("kernel", p.Kernel.State, p.Kernel.Reason, p.Kernel.Value),
		checkFact("accelerators", p.Accelerators.State, p.Accelerators.Reason, p.Accelerators.Value...),
		checkFact("ram_bytes", p.RAMBytes.State, p.RAMBytes.Reason),
		checkFact("cpu_cores", p.CPUCores.State, p.CPUCores.Reason),
		checkHints(&p.Hints),
	)
}

func checkFact(name string, s FactState, reason string, values ...string) error {
	if s > FactValue {
		return fmt.Errorf("profile: %s has state %d: %w", name, s, ErrMalformed)
	}
	for _, v := range slices.Concat(values, []string{reason}) {
		if len(v) > maxFact || !printable(v) {
			return fmt.Errorf("profile: %s is over %d bytes or does not print: %w", name, maxFact, ErrMalformed)
		}
	}
	return nil
}

const maxFact = 256

func checkHints(h *Hints) error {
	if len(h.MACs) > 16 {
		return fmt.Errorf("profile: %d hardware addresses: %w", len(h.MACs), ErrMalformed)
	}
	return checkFact("hints", FactValue, h.Serial, append([]string{h.MachineID}, h.MACs...)...)
}
