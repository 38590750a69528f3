package hardware

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// maxText bounds a text fact or hint, in bytes. SMBIOS and device tree names are shorter by far.
	maxText = 256
	// maxStrings bounds a device tree string list; the longest root compatible in Linux has fewer than ten entries.
	maxStrings = 32
	// maxCPU is the largest processor number believed. Linux is built for 8,192 at most.
	maxCPU = 1 << 16
)

// clean makes one printable line of at most maxText bytes out of what firmware left in a field: every character that
// is not graphic, NUL among them, becomes a space, bytes that are not UTF-8 become U+FFFD, and the ends are trimmed.
func clean(s string) string {
	s = clip(s, 4*maxText) // the rest cannot survive the second clip unless it follows a kilobyte of blanks
	s = strings.Map(func(r rune) rune {
		if unicode.IsGraphic(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(s, "\uFFFD"))
	return strings.TrimSpace(clip(strings.TrimSpace(s), maxText))
}

// clip cuts s to at most n bytes, at the start of a character.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	n = max(n, 0)
	for back := 0; back < utf8.UTFMax && n > 0 && !utf8.RuneStart(s[n]); back++ {
		n--
	}
	return s[:n]
}

// splitStrings returns the strings of a device tree property, each NUL-terminated, clean and without empty ones.
func splitStrings(data []byte) []string {
	var list []string
	for part := range bytes.SplitSeq(data, []byte{0}) {
		if len(list) == maxStrings {
			break
		}
		if s := clean(string(part)); s != "" {
			list = append(list, s)
		}
	}
	return list
}

// parseCPUList counts the processors in a list as the kernel prints it: "0-3,5,7-8" and a newline, ascending.
func parseCPUList(s string) (uint32, error) {
	var n uint32
	next := uint64(0) // the lowest number that may follow
	for item := range strings.SplitSeq(strings.TrimSpace(s), ",") {
		low, high, isRange := strings.Cut(item, "-")
		if !isRange {
			high = low
		}
		a, errA := strconv.ParseUint(low, 10, 32)
		b, errB := strconv.ParseUint(high, 10, 32)
		if errA != nil || errB != nil || a < next || b < a || b > maxCPU {
			return 0, fmt.Errorf("%w: processor list %q", errMalformed, clip(s, 64))
		}
		n += uint32(b - a + 1)
		next = b + 1
	}
	return n, nil
}

// parseMemTotal returns the MemTotal of /proc/meminfo in bytes. The kernel's "kB" are units of 1,024.
func parseMemTotal(data []byte) (uint64, error) {
	for line := range strings.Lines(string(data)) {
		rest, ok := strings.CutPrefix(line, "MemTotal:")
		if !ok {
			continue
		}
		fields := strings.Fields(rest)
		if len(fields) != 2 || fields[1] != "kB" {
			return 0, fmt.Errorf("%w: %q is not a size in kB", errMalformed, clip(clean(line), 64))
		}
		n, err := strconv.ParseUint(fields[0], 10, 64)
		if err != nil || n == 0 || n > math.MaxUint64>>10 {
			return 0, fmt.Errorf("%w: %q is not a size in kB", errMalformed, clip(clean(line), 64))
		}
		return n << 10, nil
	}
	return 0, fmt.Errorf("%w: no MemTotal line", errMalformed)
}

// prettyName is PRETTY_NAME of an os-release file, else NAME with VERSION, else empty.
func prettyName(data []byte) string {
	if name := osReleaseValue(data, "PRETTY_NAME"); name != "" {
		return name
	}
	name := osReleaseValue(data, "NAME")
	if name == "" {
		return ""
	}
	return clip(strings.TrimSpace(name+" "+osReleaseValue(data, "VERSION")), maxText)
}

// osReleaseValue is the clean value of a variable, empty if it is not assigned. As in the shell the last assignment
// counts. An assignment that os-release(5) does not allow, such as an open quote, is passed over.
func osReleaseValue(data []byte, key string) string {
	var value string
	for line := range strings.Lines(string(data)) {
		name, raw, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || name != key {
			continue
		}
		if v, ok := unquote(raw); ok {
			value = clean(v)
		}
	}
	return value
}

// unquote takes the quoting off a value as the shell does, within what os-release(5) allows: one pair of quotes or none,
// and no expansion. In single quotes nothing is special; in double quotes a backslash is so before $, ", \ and `;
// without quotes before anything. Blanks in a value without quotes, which the shell would not have, are kept.
func unquote(raw string) (string, bool) {
	if rest, ok := strings.CutPrefix(raw, "'"); ok {
		v, _, closed := strings.Cut(rest, "'")
		return v, closed
	}
	rest, quoted := strings.CutPrefix(raw, `"`)
	var v strings.Builder
	for i := 0; i < len(rest); i++ {
		c := rest[i]
		switch {
		case c == '\\' && i+1 < len(rest) && (!quoted || strings.IndexByte("$\"\\`", rest[i+1]) >= 0):
			i++
			c = rest[i]
		case c == '"' && quoted:
			return v.String(), true
		}
		v.WriteByte(c)
	}
	return v.String(), !quoted
}
