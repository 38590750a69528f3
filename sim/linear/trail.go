package linear

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
)

// Errors of an audit trail.
var (
	ErrChain     = errors.New("the audit trail is not one chain")
	ErrUnmatched = errors.New("the audit trail and what operators were answered differ")
	ErrLocalRead = errors.New("a local read shows what was not, or was not yet, or no longer is")
)

// CheckChain holds a whole audit trail against its rules: it is numbered from 1 without gaps, each record has the hash of the
// one before, what is shown is what the hashed bytes say, log index and log time never go back, and head, which the registry keeps, is that of the last record.
func CheckChain(trail []v1.AuditRecord, head registry.Mark) error {
	var prev [32]byte
	for i := range trail {
		r := &trail[i]
		raw, err := base64.StdEncoding.DecodeString(r.Raw)
		var a registry.AuditRecord
		if err == nil {
			err = wire.Unmarshal(raw, &a)
		}
		hash := registry.AuditHash(raw)
		switch {
		case err != nil:
			return fmt.Errorf("%w: record %d does not read: %w", ErrChain, r.Seq, err)
		case a.Seq != uint64(i)+1 || r.Seq != a.Seq:
			return fmt.Errorf("%w: record %d has the number %d", ErrChain, i+1, a.Seq)
		case a.Prev != prev:
			return fmt.Errorf("%w: record %d does not carry the hash of the one before", ErrChain, a.Seq)
		case r.Hash != hex.EncodeToString(hash[:]):
			return fmt.Errorf("%w: record %d is shown with another hash than its own", ErrChain, a.Seq)
		case r.Index != a.Index || r.Request != a.Request || r.Actor != a.Actor || r.Action != a.Action || r.Target != a.Target || r.Outcome != a.Outcome:
			return fmt.Errorf("%w: record %d is shown otherwise than it is hashed", ErrChain, a.Seq)
		case i > 0 && (r.Index < trail[i-1].Index || r.Time.Before(trail[i-1].Time)):
			return fmt.Errorf("%w: index or log time of record %d is before that of the one before", ErrChain, a.Seq)
		}
		prev = hash
	}
	if head.Count != uint64(len(trail)) || head.Head != prev {
		return fmt.Errorf("%w: its head says %d records and hash %x, there are %d", ErrChain, head.Count, head.Head, len(trail))
	}
	return nil
}

// A match is a change of the history with its audit record.
type match struct {
	op     *Op
	record *v1.AuditRecord
}

// CheckTrail holds the operators' part of an audit trail, which must begin with the history, against the history: each change
// that was answered with success has exactly one record, with what it says; one whose outcome is unknown has at most one; and
// nothing else has any. Then it holds the local reads against the trail: each shows a state that the record had at that log
// index, written by a request that had begun; and reads of one process of a node never go back.
func CheckTrail(trail []v1.AuditRecord, ops []Op, base map[Key]State) error {
	byRequest := make(map[string]*Op)
	for i := range ops {
		for _, id := range ops[i].Requests {
			byRequest[id] = &ops[i]
		}
	}
	var matches []match
	var errs []error
	count := make(map[*Op]int)
	for i := range trail {
		r := &trail[i]
		if !strings.HasPrefix(r.Actor, "operator:") || r.Outcome != registry.OutcomeDone {
			continue
		}
		o := byRequest[r.Request]
		if o == nil || !o.changes() {
			errs = append(errs, fmt.Errorf("%w: record %d is of a request that changed nothing: %s %s %s: %v", ErrUnmatched, r.Seq, r.Request, r.Action, r.Target, o))
			continue
		}
		count[o]++
		matches = append(matches, match{o, r})
	}
	for i := range ops {
		o := &ops[i]
		least, most := 0, 0
		switch {
		case !o.changes():
		case o.Outcome == Done:
			least, most = 1, 1
		case o.Outcome == Unknown:
			most = 1
		}
		if n := count[o]; n < least || n > most {
			errs = append(errs, fmt.Errorf("%w: %d records of %v", ErrUnmatched, n, o))
		}
	}
	for _, m := range matches {
		if m.op.Detail != "" && m.record.Detail[m.op.Detail] != m.op.Value {
			errs = append(errs, fmt.Errorf("%w: record %d says %v of %v", ErrUnmatched, m.record.Seq, m.record.Detail, m.op))
		}
		if m.op.Key.Kind == KindRecord && m.op.Outcome == Done && m.op.Got.Revision != m.record.Seq {
			errs = append(errs, fmt.Errorf("%w: record %d is not the one that %v names", ErrUnmatched, m.record.Seq, m.op))
		}
	}
	errs = append(errs, checkLocal(matches, ops, base)...)
	return errors.Join(errs...)
}

// A version is a state of a record that was committed.
type version struct {
	state State
	since int64 // when the request that made it began
}

// versions are the states that the records went through, by key and revision.
func versions(matches []match, base map[Key]State) map[Key]map[uint64]version {
	out := make(map[Key]map[uint64]version)
	now := make(map[Key]State)
	for k, s := range base {
		now[k] = s
		out[k] = map[uint64]version{s.Revision: {state: s}}
	}
	for _, m := range matches {
		if m.op.Key.Kind != KindRecord {
			continue
		}
		s := now[m.op.Key]
		s.Fields[m.op.Field], s.Revision = m.op.Value, m.record.Seq
		now[m.op.Key] = s
		out[m.op.Key][s.Revision] = version{s, m.op.Start}
	}
	return out
}

func checkLocal(matches []match, ops []Op, base map[Key]State) (errs []error) {
	all := versions(matches, base)
	type reader struct {
		node string
		key  Key
	}
	by := make(map[reader][]*Op)
	for i := range ops {
		o := &ops[i]
		if !o.Local || o.Key.Kind != KindRecord || o.Outcome != Done {
			continue
		}
		v, ok := all[o.Key][o.Got.Revision]
		if !ok || v.state != o.Got || v.since > o.End {
			errs = append(errs, fmt.Errorf("%w: at that revision there was %+v: %v", ErrLocalRead, v.state, o))
		}
		r := reader{o.Node, o.Key}
		by[r] = append(by[r], o)
	}
	for _, reads := range by {
		slices.SortFunc(reads, func(a, b *Op) int { return int(a.End - b.End) })
		for i, a := range reads {
			for _, b := range reads[i+1:] {
				if a.End < b.Start && a.Got.Revision > b.Got.Revision {
					errs = append(errs, fmt.Errorf("%w: it went back:\n%s", ErrLocalRead, list([]Op{*a, *b})))
				}
			}
		}
	}
	return errs
}
