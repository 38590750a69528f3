package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/holdfast-edge/holdfast/internal/floor"
)

// verdict is one target and what became of it.
type verdict struct {
	name, target string
	unit         string  // of floor and own
	floor, own   float64 // floor is 0 where the target names a number
	ratio        float64 // own against floor, or against the number
	limit        float64 // of the ratio
	atLeast      bool    // the ratio must not be below limit; otherwise not above
	note         string
}

func (v *verdict) met() bool {
	if v.atLeast {
		return v.ratio >= v.limit
	}
	return v.ratio <= v.limit
}

func (v *verdict) word() string {
	if v.met() {
		return "met"
	}
	return "not met"
}

// against is the floor in the verdict's unit, or a dash where the target is a number.
func (v *verdict) against() string {
	if v.floor == 0 {
		return "-"
	}
	return number(v.floor) + " " + v.unit
}

// String renders the verdict as one line.
func (v *verdict) String() string {
	return fmt.Sprintf("%-8s %s: %s: floor %s, holdfast %s %s, ratio %.2f; %s", v.word(), v.name, v.target, v.against(), number(v.own), v.unit, v.ratio, v.note)
}

// report gathers what a run has found and prints it as it comes.
type report struct {
	out      io.Writer
	figures  []floor.Figure
	verdicts []verdict
	profiles []topList
	err      error // of the first line that could not be printed
}

func (r *report) add(name string, value float64, unit, note string) {
	f := floor.Figure{Name: name, Value: value, Unit: unit, Note: note}
	r.figures = append(r.figures, f)
	r.print(f.String())
}

func (r *report) judge(v verdict) {
	r.verdicts = append(r.verdicts, v)
	r.print(v.String())
}

func (r *report) print(line string) {
	if _, err := fmt.Fprintln(r.out, line); err != nil && r.err == nil {
		r.err = fmt.Errorf("print: %w", err)
	}
}

// number renders v with three or four digits that count, and never with an exponent.
func number(v float64) string {
	decimals := 2
	for limit := 10.0; decimals > 0 && (v >= limit || v <= -limit); limit *= 10 {
		decimals--
	}
	return strconv.FormatFloat(v, 'f', decimals, 64)
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// median is the middle value of all rounds, the mean of the middle two if their number is even, and 0 without rounds.
func median[R any](rounds []R, value func(R) float64) float64 {
	v := sorted(rounds, value)
	if len(v) == 0 {
		return 0
	}
	m := len(v) / 2
	if len(v)%2 == 1 {
		return v[m]
	}
	return (v[m-1] + v[m]) / 2
}

// quieter returns those rounds during which others took the least of the machine: half of them, rounded up.
func quieter[R any](rounds []R, foreign func(R) float64) []R {
	by := slices.Clone(rounds)
	slices.SortStableFunc(by, func(a, b R) int { return cmp.Compare(foreign(a), foreign(b)) })
	return by[:(len(by)+1)/2]
}

// extremes are the least and the greatest value; there must be a round.
func extremes[R any](rounds []R, value func(R) float64) (least, most float64) {
	v := sorted(rounds, value)
	return v[0], v[len(v)-1]
}

func sorted[R any](rounds []R, value func(R) float64) []float64 {
	v := make([]float64, len(rounds))
	for i, r := range rounds {
		v[i] = value(r)
	}
	slices.SortFunc(v, cmp.Compare)
	return v
}
