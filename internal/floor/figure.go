package floor

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
)

// Figure is one line of a report.
type Figure struct {
	// Name is dotted, lower case, unique within a report.
	Name string
	// Value is in Unit.
	Value float64
	// Unit as printed: us, KiB, MiB, 1/s.
	Unit string
	// Note says under which circumstances, in free text; may be empty.
	Note string
}

// String renders the figure as one line: name, value with four significant digits, unit, note.
func (f Figure) String() string {
	return fmt.Sprintf("%-34s %10s %-6s %s", f.Name, significant(f.Value), f.Unit, f.Note)
}

// significant formats v with four digits that count, and never with an exponent.
func significant(v float64) string {
	decimals := 3
	for limit := 10.0; decimals > 0 && (v >= limit || v <= -limit); limit *= 10 {
		decimals--
	}
	return strconv.FormatFloat(v, 'f', decimals, 64)
}

// quieterHalf returns those rounds during which others took the least of the machine: half of them, rounded up.
func quieterHalf[R any](rounds []R, foreign func(R) float64) []R {
	sorted := slices.Clone(rounds)
	slices.SortStableFunc(sorted, func(a, b R) int { return cmp.Compare(foreign(a), foreign(b)) })
	return sorted[:(len(sorted)+1)/2]
}

// medianOf returns the median of a value over rounds, the mean of the middle two if their number is even, and zero if
// there are none.
func medianOf[R any, V ~int64 | ~float64](rounds []R, value func(R) V) V {
	if len(rounds) == 0 {
		return 0
	}
	values := make([]V, len(rounds))
	for i, r := range rounds {
		values[i] = value(r)
	}
	slices.Sort(values)
	middle := len(values) / 2
	if len(values)%2 == 1 {
		return values[middle]
	}
	return (values[middle-1] + values[middle]) / 2
}
