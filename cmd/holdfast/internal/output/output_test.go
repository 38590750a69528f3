package output

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

func TestClean(t *testing.T) {
	for _, tc := range []struct {
		in    string
		limit int
		want  string
	}{
		{"", 0, ""},
		{"plain é 中 ✓", 0, "plain é 中 ✓"},
		{"a\tb\r\n", 0, `a\tb\r\n`},
		{"\x1b[31m\x00\x7f", 0, `\x1b[31m\x00\x7f`},
		{"\u009b\u202e\u00a0\u2028\ufeff", 0, `\u009b\u202e\u00a0\u2028\ufeff`},
		{"\U000e0041", 0, `\U000e0041`},
		{"\xff\xc3(", 0, `\xff\xc3(`},
		{"�", 0, "�"},
		{`\n`, 0, `\\n`}, // not to be taken for a line feed
		{"'\"", 0, `'"`},
		{"abc", 3, "abc"},
		{"abcd", 3, "ab…"},
		{"ab\n", 3, "ab…"}, // never half an escape
		{"a\nb", 3, "a…"},  // nor one without room for the ellipsis
		{"\n\n", 2, "…"},   // nothing fits
		{"中中中中", 3, "中中…"}, // characters, not bytes
		{"abc", 1, "…"},
	} {
		if got := Clean(tc.in, tc.limit); got != tc.want {
			t.Errorf("Clean(%q, %d) = %q, want %q", tc.in, tc.limit, got, tc.want)
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add("a\x1b[0m\xff\u202e\\", 4)
	f.Fuzz(func(t *testing.T, s string, limit int) {
		got := Clean(s, limit)
		if strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) || !utf8.ValidString(got) {
			t.Errorf("Clean(%q) = %q shows more than printable characters", s, got)
		}
		if limit > 0 && utf8.RuneCountInString(got) > limit {
			t.Errorf("Clean(%q, %d) has %d characters", s, limit, utf8.RuneCountInString(got))
		}
	})
}

type sample struct {
	Text  string            `json:"some_text"`
	Empty string            `json:"empty,omitempty"`
	Null  *string           `json:"null_fact"`
	Int   uint64            `json:"int"`
	Float float64           `json:"float"`
	Bool  bool              `json:"bool"`
	List  []string          `json:"list"`
	Map   map[string]string `json:"map"`
	None  []int             `json:"none"`
}

// words are strings that readers of YAML have taken for something else.
var words = []string{
	"", "plain", "yes", "No", "on", "y", "null", "~", "true", "12", "1e3", "0x1F", "12:30:45", "1.0.0", "-", "- a", "a: b", "a #b", "*a", "&a",
	"!a", "{a}", "[a]", ".inf", ".nan", "=", "<<", "2026-05-01", "<a&b>", "a\nb", " a", "a ", "\t", "\x1b[31m", "\u202e", "\u0085", "\ufeff", "\U0001f600",
	"\U000e0041", "\x7f", `\n`, `"`, "'", "é", "�",
}

func TestEncodings(t *testing.T) {
	v := sample{Int: math.MaxUint64, Float: 1e21, List: words, Map: map[string]string{}, None: []int{}}
	for _, w := range words {
		v.Text += w
		v.Map[w] = w
	}
	want, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var j, y bytes.Buffer
	if err := errors.Join(JSON(&j, v, false), YAML(&y, v)); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]string{"JSON": j.String(), "YAML": y.String()} {
		if i := strings.IndexFunc(b, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("%s holds %q", name, b[i:i+4])
		}
	}
	if !strings.Contains(j.String(), `"<a&b>"`) {
		t.Error("JSON escapes what HTML needs, and nobody else")
	}
	var fromJSON sample
	if err := json.Unmarshal(j.Bytes(), &fromJSON); err != nil || !reflect.DeepEqual(fromJSON, v) {
		t.Errorf("JSON reads as %+v, %v", fromJSON, err)
	}
	var tree any
	if err := yaml.Unmarshal(y.Bytes(), &tree); err != nil {
		t.Fatalf("YAML does not parse: %v\n%s", err, y.String())
	}
	back, err := json.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	if !sameJSON(t, back, want) {
		t.Errorf("YAML reads as\n%s, want\n%s", back, want)
	}
}

func sameJSON(t *testing.T, a, b []byte) bool {
	t.Helper()
	var x, y any
	if err := errors.Join(json.Unmarshal(a, &x), json.Unmarshal(b, &y)); err != nil {
		t.Fatal(err)
	}
	return reflect.DeepEqual(x, y)
}

func TestEscapes(t *testing.T) {
	for r, want := range map[rune][2]string{
		0x1b: {`\u001b`, `\u001B`}, 0x202e: {`\u202e`, `\u202E`}, 0xe0041: {`\udb40\udc41`, `\U000E0041`},
	} {
		if got := [2]string{escapeJSON(r), escapeYAML(r)}; got != want {
			t.Errorf("%U is written %q, want %q", r, got, want)
		}
	}
}

func TestYAMLLooks(t *testing.T) {
	var b bytes.Buffer
	s := sample{Text: "plain-word_1./x", Float: 2.5, List: []string{"a", "yes"}, Map: map[string]string{"k": "12"}, None: []int{}}
	if err := YAML(&b, s); err != nil {
		t.Fatal(err)
	}
	want := `some_text: plain-word_1./x
null_fact: null
int: 0
float: 2.5
bool: false
list:
  - a
  - "yes"
map:
  k: "12"
none: []
`
	if b.String() != want {
		t.Errorf("YAML is\n%s, want\n%s", b.String(), want)
	}
}

func FuzzYAML(f *testing.F) {
	for _, w := range words {
		f.Add(w)
	}
	f.Fuzz(func(t *testing.T, s string) {
		s = strings.ToValidUTF8(s, "")
		var b bytes.Buffer
		if err := YAML(&b, map[string]string{s: s}); err != nil {
			t.Fatal(err)
		}
		var back map[string]string
		if err := yaml.Unmarshal(b.Bytes(), &back); err != nil || back[s] != s || len(back) != 1 {
			t.Errorf("%q becomes %q and reads as %q, %v", s, b.String(), back, err)
		}
	})
}

func TestUnencodable(t *testing.T) {
	if err := JSON(&bytes.Buffer{}, math.NaN(), true); err == nil {
		t.Error("NaN became JSON")
	}
	if err := YAML(&bytes.Buffer{}, math.NaN()); err == nil {
		t.Error("NaN became YAML")
	}
}

func TestFormat(t *testing.T) {
	for _, name := range Formats() {
		var f Format
		if err := f.Set(name); err != nil || f.String() != name {
			t.Errorf("Set(%q): %q, %v", name, f, err)
		}
	}
	f := Table
	if err := f.Set("xml"); !errors.Is(err, ErrFormat) || f != Table {
		t.Errorf("Set(xml): %q, %v", f, err)
	}
	f = "xml"
	if err := f.Object(&bytes.Buffer{}, 1, nil); !errors.Is(err, ErrFormat) {
		t.Errorf("Object in xml: %v", err)
	}
}

func TestGrid(t *testing.T) {
	g := NewGrid("A", "LONGER", "C")
	g.Row(false, "one", "", "x\ny")
	g.Row(true, "three", strings.Repeat("w", 100), "")
	var plain, colour bytes.Buffer
	if err := errors.Join(g.Write(&plain, false), g.Write(&colour, true)); err != nil {
		t.Fatal(err)
	}
	cut := strings.Repeat("w", maxCell-1) + "…"
	pad := strings.Repeat(" ", maxCell)
	lines := []string{"A      LONGER" + pad[6:] + "  C", "one    -" + pad[1:] + `  x\ny`, "three  " + cut + "  -"}
	if want := strings.Join(lines, "\n") + "\n"; plain.String() != want {
		t.Errorf("table is\n%s, want\n%s", plain.String(), want)
	}
	want := "\x1b[1m" + lines[0] + "\x1b[0m\n" + lines[1] + "\n\x1b[33m" + lines[2] + "\x1b[0m\n"
	if colour.String() != want {
		t.Errorf("in colour it is\n%q, want\n%q", colour.String(), want)
	}
}

func TestSheet(t *testing.T) {
	s := &Sheet{}
	s.Fact("Name", "x")
	s.Fact("Nothing", "")
	s.Heading("Group", "")
	s.Sub("a\nb", "c\td")
	var b bytes.Buffer
	if err := s.Write(&b); err != nil {
		t.Fatal(err)
	}
	want := "Name:     x\nNothing:  -\nGroup:\n  a\\nb:   c\\td\n"
	if b.String() != want {
		t.Errorf("sheet is\n%q, want\n%q", b.String(), want)
	}
}

func TestWords(t *testing.T) {
	const day = 24 * time.Hour
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 999 * time.Millisecond: "0s", 59 * time.Second: "59s", time.Minute: "1m",
		4*time.Minute + 12*time.Second: "4m12s", time.Hour: "1h", 3*time.Hour + 5*time.Minute + 7*time.Second: "3h5m",
		day: "1d", 5*day + 3*time.Hour: "5d3h", 400 * day: "400d", math.MaxInt64: "106751d23h",
	} {
		if got := Span(d); got != want {
			t.Errorf("Span(%d) = %q, want %q", d, got, want)
		}
	}
	now := time.Date(2026, 5, 1, 10, 0, 0, 0, time.UTC)
	at := func(d time.Duration) *time.Time { v := now.Add(d); return &v }
	for want, v := range map[string]*time.Time{
		"never": nil, "3s ago": at(-3 * time.Second), "0s ago": at(skew), "in 4m": at(4 * time.Minute), "106751d23h ago": new(time.Unix(-1<<40, 0)),
	} {
		if got := Ago(now, v); got != want {
			t.Errorf("Ago(%v) = %q, want %q", v, got, want)
		}
	}
	if got := Both(now, at(-time.Second)); got != "2026-05-01T09:59:59Z (1s ago)" {
		t.Errorf("Both = %q", got)
	}
	if got := Both(now, nil) + Stamp(nil) + Stamp(&time.Time{}) + Ago(now, &time.Time{}); got != "nevernever" {
		t.Errorf("no time shows as %q", got)
	}
	for v, want := range map[float64]string{0: "0s", 2: "2s", 2.5: "2.5s", 60: "1m", 90: "1m30s", 3600: "1h", 3660: "1h1m", 0.25: "250ms"} {
		if got := Seconds(v); got != want {
			t.Errorf("Seconds(%v) = %q, want %q", v, got, want)
		}
	}
	for v, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 8165347328: "7.6 GiB", math.MaxUint64: "16 EiB"} {
		if got := Bytes(v); got != want {
			t.Errorf("Bytes(%d) = %q, want %q", v, got, want)
		}
	}
	if got := Pairs(map[string]string{"b": "2", "a": "1"}); got != "a=1 b=2" {
		t.Errorf("Pairs = %q", got)
	}
}
