package link

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/holdfast-edge/holdfast/wire"
)

// The document names the kinds of records and their bounds, which are append-only.
func TestRecordsInTheDocument(t *testing.T) {
	doc, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	for kind, name := range map[int]string{
		recordHello: "hello", recordData: "data", recordEnd: "end", recordPing: "ping", recordPong: "pong", recordClose: "close",
	} {
		if row := fmt.Sprintf("\n| %d | %s | ", kind, name); !strings.Contains(string(doc), row) {
			t.Errorf("docs/protocol.md lacks the row of record %d, %s", kind, name)
		}
	}
	for _, text := range []string{
		fmt.Sprintf("big endian, at most %d |", maxRecord), fmt.Sprintf("taken as %d to %d;", minKeepAlive.Milliseconds(), maxKeepAliveMS),
		fmt.Sprintf("A client may send %d bytes before its handshake", handshakeBytes),
	} {
		if !strings.Contains(string(doc), text) {
			t.Errorf("docs/protocol.md lacks %q", text)
		}
	}
}

// Whatever a peer sends as the payload of a hello or a close, what comes of it is within its bounds.
func FuzzPayloads(f *testing.F) {
	f.Add([]byte{0, 0, 0x13, 0x88})
	f.Add(closeRecord(wire.Refuse(wire.CodeRetired, "gone")))
	f.Add(closeRecord(&wire.Error{}))
	f.Add([]byte{0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		if d, err := parseHello(b); err == nil && (d < minKeepAlive || d > serverIdle) || err != nil && !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("hello: %v, %v", d, err)
		}
		err := parseClose(b)
		e, ok := errors.AsType[*wire.Error](err)
		if !ok && !errors.Is(err, ErrClosed) || ok && (e.Code == wire.CodeNone || len(e.Detail) > wire.MaxDetail) {
			t.Errorf("close: %v", err)
		}
	})
}
