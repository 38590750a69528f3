package wire

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
)

// section is the text of docs/protocol.md between a heading and the next.
func section(t *testing.T, doc, heading string) string {
	t.Helper()
	_, rest, ok := strings.Cut(doc, "\n### "+heading+"\n")
	if !ok {
		t.Errorf("docs/protocol.md has no section %s", heading)
	}
	text, _, _ := strings.Cut(rest, "\n#")
	return text
}

// The document is what another implementation would be written from: it must not fall behind.
func TestProtocolDocument(t *testing.T) {
	b, err := os.ReadFile("../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(b)
	for typ, d := range types {
		head := fmt.Sprintf("\n| %d | `%s` | ", typ, d.name)
		_, rest, ok := strings.Cut(doc, head)
		row, _, _ := strings.Cut(rest, "\n")
		if !ok || !strings.HasSuffix(row, fmt.Sprintf("| %d |", d.limit)) {
			t.Errorf("the table of types lacks %v with number %d and limit %d", typ, typ, d.limit)
		}
		documented(t, section(t, doc, "`"+d.name+"`"), reflect.TypeOf(samples()[typ]).Elem())
	}
	for name, part := range map[string]any{
		"result": SubmitResult{}, "online": DeviceOnline{}, "offline": DeviceOffline{}, "interval": DeviceInterval{}, "span": Span{}, "backlog": Backlog{},
		"kept": Kept{}, "site key": SiteKey{}, "content limit": ContentLimit{}, "spool point": SpoolPoint{}, "spool ends": SpoolEnds{}, "gossip meta": GossipMeta{}, "receipt": DeviceReceipt{},
	} {
		documented(t, section(t, doc, name), reflect.TypeOf(part))
	}
	for n, name := range codeNames {
		if !strings.Contains(doc, fmt.Sprintf("\n| %d | `%s` | ", n, name)) {
			t.Errorf("the table of codes lacks %d, %s", n, name)
		}
	}
	for _, s := range []string{ALPNAgent, ALPNEnroll, ALPNUplink, ALPNSite, fmt.Sprintf("\n| %d | 20", Capability)} {
		if !strings.Contains(doc, s) {
			t.Errorf("docs/protocol.md lacks %q", s)
		}
	}
}

// documented holds a table of fields against a message: each key with its field, and no more.
func documented(t *testing.T, table string, m reflect.Type) {
	t.Helper()
	for f := range m.Fields() {
		key, _, _ := strings.Cut(f.Tag.Get("cbor"), ",")
		_, rest, ok := strings.Cut(table, fmt.Sprintf("\n| %s | `%s` | ", key, f.Name))
		row, _, _ := strings.Cut(rest, "\n")
		if !ok {
			t.Errorf("%v: field %s with key %s is not in its table", m, f.Name, key)
		}
		if strings.HasSuffix(f.Tag.Get("cbor"), ",omitempty") != strings.Contains(row, "optional |") {
			t.Errorf("%v: the document and the code differ in whether %s is optional", m, f.Name)
		}
	}
	if rows := strings.Count(table, "\n| ") - 1; rows != m.NumField() {
		t.Errorf("%v: %d rows for %d fields", m, rows, m.NumField())
	}
}
