package config

import (
	"math"
	"testing"
)

func TestBytes(t *testing.T) {
	for text, want := range map[string]Bytes{
		"0": 0, "1": 1, "17B": 17, "64KiB": 64 << 10, "512MiB": 512 << 20, " 3 GiB ": 3 << 30, "2TiB": 2 << 40, "9223372036854775807": math.MaxInt64,
	} {
		var got, again Bytes
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%q is %d, want %d: %v", text, got, want, err)
		}
		if err := again.UnmarshalText([]byte(got.String())); err != nil || again != want {
			t.Errorf("%q is written as %q, which is %d: %v", text, got, again, err)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "-1MiB", "1.5GiB", "1MB", "1mib", "1MiBMiB", "0x10", "9223372036854775808", "8388608TiB", "lots"} {
		b := Bytes(7)
		if err := b.UnmarshalText([]byte(text)); err == nil || b != 7 {
			t.Errorf("%q is taken as %d: %v", text, b, err)
		}
	}
}
