package raftstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// Limits of the peer calls.
const (
	// MaxCallBody is the largest body of a peer call, and of its answer, in bytes (4 MiB).
	MaxCallBody = 4 << 20

	// FirstMethod is the first method number that belongs to the owner; those below are the store's own.
	FirstMethod uint8 = 64

	// maxErrorText is how much of an error's text travels back.
	maxErrorText = 1024

	// maxCallTime is the longest that a call may take, whatever its caller's context says.
	maxCallTime = time.Minute
)

// What one side says to the other at the start of a connection, right after the handshake; DESIGN.md draws it.
const (
	kindRaft byte = 1 // raft's own protocol follows
	kindCall byte = 2 // peer calls follow

	greetWelcome byte = 0
	greetUnknown byte = 1 // the dialler is not among the members that the answering node knows
	greetRemoved byte = 2 // as before, and the leader confirmed it
)

// A frame is a 4-byte length of what follows, a fixed part, and a body.
//
//	request: length(4) method(1) patience in ms(4) body
//	answer:  length(4) status(1) body
const (
	frameLength    = 4
	requestFixed   = 1 + 4
	answerFixed    = 1
	maxRequestTail = requestFixed + MaxCallBody
	maxAnswerTail  = answerFixed + MaxCallBody
)

// Statuses of an answer.
const (
	statusOK        byte = 0 // the body is the answer
	statusError     byte = 1 // the body is an error's text
	statusNotLeader byte = 2 // nothing was done; the body is the leader as its node knows it: id, line feed, address; or empty
)

var (
	errFrameLength = errors.New("frame is shorter or longer than allowed")
	errFrameStatus = errors.New("frame has an unknown status")
)

// request is one peer call on the wire.
type request struct {
	method   uint8
	patience time.Duration // how long the caller waits; whole milliseconds, at most maxCallTime
	body     []byte
}

// answer is what comes back.
type answer struct {
	status byte
	body   []byte
}

func (r *request) encode() []byte {
	b := make([]byte, 0, frameLength+requestFixed+len(r.body))
	b = binary.BigEndian.AppendUint32(b, uint32(requestFixed+len(r.body))) //nolint:gosec // at most MaxCallBody
	b = append(b, r.method)
	ms := min(max(r.patience, 0), maxCallTime).Milliseconds()
	b = binary.BigEndian.AppendUint32(b, uint32(ms)) //nolint:gosec // within 0..maxCallTime
	return append(b, r.body...)
}

func (a *answer) encode() []byte {
	b := make([]byte, 0, frameLength+answerFixed+len(a.body))
	b = binary.BigEndian.AppendUint32(b, uint32(answerFixed+len(a.body))) //nolint:gosec // at most MaxCallBody
	b = append(b, a.status)
	return append(b, a.body...)
}

// decodeRequest reads one request. The error is io.EOF when the stream ends before it.
func decodeRequest(r io.Reader) (request, error) {
	tail, err := readTail(r, requestFixed, maxRequestTail)
	if err != nil {
		return request{}, err
	}
	patience := time.Duration(binary.BigEndian.Uint32(tail[1:])) * time.Millisecond
	return request{method: tail[0], patience: min(patience, maxCallTime), body: tail[requestFixed:]}, nil
}

// decodeAnswer reads one answer.
func decodeAnswer(r io.Reader) (answer, error) {
	tail, err := readTail(r, answerFixed, maxAnswerTail)
	if err != nil {
		return answer{}, err
	}
	if tail[0] > statusNotLeader {
		return answer{}, fmt.Errorf("%d: %w", tail[0], errFrameStatus)
	}
	return answer{status: tail[0], body: tail[answerFixed:]}, nil
}

// readTail reads a length within least..most and as many bytes. Memory grows with what arrives, not with what is announced.
func readTail(r io.Reader, least, most int64) ([]byte, error) {
	var length [frameLength]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err //nolint:wrapcheck // io.EOF must stay itself; the caller says what was read
	}
	n := int64(binary.BigEndian.Uint32(length[:]))
	if n < least || n > most {
		return nil, fmt.Errorf("%d bytes: %w", n, errFrameLength)
	}
	var tail bytes.Buffer
	if _, err := io.CopyN(&tail, r, n); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("read a frame of %d bytes: %w", n, err)
	}
	return tail.Bytes(), nil
}
