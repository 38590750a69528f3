package mesh

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync/atomic"
)

// A stream is a connection that passes on one message of the sibling, once it is whole and was sieved, and nothing behind it: the
// library sends no more in one.
type stream struct {
	net.Conn
	sieve    *sieve
	accepted bool // the sibling dialled, so its message has the label before it

	read   bool
	rest   []byte
	why    error // of what is over
	refuse func(error)

	closing atomic.Bool   // no sync.Once, because who waits for that waits for a mutex
	over    chan struct{} // closed with the connection
}

func newStream(c net.Conn, s *sieve, accepted bool, refuse func(error)) *stream {
	return &stream{Conn: c, sieve: s, accepted: accepted, refuse: refuse, over: make(chan struct{})}
}

// Read implements net.Conn. One goroutine at a time reads.
func (s *stream) Read(p []byte) (int, error) {
	if !s.read {
		s.read = true
		s.rest, s.why = s.message()
	}
	if len(s.rest) == 0 {
		if s.why == nil {
			s.why = io.EOF
		}
		return 0, s.why
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// message reads the sibling's message.
func (s *stream) message() ([]byte, error) {
	var b []byte
	if s.accepted {
		b = make([]byte, len(s.sieve.header))
		if _, err := io.ReadFull(s.Conn, b); err != nil {
			return nil, err
		}
		if !bytes.Equal(b, s.sieve.header) {
			return nil, s.refused(fmt.Errorf("no stream of this site: %w", errSieved))
		}
	}
	var head [5]byte
	if _, err := io.ReadFull(s.Conn, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if head[0] != msgEncrypt || n > maxStream {
		return nil, s.refused(fmt.Errorf("a message of type %d and %d bytes: %w", head[0], n, errSieved))
	}
	sealed := make([]byte, n)
	if _, err := io.ReadFull(s.Conn, sealed); err != nil {
		return nil, err
	}
	if err := s.sieve.stream(head[:], sealed); err != nil {
		return nil, s.refused(err)
	}
	return append(append(b, head[:]...), sealed...), nil
}

func (s *stream) refused(err error) error {
	s.refuse(err)
	return err
}

// Write implements net.Conn. The library forgets a connection that fails at its first write.
func (s *stream) Write(p []byte) (int, error) {
	n, err := s.Conn.Write(p)
	if err != nil {
		s.Close() //nolint:errcheck // it has failed already
	}
	return n, err
}

// Close implements net.Conn. Who closes again waits for nobody.
func (s *stream) Close() error {
	if s.closing.Swap(true) {
		return nil
	}
	defer close(s.over)
	return s.Conn.Close() //nolint:wrapcheck // as if nothing were in between
}
