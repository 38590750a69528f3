package linear

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// Errors of a history.
var (
	ErrNotLinearizable = errors.New("no order of the operations explains the answers")
	ErrUndecided       = errors.New("it was not decided in time whether an order of the operations explains the answers")
	ErrNotRepeated     = errors.New("a repeated request was not answered as the first time")
)

// Check holds every key's operations against its model, with at most the given time for each key, and every repeated request
// against its first answer. base is the state of the records when the history began.
func Check(ops []Op, base map[Key]State, limit time.Duration) error {
	var errs []error
	byKey := make(map[Key][]Op)
	made := make(map[Key]string)
	for i := range ops {
		o := &ops[i]
		if o.Act == Repeat && o.Outcome == Done && o.Got != o.First {
			errs = append(errs, fmt.Errorf("%w: first %+v, then %v", ErrNotRepeated, o.First, o))
		}
		if o.Act == Make && o.Outcome == Done {
			if v, ok := made[o.Key]; ok && v != o.Got.Value {
				errs = append(errs, fmt.Errorf("%w: another %s was made: %v", ErrNotRepeated, o.Key.Name, o))
			}
			made[o.Key] = o.Got.Value
		}
		if tells(o) {
			byKey[o.Key] = append(byKey[o.Key], *o)
		}
	}
	for k, of := range byKey {
		errs = append(errs, checkKey(k, of, base[k], limit))
	}
	return errors.Join(errs...)
}

// tells tells whether an operation says something about the order of all.
func tells(o *Op) bool {
	switch {
	case o.Key.Kind == KindOther, o.Local, o.Act == Repeat, o.Outcome == Refused:
		return false
	case o.Outcome == Unknown:
		return o.changes()
	}
	return true
}

func checkKey(k Key, ops []Op, base State, limit time.Duration) error {
	step := stepRecord
	if k.Kind == KindGrant {
		step = stepGrant
	}
	model := porcupine.NondeterministicModel{
		Init: func() []any { return []any{base} },
		Step: func(state, input, _ any) []any {
			now, _ := state.(State)
			op, _ := input.(*Op)
			var next []any
			for _, s := range step(now, op) {
				next = append(next, s)
			}
			return next
		},
	}
	history := make([]porcupine.Operation, len(ops))
	for i := range ops {
		o := &ops[i]
		end := o.End
		if o.Outcome == Unknown {
			end = math.MaxInt64 // it may take effect at any time from its start on; never is as good as after everything
		}
		history[i] = porcupine.Operation{ClientId: o.Client, Input: o, Call: o.Start, Return: end}
	}
	switch porcupine.CheckOperationsTimeout(model.ToModel(), history, limit) {
	case porcupine.Ok:
		return nil
	case porcupine.Unknown:
		return fmt.Errorf("%s, %d operations: %w", k.Name, len(ops), ErrUndecided)
	case porcupine.Illegal:
	}
	return fmt.Errorf("%s, which began as %+v: %w:\n%s", k.Name, base, ErrNotLinearizable, list(ops))
}

// list shows operations in the order in which they began.
func list(ops []Op) string {
	sorted := slices.SortedFunc(slices.Values(ops), func(a, b Op) int { return int(a.Start - b.Start) })
	var b strings.Builder
	for i := range sorted {
		fmt.Fprintln(&b, "\t", &sorted[i])
	}
	return b.String()
}

// stepRecord says what a record's state can be after an operation that was answered as it was; nothing when it cannot have
// been answered so.
func stepRecord(s State, o *Op) []State {
	known := s.Revision != 0
	next := s
	next.Fields[o.Field] = o.Value
	switch {
	case o.Act == Read && o.Outcome == Done:
		if s.Fields == o.Got.Fields && (!known || s.Revision == o.Got.Revision) {
			return []State{o.Got}
		}
	case o.Act == Write && o.Outcome == Done:
		if next.Fields == o.Got.Fields && o.Got.Revision > s.Revision && (o.If == 0 || !known || o.If == s.Revision) {
			return []State{o.Got}
		}
	case o.Act == Write && o.Outcome == Changed:
		if o.If != 0 && (!known || o.If != s.Revision) {
			return []State{s}
		}
	case o.Act == Write && o.Outcome == Unknown:
		next.Revision = 0
		switch {
		case o.If == 0 || known && o.If == s.Revision:
			return []State{next}
		case !known:
			return []State{next, s}
		}
		return []State{s}
	}
	return nil
}

// stepGrant is stepRecord for a grant.
func stepGrant(s State, o *Op) []State {
	active := s.Made && !s.Ended
	var fits bool
	next := State{Made: s.Made, Ended: s.Ended}
	switch o.Act {
	case Make:
		fits, next.Made = o.Outcome == Done || o.Outcome == Unknown, true
	case End:
		fits = o.Outcome == Done && s.Made || o.Outcome == Unknown || o.Outcome == Missing && !s.Made
		next.Ended = s.Made && o.Outcome != Missing || s.Ended
	case Read:
		fits = o.Outcome == Done && s.Made && s.Ended == o.Got.Ended || o.Outcome == Missing && !s.Made
	case Use:
		fits = o.Outcome == Done && active || o.Outcome == Denied && !active
	case Reuse:
		fits = o.Outcome == Reused && s.Made
	case Write, Repeat: // of no grant
	}
	if !fits {
		return nil
	}
	return []State{next}
}

// String shows the operation on one line.
func (o *Op) String() string {
	acts := []string{"?", "read", "write", "make", "end", "use", "repeat", "reuse"}
	outcomes := []string{"?", "done", "refused", "unknown", "missing", "changed", "denied", "reused"}
	return fmt.Sprintf("[%d, %d] client %d %s %s field %d value %q if %d local %v %s: %s %+v %v",
		o.Start, o.End, o.Client, acts[o.Act], o.Key.Name, o.Field, o.Value, o.If, o.Local, o.Node, outcomes[o.Outcome], o.Got, o.Requests)
}
