package link

import (
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/holdfast-edge/holdfast/wire"
)

// handshakeBytes is what a client may send before its handshake is complete. What it needs is about 4 KiB; without a bound,
// crypto/tls would gather a message of 256 KiB for anybody.
const handshakeBytes = 16 << 10

// errHandshakeBytes ends a handshake that brings too much.
var errHandshakeBytes = fmt.Errorf("more than %d bytes before the handshake was complete: %w", handshakeBytes, wire.ErrMalformed)

// A meter is a net.Conn that bounds what it reads until the bound is lifted, and knows when it read something last.
type meter struct {
	net.Conn
	began time.Time
	last  atomic.Int64 // since began
	left  atomic.Int64 // bytes
	free  atomic.Bool  // the bound is lifted
}

func newMeter(c net.Conn) *meter {
	m := &meter{Conn: c, began: time.Now()}
	m.left.Store(handshakeBytes)
	return m
}

// Read implements net.Conn.
func (m *meter) Read(p []byte) (int, error) {
	if !m.free.Load() {
		left := m.left.Load()
		if left <= 0 {
			return 0, errHandshakeBytes
		}
		p = p[:min(len(p), int(left))]
	}
	n, err := m.Conn.Read(p)
	if n > 0 {
		m.left.Add(-int64(n))
		m.mark()
	}
	return n, err
}

// mark notes a sign of life.
func (m *meter) mark() { m.last.Store(int64(time.Since(m.began))) }

// heard is when there was one last.
func (m *meter) heard() time.Time { return m.began.Add(time.Duration(m.last.Load())) }

// bounded is a connection that can be told how much the system may hold for it.
type bounded interface {
	SetReadBuffer(bytes int) error
	SetWriteBuffer(bytes int) error
}

// bound tells the system how much it may hold for a connection; 0: as it sees fit.
func bound(c net.Conn, bytes int) error {
	b, ok := c.(bounded)
	if !ok || bytes == 0 {
		return nil
	}
	if err := b.SetReadBuffer(bytes); err != nil {
		return fmt.Errorf("bound the receive buffer: %w", err)
	}
	if err := b.SetWriteBuffer(bytes); err != nil {
		return fmt.Errorf("bound the send buffer: %w", err)
	}
	return nil
}
