package registry

import (
	"crypto/sha256"
	"fmt"
	"maps"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire"
)

// An AuditRecord says who did what, in the log entry of its effect. Each carries the hash of the one before, so that none can
// be changed or taken out without all later ones changing: whoever kept a hash from then sees it.
type AuditRecord struct {
	Seq     uint64            `cbor:"1,keyasint"`           // from 1, without gaps
	Prev    [32]byte          `cbor:"2,keyasint"`           // hash of the record before; zeros in the first
	Index   uint64            `cbor:"3,keyasint"`           // log index
	TimeMS  int64             `cbor:"4,keyasint"`           // log time
	Actor   string            `cbor:"5,keyasint"`           // operator:ID, token:ID, gateway:SITE/NAME, device:ID, core:NAME or recovery
	Action  string            `cbor:"6,keyasint"`           // noun.verb, such as device.tag
	Target  string            `cbor:"7,keyasint,omitempty"` // id of what it was done to
	Site    string            `cbor:"8,keyasint,omitempty"`
	Request string            `cbor:"9,keyasint,omitempty"`  // id of the request
	Source  string            `cbor:"10,keyasint,omitempty"` // address that it came from
	Outcome string            `cbor:"11,keyasint"`           // done or refused
	Detail  map[string]string `cbor:"12,keyasint,omitempty"`
}

// The outcomes.
const (
	OutcomeDone    = "done"
	OutcomeRefused = "refused"
)

// auditDomain separates the trail's hashes from all others.
const auditDomain = "holdfast/audit/v1\x00"

// AuditHash is the hash of an encoded audit record, which the next one carries as Prev: SHA-256 over the domain
// "holdfast/audit/v1", a zero byte, and the record's bytes as they are in the history.
func AuditHash(encoded []byte) [32]byte {
	h := sha256.New()
	h.Write([]byte(auditDomain))
	h.Write(encoded)
	return [32]byte(h.Sum(nil))
}

// audit appends a record to the trail. It fills in the numbers; r says the rest.
func (a *applier) audit(r AuditRecord) {
	r.Seq, r.Prev, r.Index, r.TimeMS = a.view.audit.Count+1, a.view.audit.Head, a.index, a.ms
	if r.Outcome == "" {
		r.Outcome = OutcomeDone
	}
	b, err := wire.Marshal(&r)
	if err != nil {
		panic(fmt.Sprintf("registry: audit record does not encode: %v", err))
	}
	a.view.audit = Mark{Count: r.Seq, Head: AuditHash(b)}
	a.out.Records = append(a.out.Records, Record{Stream: AuditStream, Kind: KindAudit, Data: b})
}

// auditCore notes what the core found or did by itself.
func (a *applier) auditCore(action string, s Subject, detail map[string]string) {
	r := AuditRecord{Actor: "core", Action: action, Site: s.Site, Detail: maps.Clone(detail)}
	switch {
	case s.Device != "":
		r.Target = s.Device
	case s.Gateway != "":
		r.Target = s.Gateway
	}
	a.audit(r)
}

// refusals puts on the trail what a node refused. Result: nil.
func (a *applier) refusals(c *command.Refusals) any {
	for i := range c.Items {
		it := &c.Items[i]
		a.audit(AuditRecord{
			Actor: it.Actor, Action: it.Action, Source: it.Source, Outcome: OutcomeRefused,
			Detail: map[string]string{"reason": it.Reason, "count": u64(it.Count), "first_ms": i64(it.FirstMS), "last_ms": i64(it.LastMS), "node": c.Node},
		})
	}
	return nil
}
