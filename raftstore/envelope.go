package raftstore

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
)

// A snapshot file is an envelope around what the state machine wrote: a header, the content, a SHA-256 of both. The
// layout is drawn in docs/raft-log.md.
const (
	envelopeMagic     = "HFRSNAP\x01" // the last byte is the version
	envelopeHeaderLen = len(envelopeMagic) + 3*8
	envelopeBuffer    = 64 << 10 // one read or write of the snapshot file
)

var (
	errEnvelopeMagic   = errors.New("not a snapshot of a format that this version reads")
	errEnvelopeShort   = errors.New("snapshot is truncated")
	errEnvelopeTrailer = errors.New("snapshot's SHA-256 does not match")
)

// position is where in the log a state belongs.
type position struct {
	index  uint64 // of the last entry that the state machine saw
	term   uint64
	timeMS int64 // log time, milliseconds since 1970
}

// writeEnvelope writes a whole snapshot file to w: pos, then what persist writes, then the trailer.
func writeEnvelope(w io.Writer, pos position, persist func(io.Writer) error) error {
	buffered := bufio.NewWriterSize(w, envelopeBuffer)
	sum := sha256.New()
	both := io.MultiWriter(buffered, sum)
	header := []byte(envelopeMagic)
	header = binary.BigEndian.AppendUint64(header, pos.index)
	header = binary.BigEndian.AppendUint64(header, pos.term)
	header = binary.BigEndian.AppendUint64(header, uint64(pos.timeMS)) //nolint:gosec // never negative, see clampTime
	if _, err := both.Write(header); err != nil {
		return fmt.Errorf("write snapshot header: %w", err)
	}
	if err := persist(both); err != nil {
		return fmt.Errorf("write snapshot content: %w", err)
	}
	if _, err := buffered.Write(sum.Sum(nil)); err != nil {
		return fmt.Errorf("write snapshot trailer: %w", err)
	}
	if err := buffered.Flush(); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	return nil
}

// envelopeReader reads the content of an envelope. It holds back the last 32 bytes, because they may be the trailer, and
// says io.EOF only when they are, and are right; every other end is an error that wraps ErrCorrupt. Errors stay.
type envelopeReader struct {
	src *bufio.Reader
	sum hash.Hash
	pos position
	err error // nil: more content may follow
}

// newEnvelopeReader reads the header.
func newEnvelopeReader(r io.Reader) (*envelopeReader, error) {
	e := &envelopeReader{src: bufio.NewReaderSize(r, envelopeBuffer), sum: sha256.New()}
	var header [envelopeHeaderLen]byte
	if _, err := io.ReadFull(e.src, header[:]); err != nil {
		return nil, readFault(err)
	}
	numbers, ok := bytes.CutPrefix(header[:], []byte(envelopeMagic))
	if !ok {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, errEnvelopeMagic)
	}
	ms := binary.BigEndian.Uint64(numbers[16:])
	if ms > maxLogTime {
		return nil, fmt.Errorf("%w: snapshot of log time %d ms", ErrCorrupt, ms)
	}
	e.pos = position{
		index:  binary.BigEndian.Uint64(numbers),
		term:   binary.BigEndian.Uint64(numbers[8:]),
		timeMS: int64(ms),
	}
	e.sum.Write(header[:])
	return e, nil
}

// Read implements io.Reader.
func (e *envelopeReader) Read(p []byte) (int, error) {
	if e.err != nil {
		return 0, e.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	// One byte beyond the trailer tells content from trailer; more is taken when it is buffered already.
	ahead, err := e.src.Peek(sha256.Size + 1)
	if err != nil {
		e.err = e.finish(ahead, err)
		return 0, e.err
	}
	n, err := e.src.Read(p[:min(len(p), e.src.Buffered()-sha256.Size)])
	if err != nil {
		e.err = readFault(err)
		return n, e.err
	}
	e.sum.Write(p[:n])
	return n, nil
}

// finish judges what is left when fewer bytes follow than content and trailer need.
func (e *envelopeReader) finish(rest []byte, err error) error {
	switch {
	case !errors.Is(err, io.EOF):
		return readFault(err)
	case len(rest) < sha256.Size:
		return readFault(io.ErrUnexpectedEOF)
	case !bytes.Equal(rest, e.sum.Sum(nil)):
		return fmt.Errorf("%w: %w", ErrCorrupt, errEnvelopeTrailer)
	default:
		return io.EOF
	}
}

// readFault classifies an error of the underlying reader: an early end is damage, anything else is the disk's.
func readFault(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %w", ErrCorrupt, errEnvelopeShort)
	}
	return fmt.Errorf("read snapshot: %w", err)
}
