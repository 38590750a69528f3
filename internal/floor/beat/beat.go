// Package beat is the exchange that the floors measure: a heartbeat of some forty bytes and its answer, CBOR arrays
// behind a length byte on one long-lived stream. It stands for the least that any heartbeat protocol has to do (decode,
// encode, one read, one write) and has nothing of the product's protocol in it.
package beat

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// ErrTooLong says that a message does not fit behind a length byte.
var ErrTooLong = errors.New("message longer than 255 bytes")

// Heartbeat is what a device says. The values are typical in size, not in meaning.
type Heartbeat struct {
	_ struct{} `cbor:",toarray"`

	Seq     uint32
	Boot    uint32
	Uptime  uint32 // seconds
	State   uint8
	Desired uint32 // generation
	Applied uint32 // generation
	CPU     uint16 // permille
	Memory  uint16 // permille
	Digest  []byte // 8 bytes
}

// Answer is what the server says to it.
type Answer struct {
	_ struct{} `cbor:",toarray"`

	Seq     uint32
	Desired uint32 // generation
	Now     int64  // milliseconds since 1970
}

// New returns the heartbeat number seq.
func New(seq uint32) Heartbeat {
	return Heartbeat{
		Seq: seq, Boot: 0xb007_1d00, Uptime: 90_000 + 30*seq, State: 2, Desired: 1310, Applied: 1310, CPU: 141, Memory: 587,
		Digest: []byte{0xd1, 0x9e, 0x57, 0x0f, 0xa1, 0x1b, 0xad, 0x01},
	}
}

// AppendFrame appends h as a frame to dst.
func (h *Heartbeat) AppendFrame(dst []byte) ([]byte, error) { return appendFrame(dst, h) }

// AppendAnswer decodes the heartbeat in message and appends the frame that answers it to dst. now is the server's time.
func AppendAnswer(dst, message []byte, now time.Time) ([]byte, error) {
	var h Heartbeat
	if err := cbor.Unmarshal(message, &h); err != nil {
		return dst, fmt.Errorf("decode heartbeat: %w", err)
	}
	return appendFrame(dst, &Answer{Seq: h.Seq, Desired: h.Desired, Now: now.UnixMilli()})
}

// ParseAnswer decodes an answer.
func ParseAnswer(message []byte) (Answer, error) {
	var a Answer
	if err := cbor.Unmarshal(message, &a); err != nil {
		return Answer{}, fmt.Errorf("decode answer: %w", err)
	}
	return a, nil
}

func appendFrame(dst []byte, message any) ([]byte, error) {
	b, err := cbor.Marshal(message)
	if err != nil {
		return dst, fmt.Errorf("encode message: %w", err)
	}
	if len(b) > maxMessage {
		return dst, fmt.Errorf("frame of %d bytes: %w", len(b), ErrTooLong)
	}
	return append(append(dst, byte(len(b))), b...), nil //nolint:gosec // G115: checked above
}

// maxMessage is what a length byte can say.
const maxMessage = 255

// Reader splits a stream into messages, with one Read per message as long as the peer writes one at a time.
type Reader struct {
	r io.Reader
	// buf[begin:end] holds what was read and not yet returned. Twice the largest frame is enough: there is always room
	// behind an incomplete one.
	buf        [2 * (1 + maxMessage)]byte
	begin, end int
}

// NewReader returns a Reader of r.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// Next returns the next message. It is valid until the following call. At the end of the stream the error is io.EOF, or
// io.ErrUnexpectedEOF inside a message.
func (f *Reader) Next() ([]byte, error) {
	for {
		if message, ok := f.take(); ok {
			return message, nil
		}
		if f.begin > 0 {
			f.end = copy(f.buf[:], f.buf[f.begin:f.end])
			f.begin = 0
		}
		n, err := f.r.Read(f.buf[f.end:])
		f.end += n
		if n > 0 || err == nil {
			continue // an error that came with data comes again without
		}
		if errors.Is(err, io.EOF) && f.end > 0 {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
}

// take cuts a complete message off the buffer.
func (f *Reader) take() ([]byte, bool) {
	if f.begin == f.end {
		return nil, false
	}
	next := f.begin + 1 + int(f.buf[f.begin])
	if next > f.end {
		return nil, false
	}
	message := f.buf[f.begin+1 : next]
	f.begin = next
	return message, true
}
