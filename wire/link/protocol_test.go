package link_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/holdfast-edge/holdfast/wire/link"
)

// The document names the limits, which the other side of a link has to live with.
func TestProtocolDocument(t *testing.T) {
	doc, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	a, u := link.AgentLimits, link.UplinkLimits
	for _, row := range []string{
		fmt.Sprintf("| unread bytes of one stream | %d | %d |", a.Stream, u.Stream),
		fmt.Sprintf("| unread bytes of all streams | %d | %d |", a.Connection, u.Connection),
		fmt.Sprintf("| streams that the peer has open | %d | %d |", a.Streams, u.Streams),
		fmt.Sprintf("| bytes of one frame | %d | %d |", a.Frame, u.Frame),
		fmt.Sprintf("| bytes that the system holds for a TCP connection, each way | %d | as it sees fit |", a.Socket),
	} {
		if !strings.Contains(string(doc), "\n"+row+"\n") {
			t.Errorf("docs/protocol.md lacks %s", row)
		}
	}
}
