package hardware

import (
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// assignments are lines of os-release with the value that they give to PRETTY_NAME. plain tells that a shell, which
// os-release(5) lets anyone read the file with, must come to the same; elsewhere the shell would stop or run a command.
var assignments = []struct {
	line, want string
	plain      bool
}{
	{`PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"`, "Debian GNU/Linux 12 (bookworm)", true},
	{`PRETTY_NAME='Void Linux'`, "Void Linux", true},
	{`PRETTY_NAME=Fedora`, "Fedora", true},
	{`PRETTY_NAME=Fedora\ 39`, "Fedora 39", true},
	{`PRETTY_NAME="Fictional \$ OS: \` + "`" + ` \"big\" \\ edition"`, "Fictional $ OS: ` \"big\" \\ edition", true},
	{`PRETTY_NAME="kept \n backslash"`, `kept \n backslash`, true},
	{`PRETTY_NAME='no \$ escapes'`, `no \$ escapes`, true},
	{`PRETTY_NAME="it's"`, "it's", true},
	{`PRETTY_NAME=""`, "", true},
	{`PRETTY_NAME=`, "", true},
	{`  PRETTY_NAME="indented"`, "indented", true},
	{"PRETTY_NAME=\"first\"\nPRETTY_NAME=\"last\"", "last", true},
	{"# PRETTY_NAME=\"comment\"\n\nPRETTY_NAME=\"set\"", "set", true},
	{"PRETTY_NAME=\"crlf\"\r", "crlf", false},
	{`PRETTY_NAME=Buildroot 2021.02`, "Buildroot 2021.02", false}, // Buildroot wrote it so once
	{`PRETTY_NAME="never closed`, "", false},
	{`PRETTY_NAME='never closed`, "", false},
	{"PRETTY_NAME=\"good\"\nPRETTY_NAME=\"never closed", "good", false},
	{"XPRETTY_NAME=\"other\"", "", false},
	{"PRETTY_NAME=\"tab\tand\x01control\x7f\"", "tab and control", false},
	{"PRETTY_NAME=\"bad \xff utf-8\"", "bad \uFFFD utf-8", false},
	{`PRETTY_NAME=ends\`, `ends\`, false},
}

func TestOSReleaseValue(t *testing.T) {
	for _, a := range assignments {
		if got := osReleaseValue([]byte(a.line+"\n"), "PRETTY_NAME"); got != a.want {
			t.Errorf("%q gives %q, want %q", a.line, got, a.want)
		}
	}
}

func TestPrettyName(t *testing.T) {
	for _, c := range []struct{ data, want string }{
		{"NAME=Alpine\nPRETTY_NAME=\"Alpine Linux v3.20\"\n", "Alpine Linux v3.20"},
		{"NAME=\"Some OS\"\nVERSION=\"3 (three)\"\n", "Some OS 3 (three)"},
		{"NAME=\"Some OS\"\n", "Some OS"},
		{"VERSION=3\n", ""},
		{"", ""},
	} {
		if got := prettyName([]byte(c.data)); got != c.want {
			t.Errorf("%q gives %q, want %q", c.data, got, c.want)
		}
	}
}

func TestParseCPUList(t *testing.T) {
	for _, c := range []struct {
		list string
		want uint32 // 0: malformed
	}{
		{"0\n", 1},
		{"0-3\n", 4},
		{"0-3,5,7-8\n", 7},
		{"1,3", 2},
		{"0-65536", 65537},
		{"0-65537", 0},
		{"", 0},
		{"\n", 0},
		{",", 0},
		{"0-", 0},
		{"-3", 0},
		{"3-1", 0},
		{"0-3,3", 0},
		{"5,1", 0},
		{"0-7:2/4", 0},
		{"0x1", 0},
		{"0-4294967295", 0},
		{"4294967296", 0},
	} {
		got, err := parseCPUList(c.list)
		if got != c.want || (err == nil) != (c.want > 0) {
			t.Errorf("%q gives %d, %v; want %d", c.list, got, err, c.want)
		}
		if err != nil && !errors.Is(err, errMalformed) {
			t.Errorf("%q gives the error %v, want errMalformed", c.list, err)
		}
	}
}

func TestParseMemTotal(t *testing.T) {
	for _, c := range []struct {
		data string
		want uint64 // 0: malformed
	}{
		{"MemTotal:       24684084 kB\nMemFree: 1 kB\n", 24684084 << 10},
		{"Other: 1 kB\nMemTotal: 1 kB", 1024},
		{"MemTotal: 18014398509481983 kB\n", math.MaxUint64 &^ 1023},
		{"MemTotal: 18014398509481984 kB\n", 0},
		{"MemTotal: 0 kB\n", 0},
		{"MemTotal: -1 kB\n", 0},
		{"MemTotal: 12 MB\n", 0},
		{"MemTotal: 12\n", 0},
		{"MemTotal:\n", 0},
		{"MemFree: 12 kB\n", 0},
		{"", 0},
	} {
		got, err := parseMemTotal([]byte(c.data))
		if got != c.want || (err == nil) != (c.want > 0) {
			t.Errorf("%q gives %d, %v; want %d", c.data, got, err, c.want)
		}
		if err != nil && !errors.Is(err, errMalformed) {
			t.Errorf("%q gives the error %v, want errMalformed", c.data, err)
		}
	}
}

func TestCountProcessors(t *testing.T) {
	for _, c := range []struct {
		data string
		want uint32
	}{
		{"processor\t: 0\nflags: a\n\nprocessor\t: 1\n", 2},
		{"Processor\t: ARMv7 Processor rev 2 (v7l)\nprocessor\t: 0\n", 1},
		{"vendor_id : IBM/S390\nprocessor 0: version = FF\nprocessor 1: version = FF\n", 2},
		{"flags\t: " + strings.Repeat("x", 8192-len("flags\t: ")) + "processor : 9\nprocessor\t: 0", 1},
		{"processors : 3\n", 0},
		{"", 0},
	} {
		if got, err := countProcessors(strings.NewReader(c.data)); got != c.want || err != nil {
			t.Errorf("%.60q gives %d, %v; want %d", c.data, got, err, c.want)
		}
	}
}

func TestSplitStrings(t *testing.T) {
	got := splitStrings([]byte("a,b\x00\x00 c\x01d \x00last"))
	if want := []string{"a,b", "c d", "last"}; !slices.Equal(got, want) {
		t.Errorf("strings %q, want %q", got, want)
	}
	if got := splitStrings([]byte(strings.Repeat("x\x00", 1000))); len(got) != maxStrings {
		t.Errorf("%d strings, want %d", len(got), maxStrings)
	}
}

func TestClean(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"plain\n", "plain"},
		{"NUL ended\x00", "NUL ended"},
		{"\x1b[31mred", "[31mred"},
		{"right\u202eleft", "right left"},
		{strings.Repeat("a", 300), strings.Repeat("a", maxText)},
		{strings.Repeat("a", 255) + "ä", strings.Repeat("a", 255)},
		{strings.Repeat("\xff", 2000), strings.Repeat("\uFFFD", 1)},
		{" \t\n", ""},
	} {
		if got := clean(c.in); got != c.want {
			t.Errorf("%.40q becomes %.40q, want %.40q", c.in, got, c.want)
		}
	}
}

func TestPlaceholder(t *testing.T) {
	for _, s := range []string{
		"", "To Be Filled By O.E.M.", "To be filled by O.E.M.", "Default string", "System Product Name", "Unknown Product",
		"Not Specified", "None", "0123456789", "0000000000000000", "xxxxxxx", "........", "*", "INVALID",
	} {
		if !placeholder(s) {
			t.Errorf("%q is not taken for a placeholder", s)
		}
	}
	for _, s := range []string{"PowerEdge R740", "X11SSH-F", "10000000abcdef01", "NUC", "Q370"} {
		if placeholder(s) {
			t.Errorf("%q is taken for a placeholder", s)
		}
	}
}

// dumbCPUList counts the processors in a list by writing each one down.
func dumbCPUList(s string) int {
	all := map[int]bool{}
	for item := range strings.SplitSeq(strings.TrimSpace(s), ",") {
		ends := strings.SplitN(item, "-", 2)
		low, err := strconv.Atoi(ends[0])
		high, err2 := strconv.Atoi(ends[len(ends)-1])
		if err != nil || err2 != nil {
			return -1
		}
		for i := low; i <= high; i++ {
			all[i] = true
		}
	}
	return len(all)
}

func FuzzParsers(f *testing.F) {
	for _, a := range assignments {
		f.Add([]byte(a.line))
	}
	for _, s := range []string{
		"0-3,5,7-8\n", "MemTotal: 24684084 kB\n", "processor\t: 0\n", "nvidia,p3509-0000+p3668-0001\x00nvidia,tegra194\x00",
		"linux,dummy-virt\x00", "fsl,imx8mq-phanbell\x00fsl,imx8mq\x00", "NAME=a\nVERSION=b\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if n, err := parseCPUList(string(data)); err == nil && (n == 0 || int(n) != dumbCPUList(string(data))) {
			t.Errorf("list %q has %d processors, not %d", data, dumbCPUList(string(data)), n)
		}
		if n, err := parseMemTotal(data); err == nil && (n == 0 || n%1024 != 0) {
			t.Errorf("%q has %d bytes of memory", data, n)
		}
		if n, err := countProcessors(strings.NewReader(string(data))); err != nil || int(n) > strings.Count(string(data), "processor") {
			t.Errorf("%q has %d processors, error %v", data, n, err)
		}
		list := splitStrings(data)
		if len(list) > maxStrings {
			t.Errorf("%d strings", len(list))
		}
		for _, s := range append(list, prettyName(data), clean(string(data)), socName(list)) {
			wantPrintable(t, s)
		}
		if name := socName(list); strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789._-") != "" {
			t.Errorf("SoC name %q", name)
		}
		for _, n := range []int{-1, 0, 1, 5} {
			if s := clip(string(data), n); len(s) > max(n, 0) || !strings.HasPrefix(string(data), s) {
				t.Errorf("%q clipped to %d is %q", data, n, s)
			}
		}
		if placeholder(string(data)) && slices.Contains([]string{"PowerEdge R740", "X570"}, string(data)) {
			t.Errorf("%q is taken for a placeholder", data)
		}
		if mac := ethernetAddress(string(data)); mac != "" && len(mac) != len("00:00:00:00:00:00") {
			t.Errorf("%q gives the address %q", data, mac)
		}
	})
}

// wantPrintable checks what every text in a profile has to be.
func wantPrintable(t *testing.T, s string) {
	t.Helper()
	if len(s) > maxText || !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsGraphic(r) }) || strings.TrimSpace(s) != s {
		t.Errorf("text %q is not one clean line", s)
	}
}
