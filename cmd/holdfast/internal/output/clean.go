// Package output writes what the CLI shows: tables and sheets for people, JSON and YAML for programs.
//
// Much of what is shown was said by devices, and the reader may be a terminal that obeys control characters. Whatever the
// format, nothing that is not printable leaves this package unescaped.
package output

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

const ellipsis = "…"

// Clean makes s safe and unambiguous on one line of a terminal: every character that is not printable, every byte that is
// not UTF-8, and the backslash are escaped as in Go. Of a result longer than limit characters only the beginning is kept,
// cut between escapes, with an ellipsis; limit 0: none.
func Clean(s string, limit int) string {
	var b strings.Builder
	width, kept := 0, 0 // characters written, and bytes of them that leave room for the ellipsis
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		piece := s[i : i+n]
		if r == utf8.RuneError && n == 1 {
			piece = fmt.Sprintf(`\x%02x`, s[i])
		} else if !printable(r) || r == '\\' {
			q := strconv.QuoteRuneToASCII(r)
			piece = q[1 : len(q)-1]
		}
		i += n
		width += utf8.RuneCountInString(piece)
		if limit > 0 && width > limit {
			return b.String()[:kept] + ellipsis
		}
		b.WriteString(piece)
		if width < limit {
			kept = b.Len()
		}
	}
	return b.String()
}

// printable is what no terminal obeys and every reader sees: letters, marks, numbers, punctuation, symbols and the plain
// space. Controls, formatting characters (such as those that turn the writing direction) and odd spaces are not.
func printable(r rune) bool { return unicode.IsPrint(r) }

// escapeRunes rewrites every unprintable character of text but the line feed by esc. The text is valid UTF-8 in which such
// characters stand inside quotes alone.
func escapeRunes(text []byte, esc func(rune) string) []byte {
	out := make([]byte, 0, len(text))
	for _, r := range string(text) {
		if r == '\n' || printable(r) {
			out = utf8.AppendRune(out, r)
		} else {
			out = append(out, esc(r)...)
		}
	}
	return out
}

// escapeJSON writes a character as JSON does, with surrogates where it needs them.
func escapeJSON(r rune) string {
	if hi, lo := utf16.EncodeRune(r); hi != unicode.ReplacementChar {
		return fmt.Sprintf(`\u%04x\u%04x`, hi, lo)
	}
	return fmt.Sprintf(`\u%04x`, r)
}

// escapeYAML writes a character as a double-quoted YAML scalar does.
func escapeYAML(r rune) string {
	if r > 0xffff {
		return fmt.Sprintf(`\U%08X`, r)
	}
	return fmt.Sprintf(`\u%04X`, r)
}
