package seal

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/veraison/go-cose"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

// A StatementType says what a statement states. Types are append-only and never reused.
type StatementType uint8

// The statement types.
const (
	StatementRegister StatementType = 1
	StatementStatus   StatementType = 2 // what became of an assignment
	StatementAlarm    StatementType = 3 // the device refused what an honest peer would not bring
)

// String is the type as the API writes it.
func (t StatementType) String() string {
	switch t {
	case StatementRegister:
		return "register"
	case StatementStatus:
		return "status"
	case StatementAlarm:
		return "alarm"
	}
	return fmt.Sprintf("type_%d", uint8(t))
}

// A ClockQuality says how far a device trusts its own wall clock.
type ClockQuality uint8

// The clock qualities.
const (
	ClockUnknown  ClockQuality = 0
	ClockSynced   ClockQuality = 1 // the kernel says that the clock is disciplined
	ClockUnsynced ClockQuality = 2 // the kernel says that it is not
	ClockFloored  ClockQuality = 3 // the clock is behind the time floor: its time is certainly wrong
)

// String is the quality as the API writes it.
func (q ClockQuality) String() string {
	return [...]string{"unknown", "synced", "unsynced", "floored"}[min(q, ClockFloored)]
}

// StatementVersion is the schema version of statements that this build writes.
const StatementVersion = 1

// A Statement is what a device states, numbered without gaps within an epoch and chained.
type Statement struct {
	Version  uint8           `cbor:"1,keyasint"`
	Type     StatementType   `cbor:"2,keyasint"`
	Device   ident.DeviceID  `cbor:"3,keyasint"`
	Epoch    uint64          `cbor:"4,keyasint"` // counter kept with the identity, from 1
	EpochID  RandomID        `cbor:"5,keyasint"` // random, made with the epoch
	Seq      uint64          `cbor:"6,keyasint"` // from 1, no gaps
	Prev     Chain           `cbor:"7,keyasint"` // chain before this statement
	TimeMS   int64           `cbor:"8,keyasint"` // the device's wall clock, Unix ms
	UptimeMS uint64          `cbor:"9,keyasint"` // since boot
	BootID   RandomID        `cbor:"10,keyasint"`
	Clock    ClockQuality    `cbor:"11,keyasint"`
	Body     cbor.RawMessage `cbor:"12,keyasint"`           // by type
	Before   *EpochLink      `cbor:"13,keyasint,omitempty"` // only in seq 1 of an epoch after the first
}

// An EpochLink names the end of the epoch before, or says that it is lost and why.
type EpochLink struct {
	Epoch uint64 `cbor:"1,keyasint"`
	Seq   uint64 `cbor:"2,keyasint,omitempty"`
	Chain Chain  `cbor:"3,keyasint,omitempty"`
	Lost  string `cbor:"4,keyasint,omitempty"`
}

// Time is the device's wall clock when it made the statement.
func (s *Statement) Time() time.Time { return time.UnixMilli(s.TimeMS).UTC() }

// Register is the body of a StatementRegister: what the device is and what it runs.
type Register struct {
	Profile      wire.Profile      `cbor:"1,keyasint"`
	AgentVersion string            `cbor:"2,keyasint"`
	Tags         map[string]string `cbor:"3,keyasint,omitempty"` // the device's own; see CheckTags
	Slots        []Installed       `cbor:"4,keyasint,omitempty"` // in order of slot, at most MaxSlots
}

// A SealedStatement is a statement with the bytes that prove it.
type SealedStatement struct {
	Statement
	Key    ident.KeyID // names the signer's key
	Sealed []byte      // the COSE_Sign1
	Chain  Chain       // after this statement
	env    *envelope
}

// SealStatement signs s with the device's key.
func SealStatement(s *Statement, kid ident.KeyID, key crypto.Signer) (*SealedStatement, error) {
	payload, err := wire.Marshal(s)
	if err != nil {
		return nil, err
	}
	b, err := sealAs(domainStatement, kid[:], payload, cose.AlgorithmES256, key)
	if err != nil {
		return nil, err
	}
	return &SealedStatement{Statement: *s, Key: kid, Sealed: b, Chain: s.Prev.Next(payload)}, nil
}

// ParseStatement reads a sealed statement and checks its form. It is not verified yet: call Verify with the key that Key
// names, as the registry knows it.
func ParseStatement(b []byte) (*SealedStatement, error) {
	env, err := open(domainStatement, cose.AlgorithmES256, b)
	if err != nil {
		return nil, err
	}
	s := &SealedStatement{Sealed: b, env: env}
	if copy(s.Key[:], env.kid) != len(s.Key) || len(env.kid) != len(s.Key) {
		return nil, fmt.Errorf("statement: key id of %d bytes: %w", len(env.kid), wire.ErrMalformed)
	}
	if err := env.decode(&s.Statement); err != nil {
		return nil, err
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	s.Chain = s.Prev.Next(env.payload)
	return s, nil
}

// check holds s against the rules that need no other statement.
func (s *Statement) check() error {
	switch {
	case s.Version == 0:
		return fmt.Errorf("statement: no version: %w", wire.ErrMalformed)
	case s.Epoch == 0 || s.Seq == 0:
		return fmt.Errorf("statement: epoch %d, seq %d; both count from 1: %w", s.Epoch, s.Seq, wire.ErrMalformed)
	case s.Seq == 1 && s.Prev != Chain{}:
		return fmt.Errorf("statement: seq 1 continues a chain: %w", wire.ErrMalformed)
	case s.Seq > 1 && s.Before != nil:
		return fmt.Errorf("statement: seq %d names an epoch before: %w", s.Seq, wire.ErrMalformed)
	case len(s.Body) == 0:
		return fmt.Errorf("statement: no body: %w", wire.ErrMalformed)
	}
	return nil
}

// Verify checks the signature by pub over the bytes that were received.
func (s *SealedStatement) Verify(pub *ecdsa.PublicKey) error { return s.env.verify(pub) }

// Register reads the body of a registration and holds it against its limits.
func (s *Statement) Register() (*Register, error) {
	if s.Type != StatementRegister {
		return nil, fmt.Errorf("statement of type %v is no registration: %w", s.Type, wire.ErrMalformed)
	}
	r := new(Register)
	if err := wire.Unmarshal(s.Body, r); err != nil {
		return nil, err
	}
	if len(r.AgentVersion) > maxVersion {
		return nil, fmt.Errorf("agent version of %d bytes, limit %d: %w", len(r.AgentVersion), maxVersion, wire.ErrMalformed)
	}
	if len(r.Slots) > MaxSlots {
		return nil, fmt.Errorf("%d slots, at most %d: %w", len(r.Slots), MaxSlots, wire.ErrMalformed)
	}
	if err := r.Profile.Check(); err != nil {
		return nil, err
	}
	if err := wire.CheckTags(r.Tags); err != nil {
		return nil, fmt.Errorf("%w: %w", wire.ErrMalformed, err)
	}
	return r, nil
}

const maxVersion = 64

// An Attach opens a session. It is signed and not numbered among the statements.
type Attach struct {
	Version      uint8          `cbor:"1,keyasint"`
	Device       ident.DeviceID `cbor:"2,keyasint"`
	Gateway      string         `cbor:"3,keyasint"`  // SPIFFE id of the gateway addressed
	Start        uint64         `cbor:"4,keyasint"`  // how often the agent started, persisted
	Run          uint64         `cbor:"5,keyasint"`  // random, made at the start
	Session      uint64         `cbor:"6,keyasint"`  // counts the sessions of the run, from 1
	Epoch        uint64         `cbor:"7,keyasint"`  // of the outbox
	Lowest       uint64         `cbor:"8,keyasint"`  // lowest seq that the outbox still holds; highest + 1 when it is empty
	Highest      uint64         `cbor:"9,keyasint"`  // highest seq stated; 0: none
	Chain        Chain          `cbor:"10,keyasint"` // after the highest
	ClusterEpoch uint64         `cbor:"11,keyasint"` // of the newest order or receipt seen
	Order        uint64         `cbor:"12,keyasint"` // highest order number seen
	IntervalMS   uint32         `cbor:"13,keyasint"` // heartbeat interval in use
	TimeMS       int64          `cbor:"14,keyasint"` // the device's wall clock, Unix ms

	// The oldest statement that the outbox holds of an epoch before Epoch; 0: it holds none.
	OldestEpoch uint64 `cbor:"15,keyasint,omitempty"`
	OldestSeq   uint64 `cbor:"16,keyasint,omitempty"`

	// SPIFFE id of a gateway that did what DoubtFor says; "": there is none.
	Doubts string `cbor:"17,keyasint,omitempty"`

	// For how long, up to this attach, the device had sent nothing that shows it alive: neither heartbeat nor attach, on any session of
	// this run; in the first attach of a run, since the agent started. By a clock that nobody sets, in ms; 0: it does not say.
	SilentMS uint64 `cbor:"18,keyasint,omitempty"`

	DoubtFor Doubt `cbor:"19,keyasint,omitempty"`
}

// A Doubt is what a device holds against a gateway. Doubts are append-only.
type Doubt uint8

// The doubts.
const (
	DoubtWithholds Doubt = 0 // it took statements, said that it had an uplink, and brought no receipt
	DoubtAnswers   Doubt = 1 // it answered heartbeats that it was not sent, or kept statements that were never made
	DoubtContent   Doubt = 2 // it brought content that is not what was asked for
	DoubtOrder     Doubt = 3 // it brought an order that is older than one that it had, or for another device
)

// String is the doubt as events have it.
func (d Doubt) String() string {
	switch d {
	case DoubtWithholds:
		return "no receipt for statements that it took"
	case DoubtAnswers:
		return "it answers what it was not sent"
	case DoubtContent:
		return "content that is not what was asked for"
	case DoubtOrder:
		return "an order that is old or for another device"
	}
	return fmt.Sprintf("doubt %d", uint8(d))
}

// maxDoubts bounds the name of a gateway, in bytes.
const maxDoubts = 512

// AttachVersion is the schema version of attaches that this build writes.
const AttachVersion = 1

// SealAttach signs a with the device's key.
func SealAttach(a *Attach, kid ident.KeyID, key crypto.Signer) ([]byte, error) {
	payload, err := wire.Marshal(a)
	if err != nil {
		return nil, err
	}
	return sealAs(domainAttach, kid[:], payload, cose.AlgorithmES256, key)
}

// A SealedAttach is a parsed attach.
type SealedAttach struct {
	Attach
	Key    ident.KeyID
	Sealed []byte
	env    *envelope
}

// ParseAttach reads a sealed attach. It is not verified yet.
func ParseAttach(b []byte) (*SealedAttach, error) {
	env, err := open(domainAttach, cose.AlgorithmES256, b)
	if err != nil {
		return nil, err
	}
	a := &SealedAttach{Sealed: b, env: env}
	if len(env.kid) != len(a.Key) {
		return nil, fmt.Errorf("attach: key id of %d bytes: %w", len(env.kid), wire.ErrMalformed)
	}
	copy(a.Key[:], env.kid)
	if err := env.decode(&a.Attach); err != nil {
		return nil, err
	}
	switch {
	case a.Version == 0 || a.Start == 0 || a.Session == 0:
		return nil, fmt.Errorf("attach: version, start and session count from 1: %w", wire.ErrMalformed)
	case a.Lowest > a.Highest+1:
		return nil, fmt.Errorf("attach: lowest seq %d, highest %d: %w", a.Lowest, a.Highest, wire.ErrMalformed)
	case len(a.Doubts) > maxDoubts:
		return nil, fmt.Errorf("attach: a gateway's name of %d bytes, limit %d: %w", len(a.Doubts), maxDoubts, wire.ErrMalformed)
	case a.OldestEpoch != 0 && (a.OldestEpoch >= a.Epoch || a.OldestSeq == 0):
		return nil, fmt.Errorf("attach: oldest statement %d of epoch %d, before epoch %d: %w", a.OldestSeq, a.OldestEpoch, a.Epoch, wire.ErrMalformed)
	}
	return a, nil
}

// Verify checks the signature by pub over the bytes that were received.
func (a *SealedAttach) Verify(pub *ecdsa.PublicKey) error { return a.env.verify(pub) }

// hashSPKI is the SHA-256 of a DER-encoded public key.
func hashSPKI(spki []byte) [32]byte { return sha256.Sum256(spki) }
