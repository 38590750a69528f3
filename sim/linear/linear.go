// Package linear judges what the clients of the registry's API saw while the core was under faults: whether it is what one
// registry that does one thing at a time could have answered, and whether the audit trail tells the same story.
//
// It is pure: a History is recorded while clients run, and judged afterwards. The operations on one record, or on one token or
// operator, form a key, and each key is judged alone: linearizability is a property of the keys.
package linear

import "sync"

// A Kind of key has a model of its own.
type Kind uint8

// The kinds.
const (
	KindRecord Kind = iota + 1 // a site or a device: fields that are written, and a revision
	KindGrant                  // a token or an operator: it is made once and ended once
	KindOther                  // no model: only the audit trail is asked about it
)

// A Key names what an operation is about.
type Key struct {
	Kind Kind
	Name string
}

// An Act is what an operation does.
type Act uint8

// The acts.
const (
	Read   Act = iota + 1 // a record or a grant
	Write                 // one field of a record, only at the revision If when that is not 0; also a change of KindOther
	Make                  // a grant, under an idempotency key that is the grant's alone
	End                   // a grant
	Use                   // the bearer token of a grant
	Repeat                // the request of a Write or a Make that was answered with success, with its idempotency key
	Reuse                 // another request with the idempotency key of a Make
)

// An Outcome is how an operation was answered.
type Outcome uint8

// The outcomes. Reads that were Refused or Unknown tell nothing, and need not be recorded.
const (
	Done    Outcome = iota + 1
	Refused         // nothing was done; nothing is said about the key
	Unknown         // a change that may have been made, or may yet be
	Missing         // nothing was done: there is no such thing
	Changed         // nothing was done: the revision is not If
	Denied          // nothing was done: the token opens nothing
	Reused          // nothing was done: the idempotency key is taken
)

// Fields is how many fields a record has.
const Fields = 3

// A State is what an answer shows of a key.
type State struct {
	Fields   [Fields]string // of a record
	Revision uint64         // of a record: number of the audit record of its newest change. In a model 0: not known
	Made     bool           // of a grant
	Ended    bool           // of a grant
	Value    string         // of a grant, in the answer to Make: its id and secret
}

// An Op is one operation of one client. It may have taken several requests with one idempotency key.
type Op struct {
	Client     int
	Key        Key
	Act        Act
	Field      int      // of a Write: which field
	Value      string   // of a Write: what it becomes. Invariant: no other Write of the history has it
	Detail     string   // of a Write: the key in the audit record's detail that has the value; empty: none does
	If         uint64   // of a Write: the revision that the record must have; 0: any
	Requests   []string // ids of all requests that were made
	Outcome    Outcome
	Got        State  // when Done
	First      State  // of a Repeat: what the first answer showed
	Local      bool   // a Read of what the node knew, without asking the majority
	Node       string // of a local Read: the node, with the number of its process
	Start, End int64  // on the History's clock
}

// changes tells whether the operation is one that the audit trail must know when it is Done.
func (o *Op) changes() bool { return o.Act == Write || o.Act == Make || o.Act == End }

// A History gathers operations. Its methods may be called from any goroutine.
//
// Its clock counts beginnings and ends: of two operations of which one ended before the other began, the ticks say so, even
// where no time passed in between.
type History struct {
	mu    sync.Mutex
	ticks int64 // guarded by mu
	ops   []Op  // guarded by mu
}

// Begin is the Start of an operation that begins now.
func (h *History) Begin() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ticks++
	return h.ticks
}

// Add records an operation that ends now.
func (h *History) Add(o Op) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ticks++
	o.End = h.ticks
	h.ops = append(h.ops, o)
}

// Ops is what was recorded so far, in the order in which it ended.
func (h *History) Ops() []Op {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]Op(nil), h.ops...)
}
