// Package chain is the chain over the history records: a running SHA-256 that two nodes compare to know that they hold the same records in
// the same order. It is pure, so that the replicated registry can keep the chain and the history store can check it.
//
// The head behind a record is the SHA-256 of these bytes; all integers are big-endian:
//
//	offset  size  field
//	     0    32  head behind the record before; zeros before the first
//	    32     8  log index of the entry that produced the record
//	    40     4  position among the records of that index, from 0
//	    44     8  log time: milliseconds since 1970-01-01 UTC, two's complement
//	    52     1  kind
//	    53    17  stream
//	    70     4  length of the data
//	    74     n  data
//
// The table is part of the replicated state's meaning: it never changes.
package chain

import (
	"crypto/sha256"
	"encoding/binary"
)

const fixedSize = 74 // of what is hashed, without the data

// Next returns the head behind a record, where prev is the head behind the record before it, zeros before the first. The record is given by
// its log index, its position n among the records of that index, its log time in milliseconds since 1970-01-01 UTC, its kind, its stream and
// its data, of less than 4 GiB.
//
//nolint:revive // argument-limit: a struct of them would only be another record type between two packages that have one each
func Next(prev [32]byte, index uint64, n uint32, ms int64, kind uint8, stream [17]byte, data []byte) [32]byte {
	var fixed [fixedSize]byte
	b := append(fixed[:0], prev[:]...)
	b = binary.BigEndian.AppendUint64(b, index)
	b = binary.BigEndian.AppendUint32(b, n)
	b = binary.BigEndian.AppendUint64(b, uint64(ms)) //nolint:gosec // two's complement is the format
	b = append(b, kind)
	b = append(b, stream[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data))) //nolint:gosec // a record's data is bounded far below
	h := sha256.New()
	h.Write(b)
	h.Write(data)
	var head [32]byte
	h.Sum(head[:0])
	return head
}
