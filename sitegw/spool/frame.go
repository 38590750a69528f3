package spool

import (
	"encoding/binary"
	"hash/crc32"
)

// A frame holds one record. docs/spool-format.md has the table.
const (
	frameMagic = 0xb6
	frameHead  = 8 // magic and length, checksum
	chainSize  = len(Chain{})
	minBody    = 1 + headSize
	maxBody    = 1 + chainSize + headSize + MaxData

	flagChain = 1 << 0 // the frame carries the chain before its record
	flagBatch = 1 << 1 // it is the first of what was written at once: everything before it was synced. Implies flagChain

	// chainEvery bounds how many records are lost with a damaged one: reading goes on at the next frame with a chain.
	chainEvery = 16
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// frameSize is what a record takes in a segment, at most.
func frameSize(data int) int64 { return int64(frameHead + 1 + chainSize + headSize + data) }

// seeded is the start of all frame checksums of an incarnation, so that a frame of another spool does not pass.
func seeded(incarnation [16]byte) uint32 { return crc32.Checksum(incarnation[:], castagnoli) }

// appendFrame appends r's frame. The chain before it goes into it if the flags say so.
func appendFrame(b []byte, seed uint32, flags byte, before Chain, r *Record) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0, flags)
	if flags&flagChain != 0 {
		b = append(b, before[:]...)
	}
	b = appendHead(b, r)
	b = append(b, r.Data...)
	frame := b[start:]
	binary.BigEndian.PutUint32(frame, frameMagic<<24|uint32(len(frame)-frameHead)) //nolint:gosec // at most maxBody
	binary.BigEndian.PutUint32(frame[4:], frameSum(seed, frame))
	return b
}

// frameSum is the checksum of a frame: over the incarnation, magic and length, and the body with the record's number.
func frameSum(seed uint32, frame []byte) uint32 {
	return crc32.Update(crc32.Update(seed, castagnoli, frame[:4]), castagnoli, frame[frameHead:])
}

// bodyLength reads the length from the first four bytes of a frame; ok is false when no frame begins so.
func bodyLength(head []byte) (n int, ok bool) {
	v := binary.BigEndian.Uint32(head)
	n = int(v & 0xffffff)
	return n, v>>24 == frameMagic && n >= minBody && n <= maxBody
}

// A frame is a decoded one.
type frame struct {
	flags byte
	chain Chain  // before the record, if flags say so
	rec   Record // Data aliases what was decoded
	bytes []byte // of the record, as the chain goes over them
}

// decodeFrame reads a whole frame, whose length is right. Its error is damage.
func decodeFrame(seed uint32, b []byte) (f frame, err error) {
	if frameSum(seed, b) != binary.BigEndian.Uint32(b[4:]) {
		return f, damage("the checksum does not fit")
	}
	f.flags = b[frameHead]
	body := b[frameHead+1:]
	if f.flags&flagChain != 0 {
		if len(body) < chainSize+headSize {
			return f, damage("the frame is too short for its chain")
		}
		f.chain, body = Chain(body), body[chainSize:]
	}
	f.bytes = body
	f.rec = Record{
		Seq: binary.BigEndian.Uint64(body), Kind: Kind(body[8]),
		TimeMS: int64(binary.BigEndian.Uint64(body[9:])), //nolint:gosec // two's complement
		Data:   body[headSize:],
	}
	return f, nil
}

// follows checks that a frame is the one that must come behind a point, whose chain may have to come from the frame.
func (f *frame) follows(at Point, known bool) error {
	switch {
	case f.rec.Seq != at.Seq+1:
		return damage("another record lies here")
	case !known && f.flags&flagChain == 0:
		return damage("the chain is not known here")
	}
	return nil
}
