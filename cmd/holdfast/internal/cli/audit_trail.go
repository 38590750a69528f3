package cli

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/output"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
)

// errTrail says that a trail is not what was recorded. The text says at which record and what differs.
var errTrail = errors.New("the audit trail does not hold")

// A trailError is errTrail without saying so again: its text is the reason alone.
type trailError struct{ error }

func (trailError) Is(target error) bool { return target == errTrail }
func (e trailError) Unwrap() error      { return e.error }

func flaw(seq uint64, format string, args ...any) error {
	return trailError{fmt.Errorf("record %d: %w", seq, fmt.Errorf(format, args...))}
}

// A head says which hash the trail had after a record, and who says so.
type head struct {
	seq   uint64
	hash  [32]byte
	where string
}

// A trail checks the records of an audit trail one after the other. PURE: no clock, no network, no file.
//
// Of each record it checks that what is shown is what its bytes say, that its hash is that of its bytes, that it has the next
// number and carries the hash of the record before, and that every head of its number has its hash.
type trail struct {
	heads []head // those that no record has met yet, ascending

	first, last uint64   // numbers of the first and the newest record; 0: none came yet
	hash        [32]byte // of the newest record
	agreed      int      // heads that the trail agrees with
	newest      uint64   // number of the newest of them; 0: none
	before      int      // heads of records before the first, which say nothing about these records
}

func newTrail(heads []head) *trail {
	heads = slices.Clone(heads)
	slices.SortStableFunc(heads, func(a, b head) int {
		switch {
		case a.seq < b.seq:
			return -1
		case a.seq > b.seq:
			return 1
		}
		return 0
	})
	return &trail{heads: heads}
}

// add checks the next record, given as the JSON of a v1.AuditRecord. After an error the trail is at its end.
func (t *trail) add(line []byte) error {
	expected := t.last + 1
	fields, err := fieldsOf(line)
	if err != nil {
		return flaw(expected, "is no record: %w", err)
	}
	raw, rec, err := recorded(fields)
	if err != nil {
		return flaw(expected, "%w", err)
	}
	hash := registry.AuditHash(raw)
	if err := compare(fields, shown(rec, raw, hash)); err != nil {
		return flaw(expected, "%w", err)
	}
	if t.first == 0 {
		if err := t.begin(rec); err != nil {
			return err
		}
	} else if err := t.follow(rec); err != nil {
		return err
	}
	t.last, t.hash = rec.Seq, hash
	return t.meet(rec.Seq, hash)
}

// begin takes the first record: of the whole trail, or of a part of it.
func (t *trail) begin(rec *registry.AuditRecord) error {
	switch {
	case rec.Seq == 0:
		return flaw(1, "is numbered 0; a trail begins with 1")
	case rec.Seq == 1 && rec.Prev != [32]byte{}:
		return flaw(1, "is the first and yet names one before it")
	}
	t.first = rec.Seq
	for len(t.heads) > 0 && t.heads[0].seq < rec.Seq-1 {
		t.heads = t.heads[1:]
		t.before++
	}
	return t.meet(rec.Seq-1, rec.Prev)
}

func (t *trail) follow(rec *registry.AuditRecord) error {
	switch {
	case rec.Seq != t.last+1:
		return flaw(t.last+1, "is missing: record %d is in its place", rec.Seq)
	case rec.Prev != t.hash:
		return flaw(rec.Seq, "does not follow record %d: it names the hash %x, and that one has %x", t.last, rec.Prev, t.hash)
	}
	return nil
}

// meet holds the heads of record seq against its hash.
func (t *trail) meet(seq uint64, hash [32]byte) error {
	for len(t.heads) > 0 && t.heads[0].seq == seq {
		h := t.heads[0]
		if h.hash != hash {
			return t.rewritten(h, hash)
		}
		t.heads = t.heads[1:]
		t.agreed++
		t.newest = seq
	}
	return nil
}

func (t *trail) rewritten(h head, hash [32]byte) error {
	after := ""
	if t.newest > 0 {
		after = fmt.Sprintf(" and after record %d", t.newest)
	}
	return trailError{fmt.Errorf("the trail was rewritten at or before record %d%s: %s has seen the hash %x there, and the trail has %x",
		h.seq, after, h.where, h.hash, hash)}
}

// end checks that no head is beyond the end.
func (t *trail) end() error {
	if t.first == 0 { // a head of the trail before its first record is true of an empty one
		if err := t.meet(0, [32]byte{}); err != nil {
			return err
		}
	}
	if len(t.heads) == 0 {
		return nil
	}
	h := t.heads[len(t.heads)-1]
	return trailError{fmt.Errorf("the trail was cut: %s has seen record %d, and the trail ends with record %d", h.where, h.seq, t.last)}
}

// fieldsOf reads one JSON object as it is spelled. Names that are given twice are refused: readers differ in which they take.
func fieldsOf(line []byte) (map[string]json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(line))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("no JSON object")
	}
	fields := map[string]json.RawMessage{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("damaged JSON: %w", err)
		}
		name, ok := t.(string)
		if _, twice := fields[name]; !ok || twice {
			return nil, fmt.Errorf("the field %.80q is there twice", name)
		}
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return nil, fmt.Errorf("damaged JSON: %w", err)
		}
		fields[name] = v
	}
	if _, err := d.Token(); err != nil {
		return nil, fmt.Errorf("damaged JSON: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something stands behind it on its line")
	}
	return fields, nil
}

// recorded is what the core recorded: the bytes over which the chain is made.
func recorded(fields map[string]json.RawMessage) ([]byte, *registry.AuditRecord, error) {
	var text string
	if err := json.Unmarshal(fields["raw"], &text); err != nil {
		return nil, nil, errors.New("has no field raw with its bytes")
	}
	raw, err := decodeBase64(text)
	if err != nil {
		return nil, nil, fmt.Errorf("field raw: %w", err)
	}
	rec := new(registry.AuditRecord)
	if err := wire.Unmarshal(raw, rec); err != nil {
		return nil, nil, fmt.Errorf("field raw: %w", err)
	}
	return raw, rec, nil
}

// shown is a record as the API shows it.
func shown(r *registry.AuditRecord, raw []byte, hash [32]byte) v1.AuditRecord {
	return v1.AuditRecord{
		Seq: r.Seq, Index: r.Index, Time: time.UnixMilli(r.TimeMS).UTC(), Actor: r.Actor, Action: r.Action, Target: r.Target, Site: r.Site,
		Request: r.Request, Source: r.Source, Outcome: r.Outcome, Detail: r.Detail,
		Raw: base64.StdEncoding.EncodeToString(raw), Hash: hex.EncodeToString(hash[:]),
	}
}

// auditFields are the names of a record's fields in JSON.
var auditFields = func() []string {
	var names []string
	for f := range reflect.TypeFor[v1.AuditRecord]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}()

// compare finds the field that does not say what want says, in a spelling that a core or this tool uses: what merely reads
// the same is no faithful copy. Fields that this build does not know are passed over; a later core may show more.
func compare(fields map[string]json.RawMessage, want v1.AuditRecord) error {
	for name := range fields {
		known := slices.IndexFunc(auditFields, func(k string) bool { return strings.EqualFold(k, name) })
		if known >= 0 && auditFields[known] != name {
			return fmt.Errorf("has a field %.80q, which some read as %s", name, auditFields[known])
		}
	}
	for _, spell := range spellings {
		text, err := spell(want)
		if err != nil {
			return err
		}
		as, err := fieldsOf(text)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(auditFields, func(name string) bool { return !bytes.Equal(fields[name], as[name]) })
		if i < 0 {
			return nil
		}
		if name := auditFields[i]; !sameValue(fields[name], as[name]) {
			return fmt.Errorf("field %s is shown as %.200s, and was recorded as %.200s", name, orAbsent(fields[name]), orAbsent(as[name]))
		}
	}
	return errors.New("is spelled as no core writes it")
}

// sameValue tells whether two values read the same, however they are spelled.
func sameValue(a, b json.RawMessage) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}

func orAbsent(v json.RawMessage) string {
	if v == nil {
		return "nothing"
	}
	return string(v)
}

// spellings are the ways in which encoders write characters that need no escape: as they are, with those of HTML escaped, and
// each of the two with those escaped that are not printable, as this tool exports them.
var spellings = []func(v1.AuditRecord) ([]byte, error){
	func(r v1.AuditRecord) ([]byte, error) { return json.Marshal(r) },
	func(r v1.AuditRecord) ([]byte, error) {
		b, err := json.Marshal(r)
		if err != nil {
			return nil, err
		}
		return printable(json.RawMessage(b))
	},
	func(r v1.AuditRecord) ([]byte, error) {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		err := e.Encode(r)
		return b.Bytes(), err
	},
	func(r v1.AuditRecord) ([]byte, error) { return printable(r) },
}

// printable is v as this tool writes it.
func printable(v any) ([]byte, error) {
	var b bytes.Buffer
	err := output.JSON(&b, v, true)
	return b.Bytes(), err
}
