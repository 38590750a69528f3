package api

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"strings"

	"github.com/holdfast-edge/holdfast/core/history"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

// A list names what a cursor pages through: a route with everything that decides what is on its pages. A cursor of one list is
// refused by every other.
type list string

func listOf(parts ...string) list { return list(strings.Join(parts, "\x00")) }

// A cursor says behind which item the next page begins. Clients treat it as opaque. Its layout, before base64url:
//
//	version 1 byte | check 8 bytes | position
//
// check is the head of SHA-256(list, 0, position). It keeps mistakes out; there is no secret in a cursor.
const (
	cursorVersion = 1
	cursorHead    = 1 + 8
	maxCursor     = 256 // bytes of its text
)

func (l list) check(pos []byte) [8]byte {
	sum := sha256.Sum256(append([]byte(string(l)+"\x00"), pos...))
	return [8]byte(sum[:8])
}

// cursor makes the text of a cursor behind pos.
func (l list) cursor(pos []byte) string {
	check := l.check(pos)
	b := append([]byte{cursorVersion}, check[:]...)
	return base64.RawURLEncoding.EncodeToString(append(b, pos...))
}

// position reads what cursor wrote; nothing given is the beginning, which is nil.
func (l list) position(text string) ([]byte, error) {
	if text == "" {
		return nil, nil
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(text) > maxCursor || len(b) <= cursorHead {
		return nil, errCursor("it is damaged")
	}
	if b[0] != cursorVersion {
		return nil, errCursor("another version made it")
	}
	pos := b[cursorHead:]
	if l.check(pos) != [8]byte(b[1:cursorHead]) {
		return nil, errCursor("it belongs to another list, or is damaged")
	}
	return pos, nil
}

func errCursor(why string) error {
	return invalid("query.cursor", "cannot go on from it: %s; begin without a cursor, and keep all other parameters while you page", why)
}

func (l list) deviceCursor(id ident.DeviceID) string { return l.cursor(id[:]) }

func (l list) devicePosition(text string) (ident.DeviceID, error) {
	pos, err := l.position(text)
	if err != nil || pos == nil {
		return ident.DeviceID{}, err
	}
	if len(pos) != len(ident.DeviceID{}) {
		return ident.DeviceID{}, errCursor("it is damaged")
	}
	return ident.DeviceID(pos), nil
}

func (l list) timeCursor(ms int64) string {
	return l.cursor(binary.BigEndian.AppendUint64(nil, uint64(ms))) //nolint:gosec // G115: only the bits matter
}

func (l list) timePosition(text string) (ms int64, given bool, err error) {
	pos, err := l.position(text)
	if err != nil || pos == nil {
		return 0, false, err
	}
	if len(pos) != 8 {
		return 0, false, errCursor("it is damaged")
	}
	return int64(binary.BigEndian.Uint64(pos)), true, nil //nolint:gosec // G115: only the bits matter
}

func (l list) historyCursor(c history.Cursor) string {
	if c.IsZero() {
		return ""
	}
	return l.cursor(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(nil, c.Index), c.N))
}

func (l list) historyPosition(text string) (history.Cursor, error) {
	pos, err := l.position(text)
	if err != nil || pos == nil {
		return history.Cursor{}, err
	}
	c := history.Cursor{}
	if len(pos) != 12 {
		return c, errCursor("it is damaged")
	}
	c.Index, c.N = binary.BigEndian.Uint64(pos), binary.BigEndian.Uint32(pos[8:])
	if c.IsZero() {
		return c, errCursor("it is damaged")
	}
	return c, nil
}
