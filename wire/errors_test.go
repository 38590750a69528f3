package wire

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestCodesKeepTheirNumbers(t *testing.T) {
	want := strings.Fields("none malformed unsupported unavailable busy hold retired quarantined expired unknown_key clock " +
		"refused forbidden conflict internal forked no_content")
	for n, name := range want {
		if got := Code(n).String(); got != name {
			t.Errorf("code %d is %q, want %q", n, got, name)
		}
	}
	if len(codeNames) != len(want) || CodeNoContent != Code(len(want)-1) {
		t.Errorf("%d codes, want %d: a new code needs its line here and in docs/protocol.md", len(codeNames), len(want))
	}
	if got := Code(4000000000).String(); got != "code_4000000000" {
		t.Errorf("unknown code is %q", got)
	}
}

func TestTemporaryCodes(t *testing.T) {
	for n := range codeNames {
		c := Code(n)
		want := strings.Contains(" unavailable busy hold clock internal ", " "+c.String()+" ")
		if c.Temporary() != want {
			t.Errorf("%v temporary: %v", c, c.Temporary())
		}
	}
}

// Whatever a detail is made of, the message must decode at the receiver.
func TestRefusalsAlwaysDecode(t *testing.T) {
	for _, d := range []string{
		"", "plain", strings.Repeat("x", 1000), strings.Repeat("ü", 200), "x" + strings.Repeat("ü", 200), strings.Repeat("日", 100),
		"\xff\xfe", strings.Repeat("\xff", 300), strings.Repeat("a", 255) + "é", strings.Repeat("a", 253) + "😀",
	} {
		e := Refuse(CodeMalformed, "%s", d)
		if len(e.Detail) > MaxDetail || !utf8.ValidString(e.Detail) {
			t.Errorf("detail of %d bytes, valid %v", len(e.Detail), utf8.ValidString(e.Detail))
		}
		if utf8.ValidString(d) && (len(d) <= MaxDetail && e.Detail != d || !strings.HasPrefix(d, e.Detail) || len(e.Detail)+4 < min(len(d), MaxDetail)) {
			t.Errorf("detail %q became %q", d, e.Detail)
		}
		b, err := AppendFrame(nil, TypeError, e)
		if err != nil {
			t.Fatal(err)
		}
		var back Error
		if err := Unmarshal(b[lenSize+1:], &back); err != nil || back != *e {
			t.Errorf("%q does not decode at the receiver: %v", d, err)
		}
	}
}

func TestRetryAfterIsClamped(t *testing.T) {
	for in, want := range map[time.Duration]time.Duration{
		-time.Second: 0, 0: 0, time.Second: time.Second, time.Hour: MaxRetryAfter, 1 << 62: MaxRetryAfter,
	} {
		if got := Refuse(CodeBusy, "").After(in).RetryAfter(); got != want {
			t.Errorf("after %v: %v, want %v", in, got, want)
		}
	}
	if got := (&Error{RetryAfterMS: 1<<32 - 1}).RetryAfter(); got != MaxRetryAfter {
		t.Errorf("a peer's %v was believed", got)
	}
}

func TestErrorsCompareByCode(t *testing.T) {
	err := fmt.Errorf("attach: %w", Refuse(CodeRetired, "gone"))
	if !errors.Is(err, &Error{Code: CodeRetired}) || errors.Is(err, &Error{Code: CodeBusy}) || errors.Is(err, ErrMalformed) {
		t.Error("errors.Is does not go by the code")
	}
	if got := err.Error(); got != "attach: peer refused: retired: gone" {
		t.Errorf("text is %q", got)
	}
	if got := (&Error{Code: CodeBusy}).Error(); got != "peer refused: busy" {
		t.Errorf("text is %q", got)
	}
}

func TestDeviceStates(t *testing.T) {
	for s, want := range map[DeviceState]string{
		DeviceUnknown: "unknown", DeviceActive: "active", DeviceQuarantined: "quarantined", DeviceDecommissioned: "decommissioned", 200: "unknown",
	} {
		if s.String() != want {
			t.Errorf("state %d is %q, want %q", s, s.String(), want)
		}
	}
}
