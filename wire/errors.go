package wire

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// A Code says why a peer refuses. Codes cross the wire, also as QUIC application error codes: they are append-only and
// never reused. On none of them does an agent do anything destructive.
type Code uint32

// The codes. docs/protocol.md says for each what the receiver does.
const (
	CodeNone        Code = 0  // a session that ended as agreed
	CodeMalformed   Code = 1  // the message does not decode or breaks a rule; sending it again will not help
	CodeUnsupported Code = 2  // the message type or version is not known here
	CodeUnavailable Code = 3  // what is needed cannot be reached now; retry after the time given
	CodeBusy        Code = 4  // there is too much to do; retry after the time given
	CodeHold        Code = 5  // no room to keep it; keep yours and retry after the time given
	CodeRetired     Code = 6  // this identity is decommissioned
	CodeQuarantined Code = 7  // this identity is quarantined until an operator releases it
	CodeExpired     Code = 8  // the certificate has expired and its key is not known here as active
	CodeUnknownKey  Code = 9  // the certificate is genuine but its key is not known
	CodeClock       Code = 10 // the clocks are too far apart for what was asked
	CodeRefused     Code = 11 // enrollment refused: unknown, expired, used-up and wrong-proof tokens all get this
	CodeForbidden   Code = 12 // this identity may not do that
	CodeConflict    Code = 13 // the same number was used before with other content
	CodeInternal    Code = 14 // the peer failed; retry after the time given
	CodeForked      Code = 15 // the gateway's spool is a copy that went another way than the core knows
	CodeNoContent   Code = 16 // what was fetched is not known
)

var codeNames = [...]string{
	"none", "malformed", "unsupported", "unavailable", "busy", "hold", "retired", "quarantined", "expired", "unknown_key", "clock",
	"refused", "forbidden", "conflict", "internal", "forked", "no_content",
}

// String is the code's name in documents and logs.
func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return fmt.Sprintf("code_%d", uint32(c))
}

// Temporary tells whether the same request may succeed later.
func (c Code) Temporary() bool {
	switch c {
	case CodeUnavailable, CodeBusy, CodeHold, CodeClock, CodeInternal:
		return true
	default:
		return false
	}
}

// MaxRetryAfter is the longest delay that a receiver believes.
const MaxRetryAfter = 15 * time.Minute

// MaxDetail bounds the detail of an Error, in bytes.
const MaxDetail = 256

// Error is a refusal, as a message and as a Go error.
type Error struct {
	Code         Code   `cbor:"1,keyasint"`
	RetryAfterMS uint32 `cbor:"2,keyasint,omitempty"` // 0: the receiver's own back-off
	Detail       string `cbor:"3,keyasint,omitempty"` // for people; at most MaxDetail bytes; never parsed
	Ref          Type   `cbor:"4,keyasint,omitempty"` // the type of the message refused, if there was one
	ID           uint64 `cbor:"5,keyasint,omitempty"` // the id of the request refused, on links that number requests
}

// Refuse is an Error with code and detail. Whatever the arguments are, the detail is one that a receiver takes.
func Refuse(c Code, format string, args ...any) *Error {
	return &Error{Code: c, Detail: clip(fmt.Sprintf(format, args...), MaxDetail)}
}

// clip makes s valid UTF-8 of at most n bytes. A cut in the middle of a character would make the whole message one that its
// receiver refuses.
func clip(s string, n int) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// After sets the retry delay.
func (e *Error) After(d time.Duration) *Error {
	e.RetryAfterMS = Millis(min(d, MaxRetryAfter))
	return e
}

// RetryAfter is the delay asked for, clamped to MaxRetryAfter; 0 leaves it to the receiver.
func (e *Error) RetryAfter() time.Duration {
	return min(time.Duration(e.RetryAfterMS)*time.Millisecond, MaxRetryAfter)
}

// Error describes the refusal.
func (e *Error) Error() string {
	if e.Detail == "" {
		return "peer refused: " + e.Code.String()
	}
	return "peer refused: " + e.Code.String() + ": " + e.Detail
}

// Is makes errors.Is compare Errors by their code alone.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}
