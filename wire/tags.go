package wire

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"unicode"
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
// The error names the key.
func CheckTags(tags map[string]string) error {
	if len(tags) > MaxTags {
		return fmt.Errorf("%d tags, limit %d: %w", len(tags), MaxTags, ErrTags)
	}
	for k, v := range tags {
		if err := CheckTag(k, v); err != nil {
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
	return utf8.ValidString(s) && !slices.ContainsFunc([]rune(s), func(r rune) bool { return !unicode.IsPrint(r) })
}

// Check holds a profile against the limits of what a device may report: states that exist, strings that print and are not
// too long. The error is ErrMalformed and names the fact.
func (p *Profile) Check() error {
	text := map[string]Fact[string]{"model": p.Model, "soc": p.SoC, "arch": p.Arch, "os": p.OS, "kernel": p.Kernel}
	for name, f := range text {
		if err := checkFact(name, f.State, f.Reason, f.Value); err != nil {
			return err
		}
	}
	if len(p.Accelerators.Value) > 16 {
		return fmt.Errorf("profile: %d accelerators: %w", len(p.Accelerators.Value), ErrMalformed)
	}
	return errors.Join(
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
