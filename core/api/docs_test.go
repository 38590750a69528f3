package api

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-edge/holdfast/core/content/pack"
	"github.com/holdfast-edge/holdfast/core/registry"
)

const docsFile = "../../docs/api.md"

var rewrite = flag.Bool("rewrite", false, "write the generated parts of docs/api.md anew")

// routesTable is the table of routes and roles as docs/api.md shows it.
func routesTable(table map[string]*route) string {
	var b strings.Builder
	b.WriteString("| route | operation | viewer | operator | admin | about |\n|---|---|---|---|---|---|\n")
	all := slices.SortedFunc(maps.Values(table), func(x, y *route) int {
		return cmp.Or(strings.Compare(x.Path, y.Path), strings.Compare(x.Method, y.Method))
	})
	for _, rt := range all {
		fmt.Fprintf(&b, "| `%s` | %s |", rt.pattern(), rt.OperationID)
		for _, role := range []registry.Role{registry.RoleViewer, registry.RoleOperator, registry.RoleAdmin} {
			mark := " |"
			if rt.access.public || rt.access.permitRole(&registry.Operator{Role: role}, start) == nil {
				mark = " yes |"
			}
			b.WriteString(mark)
		}
		fmt.Fprintf(&b, " %s |\n", rt.access.on.name)
	}
	return b.String()
}

// limitsTable is the table of limits as docs/api.md shows it.
func limitsTable() string {
	l := defaultLimits
	var b strings.Builder
	b.WriteString("| what | limit | beyond it |\n|---|---|---|\n")
	for _, row := range [][3]string{
		{"failed authentications of one source", fmt.Sprintf("%d at once, then one in %.0f s", l.failuresBurst, 1/float64(l.failures)), "429, with a good token too"},
		{"requests of one operator", fmt.Sprintf("%d at once, then %.0f a second", l.requestsBurst, float64(l.requests)), "429"},
		{"requests that a node serves at a time", fmt.Sprintf("%d, of one operator %d", l.inFlight, l.inFlightEach), "503 busy"},
		{"uploads that a node serves at a time", fmt.Sprintf("%d, of one operator %d", l.uploads, l.uploadsEach), "503 busy"},
		{"streams that are open on a node", fmt.Sprintf("%d, of one operator %d", l.streams, l.streamsEach), "503 busy"},
		{"body", fmt.Sprintf("%d bytes, nested at most %d levels", maxBody, maxDepth), "413, 400"},
		{"body of `POST /v1/content`", fmt.Sprintf("%d bytes", pack.Max), "413"},
		{"body of `POST /v1/content/missing`", fmt.Sprintf("%d bytes, %d digests", maxAsk, maxAsked), "413, 422"},
		{"header", fmt.Sprintf("%d fields", maxHeaders), "431"},
		{"time for a request", fmt.Sprintf("%v, for changes of the core's members and snapshots %v, for uploads %v and as long again for the body", requestTime, clusterTime, uploadTime), "503 or 504"},
		{"time for a client to take one piece of a stream", streamWrite.String(), "the connection is cut"},
		{"time between two signs of life on an event stream", keepAlive.String(), ""},
		{
			"lookups of a token that the node does not know",
			fmt.Sprintf("of one source %d at once, then one in %.0f s; of all %d at once, then %.0f a second", l.lookupsBurst, 1/float64(l.lookups), l.allBurst, float64(l.allLookups)), "401",
		},
	} {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", row[0], row[1], row[2])
	}
	return b.String()
}

// The tables in docs/api.md are those of the code. After a change here, run this test with -rewrite.
func TestDocumentation(t *testing.T) {
	raw, err := os.ReadFile(docsFile)
	if err != nil {
		t.Fatal(err)
	}
	doc := string(raw)
	for name, want := range map[string]string{"routes": routesTable(newCore(t).server.table), "limits": limitsTable()} {
		head, tail, ok := strings.Cut(doc, "<!-- "+name+": generated -->\n")
		got, rest, end := strings.Cut(tail, "<!-- end -->\n")
		if !ok || !end {
			t.Fatalf("%s has no place for the table of %s", docsFile, name)
		}
		if got != want && !*rewrite {
			t.Errorf("the table of %s is not that of the code: got\n%s\nwant\n%s", name, got, want)
		}
		doc = head + "<!-- " + name + ": generated -->\n" + want + "<!-- end -->\n" + rest
	}
	if *rewrite {
		if err := os.WriteFile(docsFile, []byte(doc), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
