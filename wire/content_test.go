package wire

import (
	"errors"
	"testing"
	"time"
)

func TestParseWindow(t *testing.T) {
	for s, want := range map[string][2]time.Duration{
		"":            {0, 24 * time.Hour},
		"22:00-05:00": {22 * time.Hour, 5 * time.Hour},
		"00:00-00:01": {0, time.Minute},
		"08:30-17:45": {8*time.Hour + 30*time.Minute, 17*time.Hour + 45*time.Minute},
	} {
		opens, closes, err := ParseWindow(s)
		if err != nil || opens != want[0] || closes != want[1] {
			t.Errorf("%q: %v to %v, %v; want %v", s, opens, closes, err, want)
		}
	}
	for _, s := range []string{"22:00", "22:00-22:00", "24:00-05:00", "22:60-05:00", "9:00-10:000", "22:00-05:00 ", "22:00/05:00", "ab:cd-ef:gh", "-1:00-05:00"} {
		if _, _, err := ParseWindow(s); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", s, err)
		}
		if err := (&ContentLimit{Window: s}).Check(); !errors.Is(err, ErrMalformed) {
			t.Errorf("limit with window %q: %v", s, err)
		}
	}
	if err := (&ContentLimit{BytesPerSecond: maxRate + 1}).Check(); !errors.Is(err, ErrMalformed) {
		t.Errorf("a rate over all bounds: %v", err)
	}
	if err := (&ContentLimit{BytesPerSecond: 2 << 20, Window: "22:00-05:00"}).Check(); err != nil {
		t.Error(err)
	}
}
