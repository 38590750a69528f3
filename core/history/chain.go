package history

import (
	"encoding/binary"
	"fmt"

	"github.com/holdfast-edge/holdfast/core/history/chain"
)

// A Mark sums up a beginning of the history: how many records it has and the head of the chain over them. Nodes whose Marks up to a log
// index are equal hold the same records up to there. The zero Mark is that of no records.
type Mark struct {
	Count uint64
	Head  [32]byte
}

// Chain returns the head of the chain behind r, where prev is the head before it: see package chain for the bytes.
func Chain(prev [32]byte, r *Record) [32]byte {
	return chain.Next(prev, r.Index, r.N, r.Time.UnixMilli(), uint8(r.Kind), r.Stream, r.Data)
}

// next is the mark behind r.
func (m Mark) next(r *Record) Mark { return Mark{Count: m.Count + 1, Head: Chain(m.Head, r)} }

// String returns the count and the beginning of the head.
func (m Mark) String() string { return fmt.Sprintf("%d records with head %x", m.Count, m.Head[:6]) }

// chainSize is the size of an encoded Mark.
const chainSize = 40

// appendTo appends the mark's chainSize bytes.
func (m *Mark) appendTo(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, m.Count)
	return append(b, m.Head[:]...)
}

// decodeChain reads what appendTo wrote.
func decodeChain(b []byte) Mark {
	m := Mark{Count: binary.BigEndian.Uint64(b)}
	copy(m.Head[:], b[8:chainSize])
	return m
}
