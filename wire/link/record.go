package link

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
)

// A record on a stream, within TLS:
//
//	+---------+-----------------------+-----------+
//	| kind, 1 | length n, 2 bytes     | n bytes   |
//	| byte    | big endian            |           |
//	+---------+-----------------------+-----------+
//
// The first record of the one who dialled is a hello, unless it only closes. A kind that is not known is skipped.
const (
	recordHello = 1 // keep-alive of the one who dialled, 4 bytes, big endian, ms; more bytes are for later
	recordData  = 2 // bytes of the sender's half of the control stream, at least one
	recordEnd   = 3 // the sender's half of the control stream is over
	recordPing  = 4 // 8 bytes, to be sent back at once
	recordPong  = 5 // the 8 bytes of the newest ping
	recordClose = 6 // the session is over: an error message as CBOR; code 0 as agreed
)

const (
	recordHead = 3
	// maxRecord makes a record fit into one of TLS.
	maxRecord = 16<<10 - recordHead
	pingSize  = 8
	helloSize = 4
	// maxClose bounds the payload of a close. It holds any wire.Error, whose detail is bounded.
	maxClose = 1 << 10
)

// appendRecord appends a record. body is at most maxRecord bytes.
func appendRecord(dst []byte, kind byte, body []byte) []byte {
	dst = append(dst, kind, byte(len(body)>>8), byte(len(body))) //nolint:gosec // G115: at most maxRecord
	return append(dst, body...)
}

// malformedRecord is what a peer is told that breaks the rules of records.
func malformedRecord(format string, args ...any) *wire.Error {
	return wire.Refuse(wire.CodeMalformed, "record: "+format, args...)
}

// appendHello appends the hello of the one who dials.
func appendHello(dst []byte, keepAlive time.Duration) []byte {
	return appendRecord(dst, recordHello, binary.BigEndian.AppendUint32(nil, wire.Millis(keepAlive)))
}

// The keep-alives that a listener goes by, whatever a hello says: the longest is its own bound on silence.
const (
	minKeepAlive   = 250 * time.Millisecond
	silentFactor   = 1.5 * idleFactor // keep-alives of silence after which a peer counts as dead, as over QUIC
	pingFactor     = idleFactor / 2   // keep-alives without a word, either way, after which there is a ping
	maxKeepAliveMS = uint32(serverIdle / time.Millisecond * 10 / 24)
)

// parseHello reads the keep-alive of a hello.
func parseHello(body []byte) (time.Duration, error) {
	if len(body) < helloSize {
		return 0, fmt.Errorf("hello of %d bytes: %w", len(body), wire.ErrMalformed)
	}
	ms := min(binary.BigEndian.Uint32(body), maxKeepAliveMS)
	return max(time.Duration(ms)*time.Millisecond, minKeepAlive), nil
}

// closeRecord is the payload of a close.
func closeRecord(e *wire.Error) []byte {
	b, err := wire.Marshal(wire.Refuse(e.Code, "%s", e.Detail))
	if err != nil { // an error of bounded text always encodes; the code alone would do, too
		return nil
	}
	return b
}

// parseClose is what a peer's close means to the session: its *wire.Error, or ErrClosed.
func parseClose(body []byte) error {
	e := new(wire.Error)
	if len(body) > maxClose || wire.Unmarshal(body, e) != nil {
		return fmt.Errorf("%w: closed with a reason that does not read", ErrClosed)
	}
	if e.Code == wire.CodeNone {
		return fmt.Errorf("%w: closed", ErrClosed)
	}
	return wire.Refuse(e.Code, "%s", e.Detail)
}
