package output

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Span is a length of time in at most two units, such as 42s, 4m12s, 3h5m, 5d3h. Negative ones count as 0s.
func Span(d time.Duration) string {
	d = max(d, 0)
	two := func(big time.Duration, a string, small time.Duration, b string) string {
		s := strconv.FormatInt(int64(d/big), 10) + a
		if rest := d % big / small; rest > 0 {
			s += strconv.FormatInt(int64(rest), 10) + b
		}
		return s
	}
	const day = 24 * time.Hour
	switch {
	case d < time.Minute:
		return strconv.FormatInt(int64(d/time.Second), 10) + "s"
	case d < time.Hour:
		return two(time.Minute, "m", time.Second, "s")
	case d < day:
		return two(time.Hour, "h", time.Minute, "m")
	default:
		return two(day, "d", time.Hour, "h")
	}
}

// skew is how far ahead a time may be and still count as now: clocks differ, and the core's date has whole seconds.
const skew = 5 * time.Second

// Ago says how long before now t was, such as "3s ago", or how long after it will be, such as "in 4m". Nil is "never".
func Ago(now time.Time, t *time.Time) string {
	switch {
	case t == nil || t.IsZero():
		return "never"
	case t.After(now.Add(skew)):
		return "in " + Span(t.Sub(now))
	default:
		return Span(now.Sub(*t)) + " ago"
	}
}

// Stamp is a time in UTC to the second. Nil and zero are empty.
func Stamp(t *time.Time) string {
	if t == nil || t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// Both is a time with how long ago it was, such as "2026-05-01T10:00:00Z (3s ago)".
func Both(now time.Time, t *time.Time) string {
	if t == nil || t.IsZero() {
		return "never"
	}
	return fmt.Sprintf("%s (%s)", Stamp(t), Ago(now, t))
}

// Seconds is an interval given in seconds, such as 2s, 2.5s or 1m30s.
func Seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// Bytes is a size in the largest binary unit that it fills, such as 7.6 GiB.
func Bytes(n uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	v, u := float64(n), 0
	for v >= 1024 && u < len(units)-1 {
		v, u = v/1024, u+1
	}
	return strings.TrimSuffix(strconv.FormatFloat(v, 'f', 1, 64), ".0") + " " + units[u]
}

// Pairs is a map as "a=1 b=2", by key.
func Pairs(m map[string]string) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(k + "=" + m[k])
	}
	return b.String()
}
