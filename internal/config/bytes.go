package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Bytes is an amount of bytes, 0 or more. As text it is a whole number with or without a unit: B, KiB, MiB, GiB or TiB, as in
// 512MiB.
type Bytes int64

// units are what may stand behind a number, largest first.
var units = []struct {
	name string
	size Bytes
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *Bytes) UnmarshalText(text []byte) error {
	number, unit := strings.TrimSpace(string(text)), Bytes(1)
	for _, u := range units {
		if n, ok := strings.CutSuffix(number, u.name); ok {
			number, unit = strings.TrimSpace(n), u.size
			break
		}
	}
	n, err := strconv.ParseUint(number, 10, 63)
	if err != nil || Bytes(n) > math.MaxInt64/unit {
		return fmt.Errorf("%.80q is no amount of bytes, such as 512MiB or 1GiB", text)
	}
	*b = Bytes(n) * unit
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// String is the amount in the largest unit that it is a whole number of.
func (b Bytes) String() string {
	for _, u := range units {
		if b != 0 && b%u.size == 0 && u.size > 1 {
			return strconv.FormatInt(int64(b/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10) + "B"
}
