package artifact

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
)

// The document is what another implementation would be written from: each key of the manifest is in its table, and no more.
func TestFormatDocument(t *testing.T) {
	b, err := os.ReadFile("../../docs/artifact-format.md")
	if err != nil {
		t.Fatal(err)
	}
	for heading, part := range map[string]any{
		"## Manifest": Manifest{}, "### Fits": Compatibility{}, "### Check": Check{}, "### Entry": Entry{}, "### Patch": Patch{},
	} {
		_, rest, ok := strings.Cut(string(b), "\n"+heading+"\n")
		table, _, _ := strings.Cut(rest, "\n#")
		if !ok {
			t.Errorf("no section %s", heading)
			continue
		}
		m := reflect.TypeOf(part)
		for f := range m.Fields() {
			key, _, _ := strings.Cut(f.Tag.Get("cbor"), ",")
			_, rest, ok := strings.Cut(table, fmt.Sprintf("\n| %s | %s | ", key, f.Name))
			row, _, _ := strings.Cut(rest, "|")
			if !ok || strings.HasSuffix(f.Tag.Get("cbor"), ",omitempty") != strings.Contains(row, "optional") {
				t.Errorf("%s: field %s with key %s is not in its table, or differs in whether it is optional", heading, f.Name, key)
			}
		}
		if rows := strings.Count(table, "\n| ") - 1; rows != m.NumField() {
			t.Errorf("%s: %d rows for %d fields", heading, rows, m.NumField())
		}
	}
	for _, n := range []int{MaxEntries, MaxStored - 1, MaxPatches} {
		if !strings.Contains(string(b), fmt.Sprint(n)) {
			t.Errorf("the document does not have the bound %d", n)
		}
	}
}
