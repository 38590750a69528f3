package spool

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
)

// MaxData is the most bytes that a record can have.
const MaxData = 1 << 20

// Kind says what a record is. It is opaque to the spool: its users give it a meaning.
type Kind uint8

// A Record is an entry of the spool.
type Record struct {
	Seq    uint64 // from 1, without gaps
	Kind   Kind
	TimeMS int64  // given by who appended it: milliseconds since 1970-01-01 UTC
	Data   []byte // at most MaxData bytes
}

// Chain is the running hash over all records up to one of them; zero before the first. Behind a record it is the SHA-256 of the chain before it, its
// number (8 bytes, big-endian), its kind (1), its time (8) and its data.
type Chain [sha256.Size]byte

// A hasher goes along the chain without making garbage.
type hasher struct {
	sha   hash.Hash
	chain Chain
}

// add goes on to the record with these bytes: head and data, as in a frame.
func (h *hasher) add(record []byte) {
	h.sha.Reset()
	h.sha.Write(h.chain[:])
	h.sha.Write(record)
	h.sha.Sum(h.chain[:0])
}

// headSize is what a record is beside its data, in frames and in the chain.
const headSize = 17

func appendHead(b []byte, r *Record) []byte {
	b = binary.BigEndian.AppendUint64(b, r.Seq)
	b = append(b, byte(r.Kind))
	return binary.BigEndian.AppendUint64(b, uint64(r.TimeMS)) //nolint:gosec // two's complement
}

// A Point is a place between two records: behind the one with number Seq.
type Point struct {
	Seq   uint64
	Chain Chain
}

// A Range is records From to To, both included.
type Range struct{ From, To uint64 }

// Empty tells whether there is no record in it.
func (r Range) Empty() bool { return r.From == 0 || r.From > r.To }
