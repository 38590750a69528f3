package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A frame on a stream:
//
//	+---------------------+------------------------+----------------------+
//	| length n, 4 bytes   | type, CBOR uint,       | message, CBOR map    |
//	| big endian          | 1 to 3 bytes           | with integer keys    |
//	+---------------------+------------------------+----------------------+
//	                      |<------------------ n bytes ------------------>|
//
// The type comes before the message, so that its size limit holds before the message is read.

const (
	lenSize     = 4
	maxTypeSize = 3
	// MaxFrame is the largest n of any type.
	MaxFrame = 1 << 20
)

// Frame errors, all of them ErrMalformed.
var (
	ErrFrameTooLarge = fmt.Errorf("frame exceeds the limit of its type: %w", ErrMalformed)
	ErrFrameShort    = fmt.Errorf("frame ends before its message: %w", ErrMalformed)
)

// AppendFrame appends the frame of message m of type t to dst. It fails for a message that is over the limit of its type.
func AppendFrame(dst []byte, t Type, m any) ([]byte, error) {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	dst = appendType(dst, t)
	buf := bytes.NewBuffer(dst)
	if err := encMode.MarshalToBuffer(m, buf); err != nil {
		return dst[:start], fmt.Errorf("encode %v: %w", t, err)
	}
	dst = buf.Bytes()
	n := len(dst) - start - lenSize
	if n > t.Limit() {
		return dst[:start], fmt.Errorf("%v of %d bytes: %w", t, n, ErrFrameTooLarge)
	}
	binary.BigEndian.PutUint32(dst[start:], uint32(n)) //nolint:gosec // G115: at most MaxFrame, see above
	return dst, nil
}

// appendType encodes t as a CBOR unsigned integer.
func appendType(dst []byte, t Type) []byte {
	switch {
	case t < 24:
		return append(dst, byte(t))
	case t < 256:
		return append(dst, 24, byte(t))
	}
	return append(dst, 25, byte(t>>8), byte(t)) //nolint:gosec // G115: the low byte is meant
}

// parseType reads the type at the start of b and how many bytes it took; 0 when b is too short to tell.
func parseType(b []byte) (t Type, n int, err error) {
	if len(b) == 0 {
		return 0, 0, nil
	}
	switch c := b[0]; {
	case c < 24:
		return Type(c), 1, nil
	case c == 24:
		if len(b) < 2 {
			return 0, 0, nil
		}
		if b[1] < 24 {
			return 0, 0, fmt.Errorf("message type is not in its shortest form: %w", ErrMalformed)
		}
		return Type(b[1]), 2, nil
	case c == 25:
		if len(b) < 3 {
			return 0, 0, nil
		}
		if b[1] == 0 {
			return 0, 0, fmt.Errorf("message type is not in its shortest form: %w", ErrMalformed)
		}
		return Type(binary.BigEndian.Uint16(b[1:])), 3, nil
	}
	return 0, 0, fmt.Errorf("message type is no small unsigned integer: %w", ErrMalformed)
}

// smallFrame is the size of a reader's own buffer: heartbeats and their replies fit, so a connection at rest holds no more.
const smallFrame = 256

// A FrameReader reads frames with as few reads as possible. Its memory is smallFrame bytes plus, while a larger frame is
// being read and until the next call, that frame.
type FrameReader struct {
	r    io.Reader
	max  int // the largest n of this link, whatever the type allows
	i, j int // buf[i:j] is read and not consumed
	buf  [smallFrame]byte
}

// NewFrameReader reads frames from r. limit is the largest frame of the link in bytes, 1 to MaxFrame: a type that the link
// does not carry may allow more, and its memory would be taken on the word of a peer that never sends the rest.
func NewFrameReader(r io.Reader, limit int) *FrameReader {
	return &FrameReader{r: r, max: min(limit, MaxFrame)}
}

// Next returns the type and the undecoded message of the next frame; the message is valid until the following call. The
// error is io.EOF at a clean end between frames, ErrMalformed for a frame that no peer may send (the stream is then
// useless), and the reader's own error otherwise.
func (f *FrameReader) Next() (Type, []byte, error) {
	if err := f.fill(lenSize); err != nil {
		return 0, nil, err
	}
	n := int(binary.BigEndian.Uint32(f.buf[f.i:]))
	if n == 0 || uint32(n) > MaxFrame { //nolint:gosec // G115: it was a uint32
		return 0, nil, fmt.Errorf("frame length %d is not within 1 and %d: %w", uint32(n), MaxFrame, ErrMalformed) //nolint:gosec // G115: it was a uint32
	}
	if err := f.fill(lenSize + min(n, maxTypeSize)); err != nil {
		return 0, nil, unexpected(err)
	}
	t, k, err := parseType(f.buf[f.i+lenSize : f.i+lenSize+min(n, maxTypeSize)])
	if err != nil {
		return 0, nil, err
	}
	if k == 0 || k == n {
		return 0, nil, ErrFrameShort
	}
	if limit := min(t.Limit(), f.max); n > limit {
		return 0, nil, fmt.Errorf("%v of %d bytes, limit %d: %w", t, n, limit, ErrFrameTooLarge)
	}
	if lenSize+n <= smallFrame {
		if err := f.fill(lenSize + n); err != nil {
			return 0, nil, unexpected(err)
		}
		body := f.buf[f.i+lenSize+k : f.i+lenSize+n]
		f.i += lenSize + n
		return t, body, nil
	}
	body := make([]byte, n)
	got := copy(body, f.buf[f.i+lenSize:f.j])
	f.i, f.j = 0, 0
	if _, err := io.ReadFull(f.r, body[got:]); err != nil {
		return 0, nil, unexpected(err)
	}
	return t, body[k:], nil
}

// fill reads until buf[i:] holds at least n bytes. n is at most smallFrame.
func (f *FrameReader) fill(n int) error {
	if f.i+n > smallFrame || f.i == f.j {
		f.j = copy(f.buf[:], f.buf[f.i:f.j])
		f.i = 0
	}
	for f.j-f.i < n {
		k, err := f.r.Read(f.buf[f.j:])
		f.j += k
		if err != nil && f.j-f.i < n {
			if errors.Is(err, io.EOF) && f.j > f.i {
				return io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// unexpected turns an end in the middle of a frame into io.ErrUnexpectedEOF.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
