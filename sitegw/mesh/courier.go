package mesh

import (
	"context"
	"encoding/binary"
	"net"
	"sync/atomic"
	"time"

	"github.com/holdfast-edge/holdfast/internal/backoff"
)

// Bounds of what is under way to one sibling.
const (
	courierQueue = 32
	dialTime     = 5 * time.Second
	writeTime    = 5 * time.Second
	lastTime     = time.Second // for a write that a stop finds under way
	minRedial    = time.Second
	maxRedial    = 30 * time.Second
	healthyAfter = 10 * time.Second // a connection that ends earlier is as good as none
)

// A courier brings packets to one sibling, over one connection that it dials when there is something to bring. What does not fit
// into its queue is dropped, and so is what is there while the sibling cannot be reached: the library sends it again.
//
// On the connection, a packet is its length in 2 bytes, big endian, and as many bytes; one without any only opens the connection.
type courier struct {
	dial    func(ctx context.Context) (net.Conn, error)
	queue   chan []byte // capacity courierQueue
	dropped *atomic.Uint64
	up      atomic.Bool // the connection stands
	drop    context.CancelFunc
}

// offer takes a packet, or drops it. It does not block.
func (c *courier) offer(b []byte) {
	select {
	case c.queue <- b:
	default:
		c.dropped.Add(1)
	}
}

// run brings packets until ctx ends.
func (c *courier) run(ctx context.Context) {
	b := backoff.Backoff{Min: minRedial, Max: maxRedial}
	var again time.Time // when to dial
	for {
		var first []byte
		select {
		case first = <-c.queue:
		case <-ctx.Done():
			return
		}
		if time.Now().Before(again) {
			c.dropped.Add(1)
			continue
		}
		conn, err := c.open(ctx)
		if err != nil {
			c.dropped.Add(1)
			again = time.Now().Add(b.Next())
			continue
		}
		start := time.Now()
		c.up.Store(true)
		c.bring(ctx, conn, first)
		c.up.Store(false)
		if time.Since(start) > healthyAfter {
			b.Reset()
			continue
		}
		again = time.Now().Add(b.Next()) // a sibling without a mesh takes the connection and ends it
	}
}

func (c *courier) open(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	return c.dial(ctx)
}

// bring writes to the connection until it fails, the sibling ends it, or ctx ends; then it closes it.
func (c *courier) bring(ctx context.Context, conn net.Conn, first []byte) {
	ended := make(chan struct{})
	go func() { // waited for below
		defer close(ended)
		conn.Read(make([]byte, 1)) //nolint:errcheck // a sibling sends nothing here: whatever comes, it is over
	}()
	defer func() {
		conn.Close() //nolint:errcheck // nothing more can be done for what was lost
		<-ended
	}()
	hurry := context.AfterFunc(ctx, func() { conn.SetWriteDeadline(time.Now().Add(lastTime)) }) //nolint:errcheck // the write fails then
	defer hurry()
	for next := first; ctx.Err() == nil; {
		frame := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(next)), uint16(len(next))) //nolint:gosec // G115: at most maxPacket
		conn.SetWriteDeadline(time.Now().Add(writeTime))                                        //nolint:errcheck // the write fails then
		if _, err := conn.Write(append(frame, next...)); err != nil {
			c.dropped.Add(1)
			return
		}
		select {
		case next = <-c.queue:
		case <-ended:
			return
		case <-ctx.Done():
			return
		}
	}
}
